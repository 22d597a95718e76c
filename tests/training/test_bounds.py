"""Evaluation in bounded memory and by lookup gives the loss of one plain pass."""

import json
import math
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import backend, hardware, parallel
from charjax.config import RuntimeConfig
from charjax.data.batches import make_source
from charjax.data.splits import Split
from charjax.models.ngram import NgramModel
from charjax.training import devices, evaluation
from charjax.training.evaluation import exact_loss, random_loss
from tests.commands import run
from tests.models.families import CONTEXT, V, make_model, make_variables


def slowly(*values):
    """Mark a further case of what quicker tests specify."""
    return pytest.param(*values, marks=pytest.mark.slow)


ALIKE = ["mlp", "gru", "transformer", "bigram", "bow", "transformer-other"]


@pytest.fixture(scope="module")
def mesh():
    return parallel.make_mesh(backend.start_backend(RuntimeConfig()), 1)


def text(*lengths: int) -> Split:
    """Build consecutive documents of these numbers of targets."""
    sizes = np.asarray(lengths)
    tokens = np.random.default_rng(len(lengths)).integers(0, V, sizes.sum() + len(sizes))
    return Split(tokens.astype(np.uint8), np.cumsum(sizes + 1) - sizes - 1, sizes, "val")


def exact(model, variables, split, mesh, **options):
    sizes = {"context_length": CONTEXT, "batch_size": 3}
    return exact_loss(model, variables, split, mesh, **sizes | options)


def at_most(monkeypatch, targets: int) -> None:
    """Limit the number of targets whose logits are computed at once."""
    monkeypatch.setattr(evaluation, "_MOST_LOGITS", {"cpu": targets * V})
    monkeypatch.setattr(evaluation, "_LEAST_CHUNK", 2)


@pytest.mark.parametrize("kind", ALIKE)
@pytest.mark.quick("mlp", "gru")
def test_fewer_rows_and_shorter_pieces_give_the_same_loss(kind, mesh, monkeypatch):
    model = make_model(kind)
    variables = make_variables(model)
    split = text(40, 3, 17)
    options = [{}, {"context": 7, "stride": 3}]
    whole = [exact(model, variables, split, mesh, **each) for each in options]
    at_most(monkeypatch, 5)
    for each, expected in zip(options, whole, strict=True):
        got = exact(model, variables, split, mesh, **each)
        assert got.targets == expected.targets == 60
        assert got.loss == pytest.approx(expected.loss, rel=1e-6)


@pytest.mark.parametrize("kind", ["mlp", *map(slowly, ("transformer", "gru"))])
@pytest.mark.slow
def test_a_random_draw_in_parts_gives_the_same_loss(kind, mesh, monkeypatch):
    model = make_model(kind)
    variables = make_variables(model)
    sizes = {"window": CONTEXT, "lookback": model.lookback, "batch_size": 5, "seed": 0}
    source = make_source(text(200), layout="stream", sampling="random", **sizes)
    whole = random_loss(model, variables, source, mesh, batches=2, first=3)
    assert whole.targets == 2 * 5 * CONTEXT
    # Two rows at once, the last part with one; then pieces of five targets of one row.
    for targets in (2 * CONTEXT, 5):
        at_most(monkeypatch, targets)
        got = random_loss(model, variables, source, mesh, batches=2, first=3)
        assert got.targets == whole.targets
        assert got.loss == pytest.approx(whole.loss, rel=1e-6)


@pytest.mark.parametrize("V_wide", [12_000, 65_536])
@pytest.mark.parametrize("kind", ["mlp", "gru", "transformer", "ngram"])
def test_no_more_logits_than_the_bound(kind, V_wide, mesh):
    """Cover any number of rows and symbols."""
    model = make_model(kind).clone(vocab_size=V_wide)
    rows, piece = evaluation._bounded(model, 64, 1024, mesh)
    assert rows == 1 or model.looks_up_targets
    numbers = evaluation._NUMBERS_OF_LOOKUP if model.looks_up_targets else V_wide
    assert rows * piece * numbers <= evaluation._MOST_LOGITS["cpu"]


