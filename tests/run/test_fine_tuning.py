"""Fine-tuning from another run's parameters, and resuming after a text was moved."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from charjax.config import load_config
from charjax.models.mixture import without_weights
from charjax.run.load import find_run, load_run
from tests.commands import run, tiny

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "ran", "off"]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = [" ".join(WORDS[(i * j + i) % 10] for j in range(1, 9)) for i in range(100)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def sources(text, tmp_path_factory) -> dict[str, Path]:
    """Train a small transformer, saved at steps 10 and 20, and a GRU, saved at 10."""
    folder = tmp_path_factory.mktemp("runs")
    steps = {"transformer": 20, "gru": 10}
    for kind, count in steps.items():
        words = [f"data.path={text}", *tiny(kind), f"train.steps={count}", "--workdir"]
        assert run("train", *words, folder / kind).status == 0
    return {kind: folder / kind for kind in steps}


def tune(source: Path, text: Path, directory: Path, *words: str):
    small = ["train.steps=1", "train.batch_size=4", "eval.every=0", f"data.path={text}"]
    return run("train", *small, *words, "--init-from", source, "--workdir", directory)


def val_loss(directory: Path, step: int) -> float:
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return next(line["loss"] for line in lines if (line["split"], line["step"]) == ("val", step))


@pytest.mark.parametrize(("words", "step"), [([], 20), (["--checkpoint", "10"], 10)])
def test_the_step_and_the_loss_taken_are_printed(words, step, sources, text, tmp_path):
    source = sources["transformer"]
    done = tune(source, text, tmp_path / "new", *words)
    assert done.status == 0, done.err
    loss = val_loss(source, step)
    line = f"starting from {source}: checkpoint of step {step}, validation loss {loss:.4f}"
    assert line in done.out.splitlines()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        pytest.param("transformer", ["model.dropout=0.3"], marks=pytest.mark.slow),
        ("gru", ["model.dropout=0.3", "model.context_length=32"]),
    ],
)
@pytest.mark.slow
def test_settings_that_change_no_parameter_may_change(kind, words, sources, text, tmp_path):
    done = tune(sources[kind], text, tmp_path / "new", *words)
    assert done.status == 0, done.err
    old, new = (
        load_config(path / "config.toml").model for path in (sources[kind], tmp_path / "new")
    )
    assert new.dropout == 0.3
    free = {"dropout", "context_length"}
    assert old.model_dump(exclude=free) == new.model_dump(exclude=free)


REFUSED = {
    "another size": ("transformer", ["model.n_layer=2"], "model.n_layer is 1 there, 2 here"),
    "another family": ("gru", ["model.kind=lstm"], 'model.kind is "gru" there, "lstm" here'),
    "more learned positions": (
        "transformer",
        ["model.context_length=16"],
        "model.context_length: 16 given with --init-from, but that run's parameters are of 8",
    ),
    "a step that is not there": ("gru", ["--checkpoint", "7"], "best, latest, 10"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_model_is_refused(case, sources, text, tmp_path):
    kind, words, said = REFUSED[case]
    done = tune(sources[kind], text, tmp_path / "new", *words)
    assert done.status == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_counts_are_nothing_to_start_from(text, tmp_path):
    words = [f"data.path={text}", *tiny("ngram"), "--workdir", tmp_path / "counts"]
    assert run("train", *words).status == 0
    done = tune(tmp_path / "counts", text, tmp_path / "new")
    assert done.status == 2
    assert "model.kind=ngram" in done.err


def test_a_run_that_is_not_there_is_said_of_its_flag(text, tmp_path):
    done = tune(tmp_path / "nosuch", text, tmp_path / "new")
    assert done.status == 2
    assert done.err.startswith("error: --init-from: ")


def test_a_checkpoint_is_named_for_fine_tuning_alone(sources):
    done = run("train", "--checkpoint", "10")
    assert done.status == 2
    assert "--init-from" in done.err


def test_a_run_goes_on_with_a_text_that_was_moved(sources, text, tmp_path):
    workdir = shutil.copytree(sources["gru"], tmp_path / "run")
    moved = shutil.copy(text, tmp_path / "moved.txt")
    done = run("train", "--workdir", workdir, "--resume", f"data.path={moved}", "train.steps=12")
    assert done.status == 0, done.err
    assert load_config(workdir / "config.toml").data.path == str(moved)
    # It is known by its content.
    Path(moved).write_text(text.read_text() + "more")
    done = run("train", "--workdir", workdir, "--resume", "train.steps=14")
    assert done.status == 2
    assert "the text has changed" in done.err


@pytest.mark.slow
def test_a_text_that_was_moved_is_evaluated_at_its_new_place(sources, text, tmp_path):
    workdir = shutil.copytree(sources["gru"], tmp_path / "run")
    gone, moved = tmp_path / "gone.txt", tmp_path / "moved.txt"
    shutil.copy(text, gone)
    words = ["--workdir", workdir, "--resume", f"data.path={gone}", "train.steps=12"]
    assert run("train", *words).status == 0
    before = run("evaluate", workdir)
    gone.rename(moved)
    lost = run("evaluate", workdir)
    assert lost.status == 2
    assert str(gone) in lost.err
    assert "data.path=FILE" in lost.err
    after = run("evaluate", workdir, f"data.path={moved}")
    assert after.status == 0, after.err
    assert after.out == before.out
    # Only the tokenizer is needed.
    assert run("evaluate", workdir, "--text", moved).status == 0
    assert run("sample", workdir, "--max-new-tokens", "5").status == 0
    moved.write_text(text.read_text() + "more")
    assert "has changed" in run("evaluate", workdir, f"data.path={moved}").err
    assert run("evaluate", workdir, "train.steps=5").status == 2


FEW_STEPS = ["optim.learning_rate=1e-30", "optim.weight_decay=0", "train.batch_size=4"]


@pytest.fixture(scope="module")
def with_counts(text, tmp_path_factory) -> dict[str, Path]:
    """Train a GRU without counts, and with two of them."""
    folder = tmp_path_factory.mktemp("counts")
    small = [f"data.path={text}", *tiny("gru"), "init.scheme=mup", "model.count_folds=3"]
    for name, counts in (("without", []), ("two", [2, 4])):
        words = [word for word in small if counts or not word.startswith("model.count_folds")]
        words += [f"model.counts={counts}", "train.steps=3", "--workdir"]
        assert run("train", *words, folder / name).status == 0
    return {name: folder / name for name in ("without", "two")}


@pytest.mark.parametrize(
    ("source", "counts"), [("without", [2, 4]), ("two", [3]), ("two", []), ("two", [2, 4])]
)
def test_other_counts_begin_from_the_network(source, counts, with_counts, text, tmp_path):
    """Its parameters are those of the source; the weights of other experts are those of step 0."""
    words = [*FEW_STEPS, f"model.counts={counts}", "init.scheme=mup"]
    done = tune(with_counts[source], text, tmp_path / "new", *words)
    assert done.status == 0, done.err
    old, new = (load_run(find_run(path)) for path in (with_counts[source], tmp_path / "new"))
    mine, theirs = new.variables["params"], old.variables["params"]
    is_same = source == "two" and counts == [2, 4]
    names = theirs if is_same else without_weights(theirs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        {name: mine[name] for name in names},
        {name: theirs[name] for name in names},
    )
    fresh = mine.keys() - names.keys()
    assert len(fresh) == (4 if counts and not is_same else 0)
    assert all((mine[name] == 1).all() for name in fresh)
    there = "[2, 4]" if source == "two" else "[]"
    note = f"its network alone, as model.counts is {there} there and {counts} here"
    assert (note in done.out) != is_same


def test_folds_without_counts_are_read_by_nothing(with_counts, text, tmp_path):
    words = [*FEW_STEPS, "model.count_folds=5", "init.scheme=mup"]
    done = tune(with_counts["without"], text, tmp_path / "new", *words)
    assert done.status == 2
    assert "model.count_folds: 5 given; only counts beside the network read it" in done.err


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("model.counts=[2,4]", "start a new run (--init-from takes over the parameters)"),
        ("optim.beta1=0.8", "start a new run (--init-from takes over the parameters)"),
        ("model.d_hidden=5", "start a new run (without --init-from, as it is another model)"),
    ],
)
def test_a_changed_run_is_advised_to_what_can_be_done(word, advice, with_counts):
    done = run("train", word, "--workdir", with_counts["without"], "--resume")
    assert done.status == 2
    assert done.err.endswith(f", or {advice}\n")
    assert word != "model.counts=[2,4]" or "model.counts was [] and is [2, 4]" in done.err
