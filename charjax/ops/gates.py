"""What the cells of recurrent networks do with their gates, with derivatives of their own.

Left to itself, a scan keeps every intermediate of every step for the way back, in as many writes
and reads, all of one thread on a CPU. Here a step keeps its gates, side by side as they stand in
the product, and what little is left is computed anew.

Letters: B batch, H width of the state, G gates * H.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

State = tuple[Array, ...]


@jax.custom_vjp
def gru_gates(x_BG: Array, a_BG: Array, state: State) -> State:
    """h' = (1 - z) n + z h, n = tanh(x_n + r a_n) (Cho et al. 2014; the form of PyTorch, cuDNN).

    Only reverse-mode derivatives (and forward ones of those) are defined.

    Args:
      x_BG: the input's part in the gates r, z, n.
      a_BG: the state's.
      state: (h,), (B, H).

    Returns:
      (h',).
    """
    return _gru_forward(x_BG, a_BG, state)[0]


def gru_gates_reference(x_BG: Array, a_BG: Array, state: State) -> State:
    """The plain version of `gru_gates`."""
    (h_BH,) = state
    (x_r, x_z, x_n), (a_r, a_z, a_n) = (jnp.split(g_BG, 3, axis=-1) for g_BG in (x_BG, a_BG))
    r_BH = jax.nn.sigmoid(x_r + a_r)
    z_BH = jax.nn.sigmoid(x_z + a_z)
    n_BH = jnp.tanh(x_n + r_BH * a_n)
    return ((1 - z_BH) * n_BH + z_BH * h_BH,)


@jax.custom_vjp
def lstm_gates(x_BG: Array, a_BG: Array, state: State) -> State:
    """c' = f c + i g and h' = o tanh(c') (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

    Only reverse-mode derivatives (and forward ones of those) are defined.

    Args:
      x_BG: the input's part in the gates i, f, g, o.
      a_BG: the state's.
      state: (h, c), each (B, H).

    Returns:
      (h', c').
    """
    return _lstm_forward(x_BG, a_BG, state)[0]


def lstm_gates_reference(x_BG: Array, a_BG: Array, state: State) -> State:
    """The plain version of `lstm_gates`."""
    _, c_BH = state
    i_BH, f_BH, g_BH, o_BH = jnp.split(x_BG + a_BG, 4, axis=-1)
    c_BH = jax.nn.sigmoid(f_BH) * c_BH + jax.nn.sigmoid(i_BH) * jnp.tanh(g_BH)
    return jax.nn.sigmoid(o_BH) * jnp.tanh(c_BH), c_BH


def _sigmoid(x: Array) -> Array:
    # tanh is a rational function in XLA, which vectors do faster than exp and a division.
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def _gru_forward(x_BG: Array, a_BG: Array, state: State) -> tuple[State, tuple[Array, ...]]:
    (h_BH,) = state
    H = h_BH.shape[-1]
    rz_BG = _sigmoid(x_BG[..., : 2 * H] + a_BG[..., : 2 * H])
    r_BH, z_BH = rz_BG[..., :H], rz_BG[..., H:]
    a_n = a_BG[..., 2 * H :]
    n_BH = jnp.tanh(x_BG[..., 2 * H :] + r_BH * a_n)
    return (n_BH + z_BH * (h_BH - n_BH),), (rz_BG, n_BH, a_n, h_BH)


def _gru_backward(kept: tuple[Array, ...], slopes: State) -> tuple[Array, Array, State]:
    rz_BG, n_BH, a_n, h_BH = kept
    (dh_BH,) = slopes
    H = n_BH.shape[-1]
    r_BH, z_BH = rz_BG[..., :H], rz_BG[..., H:]
    dn_BH = dh_BH * (1 - z_BH) * (1 - n_BH * n_BH)
    dz_BH = dh_BH * (h_BH - n_BH) * (z_BH * (1 - z_BH))
    dr_BH = dn_BH * a_n * (r_BH * (1 - r_BH))
    dx_BG = jnp.concatenate([dr_BH, dz_BH, dn_BH], axis=-1)
    da_BG = jnp.concatenate([dr_BH, dz_BH, dn_BH * r_BH], axis=-1)
    return dx_BG, da_BG, (dh_BH * z_BH,)


def _lstm_forward(x_BG: Array, a_BG: Array, state: State) -> tuple[State, tuple[Array, ...]]:
    _, c_BH = state
    # All four by one tanh: sigma(x) = tanh(x / 2) / 2 + 1 / 2.
    half_G = jnp.asarray(np.repeat([0.5, 0.5, 1.0, 0.5], c_BH.shape[-1]), x_BG.dtype)
    gates_BG = half_G * jnp.tanh(half_G * (x_BG + a_BG)) + (1 - half_G)
    i_BH, f_BH, g_BH, o_BH = jnp.split(gates_BG, 4, axis=-1)
    new_BH = f_BH * c_BH + i_BH * g_BH
    return (o_BH * jnp.tanh(new_BH), new_BH), (gates_BG, c_BH)


def _lstm_backward(kept: tuple[Array, ...], slopes: State) -> tuple[Array, Array, State]:
    gates_BG, c_BH = kept
    dh_BH, dc_BH = slopes
    i_BH, f_BH, g_BH, o_BH = jnp.split(gates_BG, 4, axis=-1)
    tanh_BH = jnp.tanh(f_BH * c_BH + i_BH * g_BH)
    dc_BH += dh_BH * o_BH * (1 - tanh_BH * tanh_BH)
    slopes_BG = jnp.concatenate(
        [
            dc_BH * g_BH * (i_BH * (1 - i_BH)),
            dc_BH * c_BH * (f_BH * (1 - f_BH)),
            dc_BH * i_BH * (1 - g_BH * g_BH),
            dh_BH * tanh_BH * (o_BH * (1 - o_BH)),
        ],
        axis=-1,
    )
    return slopes_BG, slopes_BG, (jnp.zeros_like(dh_BH), dc_BH * f_BH)


gru_gates.defvjp(_gru_forward, _gru_backward)
lstm_gates.defvjp(_lstm_forward, _lstm_backward)