@pytest.mark.parametrize(
    ("order", "smoothing"),
    [
        (4, "modified_kneser_ney"),
        slowly(1, "kneser_ney"),
        slowly(5, "kneser_ney"),
        slowly(3, "additive"),
    ],
)
def test_lookups_equal_the_logits(order, smoothing, mesh, monkeypatch):
    model = make_model("ngram", order=order, smoothing=smoothing)
    variables = make_variables(model)
    split = text(300, 3, 17)
    options = [{}, {"context": 9, "stride": 2}]
    looked_up = [exact(model, variables, split, mesh, **each) for each in options]
    monkeypatch.setattr(NgramModel, "looks_up_targets", False)
    for each, got in zip(options, looked_up, strict=True):
        expected = exact(model, variables, split, mesh, **each)
        assert got.targets == expected.targets == 320
        assert got.loss == pytest.approx(expected.loss, abs=1e-6)


@pytest.mark.slow
def test_lookups_of_random_batches_equal_the_logits(mesh, monkeypatch):
    model = make_model("ngram", order=5)
    variables = make_variables(model)
    sizes = {"window": CONTEXT, "lookback": model.lookback, "batch_size": 5, "seed": 0}
    source = make_source(text(200), layout="stream", sampling="random", **sizes)
    got = random_loss(model, variables, source, mesh, batches=2, first=0)
    monkeypatch.setattr(NgramModel, "looks_up_targets", False)
    # Compiled for the model as it was.
    evaluation.score_draw.clear_cache()
    expected = random_loss(model, variables, source, mesh, batches=2, first=0)
    evaluation.score_draw.clear_cache()
    assert got.loss == pytest.approx(expected.loss, abs=1e-6)


@pytest.mark.slow
def test_the_longest_contexts_of_the_largest_alphabet_are_looked_up(mesh, monkeypatch):
    """65,536 symbols to the 32nd power fit into no integer."""
    model = make_model("ngram", order=32).clone(vocab_size=65_536)
    tokens = np.random.default_rng(0).integers(0, 65_536, 400).astype(np.uint16)
    tokens[300:400] = tokens[100:200]
    tokens[0] = 65_535
    variables = model.fit(Split(tokens, np.array([0]), np.array([399])))
    split = Split(tokens[300:], np.array([0]), np.array([50]))
    got = exact(model, variables, split, mesh)
    monkeypatch.setattr(NgramModel, "looks_up_targets", False)
    assert got.loss == pytest.approx(exact(model, variables, split, mesh).loss, abs=1e-6)


def test_a_lookup_needs_no_memory_for_symbols_that_did_not_follow():
    needed = []
    for symbols in (30, 12_000):
        model = make_model("ngram", order=5).clone(vocab_size=symbols)
        tokens = np.random.default_rng(0).integers(0, symbols, 3000).astype(np.uint16)
        variables = model.fit(Split(tokens, np.array([0]), np.array([2999])))
        inputs = jax.ShapeDtypeStruct((64, 256 + model.lookback), jnp.int32)
        targets = jax.ShapeDtypeStruct((64, 256), jnp.int32)

        def look_up(variables, inputs, targets, model=model):
            return model.apply(variables, inputs, targets, method="target_log_probs")

        program = jax.jit(look_up).lower(variables, inputs, targets).compile()
        needed.append(program.memory_analysis().temp_size_in_bytes)
    assert needed[0] == needed[1] <= 4 * evaluation._NUMBERS_OF_LOOKUP * 64 * 256


def chinese(symbols: int, length: int) -> str:
    """Write a text in which every symbol occurs, frequent ones often."""
    ranks = np.random.default_rng(1).zipf(1.3, length) % symbols
    ranks[:symbols] = np.arange(symbols)
    return "".join(chr(0x4E00 + rank) for rank in ranks)


