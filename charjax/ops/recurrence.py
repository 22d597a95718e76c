"""The scan of a recurrent layer along the text, with a gradient written by hand.

The backward pass that JAX derives adds to the gradients of the hidden kernel, its bias and the
table at every step: a product, and a read and a write of each of them whole. Here a backward step
is the gates' derivative and one product, as in cuDNN (Appleyard et al. 2016); the gradient of the
kernel is one product over all times after the scan, and the steps save the gates alone.

Letters: T time, B batch, H width of the state, G gates * H, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from charjax.ops.choice import one_hot_gradient
from charjax.ops.gates import State
from charjax.ops.precision import wide_dtype

Update = Callable[[Array, Array, State], State]


def recurrence_reference(
    update: Update,
    dtype: DTypeLike,
    state: State,
    x_TB: Array,
    table_VG: Array | None,
    kernel_HG: Array,
    bias_G: Array,
) -> tuple[State, Array]:
    """Compute `recurrence` by a plain scan."""
    kernel_HG = kernel_HG.astype(dtype)

    def step(state: State, x_B: Array) -> tuple[State, Array]:
        a_BG = _product(state[0], kernel_HG) + bias_G
        state = update(_looked_up(table_VG, x_B), a_BG, state)
        return state, state[0].astype(dtype)

    return lax.scan(step, state, x_TB)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recurrence(
    update: Update,
    dtype: DTypeLike,
    state: State,
    x_TB: Array,
    table_VG: Array | None,
    kernel_HG: Array,
    bias_G: Array,
) -> tuple[State, Array]:
    """Compute state_t = update(x_t, h_{t-1} W_h + b_h, state_{t-1}) for all t.

    Only reverse-mode derivatives (and forward ones of those) are defined.

    Args:
      update: from the two parts of the gates, (B, G) each, and the state to the new state.
      dtype: of the products, and of the outputs.
      state: before the first step, (h, ...), each (B, H) float32.
      x_TB: the input's part in the gates, (T, B, G) float32; or tokens (T, B).
      table_VG: the tokens' parts in the gates, (V, G) float32; None where x_TB holds the parts.
      kernel_HG: (H, G) float32.
      bias_G: (G,) float32.

    Returns:
      The last state, and the outputs h, (T, B, H).
    """
    return recurrence_reference(update, dtype, state, x_TB, table_VG, kernel_HG, bias_G)


def _forward(
    update: Update,
    dtype: DTypeLike,
    state: State,
    x_TB: Array,
    table_VG: Array | None,
    kernel_HG: Array,
    bias_G: Array,
) -> tuple[tuple[State, Array], Any]:
    first, kernel_HG = state[0].astype(dtype), kernel_HG.astype(dtype)

    def step(state: State, x_B: Array) -> Any:
        a_BG = _product(state[0], kernel_HG) + bias_G
        # The backward function is a pytree of the saved arrays, so the scan can stack it.
        state, back = jax.vjp(update, _looked_up(table_VG, x_B), a_BG, state)
        return state, (state[0].astype(dtype), back)

    state, (h_TBH, backs) = lax.scan(step, state, x_TB)
    symbols = None if table_VG is None else (x_TB, table_VG)
    return (state, h_TBH), (backs, first, h_TBH, symbols, kernel_HG)


def _backward(
    update: Update, dtype: DTypeLike, saved: Any, gradients: tuple[State, Array]
) -> tuple[State, Array | None, Array | None, Array, Array]:
    backs, first_BH, h_TBH, symbols, kernel_HG = saved
    dstate, dh_TBH = gradients
    wide = wide_dtype(dtype)

    def step(dstate: State, now: Any) -> Any:
        dh_BH, back = now
        dx_BG, da_BG, (before_BH, *others) = back((dstate[0] + dh_BH.astype(wide), *dstate[1:]))
        before_BH += _product(da_BG, kernel_HG.T)
        return (before_BH, *others), (dx_BG, da_BG.astype(dtype))

    dstate, (dx, da_TBG) = lax.scan(step, dstate, (dh_TBH, backs), reverse=True)
    before_TBH = jnp.concatenate([first_BH[None], h_TBH[:-1]])
    dkernel_HG = jnp.einsum("tbh,tbg->hg", before_TBH, da_TBG, preferred_element_type=wide)
    dbias_G = jnp.sum(da_TBG, axis=(0, 1), dtype=wide)
    if symbols is None:
        return dstate, dx, None, dkernel_HG, dbias_G
    tokens_TB, table_VG = symbols
    dtable_VG = _table_gradient(tokens_TB, len(table_VG), dx, dtype)
    return dstate, None, dtable_VG, dkernel_HG, dbias_G


recurrence.defvjp(_forward, _backward)


def _table_gradient(tokens_TB: Array, V: int, dx_TBG: Array, dtype: DTypeLike) -> Array:
    """Sum the gradients of each token, (V, G)."""
    G = dx_TBG.shape[-1]
    if not one_hot_gradient(V, G):
        return jnp.zeros((V, G), dx_TBG.dtype).at[tokens_TB].add(dx_TBG)
    one_hot_TBV = jax.nn.one_hot(tokens_TB, V, dtype=dtype)
    return jnp.einsum(
        "tbv,tbg->vg", one_hot_TBV, dx_TBG.astype(dtype), preferred_element_type=dx_TBG.dtype
    )


def _looked_up(table_VG: Array | None, x_B: Array) -> Array:
    return x_B if table_VG is None else table_VG[x_B]


def _product(x_BD: Array, kernel_DE: Array) -> Array:
    """Multiply in the kernel's dtype; the result is float32."""
    product_BE = x_BD.astype(kernel_DE.dtype) @ kernel_DE
    return product_BE.astype(wide_dtype(kernel_DE.dtype))
