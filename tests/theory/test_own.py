"""Mean-field theory of the user's own activations equals that of the same ones that are known."""

import math
from pathlib import Path

import numpy as np
import pytest

from charjax import theory
from charjax.config import load_config
from charjax.errors import UserError
from charjax.extensions import name_word, separate_names
from charjax.init import scheme_for
from charjax.init.draws import gain_of

SOURCE = """\
import jax
import jax.numpy as jnp
def tanh(x): return jnp.tanh(x)
def relu(x): return jnp.maximum(x, 0)
def gelu(x): return jax.nn.gelu(x, approximate=False)
def shifted(x): return jnp.where(x > 0.7, 3 * x - 1.4, x)
def squared(x): return jnp.maximum(x, 0) ** 2
def stated(x): return jnp.abs(x - 1e-4) + jnp.abs(x)
stated.kinks = (0.0, 1e-4)
def growing(x): return jnp.exp(x * x)
def flat(x): return 0.0 * x
def fast(x): return jnp.sin(1000 * x)
def zigzag(x): return jnp.abs(x - jnp.round(x))
def stated_zigzag(x): return zigzag(x)
stated_zigzag.kinks = (0.0, 0.5)
def exponential(x): return jnp.exp(x)
"""


@pytest.fixture(autouse=True)
def _names():
    with separate_names():
        yield


def word(folder: Path, name: str) -> str:
    path = folder / "mine.py"
    path.write_text(SOURCE)
    return name_word("model.activation", f"{path}:{name}")


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu"])
def test_maps_are_those_of_the_known_one(name: str, tmp_path: Path) -> None:
    mine, known = theory.find_activation(word(tmp_path, name)), theory.find_activation(name)
    for q in (0.1, 1.0, 30.0):
        assert theory.length_map(q, mine, 1.5, 0.05) == pytest.approx(
            theory.length_map(q, known, 1.5, 0.05), rel=1e-7
        )
        assert theory.chi(q, mine, 1.5) == pytest.approx(theory.chi(q, known, 1.5), rel=1e-7)
        assert theory.correlation_map(0.3, q, mine, 1.5) == pytest.approx(
            theory.correlation_map(0.3, q, known, 1.5), rel=1e-7
        )


def test_the_critical_point_is_tanhs(tmp_path: Path) -> None:
    point = theory.critical_point(theory.find_activation(word(tmp_path, "tanh")), 0.05)
    known = theory.critical_point(theory.find_activation("tanh"), 0.05)
    assert point.weight_variance == pytest.approx(known.weight_variance, rel=1e-8)
    assert point.variance == pytest.approx(known.variance, rel=1e-8)


@pytest.mark.parametrize(
    ("name", "kinks"),
    [("tanh", []), ("gelu", []), ("relu", [0.0]), ("shifted", [0.7]), ("squared", [0.0]),
     ("stated", [0.0, 1e-4])],
)  # fmt: skip
def test_kinks_are_found(name: str, kinks: list[float], tmp_path: Path) -> None:
    found = theory.find_activation(word(tmp_path, name)).kinks
    np.testing.assert_allclose(found, kinks, atol=1e-7)


def test_the_critical_scheme_reads_the_models_activation(tmp_path: Path) -> None:
    words = ["model.kind=mlp", "init.scheme=critical", "init.sigma_b=0.2"]
    known = scheme_for(load_config(None, words))
    word(tmp_path, "tanh")
    mine = scheme_for(load_config(None, [*words, f"model.activation={tmp_path}/mine.py:tanh"]))
    for role, rule in known.rules.items():
        gain = getattr(rule.draw, "gain", None)
        if gain is not None:
            assert mine.rules[role].draw.gain == pytest.approx(gain, rel=1e-8)


def test_without_a_critical_point_the_scheme_says_so(tmp_path: Path) -> None:
    word(tmp_path, "relu")
    words = ["model.kind=mlp", "init.scheme=critical", f"model.activation={tmp_path}/mine.py:relu"]
    with pytest.raises(UserError, match=r"no weight variance is critical .*: give init\.sigma_w"):
        scheme_for(load_config(None, words))
    assert scheme_for(load_config(None, [*words, "init.sigma_b=0"]))


def test_the_gain_of_he_is_that_of_the_derivative(tmp_path: Path) -> None:
    assert gain_of(word(tmp_path, "relu")) == pytest.approx(math.sqrt(2), rel=1e-9)
    with pytest.raises(UserError, match="its derivative is 0; choose another scheme"):
        gain_of(word(tmp_path, "flat"))


def test_an_expectation_that_leaves_float64_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expectation"):
        theory.second_moment(9.0, theory.find_activation(word(tmp_path, "growing")))


@pytest.mark.parametrize("name", ["fast", "exponential"])
def test_a_smooth_function_has_no_kinks(name: str, tmp_path: Path) -> None:
    """Its derivatives change by much within 1e-9 where they are large, and do not jump."""
    assert theory.find_activation(word(tmp_path, name)).kinks == ()


def test_too_many_kinks_are_refused(tmp_path: Path) -> None:
    """Integrals cut at each of them would not fit into a machine's memory."""
    with pytest.raises(UserError, match=r"jump at 9[5-8] places from -24 to 24; at most 64"):
        theory.find_activation(word(tmp_path, "zigzag"))
    assert theory.find_activation(word(tmp_path, "stated_zigzag")).kinks == (0.0, 0.5)
