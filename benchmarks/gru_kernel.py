"""A GRU whose step is one Pallas kernel (Triton), forward and backward: product, then gates.

A program owns some rows of the batch and some units of the state: it sums their three gates' (on
the way back their one) product over the whole state in registers, and goes on to the gates without
a write between. What is stacked along time is written in place, into arrays that the loop carries.
The loop is XLA's: programs need the whole state of the time before, and kernels of Triton's have
no barrier across programs. benchmarks/NOTES.md has what is expected of it, and of other designs.

Letters: T time, B batch, H width of the state, G 3 H, K what a program keeps for the way back (r,
z, n and the state's part in n).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from benchmarks.section import LeftOut

# Rows and units of a program, and how much of a sum is loaded at once; 128 programs at B256 H512.
_ROWS, _UNITS, _DEPTH = 32, 32, 64


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan(interpret: bool, x_TBG: Array, kernel_HG: Array, bias_G: Array, h_BH: Array) -> Array:
    """The outputs (T, B, H) of a GRU in float32, gates in the order r, z, n.

    Args:
      interpret: whether Pallas plays the kernel instead of compiling it, for tests on a CPU.
      x_TBG: the input's part in the gates.
      kernel_HG: the state's kernel.
      bias_G: the state's bias.
      h_BH: the first state.

    Raises:
      LeftOut: B or H is no multiple of what a program takes.
    """
    return _forward(interpret, x_TBG, kernel_HG, bias_G, h_BH)[0]


def _forward(
    interpret: bool, x_TBG: Array, kernel_HG: Array, bias_G: Array, h_BH: Array
) -> tuple[Array, Any]:
    T, B, H = len(x_TBG), *h_BH.shape
    step = _step(_forward_kernel, B, H, interpret)
    # Times are those of the state before: row t + 1 is what step t makes of row t.
    h_TBH = jnp.zeros((T + 1, B, H), h_BH.dtype).at[0].set(h_BH)
    kept_TKBH = jnp.zeros((T, 4, B, H), h_BH.dtype)

    def body(t: Array, made: Any) -> Any:
        return step(t, (x_TBG, kernel_HG, bias_G), made)

    h_TBH, kept_TKBH = lax.fori_loop(0, T, body, (h_TBH, kept_TKBH))
    return h_TBH[1:], (h_TBH, kept_TKBH, kernel_HG)


def _forward_kernel(t_ref, x_ref, kernel_ref, bias_ref, h_ref, _, new_h_ref, kept_ref, *, depth):  # type: ignore[no-untyped-def]
    t, H = t_ref[0], h_ref.shape[-1]
    rows, units, mine = _place(h_ref.shape[1], H)
    gates = [pl.ds(g * H + mine, units.size) for g in range(3)]

    def add(k, a):  # type: ignore[no-untyped-def]
        part = pl.ds(k * depth, depth)
        h = h_ref[t, rows, part]
        return tuple(
            a_g + _dot(h, kernel_ref[part, gate]) for a_g, gate in zip(a, gates, strict=True)
        )

    zero = jnp.zeros((rows.size, units.size), jnp.float32)
    sums = lax.fori_loop(0, H // depth, add, (zero,) * 3)
    a_r, a_z, a_n = (a + bias_ref[gate] for a, gate in zip(sums, gates, strict=True))
    x_r, x_z, x_n = (x_ref[t, rows, gate] for gate in gates)
    r, z = jax.nn.sigmoid(x_r + a_r), jax.nn.sigmoid(x_z + a_z)
    n = jnp.tanh(x_n + r * a_n)
    new_h_ref[t + 1, rows, units] = n + z * (h_ref[t, rows, units] - n)
    for k, value in enumerate((r, z, n, a_n)):
        kept_ref[t, k, rows, units] = value


def _backward(interpret: bool, kept: Any, dh_TBH: Array) -> tuple[Array, Array, Array, Array]:
    h_TBH, kept_TKBH, kernel_HG = kept
    T, B, H = dh_TBH.shape
    step = _step(_backward_kernel, B, H, interpret)
    # Behind the last time there is a row of zeros.
    da_TBG = jnp.zeros((T + 1, B, 3 * H), dh_TBH.dtype)
    dx_TBG = jnp.zeros((T, B, 3 * H), dh_TBH.dtype)
    direct_BH = jnp.zeros((B, H), dh_TBH.dtype)

    def body(i: Array, made: Any) -> Any:
        return step(T - 1 - i, (dh_TBH, kernel_HG, kept_TKBH, h_TBH), made)

    da_TBG, dx_TBG, direct_BH = lax.fori_loop(0, T, body, (da_TBG, dx_TBG, direct_BH))
    dkernel_HG = jnp.einsum("tbh,tbg->hg", h_TBH[:-1], da_TBG[:-1])
    dh_BH = direct_BH + da_TBG[0] @ kernel_HG.T
    return dx_TBG, dkernel_HG, jnp.sum(da_TBG, axis=(0, 1)), dh_BH


def _backward_kernel(  # type: ignore[no-untyped-def]
    t_ref,
    dh_ref,
    kernel_ref,
    kept_ref,
    h_ref,
    da_ref,
    _,
    direct_ref,
    new_da_ref,
    dx_ref,
    new_direct_ref,
    *,
    depth,
):
    t, H = t_ref[0], h_ref.shape[-1]
    rows, units, mine = _place(h_ref.shape[1], H)

    def add(k, dh):  # type: ignore[no-untyped-def]
        part = pl.ds(k * depth, depth)
        return dh + _dot(da_ref[t + 1, rows, part], kernel_ref[units, part].T)

    dh = lax.fori_loop(0, 3 * H // depth, add, dh_ref[t, rows, units] + direct_ref[rows, units])
    r, z, n, a_n = (kept_ref[t, k, rows, units] for k in range(4))
    dn = dh * (1 - z) * (1 - n * n)
    dz = dh * (h_ref[t, rows, units] - n) * z * (1 - z)
    dr = dn * a_n * r * (1 - r)
    for g, (da, dx) in enumerate(((dr, dr), (dz, dz), (dn * r, dn))):
        new_da_ref[t, rows, pl.ds(g * H + mine, units.size)] = da
        dx_ref[t, rows, pl.ds(g * H + mine, units.size)] = dx
    new_direct_ref[rows, units] = dh * z


scan.defvjp(_forward, _backward)


def _step(kernel: Callable[..., None], B: int, H: int, interpret: bool) -> Callable[..., Any]:
    """`step(t, read, made)`: the arrays made so far, with those of time t in them."""
    if B % min(B, _ROWS) or H % _UNITS or H % _DEPTH or B < 16:
        raise LeftOut(f"B{B} H{H} given; a program takes {_ROWS} rows and {_DEPTH} of the state")

    def step(t: Array, read: tuple[Array, ...], made: tuple[Array, ...]) -> Any:
        call = pl.pallas_call(
            functools.partial(kernel, depth=_DEPTH),
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in made],
            grid=(B // min(B, _ROWS), H // _UNITS),
            input_output_aliases={1 + len(read) + i: i for i in range(len(made))},
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
            interpret=interpret,
        )
        return tuple(call(jnp.reshape(t, (1,)), *read, *made))

    return step


def _place(B: int, H: int) -> tuple[Any, Any, Any]:
    """This program's rows and units, and where its units begin."""
    rows = min(B, _ROWS)
    mine = pl.program_id(1) * _UNITS
    return pl.ds(pl.program_id(0) * rows, rows), pl.ds(mine, _UNITS), mine


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)
