"""Figures computed from times: hand-counted operations, peaks, drift, crossovers."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import throughput
from charjax.config import FAMILIES, load_config
from charjax.performance import devices, rates, show
from charjax.performance.flops import flops_formula, forward_flops, train_flops

# Products of the forward pass for one token, written out: (rows of the kernel, columns).
_BY_HAND = {
    "bow": (["d_embed=6"], [(6, 11)]),
    "mlp": (["context_length=3", "d_embed=4", "hidden=[7,5]"], [(12, 7), (7, 5), (5, 11)]),
    "wavenet": (
        ["context_length=8", "d_embed=4", "d_hidden=6"],
        [(8, 6), (12, 6), (12, 6), (6, 11)],
    ),
    "rnn": (["d_embed=4", "d_hidden=6"], [(4, 6), (6, 6), (6, 11)]),
    "gru": (
        ["d_embed=4", "d_hidden=6", "n_layer=2"],
        [(4, 18), (6, 18), (6, 18), (6, 18), (6, 11)],
    ),
    "lstm": (["d_embed=4", "d_hidden=6"], [(4, 24), (6, 24), (6, 11)]),
    "mingru": (["d_embed=4", "d_hidden=6", "n_layer=2"], [(4, 12), (6, 12), (6, 11)]),
    "minlstm": (["d_embed=4", "d_hidden=6", "n_layer=2"], [(4, 18), (6, 18), (6, 11)]),
    "transformer": (
        ["n_layer=1", "n_head=2", "d_model=8", "context_length=5"],
        # qkv, scores, weighted values, out, up, down, readout.
        [(8, 24), (8, 5), (5, 8), (8, 8), (8, 32), (32, 8), (8, 11)],
    ),
    "bigram": ([], []),
}


def model_section(kind: str, settings: list[str]):
    return load_config(None, [f"model.kind={kind}", *(f"model.{s}" for s in settings)]).model


@pytest.mark.parametrize("kind", _BY_HAND)
def test_operations_are_those_counted_by_hand(kind: str):
    settings, products = _BY_HAND[kind]
    section = model_section(kind, settings)
    forward = 2.0 * sum(rows * columns for rows, columns in products)
    assert forward_flops(section, 11) == forward
    assert train_flops(section, 11) == 3 * forward


def test_every_family_that_is_trained_has_a_formula():
    assert set(_BY_HAND) == set(FAMILIES) - {"ngram"} == set(throughput.MODELS)
    assert all(flops_formula(kind) for kind in throughput.MODELS)
    assert train_flops(model_section("ngram", []), 11) is None


def test_operations_are_about_those_that_xla_counts():
    from charjax.models.transformer import Transformer

    settings = ["n_layer=2", "n_head=2", "d_model=32", "context_length=16"]
    section = model_section("transformer", settings)
    model = Transformer(
        vocab_size=65,
        dtype=jnp.float32,
        context_length=16,
        n_layer=2,
        n_head=2,
        d_model=32,
        dropout=0.0,
        bias=False,
        tie_embeddings=True,
        positions="learned",
    )
    tokens = jnp.zeros((4, 16), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
    program = jax.jit(lambda variables: model.apply(variables, tokens)[0])
    counted = program.lower(shapes).cost_analysis()["flops"] / tokens.size
    # XLA also counts elementwise work, and only half of the causal products.
    assert counted == pytest.approx(forward_flops(section, 65), rel=0.35)


def test_an_unknown_device_has_no_peak():
    for kind in ("cpu", "NVIDIA H999", ""):
        assert devices.find(kind) is None
        assert devices.nominal(kind, "bfloat16") is None
    assert show.percent(None) == show.quantity(None, "FLOP/s") == "n/a"


def test_a_roofline_that_moves_says_so():
    start = {"float32": 100.0, "copy": 50.0}
    still = rates.compare(start, {"float32": 104.0, "copy": 49.0})
    assert not still["drifted"]
    assert still["note"] is None
    moved = rates.compare(start, {"float32": 94.0, "copy": 49.0})
    assert moved["drifted"]
    assert "float32 -6.0%" in moved["note"]
    assert "copy" not in moved["note"]


@pytest.mark.parametrize(
    ("gpu", "first"),
    [([1.0, 20.0, 300.0], 16), ([9.0, 1.0, 300.0], 256), ([1.0, 1.0, 1.0], None)],
)
def test_the_gpu_overtakes_where_it_stays_ahead(gpu: list[float], first: int | None):
    best = {
        ("gru", "float32", batch): {"cpu": 5.0, "gpu": rate}
        for batch, rate in zip((1, 16, 256), gpu, strict=True)
    }
    assert throughput.overtakes(best, "gru", "float32") == first


def test_quantities_are_written_with_their_unit():
    assert show.quantity(3.21e11, "FLOP/s") == "321 GFLOP/s"
    assert show.quantity(0.00421, "s") == "4.21 ms"
    assert show.quantity(12.5, "s") == "12.5 s"
    assert show.quantity(2.5e-7, "s") == "250 ns"
