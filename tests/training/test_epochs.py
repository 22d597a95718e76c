"""`train.epochs`: the steps it comes to, and the epochs that a run reports."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.config import load_config
from charjax.config.notes import schedule_notes
from charjax.data.datasets import load_dataset
from charjax.errors import UserError
from charjax.training.session import Session, make_session
from tests.commands import run, tiny


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {i} of some\n" * (1 + i % 3) for i in range(60)))
    return path


def session(text: Path, *words: str) -> Session:
    config = load_config(None, [f"data.path={text}", *tiny("bigram"), *words])
    return make_session(config, load_dataset(config.data), jax.local_devices()[:1])


LAYOUTS = {
    "stream": [],
    "lines": ["data.layout=lines", "model.context_length=6"],
    "pairs": ["model.kind=mlp", "data.layout=pairs"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sampling", ["epoch", "contiguous"])
def test_every_target_occurs_once_in_an_epoch(layout: str, sampling: str, text: Path) -> None:
    if sampling == "contiguous" and layout != "stream":
        pytest.skip("no such sampling")
    found = session(text, *LAYOUTS[layout], f"data.sampling={sampling}", "train.epochs=2")
    steps = found.config.train.steps
    assert found.source is not None
    draw = jax.jit(lambda step: jnp.sum(found.source.draw(step).weights))
    drawn = [float(draw(jnp.int32(step))) for step in range(steps)]
    num_targets = found.dataset.splits["train"].num_targets
    half = steps // 2
    assert steps == 2 * half
    assert sum(drawn[:half]) == sum(drawn[half:]) == num_targets


@pytest.mark.parametrize("layout", LAYOUTS)
def test_as_many_targets_are_expected_at_random(layout: str, text: Path) -> None:
    found = session(text, *LAYOUTS[layout], "train.epochs=20")
    assert found.source is not None
    draw = jax.jit(lambda step: jnp.sum(found.source.draw(step).weights))
    drawn = np.array([float(draw(jnp.int32(step))) for step in range(found.config.train.steps)])
    wanted = 20 * found.dataset.splits["train"].num_targets
    # Within four standard errors, and a step for rounding up.
    slack = 4 * drawn.std() * math.sqrt(len(drawn)) + drawn.max()
    assert abs(drawn.sum() - wanted) <= slack


def test_steps_are_rounded_up_and_the_schedule_follows(text: Path) -> None:
    words = ["train.epochs=0.5", "optim.schedule=cosine", "optim.warmup_steps=2"]
    found = session(text, *words)
    steps = found.config.train.steps
    assert steps - 1 < 0.5 * found.steps_per_epoch <= steps
    assert found.config.optim.decay_steps == steps
    assert schedule_notes(found.config) == []
    assert session(text, *words, "optim.decay_steps=7").config.optim.decay_steps == 7
    assert session(text, "train.epochs=1e-9").config.train.steps == 1


@pytest.mark.slow
def test_a_run_reports_epochs(text: Path, tmp_path: Path) -> None:
    words = [f"data.path={text}", *tiny("bigram"), "data.sampling=epoch", "train.epochs=1.5"]
    done = run("train", *words, "--workdir", tmp_path / "run")
    assert (done.status, done.err) == (0, "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["epochs"] == pytest.approx(1.5, abs=1 / 50)
    text_of_lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text_of_lines.splitlines()]
    for line in lines:
        if line["split"] == "train":
            share = line["step"] / summary["steps"]
            assert line["epoch"] == pytest.approx(share * summary["epochs"], abs=1e-5)
            assert f"  epoch {line['epoch']:.2f}\n" in done.out
    assert f"epochs {summary['epochs']:.2f}, best val" in done.out


def test_a_run_is_extended_in_epochs_or_steps(text: Path, tmp_path: Path) -> None:
    words = [f"data.path={text}", *tiny("bigram"), "--workdir", tmp_path / "run"]
    assert run("train", *words, "train.epochs=1").status == 0
    resume = ("train", "--workdir", tmp_path / "run", "--resume")

    def length() -> tuple[int, float]:
        tree = json.loads((tmp_path / "run" / "summary.json").read_text())
        return tree["steps"], tree["epochs"]

    steps, _ = length()
    assert "nothing to do" in run(*resume).out
    done = run(*resume, "train.epochs=2")
    assert (done.status, done.err) == (0, "")
    assert length()[0] in (2 * steps, 2 * steps - 1)
    done = run(*resume, f"train.steps={3 * steps}")
    assert (done.status, done.err) == (0, "")
    assert length()[0] == 3 * steps
    assert load_config(tmp_path / "run" / "config.toml", saved=True).train.epochs is None


def test_the_schedule_of_completed_steps_stays(text: Path, tmp_path: Path) -> None:
    words = [f"data.path={text}", *tiny("bigram"), "train.epochs=1", "optim.schedule=cosine"]
    assert run("train", *words, "--workdir", tmp_path / "run").status == 0
    steps = json.loads((tmp_path / "run" / "summary.json").read_text())["steps"]
    resume = ("train", "--workdir", tmp_path / "run", "--resume")
    done = run(*resume, "train.epochs=2")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert f"optim.decay_steps follows train.epochs = 2 where it was {steps}" in done.err
    assert f"add optim.decay_steps={steps}" in done.err
    # The same configuration again is no change.
    path = tmp_path / "again.toml"
    path.write_text((tmp_path / "run" / "config.toml").read_text())
    assert "nothing to do" in run(resume[0], path, *resume[1:]).out
    assert run(*resume, "train.epochs=2", f"optim.decay_steps={steps}").status == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.epochs=2", "train.steps=7"], "both are the length of the run: leave one out"),
        (["train.epochs=0"], "must be a number greater than 0 and at most 1000000000"),
        (["train.epochs=x"], "must be a number greater than 0"),
        (["train.epochs=nan"], "train.epochs: "),
        (["train.epochs=1e9", "train.batch_size=1"], "steps; at most 2,147,483,646 are possible"),
        (["model.kind=ngram", "train.epochs=2"], "model.kind=ngram counts"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, text: Path) -> None:
    def start() -> None:
        config = load_config(None, [f"data.path={text}", *words])
        make_session(config, load_dataset(config.data), jax.local_devices()[:1])

    with pytest.raises(UserError) as caught:
        start()
    assert message in str(caught.value)


def test_of_a_file_with_both_the_epochs_count(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "both.toml"
    path.write_text("[train]\nsteps = 7\nepochs = 2\n")
    assert load_config(path).train.epochs == 2
    # An override replaces either.
    assert load_config(path, ["train.steps=9"]).train.epochs is None
    printed = session(text, "train.epochs=2", "optim.schedule=cosine")
    path.write_text(printed.config.to_toml())
    again = load_config(path)
    assert again.optim.decay_steps is None
    dataset = load_dataset(again.data)
    assert make_session(again, dataset, jax.local_devices()[:1]).config == printed.config


def test_sweeps_have_steps(text: Path, tmp_path: Path) -> None:
    words = [f"data.path={text}", "train.epochs=3", "--out", str(tmp_path / "sweep")]
    done = run("initlab.__main__", "sweep", *words)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert "train.epochs: 3.0 given; a sweep reads --steps or train.steps instead" in done.err
