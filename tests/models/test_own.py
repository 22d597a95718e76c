"""Activations of the user's own in charjax's families, and the section of a family of one's own."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.config import FamilyConfig, load_config
from charjax.config.families import FAMILIES
from charjax.errors import UserError
from charjax.extensions import separate_names
from charjax.models import build
from tests import own

SOURCE = """\
import jax
import jax.numpy as jnp
def tanh(x):
    assert x.dtype == jnp.float32
    return jnp.tanh(x)
def gelu(x): return jax.nn.gelu(x, approximate=False)
"""


@pytest.fixture(autouse=True)
def _names():
    with separate_names():
        yield


def logits(words: list[str], dtype=jnp.float32):
    small = {"d_embed": 6, "d_hidden": 8, "d_model": 8, "n_layer": 2, "n_head": 2}
    kind = words[0].partition("=")[2]
    sizes = [f"model.{k}={v}" for k, v in small.items() if k in FAMILIES[kind].model_fields]
    model = build(load_config(None, [*words, *sizes, "model.context_length=8"]).model, 11, dtype)
    tokens_BT = np.random.default_rng(0).integers(0, 11, (2, 8)).astype(np.int32)
    variables = jax.jit(model.init)(jax.random.key(1), tokens_BT)

    def mean(variables):
        out = model.apply(variables, tokens_BT)[0]
        return jnp.mean(out * out), out

    (_, out), grads = jax.jit(jax.value_and_grad(mean, has_aux=True))(variables)
    return out, grads


SLOW = [pytest.mark.slow]


@pytest.mark.parametrize(
    ("kind", "name", "dtype"),
    [
        ("mlp", "tanh", jnp.float32),
        ("rnn", "tanh", jnp.float32),
        pytest.param("transformer", "gelu", jnp.float32, marks=SLOW),
        pytest.param("wavenet", "tanh", jnp.float32, marks=SLOW),
        pytest.param("mlp", "tanh", jnp.bfloat16, marks=SLOW),
        pytest.param("rnn", "tanh", jnp.bfloat16, marks=SLOW),
        pytest.param("transformer", "gelu", jnp.bfloat16, marks=SLOW),
    ],
)
def test_it_computes_what_the_known_one_does(kind: str, name: str, dtype, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SOURCE)
    known = [f"model.kind={kind}", f"model.activation={name}"]
    mine = [f"model.kind={kind}", f"model.activation={tmp_path}/mine.py:{name}"]
    tolerance = 1e-5 if dtype == jnp.float32 else 0.02
    for a, b in zip(
        jax.tree.leaves(logits(mine, dtype)), jax.tree.leaves(logits(known, dtype)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["mlp", pytest.param("wavenet", marks=SLOW)])
def test_relu_in_the_place_of_tanh(kind: str) -> None:
    out, _ = logits([f"model.kind={kind}", "model.activation=relu"])
    other, _ = logits([f"model.kind={kind}"])
    assert not np.allclose(out, other)


class TestSections:
    """The settings of a family of one's own."""

    def test_they_are_the_familys_fields(self, tmp_path: Path) -> None:
        path = own.write(tmp_path)
        config = load_config(None, [f"model.kind={path}:Pair", "model.d_hidden=12"]).model
        assert isinstance(config, FamilyConfig)
        assert (config.width, config.depth) == (12, 0)
        assert config.resized(3, 20) == {"d_hidden": 20}
        fields = type(config).model_fields
        assert fields["d_embed"].annotation is int
        assert set(fields) == {"kind", "context_length", "d_embed", "d_hidden"}

    def test_or_a_section_with_bounds_and_choices(self, tmp_path: Path) -> None:
        section = (
            "from typing import Literal\nfrom pydantic import Field\n"
            "from charjax.config import FamilyConfig\n\n\n"
            "class PairConfig(FamilyConfig):\n"
            "    d_embed: int = Field(4, ge=1)\n"
            '    form: Literal["plain", "gated"] = "plain"\n\n\n'
        )
        change = ("class Pair(FiniteModel):", f"{section}class Pair(FiniteModel):")
        path = own.write(
            tmp_path,
            change,
            ("    d_embed: int = 8", "    section = PairConfig\n    d_embed: int = 8"),
        )
        word = f"model.kind={path}:Pair"
        model = build(load_config(None, [word, "model.form=gated"]).model, 5, jnp.float32)
        assert model.d_embed == 4  # type: ignore[attr-defined]
        with pytest.raises(UserError, match="must be a whole number of at least 1"):
            load_config(None, [word, "model.d_embed=0"])
        with pytest.raises(UserError, match="must be one of plain, gated"):
            load_config(None, [word, "model.form=other"])

    def test_a_section_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        change = ("    d_embed: int = 8", "    section = dict\n    d_embed: int = 8")
        path = own.write(tmp_path, change)
        with pytest.raises(UserError, match="must be a subclass of charjax"):
            load_config(None, [f"model.kind={path}:Pair"])
