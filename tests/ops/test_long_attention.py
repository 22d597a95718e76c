"""Attention in tiles: the plain version's values and gradients, and a program of one size."""

from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import Array

from charjax.ops import attention, choice, long_attention

B, H, K, KEY = 2, 4, 8, jax.random.key(3)


def draw(T: int, heads: int, dtype: Any) -> list[Array]:
    """Return queries, keys, values, and the weights of a sum of the outputs."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(0, 2, (B, T, n, K)), dtype) for n in (H, heads, heads, H)]


def value_and_gradients(function: Any, arrays: list[Array]) -> Any:
    q, k, v, weights = arrays

    def loss(q: Array, k: Array, v: Array) -> Any:
        out = function(q, k, v)
        return jnp.sum(out.astype(jnp.float32) * weights.astype(jnp.float32)), out

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)


def check(T: int, tile: int, heads: int, dtype: Any = jnp.float32, **options: Any) -> None:
    """Compare with the plain version, which is given the mask of all tiles."""
    rate = options.get("dropout_rate", 0.0)
    options |= {"dropout_key": KEY} if rate else {}
    arrays, masks = draw(T, heads, dtype), pytest.MonkeyPatch()

    def keep(*_: Any) -> Array | None:
        shape = (B, H, T, T)
        return long_attention.tiled_keep_mask(KEY, rate, shape, heads, tile) if rate else None

    with masks.context() as patch:
        patch.setattr(attention, "_keep", keep)
        plain = value_and_gradients(
            lambda *qkv: attention.causal_attention_reference(*qkv, **options), arrays
        )
    found = value_and_gradients(
        lambda *qkv: long_attention.long_attention(*qkv, tile=tile, **options), arrays
    )
    tolerance = {jnp.float32: 3e-5, jnp.float64: 1e-11, jnp.bfloat16: 0.1}[dtype]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(plain), strict=True):
        assert a.dtype == b.dtype == dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, atol=tolerance * (1 + np.abs(b).max()))


@pytest.mark.parametrize(
    ("T", "tile", "heads", "options"),
    [
        pytest.param(70, 16, 2, {"window": 9, "dropout_rate": 0.3}, id="window, dropout"),
        pytest.param(70, 16, 4, {}, id="all keys"),
        pytest.param(64, 16, 1, {"softcap": 0.7}, id="soft cap"),
        pytest.param(64, 16, 4, {"window": 16, "softcap": 2.0}, id="window of a tile"),
        pytest.param(40, 16, 2, {"window": 1}, id="window of one"),
        pytest.param(40, 16, 2, {"window": 40, "dropout_rate": 0.5}, id="window of all"),
        pytest.param(5, 16, 4, {"dropout_rate": 0.5}, id="less than a tile"),
        pytest.param(33, 16, 4, {}, id="one more than tiles"),
    ],
)
@pytest.mark.quick("window, dropout")
def test_equals_the_plain_version(T: int, tile: int, heads: int, options: dict[str, Any]) -> None:
    check(T, tile, heads, **options)


@pytest.mark.slow
def test_in_bfloat16() -> None:
    check(70, 16, 2, jnp.bfloat16, window=40)


@pytest.mark.slow
@hypothesis.settings(max_examples=10)
@hypothesis.given(
    T=st.integers(1, 90),
    tile=st.sampled_from([1, 2, 8, 16, 32, 128]),
    heads=st.sampled_from([1, 2, 4]),
    window=st.none() | st.integers(1, 100),
    softcap=st.sampled_from([0.0, 1.0]),
    rate=st.sampled_from([0.0, 0.4]),
)
@pytest.mark.longest
def test_equals_the_plain_version_in_float64(
    T: int, tile: int, heads: int, window: int | None, softcap: float, rate: float
) -> None:
    with jax.enable_x64(True):
        options = {"window": window, "softcap": softcap, "dropout_rate": rate}
        check(T, tile, heads, jnp.float64, **options)


@pytest.mark.slow
def test_the_mask_of_the_reference_is_that_of_the_tiles() -> None:
    """Values, so that the mask is seen: with one key of weight 1 each row shows what is dropped."""
    T, rate = choice.LONGEST_UNROLLED + 1, 0.5
    q, k, v, _ = draw(T, H, jnp.float32)
    options: dict[str, Any] = {"dropout_rate": rate, "dropout_key": KEY}
    np.testing.assert_allclose(
        jax.jit(lambda *qkv: attention.causal_attention(*qkv, **options))(q, k, v),
        jax.jit(lambda *qkv: attention.causal_attention_reference(*qkv, **options))(q, k, v),
        atol=1e-4,
    )


def test_tiles_from_513_queries_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    q = [jax.ShapeDtypeStruct((1, T, 1, 64), jnp.float32) for T in (512, 513)]
    versions: list[Any] = [choice.attention_version(each, 0.0) for each in q]  # type: ignore[arg-type]
    assert versions == ["blocks", "tiles"]
    assert choice.attention_version(q[1], 0.0, 30.0) == "tiles"  # type: ignore[arg-type]
    monkeypatch.setattr(choice, "on_cpu", lambda: False)
    monkeypatch.setattr(choice, "_has_flash_attention", lambda: False)
    assert choice.attention_version(q[1], 0.0) == "plain"  # type: ignore[arg-type]


def program_size(T: int, window: int | None = None) -> int:
    """Count the lines of the gradients' lowered program."""
    q = jax.ShapeDtypeStruct((1, T, 2, 16), jnp.float32)
    loss = lambda *qkv: jnp.sum(attention.causal_attention(*qkv, window=window))  # noqa: E731
    return len(jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, q, q).as_text().splitlines())


def test_the_program_does_not_grow_with_the_text() -> None:
    """At 4,096 it was 6.8 times that at 512."""
    assert program_size(8192) == program_size(4096) <= 1.5 * program_size(512)


def test_a_window_skips_tiles() -> None:
    form = long_attention.Form(window=130, softcap=0.0, rate=0.0, tile=64)
    number = jnp.asarray
    # Query 320 sees keys from 191 on, query 383 those up to itself.
    assert int(long_attention._first_keys(number(5), form)) == 2
    assert int(long_attention._after_queries(number(2), 100, form)) == 6
    assert int(long_attention._after_queries(number(2), 4, form)) == 4
    every = form._replace(window=None)
    assert int(long_attention._first_keys(number(5), every)) == 0
    assert int(long_attention._after_queries(number(2), 100, every)) == 100
