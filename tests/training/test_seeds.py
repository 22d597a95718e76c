"""Seeds trained together equal runs of each seed alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from charjax import hardware
from charjax.config import load_config
from charjax.training.seeds import Replicas
from charjax.training.session import open_session
from tests.commands import run, tiny

ROOT = Path(__file__).parent.parent.parent
EVERYTHING = frozenset({"initial", "final", "val", "train", "random"})


@pytest.fixture
def text(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "text.txt"
    path.write_text("".join("abcdefgh \n"[i] for i in rng.integers(0, 10, 1500)))
    return path


def settings(kind, text, *words):
    return [*tiny(kind), f"data.path={text}", "train.steps=40", "eval.every=20", *words]


def together(overrides, seeds, wanted=frozenset({"val", "final"})):
    session = open_session(load_config(None, overrides))
    plan = Replicas.plan(session, seeds)
    return plan, [outcome for group in plan.train(wanted) for outcome in group]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("mlp", []),
        pytest.param("gru", [], marks=pytest.mark.slow),
        pytest.param(
            "transformer",
            ["eval.protocol=random", "eval.batches=3", "data.sampling=epoch"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_replica_is_the_run_of_its_seed(kind, words, text, tmp_path):
    overrides = settings(kind, text, *words)
    plan, outcomes = together(overrides, (3, 5))
    assert plan.at_once == 2
    # Two of one kind; of the others the second, which the first one may have touched.
    for outcome in outcomes if kind == "gru" else outcomes[1:]:
        alone = tmp_path / f"{outcome.seed}"
        assert run("train", *overrides, f"train.seed={outcome.seed}", "--workdir", alone)[0] == 0
        lines = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
        expected = [(x["step"], x["loss"]) for x in lines if x["split"] == "val"]
        results = [
            (point.step, point.val if point.random is None else point.random)
            for point in outcome.curve
        ]
        np.testing.assert_allclose(results, expected, rtol=1e-5)
    assert outcomes[0].losses["val"] != outcomes[1].losses["val"]


@pytest.mark.slow
def test_fewer_at_once_where_memory_is_short_and_the_same_losses(text, monkeypatch):
    overrides = settings("mlp", text)
    plan, outcomes = together(overrides, (0, 1, 2))
    assert plan.at_once == 3
    monkeypatch.setattr(hardware, "available_memory", lambda devices: 1)
    small, again = together(overrides, (0, 1, 2))
    assert small.at_once == 1
    assert [o.seed for o in again] == [0, 1, 2]
    for one, other in zip(outcomes, again, strict=True):
        np.testing.assert_allclose(one.losses["val"], other.losses["val"], rtol=1e-5)


@pytest.mark.slow
def test_everything_that_can_be_asked_for(text):
    overrides = settings("transformer", text, "eval.protocol=random", "eval.batches=2")
    _, (outcome,) = together(overrides, (0,), EVERYTHING)
    assert outcome.losses.keys() == EVERYTHING
    randoms = [point.random for point in outcome.curve]
    assert outcome.losses["random"] == min(randoms)
    at_best = outcome.curve[randoms.index(min(randoms))]
    assert (outcome.best_step, outcome.losses["val"]) == (at_best.step, at_best.val)
    assert outcome.losses["initial"] == pytest.approx(np.log(10), abs=0.5)
    assert outcome.curve[0].train > outcome.curve[1].train


def test_a_seed_that_diverges_says_so(text):
    overrides = settings(
        "bigram", text, "optim.kind=sgd", "optim.learning_rate=3e38", "train.max_skipped=3"
    )
    _, (outcome,) = together([*overrides, "optim.grad_clip=0", "init.scheme=naive"], (0,))
    assert outcome.diverged
    assert outcome.skipped > 3


def test_no_validation_split(text):
    overrides = settings("bigram", text, "data.val_fraction=0.0")
    _, (outcome,) = together(overrides, (0,), frozenset({"train"}))
    assert outcome.losses.keys() == {"train"}
    assert outcome.best_step == 40


@pytest.mark.slow
def test_sharded_text_is_untouched(text):
    """Draw from the session's source after replicas have been trained."""
    session = open_session(load_config(None, settings("bigram", text)))
    before = jax.device_get(session.source.draw(jax.numpy.int32(3)))
    list(Replicas.plan(session, (0, 1)).train(frozenset({"val"})))
    after = jax.device_get(session.source.draw(jax.numpy.int32(3)))
    np.testing.assert_array_equal(before.inputs, after.inputs)


TOGETHER = """
import sys
from charjax import backend
from charjax.config import RuntimeConfig

backend.start_backend(RuntimeConfig())
from charjax.config import load_config
from charjax.training.seeds import Replicas
from charjax.training.session import open_session

session = open_session(load_config(None, sys.argv[1:]))
assert len(session.devices) == 2
(group,) = Replicas.plan(session, (0, 1, 2, 3)).train(frozenset({"val", "random"}))
print([list(outcome.losses.values()) for outcome in group])
"""


@pytest.mark.slow
def test_split_over_two_devices_nothing_changes(text):
    overrides = settings("mlp", text, "eval.protocol=random", "eval.batches=2")
    _, outcomes = together(overrides, (0, 1, 2, 3), frozenset({"val", "random"}))
    done = subprocess.run(
        [sys.executable, "-c", TOGETHER, *overrides],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    expected = [list(outcome.losses.values()) for outcome in outcomes]
    np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=1e-5)
