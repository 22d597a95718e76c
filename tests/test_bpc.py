"""Bits per character are nats divided by ln 2, wherever a command gives them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Result, run, tiny

LN2 = 0.6931471805599453
# As a command prints them: a loss, and its bpc behind it.
_PRINTED = re.compile(r"(\d+\.\d+)[^\d\n]{1,30}(\d+\.\d+) bpc")


@pytest.fixture(scope="module", params=["bigram", "ngram"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    """A run, and what was printed of it."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text("a cat sat on the mat, and then it ran off again\n" * 40)
    settings = [*tiny(request.param), f"data.path={folder / 'text.txt'}"]
    if request.param != "ngram":
        settings += ["train.steps=10", "eval.every=5", "train.log_every=1"]
    done = run("train", *settings, "--workdir", folder / "run")
    assert done.status == 0, done.err
    return folder / "run", done


def check_printed(text: str, least: int) -> None:
    pairs = [(float(loss), float(bpc)) for loss, bpc in _PRINTED.findall(text)]
    assert len(pairs) >= least
    assert len(pairs) == text.count(" bpc")
    for loss, bpc in pairs:
        # Both are rounded to four decimals.
        assert bpc == pytest.approx(loss / LN2, abs=0.00013)
        assert loss > 0.1


def check_object(values: dict[str, Any], least: int) -> None:
    """Every "..bpc" of an object against its "..loss"."""
    names = [name for name in values if name.endswith("bpc")]
    assert len(names) >= least
    for name in names:
        loss = values[name.removesuffix("bpc") + "loss"]
        assert values[name] == pytest.approx(loss / LN2, rel=1e-12)


def test_train_prints_both(trained: tuple[Path, Result]):
    workdir, done = trained
    is_fitted = "ngram" in (workdir / "config.toml").read_text()
    check_printed(done.out, least=1 if is_fitted else 3)


def test_metrics_and_summary_hold_both(trained: tuple[Path, Result]):
    workdir, _ = trained
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "val"}
    for line in lines:
        check_object(line, least=1)
    check_object(json.loads((workdir / "summary.json").read_text()), least=1)


def test_evaluate_gives_both(trained: tuple[Path, Result]):
    workdir, _ = trained
    printed = run("evaluate", workdir)
    check_printed(printed.out, least=1)
    values = json.loads(run("evaluate", workdir, "--json").out)
    check_object(values, least=1)
    assert f"{values['loss']:.4f}" in printed.out
