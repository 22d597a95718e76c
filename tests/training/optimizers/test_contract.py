"""Every optimiser in whole runs: the loss falls, a resumed run is exact, sweeps train it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charjax.config import load_config
from charjax.config.optimizers import KINDS
from charjax.training.seeds import Replicas
from charjax.training.session import open_session
from charjax.training.state import parameter_count, state_shapes
from tests.commands import run

# Where the rate of 0.01 is far off: those whose steps are relative or signs, and the gradient's.
RATES = {
    **{
        "sgd": 1.0,
        "adadelta": 30.0,
        "adagrad": 0.1,
        "sm3": 0.1,
        "novograd": 0.1,
        "yogi": 0.1,
        "radam": 0.1,
    },
    **{"lion": 0.003, "signum": 0.003, "lars": 0.3, "lamb": 0.03, "adafactor": 0.03},
}


def words(folder: Path, kind: str, *others: str) -> list[str]:
    text = folder / "text.txt"
    if not text.exists():
        text.write_text("to be or not to be, that is the question\n" * 40)
    return [
        f"data.path={text}",
        *("model.kind=mlp", "data.layout=pairs", "model.context_length=4"),
        *("model.d_embed=4", "model.hidden=[8]"),
        "train.steps=30",
        "train.batch_size=32",
        f"optim.kind={kind}",
        f"optim.learning_rate={RATES.get(kind, 0.01)}",
        "optim.weight_decay=0.01",
        "checkpoint.every=0",
        "eval.every=15",
        "train.log_every=1",
        *others,
    ]


def losses(workdir: Path, split: str) -> list[float]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["split"] == split]


def digest(workdir: Path) -> str:
    found: str = json.loads((workdir / "summary.json").read_text())["state_digest"]
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.quick("schedule_free_adamw")
# A state is saved whatever it holds; the steps of each kind are in test_directions.py.
@pytest.mark.ci("adamw", "adafactor", "lamb", "muon", "sgd")
def test_a_run_learns_and_resumes_to_the_bit(kind: str, tmp_path: Path):
    here = words(tmp_path, kind)
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert run("train", *here, "--workdir", whole).status == 0
    trained = losses(whole, "train")
    assert np.mean(trained[-3:]) < 0.95 * np.mean(trained[:3])
    assert run("train", *here, "train.steps=13", "--workdir", part).status == 0
    done = run("train", "--workdir", part, "--resume", "train.steps=30")
    assert done.status == 0, done.err
    assert digest(part) == digest(whole)
    assert losses(part, "val")[-1] == losses(whole, "val")[-1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.quick("schedule_free_adamw")
@pytest.mark.slow
@pytest.mark.ci("adamw", "muon")
def test_several_seeds_are_one_program(kind: str, tmp_path: Path):
    """Equal the losses of single runs, as sweeps need."""
    config = load_config(None, words(tmp_path, kind, "train.steps=10"))
    session = open_session(config)
    (outcomes,) = Replicas.plan(session, (0, 1)).train(frozenset({"val"}))
    assert not any(outcome.diverged for outcome in outcomes)
    for outcome in outcomes:
        workdir = tmp_path / str(outcome.seed)
        seed = [f"train.seed={outcome.seed}", "train.steps=10"]
        assert run("train", *words(tmp_path, kind, *seed), "--workdir", workdir).status == 0
        best = min(losses(workdir, "val"))
        assert outcome.losses["val"] == pytest.approx(best, rel=2e-3)
        shutil.rmtree(workdir)


@pytest.mark.parametrize(
    ("kind", "per_parameter"),
    [("adamw", 2), ("sgd", 0), ("lion", 1), ("adan", 4), ("ademamix", 3), ("amsgrad", 3)],
)
def test_the_documented_numbers_per_parameter_are_kept(
    kind: str, per_parameter: int, tmp_path: Path
):
    session = open_session(load_config(None, words(tmp_path, kind)))
    shapes: Any = state_shapes(session.model, session.config)
    per = parameter_count(shapes.opt_state) / parameter_count(shapes.params)
    assert round(per) == per_parameter
    assert KINDS[kind].state[0] in (str(per_parameter), "1")
