"""eval.protocol=random: nanoGPT's estimate, the mean of the losses of fresh random batches."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.config import load_config
from charjax.training import validation
from charjax.training.evaluation import Score, random_loss
from charjax.training.session import first_state, open_session
from charjax.training.state import variables_of
from charjax.training.validation import evaluator
from tests.commands import run, tiny

COUNT = 3


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Train on lines of unequal length, so that batches have unequal numbers of targets."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join("abcdefg"[: 1 + i * i % 7] + "\n" for i in range(200)))
    settings = [*tiny("bigram"), f"data.path={path}", "data.layout=lines", "train.steps=30"]
    return [*settings, "eval.protocol=random", f"eval.batches={COUNT}", "eval.batch_size=2"]


@pytest.mark.slow
def test_the_loss_is_the_mean_of_the_means_of_its_batches(settings: list[str]):
    session = open_session(load_config(None, settings))
    assert session.val_source is not None
    model, source = session.model, session.val_source
    variables = variables_of(first_state(session))
    losses, weights = [], []
    for index in range(5, 5 + COUNT):
        batch = source.draw(jnp.int32(index))
        logits, _ = model.apply(variables, batch.inputs)
        logs = np.asarray(jax.nn.log_softmax(logits), np.float64)
        picked = -np.take_along_axis(logs, np.asarray(batch.targets)[..., None], axis=-1)[..., 0]
        losses.append((picked * batch.weights).sum())
        weights.append(float(batch.weights.sum()))
    score = random_loss(model, variables, source, session.mesh, batches=COUNT, first=5)
    expected = np.mean(np.divide(losses, weights))
    assert score.targets == sum(weights)
    assert score.loss == pytest.approx(expected, rel=1e-6)
    # It is not the mean over targets: the test would not notice otherwise.
    assert abs(expected - sum(losses) / sum(weights)) > 1e-4


def test_every_evaluation_draws_batches_of_its_own(
    settings: list[str], monkeypatch: pytest.MonkeyPatch
):
    session = open_session(load_config(None, settings))
    drawn: list[range] = []

    def note(*_: object, batches: int, first: int, **__: object) -> Score:
        drawn.append(range(first, first + batches))
        return Score(1.0, 1)

    monkeypatch.setattr(validation, "random_loss", note)
    evaluate = evaluator(session, lambda: None)
    assert evaluate is not None
    state = first_state(session)
    for step in (0, 1, 2, 3, 10, 20, 5000):
        evaluate(step, state)
    assert all(len(batches) == COUNT for batches in drawn)
    assert len(set().union(*drawn)) == COUNT * len(drawn)
    # An index is int32 on the device.
    evaluate(2**31 - 2, state)
    assert 0 <= drawn[-1].start < drawn[-1].stop < 2**31


@pytest.mark.slow
def test_a_model_that_stands_still_is_measured_on_other_batches(
    settings: list[str], tmp_path: Path
):
    settings = [*settings, "optim.learning_rate=1e-30"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run("train", *settings, "--workdir", whole).status == 0
    losses = val_losses(whole)
    assert len(set(losses)) == len(losses) == 3
    # At this size an untrained model's losses are all about log V.
    assert np.ptp(losses) < 0.1
    assert run("train", *settings, "train.steps=10", "--workdir", cut).status == 0
    assert run("train", "--workdir", cut, "--resume", "train.steps=30").status == 0
    assert val_losses(cut) == losses


def val_losses(workdir: Path) -> list[float]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["split"] == "val"]
