"""Verdicts and statistics; the config of every row can yield its figures."""

import numpy as np
import pytest
from scipy import stats

from charjax.reproduction.long_runs import MEASURED
from charjax.reproduction.measure import compare, judge, row_config, summary, wanted
from charjax.reproduction.published import ORDERINGS, ROWS
from charjax.reproduction.rows import LONG, Figure, Ordering
from charjax.training.seeds import Outcome


def outcomes(*values):
    return [Outcome(seed, {"val": value}, (), 1, 0, False) for seed, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "mark", "below", "verdict"),
    [
        ((2.01, 2.03), "seen", 0.05, "reproduced"),
        ((2.05, 2.07), "seen", 0.05, "out of tolerance"),
        ((1.93, 1.93), "seen", 0.05, "out of tolerance"),
        ((1.93, 1.93), "seen", None, "better"),
        ((2.04, 2.04), "recalled", None, "reproduced"),
        ((1.5,), "target", None, "reached"),
        ((2.06,), "target", None, "missed"),
    ],
)
def test_verdicts(values, mark, below, verdict):
    figure = Figure("val", 2.0, "somewhere", mark, 0.05, below, "because")
    verdict_row = judge(figure, outcomes(*values), False)
    assert verdict_row["verdict"] == verdict
    assert verdict_row["measured"]["mean"] == pytest.approx(np.mean(values))
    assert judge(figure, outcomes(*values), True)["verdict"] == "diverged"


def test_nothing_published_is_no_verdict():
    figure = Figure("val", None, "none published", "seen", 0.0, 0.0, "")
    assert judge(figure, outcomes(9.9), False)["verdict"] == "no published figure"


def test_the_interval_is_students():
    values = [2.1, 2.15, 2.07, 2.2]
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert summary(values)["ci95"] == pytest.approx([low, high])
    assert summary([2.1])["ci95"] is None


def result(*values):
    return {
        "figures": [{"quantity": "val"}],
        "runs": [{"seed": o.seed, "losses": o.losses} for o in outcomes(*values)],
    }


@pytest.mark.parametrize(
    ("worse", "better", "verdict"),
    [
        # The seeds differ far more than the rows: only the paired difference is significant.
        ((2.0, 3.0, 4.0), (1.9, 2.88, 3.9), "holds"),
        ((2.0, 3.0, 4.0), (2.1, 2.9, 3.95), "does not hold"),
        ((2.0,), (1.9,), "needs two seeds"),
    ],
)
def test_orders_are_judged_seed_by_seed(worse, better, verdict):
    results = {"a": result(*worse), "b": result(*better)}
    verdict_row = compare(Ordering("a", "b", "a worse than b"), results)
    assert verdict_row["verdict"] == verdict
    if len(worse) > 1:
        low, high = stats.ttest_rel(worse, better).confidence_interval(0.95)
        assert verdict_row["difference"]["ci95"] == pytest.approx([low, high])


def test_names_are_told_apart():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert all({order.worse, order.better} <= set(names) for order in ORDERINGS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_can_be_run_and_judged(row):
    config = row_config(row)
    assert row.figures
    has_test = config.data.split in ("shuffled_lines", "interleaved") and config.data.val_fraction
    assert "test" not in wanted(row) or has_test
    assert "random" not in wanted(row) or config.eval.protocol == "random"
    if config.model.kind == "ngram":
        assert wanted(row) <= {"train", "val", "test"}
    assert all(figure.reason for figure in row.figures)
    if row.is_in(LONG):
        assert wanted(row) <= MEASURED
        assert config.eval.protocol == "exact"
        # A crash loses at most one interval.
        assert 0 < config.checkpoint.every < config.train.steps / 4
        assert config.eval.every % config.train.log_every == 0


def test_the_tier_of_hours_holds_what_two_cores_can_finish():
    long = {row.name: row.long_seeds for row in ROWS if row.is_in(LONG)}
    cells = [
        f"warpeace-{kind}-{layers}x{hidden}"
        for kind in ("lstm", "gru", "rnn")
        for layers in (1, 2)
        for hidden in (64, 128)
    ]
    others = ["names-gru-200k", "names-transformer-200k"]
    others += ["shakespeare-gru-converged", "shakespeare-lstm-converged"]
    assert long == dict.fromkeys([*cells, *others], 1)
    # It takes nothing from the other tiers.
    assert sum(row.tier == "gpu" for row in ROWS) == 16
    assert not any(row.is_in(LONG) and row.tier == "cpu" for row in ROWS)


def test_the_recalled_table_is_marked():
    paper = [f for row in ROWS for f in row.figures if "Karpathy, Johnson" in f.source]
    assert len(paper) == 28
    assert all(figure.mark == "recalled" for figure in paper)
