"""The updates of gated recurrent cells, with gradients written by hand.

Without them a scan saves every intermediate of every step for the backward pass, in as many writes
and reads, all by one thread on a CPU. Here a step saves its gates, side by side as they are in the
product, and the little that is missing is computed again. The plain versions, which these must
equal, are the equations in `charjax.models.recurrent`.

Letters: B batch, H width of the state, G gates * H.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

State = tuple[Array, ...]


@jax.custom_vjp
def gru_gates(x_BG: Array, a_BG: Array, state: State) -> State:
    """Update a GRU: h' = (1 - z) n + z h, n = tanh(x_n + r a_n); `gru_update`.

    Only reverse-mode derivatives (and forward ones of those) are defined.

    Args:
      x_BG: the input's part in the gates r, z, n.
      a_BG: the state's.
      state: (h,), (B, H).

    Returns:
      (h',).
    """
    return _gru_forward(x_BG, a_BG, state)[0]


@jax.custom_vjp
def lstm_gates(x_BG: Array, a_BG: Array, state: State) -> State:
    """Update an LSTM: c' = f c + i g and h' = o tanh(c'); `lstm_update`.

    Only reverse-mode derivatives (and forward ones of those) are defined.

    Args:
      x_BG: the input's part in the gates i, f, g, o.
      a_BG: the state's.
      state: (h, c), each (B, H).

    Returns:
      (h', c').
    """
    return _lstm_forward(x_BG, a_BG, state)[0]


def _sigmoid(x: Array) -> Array:
    # XLA's tanh is a rational function, faster in vectors than exp and a division.
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def _gru_forward(x_BG: Array, a_BG: Array, state: State) -> tuple[State, tuple[Array, ...]]:
    (h_BH,) = state
    H = h_BH.shape[-1]
    rz_BG = _sigmoid(x_BG[..., : 2 * H] + a_BG[..., : 2 * H])
    r_BH, z_BH = rz_BG[..., :H], rz_BG[..., H:]
    a_n = a_BG[..., 2 * H :]
    n_BH = jnp.tanh(x_BG[..., 2 * H :] + r_BH * a_n)
    return (n_BH + z_BH * (h_BH - n_BH),), (rz_BG, n_BH, a_n, h_BH)


def _gru_backward(saved: tuple[Array, ...], gradients: State) -> tuple[Array, Array, State]:
    rz_BG, n_BH, a_n, h_BH = saved
    (dh_BH,) = gradients
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


def _lstm_backward(saved: tuple[Array, ...], gradients: State) -> tuple[Array, Array, State]:
    gates_BG, c_BH = saved
    dh_BH, dc_BH = gradients
    i_BH, f_BH, g_BH, o_BH = jnp.split(gates_BG, 4, axis=-1)
    tanh_BH = jnp.tanh(f_BH * c_BH + i_BH * g_BH)
    dc_BH += dh_BH * o_BH * (1 - tanh_BH * tanh_BH)
    gradients_BG = jnp.concatenate(
        [
            dc_BH * g_BH * (i_BH * (1 - i_BH)),
            dc_BH * c_BH * (f_BH * (1 - f_BH)),
            dc_BH * i_BH * (1 - g_BH * g_BH),
            dh_BH * tanh_BH * (o_BH * (1 - o_BH)),
        ],
        axis=-1,
    )
    return gradients_BG, gradients_BG, (jnp.zeros_like(dh_BH), dc_BH * f_BH)


gru_gates.defvjp(_gru_forward, _gru_backward)
lstm_gates.defvjp(_lstm_forward, _lstm_backward)
