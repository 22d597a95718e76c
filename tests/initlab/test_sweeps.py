"""Sweeps: runs together equal single runs; a resumed sweep has the same tables."""

import csv
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import backend
from charjax.config import load_config
from charjax.data.datasets import load_dataset
from charjax.initlab.__main__ import main
from charjax.initlab.sweeps.axes import Axes, numbers
from charjax.initlab.sweeps.grid import Point, make_groups
from charjax.initlab.sweeps.program import GroupProgram
from charjax.initlab.sweeps.record import recorded_steps
from charjax.initlab.sweeps.runner import open_group
from charjax.initlab.sweeps.tables import KEYS
from charjax.initlab.sweeps.unread import why_no_run_reads
from charjax.random_streams import purpose_key
from charjax.signals import Interrupted
from charjax.training.program import make_advance
from charjax.training.session import first_state, make_session
from charjax.training.state import variables_of
from tests.commands import start, tiny


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Skip drawing, which takes longer than a small sweep, except in one test."""
    monkeypatch.setattr("charjax.initlab.report.write_page", lambda sweep: None)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Write symbols in cyclic order, with occasional jumps."""
    rng = np.random.default_rng(0)
    moves = np.where(rng.random(1500) < 0.8, 1, rng.integers(0, 10, 1500))
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join("abcdefgh \n"[i] for i in np.cumsum(moves) % 10))
    return path


def program(overrides, axes, count=None):
    base = load_config(None, overrides, unread=why_no_run_reads(axes))
    (group,) = make_groups(base, axes)
    devices = backend.start_backend(base.runtime)
    session = open_group(group, load_dataset(base.data), devices)
    return GroupProgram(group, session, count or len(group.points))


def alone(overrides, point: Point, steps: int):
    """Return the state of one run after a number of steps, by the plain training program."""
    words = [
        *overrides,
        f"init.scheme={point.scheme}",
        f"train.seed={point.seed}",
        f"optim.learning_rate={point.rate}",
        *([] if point.gain is None else [f"init.gain={point.gain}"]),
    ]
    config = load_config(None, words)
    session = make_session(config, load_dataset(config.data), jax.local_devices()[:1])
    advance = jax.jit(make_advance(session.model, config, session.mesh))
    state, key = first_state(session), purpose_key(point.seed, "dropout")
    for _ in range(steps):
        state, metrics = advance(state, session.source, key)
    return state, metrics


