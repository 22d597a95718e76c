"""The dtype of a run: measured on a CPU, by the hardware elsewhere, saved when a run is resumed."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh

from charjax.config import load_config, resume_conflicts
from charjax.errors import UserError
from charjax.models import build
from charjax.training import precision
from charjax.training.ensemble import check_config
from charjax.training.precision import Product, choose_dtype, has_bfloat16, main_product

MLP = ("model.kind=mlp", "model.context_length=3", "model.d_embed=10", "model.hidden=[200]")
GRU = ("model.kind=gru", "model.d_embed=16", "model.d_hidden=32", "model.context_length=64")


def config_of(dtype, *words):
    return load_config(None, [*(words or GRU), f"runtime.dtype={dtype}"])


def model_of(*words):
    return build(load_config(None, words).model, 27, jnp.float32)


def one_device():
    return Mesh(jax.devices("cpu")[:1], "data")


def choose(dtype, saved=None):
    return choose_dtype(config_of(dtype), model_of(*GRU), one_device(), 64, saved)


@pytest.fixture
def takes(monkeypatch):
    """Replace the measurement by a ratio."""

    def replace(ratio):
        monkeypatch.setattr(precision, "measured_ratio", lambda product, mesh: ratio)

    return replace


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.5, "bfloat16"), (0.99, "float32"), (1.02, "float32"), (2, "float32")]
)
def test_auto_is_bfloat16_only_where_it_is_faster(takes, ratio, expected):
    takes(ratio)
    chosen, note = choose("auto")
    assert chosen == expected
    assert note.startswith(f"runtime.dtype=auto is {expected}: bfloat16 takes {ratio:.2f} times")


def test_slow_bfloat16_is_said_in_one_line_with_the_remedy(takes):
    takes(1.373)
    chosen, note = choose("bfloat16")
    assert chosen == "bfloat16"
    assert "takes 1.37 times float32's time" in note
    assert "\n" not in note
    assert note.endswith("give runtime.dtype=float32 or auto")


def test_nothing_is_said_where_bfloat16_is_as_fast(takes):
    takes(1.01)
    assert choose("bfloat16") == ("bfloat16", None)


def test_float32_measures_nothing(monkeypatch):
    def fail(*arguments):
        raise AssertionError("measured")

    monkeypatch.setattr(precision, "main_product", fail)
    assert choose("float32") == ("float32", None)


@pytest.mark.parametrize(
    ("saved", "ratio", "other"), [("bfloat16", 2.0, "float32"), ("float32", 0.5, "bfloat16")]
)
def test_a_resumed_run_keeps_its_dtype_and_says_what_it_would_be(takes, saved, ratio, other):
    takes(ratio)
    chosen, note = choose("auto", saved)
    assert chosen == saved
    assert f"stays {saved}, as the run began, and would be {other} here" in note


def test_auto_conflicts_with_no_saved_dtype():
    saved = config_of("bfloat16")
    assert not resume_conflicts(saved, config_of("auto"))
    assert resume_conflicts(saved, config_of("float32"))


def test_the_main_product_of_a_recurrent_network_has_the_rows_of_a_batch():
    assert main_product(model_of(*GRU), 16, 64) == Product(16, 32, 96)


@pytest.mark.parametrize(("batch", "expected"), [(32, None), (512, Product(512, 30, 200))])
def test_products_that_are_float32_anyway_are_not_measured(batch, expected):
    assert main_product(model_of(*MLP), batch, 1) == expected


def test_a_family_without_such_products_is_float32():
    config = config_of("auto", "model.kind=bigram")
    chosen, note = choose_dtype(config, model_of("model.kind=bigram"), one_device(), 8)
    assert (chosen, note) == (
        "float32",
        "runtime.dtype=auto is float32: this model has no products that gain from bfloat16",
    )


def test_bfloat16_that_is_given_for_such_a_family_is_not_remarked_on():
    config = config_of("bfloat16", "model.kind=bigram")
    chosen = choose_dtype(config, model_of("model.kind=bigram"), one_device(), 8)
    assert chosen == ("bfloat16", None)


def test_the_measurement_is_a_ratio_of_times():
    assert 0.05 < precision.measured_ratio(Product(64, 32, 48), one_device()) < 20


@pytest.mark.parametrize(
    ("platform", "capability", "expected"),
    [
        ("tpu", None, True),
        ("gpu", "7.5", False),
        ("gpu", "8.0", True),
        ("gpu", "12.0", True),
        ("rocm", "gfx942", True),
        ("gpu", "", False),
        ("METAL", None, False),
    ],
)
def test_accelerators_by_what_they_multiply(platform, capability, expected):
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    assert has_bfloat16(device) is expected


def test_runs_of_one_program_refuse_auto():
    with pytest.raises(UserError, match=r'^runtime.dtype: "auto" given; .*"bfloat16"'):
        check_config(config_of("auto"))
