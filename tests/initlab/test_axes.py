"""Axes of any setting: the grid, its programs, its tables, and mistakes."""

import csv
import json

import jax
import numpy as np
import pytest

from charjax.config import load_config
from charjax.config.values import value_text
from charjax.data.datasets import load_dataset
from charjax.errors import UserError
from charjax.initlab.__main__ import main
from charjax.initlab.report import read_sweep
from charjax.initlab.sweeps.axes import Axes, read_axes
from charjax.initlab.sweeps.grid import make_groups
from charjax.initlab.sweeps.parts import split_axis
from charjax.initlab.sweeps.settings import with_settings
from charjax.random_streams import purpose_key
from charjax.training.program import make_advance
from charjax.training.session import first_state, make_session
from tests.commands import tiny

FILES = ("runs.csv", "curves.csv", "layers.csv", "histograms.npz", "plan.json")
# One of its settings is data of the program, the other is not.
GRID = (
    *("--scheme", "normal", "--seeds", "2", "--steps", "10"),
    *("--axis", "optim.weight_decay=0.1,0.2", "--axis", "model.norm=none,batch"),
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the cat sat on the mat and ran off\n" * 40)
    return path


def axes(*settings, schemes=("normal",), seeds=(0, 1)):
    return Axes(schemes, (None,), (), (), (), seeds, settings)


def words(text, out, *others):
    # The axis gives the norm.
    base = [word for word in tiny("mlp") if not word.startswith("model.norm")]
    return ["sweep", *base, f"data.path={text}", *others, "--out", str(out)]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("optim.beta2=0.9,0.99", ("optim.beta2", ("0.9", "0.99"))),
        ("optim.boundaries=[1,2],[3]", ("optim.boundaries", ("[1,2]", "[3]"))),
        ("model.activation=tanh, relu", ("model.activation", ("tanh", "relu"))),
    ],
)
def test_the_words_of_an_axis(words, found):
    assert split_axis(words) == found


def test_settings_that_are_data_share_a_program(text):
    base = load_config(None, [*tiny("mlp"), f"data.path={text}"])
    decays = ("optim.weight_decay", (0.0, 0.1, 0.2))
    groups = make_groups(base, axes(decays, ("train.batch_size", (4, 8))))
    assert [(group.config.train.batch_size, len(group.points)) for group in groups] == [
        *((4, 2), (8, 2)),
        *((4, 4), (8, 4)),
    ]
    # No decay is another program: with a decay, its state and its operations are others.
    assert groups[0].title == "depth 1, width 8, optim.weight_decay=0.0, train.batch_size=4"
    assert groups[2].title == "depth 1, width 8, train.batch_size=4"
    points = [point for group in groups for point in group.points]
    assert len(points) == len(set(points)) == axes(decays, ("x", (4, 8))).runs


def test_another_optimiser_has_its_own_defaults(text):
    base = load_config(None, [*tiny("mlp"), f"data.path={text}", "optim.beta1=0.8"])
    lion = with_settings(base, {"optim.kind": "lion"})
    assert (lion.optim.beta1, lion.optim.beta2) == (0.8, 0.99)
    assert with_settings(lion, {"optim.kind": "adamw"}).optim.beta2 == 0.999