@pytest.mark.parametrize(
    ("kind", "schemes", "gains", "settings"),
    [
        ("mlp", ("he_normal", "mup"), (2.0,), ["init.base_width=16"]),
        pytest.param(
            "mlp",
            ("pytorch", "he_normal", "mup"),
            (0.5, 2.0),
            ["init.base_width=16"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "transformer",
            ("gpt2", "mup"),
            (None,),
            ["init.base_width=16"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "lstm",
            ("default", "chrono"),
            (1.5,),
            ["optim.kind=rmsprop", "data.sampling=contiguous"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_of_a_sweep_is_the_run_alone(kind, schemes, gains, settings, text):
    overrides = [*tiny(kind), f"data.path={text}", *settings, "train.steps=100"]
    axes = Axes(schemes, gains, (), (), (1e-3, 3e-3), (0, 7))
    together = program(overrides, axes)
    points = together.group.points
    runs, who = together.start(points)
    runs = together.ensemble.run(runs, who, 40)
    for index in (1, len(points) - 1):
        point = points[index]
        is_mup = point.scheme == "mup"
        words = [word for word in overrides if is_mup or not word.startswith("init.")]
        state, _ = alone(words, point, 40)
        params = jax.tree.map(lambda leaf, index=index: leaf[index], runs.states.params)
        for ours, theirs in zip(
            jax.tree.leaves(params), jax.tree.leaves(state.params), strict=True
        ):
            scale = float(jnp.max(jnp.abs(theirs))) or 1.0
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * scale)
    assert purpose_key(7, "batches") == who.batch_key[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optim", "schemes"),
    [
        (["optim.kind=muon", "optim.adam_learning_rate=1e-3"], ("he_normal", "mup")),
        (["optim.kind=sgd"], ("he_normal", "spectral")),
        (["optim.kind=schedule_free_adamw"], ("he_normal",)),
        (["optim.kind=adafactor"], ("he_normal",)),
        (["optim.ema=0.9"], ("he_normal", "mup")),
    ],
    ids=lambda value: " ".join(value),
)
@pytest.mark.longest
def test_other_optimisers_in_a_sweep(optim, schemes, text):
    overrides = [*tiny("mlp"), f"data.path={text}", *optim, "init.base_width=4", "train.steps=20"]
    if len(schemes) == 1:
        overrides.remove("init.base_width=4")
    together = program(overrides, Axes(schemes, (None,), (), (), (1e-3, 3e-3), (0, 7)))
    points = together.group.points
    runs, who = together.start(points)
    runs = together.ensemble.run(runs, who, 20)
    for index in (1, len(points) - 1):
        point = points[index]
        is_scaled = point.scheme in ("mup", "spectral")
        words = [word for word in overrides if is_scaled or not word.startswith("init.")]
        state, _ = alone(words, point, 20)
        ours = jax.tree.map(lambda leaf, index=index: leaf[index], runs.states)
        for mine, theirs in zip(
            jax.tree.leaves(variables_of(ours, "averaged")),
            jax.tree.leaves(variables_of(state, "averaged")),
            strict=True,
        ):
            np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-4)


def sweep(out, text, *words, kind="mlp"):
    arguments = [*tiny(kind), f"data.path={text}", *words, "--out", str(out)]
    assert main(["sweep", *arguments]) == 0
    return out


TABLES = ("runs.csv", "curves.csv", "layers.csv")
GRID = ("--scheme", "pytorch,normal", "--lr", "0.01,0.1", "--seeds", "3", "--steps", "60")


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charjax.initlab.report.write_page", lambda sweep: None)
        return sweep(tmp_path_factory.mktemp("sweeps") / "whole", text, *GRID)


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_tables(whole):
    result = json.loads((whole / "sweep.json").read_text())
    runs, curves, layers = (rows(whole / name) for name in TABLES)
    assert len(runs) == 2 * 2 * 3
    assert result["recorded"] == list(recorded_steps(60)) == [0, 1, 2, 5, 10, 20, 50, 60]
    assert len(curves) == len(runs) * 8
    assert len(layers) == len(curves) * 3
    assert {run["scheme"] for run in runs} == {"pytorch", "normal"}
    assert [row["layer"] for row in layers[:3]] == ["token_embedding", "hidden_0", "readout"]
    for run in runs:
        assert float(run["val_loss"]) < float(run["initial_loss"])
        assert run["diverged_step"] == ""
    by_scheme = {run["scheme"]: float(run["sigma_w2"]) for run in runs}
    assert by_scheme["pytorch"] == pytest.approx(1 / 3, rel=0.3)
    assert all(0 < float(row["update_to_data"]) < 1 for row in layers)
    with np.load(whole / "histograms.npz") as arrays:
        assert arrays["counts"].shape == (2 * len(layers), 64)
        is_hidden = (arrays["layer"] == "hidden_0") & (arrays["kind"] == "activation")
        assert len(set(arrays["counts"][is_hidden].sum(axis=1))) == 1
    # The loss is the config's on the same batches, whatever the scheme.
    assert result["command"].startswith("python -m charjax.initlab sweep")
    assert "--out" not in result["command"]
    assert not (whole / "parts").exists()


def test_rows_of_the_tables_belong_together(whole):
    """A run's first and last losses are its curve's, and its histograms have its layers' means."""
    runs, curves, layers = (rows(whole / name) for name in TABLES)
    for place, run in enumerate(runs):
        curve = curves[8 * place : 8 * place + 8]
        assert all(row[key] == run[key] for row in curve for key in KEYS)
        assert [row["step"] for row in curve] == [str(step) for step in recorded_steps(60)]
        assert curve[0]["val_loss"] == run["initial_loss"]
        assert (curve[-1]["train_loss"], curve[-1]["val_loss"]) == (
            run["train_loss"],
            run["val_loss"],
        )
    with np.load(whole / "histograms.npz") as file:
        arrays = dict(file)
    keys = [*KEYS[:1], *KEYS[2:], "step", "layer"]
    by_key = {}
    for place in range(len(arrays["step"])):
        key = tuple(str(arrays[name][place]) for name in keys)
        width = float(arrays["high"][place] - arrays["low"][place]) / 64
        centres = arrays["low"][place] + width * (np.arange(64) + 0.5)
        weights = arrays["counts"][place] / arrays["counts"][place].sum()
        mean = weights @ centres
        std = np.sqrt(weights @ (centres - mean) ** 2)
        by_key[(arrays["kind"][place], *key)] = mean, std, width
    assert len(by_key) == 2 * len(layers)
    for row in layers:
        numbers = (str(float(row["learning_rate"])), str(int(row["seed"])))
        key = (row["scheme"], row["depth"], row["width"], *numbers, row["step"], row["layer"])
        mean, _, width = by_key[("activation", *key)]
        assert float(row["mean"]) == pytest.approx(mean, abs=width)
        _, std, width = by_key[("gradient", *key)]
        # Ranges end at 4 standard deviations, or before; what lies beyond is in the last bin.
        assert std - width < float(row["gradient_std"])
        assert 64 * width < 8.001 * float(row["gradient_std"])
        has_theory = row["step"] == "0" and row["layer"] != "token_embedding"
        assert (row["theory_std"] != "") == has_theory


@pytest.mark.slow
def test_stopped_and_resumed_it_is_the_same(text, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("charjax.training.ensemble._DISPATCH_SECONDS", 1e-9)
    out, calls = tmp_path / "cut", 0

    class Stop:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def poll(self):
            nonlocal calls
            calls += 1
            # At a step that is recorded, and between two.
            if calls in (10, 40):
                raise Interrupted(15)

    words = [*tiny("mlp"), f"data.path={text}", *GRID, "--out", str(out)]
    monkeypatch.setattr("charjax.signals.Signals", Stop)
    assert main(["sweep", *words]) == 143
    assert not (out / "sweep.json").exists()
    assert main(["sweep", *words, "--resume"]) == 143
    assert main(["sweep", *words, "--resume"]) == 0
    for name in TABLES:
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    before = (out / "runs.csv").read_bytes()
    assert main(["sweep", *words, "--resume"]) == 0
    assert (out / "runs.csv").read_bytes() == before


@pytest.mark.slow
def test_fewer_at_once_and_the_same_numbers(text, whole, tmp_path):
    out = sweep(tmp_path / "out", text, *GRID, "--at-once", "7")
    for one, other in zip(rows(out / "runs.csv"), rows(whole / "runs.csv"), strict=True):
        assert [one[key] for key in KEYS] == [other[key] for key in KEYS]
        for name in ("sigma_w2", "initial_loss", "train_loss", "val_loss"):
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-4)


@pytest.mark.slow
def test_split_over_two_devices_nothing_changes(text, whole, tmp_path):
    out = tmp_path / "out"
    words = [*tiny("mlp"), f"data.path={text}", *GRID, "--out", str(out)]
    process = start("initlab", "sweep", *words, JAX_NUM_CPU_DEVICES="2")
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert "report: " in output
    for one, other in zip(rows(out / "runs.csv"), rows(whole / "runs.csv"), strict=True):
        for name in ("initial_loss", "train_loss", "val_loss"):
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-4)


@pytest.mark.slow
def test_a_run_that_diverges_freezes_and_the_others_go_on(text, tmp_path):
    words = ("--scheme", "normal", "--lr", "0.01,1e30", "--seeds", "2", "--steps", "20")
    out = sweep(tmp_path / "out", text, *words, "optim.kind=sgd", "optim.grad_clip=0")
    runs = rows(out / "runs.csv")
    for run in runs:
        if float(run["learning_rate"]) < 1:
            assert run["diverged_step"] == ""
        else:
            # The first step flings it away; the second cannot be taken.
            assert run["diverged_step"] == "1"
    curves = [row for row in rows(out / "curves.csv") if float(row["learning_rate"]) > 1]
    after = {row["val_loss"] for row in curves if row["seed"] == "0" and int(row["step"]) >= 1}
    assert len(after) == 1


def test_a_group_for_each_architecture_and_size(text):
    base = load_config(None, [*tiny("transformer"), f"data.path={text}"])
    head = base.model.d_model // base.model.n_head
    axes = Axes(("gpt2", "deepnorm", "default"), (None,), (1, 2), (2 * head, 4 * head), (), (0, 1))
    groups = make_groups(base, axes)
    assert len(groups) == 2 * 2 * 2
    assert {tuple(group.configs) for group in groups} == {("gpt2", "default"), ("deepnorm",)}
    for group in groups:
        model = group.config.model
        assert (model.n_layer, model.d_model) == (group.depth, group.width)
        assert model.d_model // model.n_head == head
        assert model.residual == ("deepnorm" if "deepnorm" in group.configs else "pre_norm")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scheme", "pytorch,kaimin"], "did you mean"),
        (["--scheme", "forget_bias"], "it needs model.kind=gru or lstm"),
        (["--seeds", "1"], "--seeds: 1 given; a sweep reports intervals over seeds, which need 2"),
        (["--gain", "0:1:3"], "must be numbers greater than 0"),
        (["--gain", "1:2"], "'1:2' given; must be numbers"),
        (["--lr", "x"], "'x' given"),
        (["--depth", "1.5"], "whole numbers from 1"),
        (["--width", "1000000", "--depth", "3"], "0 of its 8 runs would fit"),
        (["--seeds", "1000000", "--gain", "1:2:1000"], "runs would fit; give fewer"),
        (["--scheme", "lsuv", "--gain", "1,2"], "would undo it"),
        (["init.std=0.1", "--scheme", "pytorch"], "none of --scheme pytorch reads it"),
        (["data.val_fraction=0.0"], "a sweep measures a validation loss"),
        (["optim.momentum=0.9"], "only optim.kind=sgd or rmsprop or"),
        (["optim.learning_rate=0.5", "--lr", "0.1,0.2"], "--lr 0.1,0.2 is varied: add it to --lr"),
        (["init.scheme=normal"], "--scheme pytorch is varied"),
        (["--resume"], "--resume: no --out given"),
        (["--at-once", "0"], "--at-once"),
        (["--arch", "ngram"], "--arch"),
        (["model.kind=ngram"], "counts have no initialisation"),
    ],
)
def test_mistakes_leave_nothing_behind(words, message, text, tmp_path, monkeypatch):
    from charjax.errors import UserError

    monkeypatch.chdir(tmp_path)
    base = [] if "model.kind=ngram" in words else tiny("mlp")
    scheme = [] if "--scheme" in words else ["--scheme", "pytorch"]
    with pytest.raises(UserError) as caught:
        main(["sweep", *base, f"data.path={text}", *scheme, *words])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # Some run reads each of these.
        (["init.std=0.5", "--scheme", "pytorch,normal"], []),
        (["init.base_width=16", "--scheme", "mup,pytorch"], []),
        (["optim.learning_rate=0.1", "--lr", "0.1,0.2"], []),
        (["model.hidden=[8]", "--width", "8,16"], []),
        (["names-mlp-kaiming", "--scheme", "naive,kaiming_tanh", "--lr", "0.1"], []),
        # A file's value is noted.
        (
            ["warpeace-lstm", "--scheme", "pytorch"],
            ["init.scale = 0.08", 'no run reads init.scheme = "uniform"'],
        ),
        (["names-mlp-kaiming", "--scheme", "kaiming_tanh", "--lr", "1"], ["learning_rate = 0.1"]),
        # So are sizes that flags replace, and what belongs to single runs.
        (["model.hidden=[8]", "--width", "4,6", "--depth", "2"], ["reads model.hidden"]),
        (["eval.every=3", "train.log_every=1"], ["no run of a sweep reads eval.every, train.log"]),
    ],
)
def test_settings_that_no_run_reads_are_noted(words, message, capsys):
    from charjax.initlab.commands.sweep import _arguments, _grid

    _grid(_arguments(words))
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == len(message)
    for line, part in zip(err.splitlines(), message, strict=True):
        assert line.startswith("note: ")
        assert part in line