def test_counting_and_scoring_are_shown_and_timed(tmp_path):
    path, workdir = tmp_path / "text.txt", tmp_path / "run"
    path.write_text(chinese(500, 5000), encoding="utf-8")
    done = run("train", "model.kind=ngram", f"data.path={path}", "--workdir", workdir)
    assert done.status == 0, done.err
    assert re.search(r"^counted 4,499 targets in \d+\.\d\d s; scoring$", done.out, re.M)
    assert re.search(r"^scored 4,998 targets in \d+\.\d\d s$", done.out, re.M)
    assert re.search(
        r"^done: .*, counting [\d,]+ tokens/s, scoring [\d,]+ tokens/s$", done.out, re.M
    )
    result = json.loads((workdir / "summary.json").read_text())
    assert result["counting_tokens_per_second"] == result["tokens_per_second"] > 0
    assert result["scoring_tokens_per_second"] > 0
    score = json.loads(run("evaluate", workdir, "--json").out)
    assert score["loss"] == pytest.approx(result["val_loss"], abs=1e-9)
    again = run("train", "--workdir", workdir, "--resume")
    assert again.status == 0


def test_a_table_larger_than_the_memory_is_refused_in_one_line(tmp_path, monkeypatch):
    path, workdir = tmp_path / "text.txt", tmp_path / "run"
    path.write_text(chinese(500, 3000), encoding="utf-8")
    monkeypatch.setattr(devices, "_MANY_SYMBOLS", 400)
    monkeypatch.setattr(hardware, "total_memory", lambda devices: 2_900_000)
    arguments = (f"data.path={path}", "train.steps=1", "--workdir", workdir)
    refused = run("train", "model.kind=bigram", *arguments)
    assert refused.status == 2
    assert refused.err.count("\n") == 1
    assert "bigram of 500 symbols needs 0.0 GB" in refused.err
    assert not workdir.exists()
    monkeypatch.setattr(hardware, "total_memory", lambda devices: 3_100_000)
    assert run("train", "model.kind=bigram", *arguments).status == 0


_PEAK = """
import sys
from charjax import cli, evaluate, train
import charjax.run.recorder, charjax.training.evaluation
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
start = peak()
try:
    cli.run({"train": train, "evaluate": evaluate}[sys.argv[1]].main, sys.argv[2:])
except SystemExit as leave:
    assert not leave.code, leave.code
print("above the start:", (peak() - start) // 1000)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is needed")
@pytest.mark.parametrize("symbols", [12_000, pytest.param(19_000, marks=pytest.mark.longest)])
def test_an_alphabet_of_many_symbols_needs_little_memory(symbols, tmp_path):
    path, workdir = tmp_path / "text.txt", tmp_path / "run"
    path.write_text(chinese(symbols, symbols + 3000), encoding="utf-8")

    def megabytes(*arguments: object) -> int:
        command = [sys.executable, "-c", _PEAK, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout.rpartition(" ")[2])

    settings = ["model.kind=ngram", "model.order=5", f"data.path={path}"]
    assert megabytes("train", *settings, "--workdir", workdir) < 300
    assert megabytes("evaluate", workdir) < 300
    small = ["model.kind=gru", "model.d_embed=16", "model.d_hidden=32", f"data.path={path}"]
    quick = ["train.steps=2", "train.batch_size=1", "model.context_length=16"]
    assert run("train", *small, *quick, "--workdir", tmp_path / "gru").status == 0
    assert megabytes("evaluate", tmp_path / "gru") < 300


def test_an_impossible_character_costs_only_where_it_counts(mesh):
    """Score with an alpha too small for float32: unseen pairs are impossible; skip padding."""
    model = make_model("ngram", order=2, smoothing="additive", alpha=1e-300)
    tokens = np.array([3, 4] * 30, np.uint8)
    variables = model.fit(Split(tokens, np.array([0]), np.array([59])))
    assert math.isfinite(
        exact(model, variables, Split(tokens, np.array([0]), np.array([7])), mesh).loss
    )