def test_the_plan_holds_the_axes():
    grid = axes(("optim.boundaries", ((1, 2), (3,))), ("optim.kind", ("sgd", "lion")))
    assert read_axes(json.loads(json.dumps(grid.described()))) == grid
    # That of a grid without such axes is what it was before there were any.
    assert "settings" not in axes().described()
    assert [value_text(x) for x in ("sgd", 0.1, True, (1, 2))] == ["sgd", "0.1", "true", "[1, 2]"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--axis", "optim.beta9=1,2"], "optim.beta9: unknown key"),
        (["--axis", "optim.beta22=1,2"], "did you mean optim.beta2?"),
        (["--axis", "optim.beta2=0.9,1.5"], "optim.beta2: 1.5 given; must be"),
        (["--axis", "optim.beta2=0.9,0.90"], "optim.beta2 has the value 0.9 twice"),
        (["--axis", "optim.beta2"], "must be section.key=a,b,..."),
        (["--axis", "optim.beta2=0.9,"], "must be section.key=a,b,..."),
        (["--axis", "optim.momentum=0.1,0.2"], "optim.momentum: 0.1 given; only optim.kind=sgd"),
        (["--axis", "optim.kind=adamw,sgd", "--axis", "optim.beta2=0.9,0.8"], "optim.kind is sgd"),
        (["--axis", "init.std=0.1,0.2"], "--axis: init.std given; only init.scheme=normal"),
        (["--axis", "optim.learning_rate=0.1"], "given as --lr 0.1"),
        (["--axis", "model.hidden=[8],[9]"], "given as --depth"),
        (["--axis", "data.tokenizer=char,byte"], "all runs of a sweep share one text"),
        (["--axis", "train.steps=1,2"], "given as --steps 1,2"),
        (["--axis", "eval.every=1,2"], "measures at steps and on windows of its own"),
        (["--axis", "optim.beta2=0.9", "--axis", "optim.beta2=0.8"], "optim.beta2 given twice"),
        (["--axis", "optim.beta2=0.9,0.8", "optim.beta2=0.7"], "as a setting and as --axis"),
        (["--axis", "model.n_head=2,4"], "model.n_head: unknown key"),
    ],
)
def test_mistakes_leave_nothing_behind(flags, message, text, tmp_path):
    with pytest.raises(UserError) as caught:
        main(words(text, tmp_path / "out", "--scheme", "pytorch,normal", *flags))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "whole"
    assert main(words(text, out, *GRID)) == 0
    return out


@pytest.mark.slow
def test_tables_name_the_axes(whole, text):
    with (whole / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["optim.weight_decay"], row["model.norm"]) for row in rows} == {
        *(("0.1", "none"), ("0.1", "batch"), ("0.2", "none"), ("0.2", "batch"))
    }
    sweep = read_sweep(whole)
    assert sweep.schemes[1] == "optim.weight_decay=0.1, model.norm=batch"
    assert sweep.losses.shape == (4, 1, 1, 1, 1, 2)
    assert "optim.weight_decay=0.2, model.norm=none" in (whole / "report.html").read_text()


@pytest.mark.slow
def test_parts_and_an_extension_are_the_whole(whole, text, tmp_path):
    parts = [str(tmp_path / f"part{number}") for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        assert main(words(text, part, *GRID, "--part", f"{number}/2")) == 0
    assert main(["merge", str(tmp_path / "merged"), *parts]) == 0
    # The new value stands before the one of the smaller grid.
    small = [word.replace("0.1,0.2", "0.2").replace("none,batch", "batch") for word in GRID]
    assert main(words(text, tmp_path / "grown", *small)) == 0
    with pytest.raises(UserError, match=r"was optim\.weight_decay, model\.norm when"):
        main(words(text, tmp_path / "grown", *GRID[:-2], "--extend"))
    assert main(words(text, tmp_path / "grown", *GRID, "--extend")) == 0
    for name in FILES:
        for other in ("merged", "grown"):
            assert (tmp_path / other / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"optim.weight_decay": 0.2}, {"optim.kind": "sgd", "optim.momentum": 0.5}]
)
def test_a_run_of_an_axis_is_the_run_alone(settings, text, tmp_path):
    """The last weights are those of the plain training program with that setting, nearly."""
    from charjax import backend
    from charjax.initlab.sweeps.program import GroupProgram
    from charjax.initlab.sweeps.runner import open_group

    base = load_config(None, [*tiny("mlp"), f"data.path={text}", "init.scheme=normal"])
    base = with_settings(base, {k: v for k, v in settings.items() if k == "optim.kind"})
    name, value = list(settings.items())[-1]
    (group,) = make_groups(base, axes((name, (value / 2, value))))
    devices, dataset = backend.start_backend(base.runtime), load_dataset(base.data)
    program = GroupProgram(group, open_group(group, dataset, devices), len(group.points))
    runs, traced = program.start(group.points)
    runs = program.ensemble.run(runs, traced, 20)
    last = group.points[-1]
    assert last.settings == (value,)
    config = with_settings(base, {name: value, "train.seed": last.seed})
    session = make_session(config, dataset, jax.local_devices()[:1])
    advance = jax.jit(make_advance(session.model, config, session.mesh))
    state, key = first_state(session), purpose_key(last.seed, "dropout")
    for _ in range(20):
        state, _ = advance(state, session.source, key)
    ours = jax.tree.map(lambda leaf: leaf[-1], runs.states.params)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