def test_it_ends_with_its_page_and_the_verdicts(text, whole, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    out = tmp_path / "copy"
    shutil.copytree(whole, out)
    words = [*tiny("mlp"), f"data.path={text}", *GRID, "--out", str(out), "--resume"]
    assert main(["sweep", *words]) == 0
    output = capsys.readouterr().out
    assert "pytorch and normal" in output
    assert f"report: {out / 'report.html'}" in output
    assert "Verdicts" in (out / "report.html").read_text(encoding="utf-8")


def test_another_sweeps_directory(text, whole):
    from charjax.errors import UserError

    words = ["sweep", *tiny("mlp"), f"data.path={text}", *GRID, "--out", str(whole)]
    with pytest.raises(UserError, match="is not empty"):
        main(words)
    with pytest.raises(UserError, match=r"axes.seeds was \[0, 1, 2\] when"):
        main([*("4" if word == "3" else word for word in words), "--resume"])


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("1,2,4", {"whole": True, "spacing": "log", "low": 1}, (1, 2, 4)),
        ("32:256:4", {"whole": True, "spacing": "log", "low": 1}, (32, 64, 128, 256)),
        ("0.5:2:4", {"whole": False, "spacing": "even", "low": 0}, (0.5, 1, 1.5, 2)),
        ("1e-4:1e-1:4", {"whole": False, "spacing": "log", "low": 0}, (1e-4, 1e-3, 1e-2, 1e-1)),
        ("1:2:5", {"whole": True, "spacing": "even", "low": 1}, (1, 2)),
    ],
)
def test_numbers(text, kind, values):
    assert numbers(**kind)(text) == values
    assert all(math.isfinite(x) for x in values)
