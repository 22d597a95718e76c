"""The layers of recurrent networks.

Letters: B batch, T time, D width of a cell's input, H width of its state, G gates * H.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from charjax.initlab.activations.intercept import Arrays, Door
from charjax.initlab.activations.taps import LOGITS, Layer, Pass, Tap, input_of, layer_of, tap_at
from charjax.models.recurrent import Cell, Recurrent
from charjax.ops.precision import wide_dtype


def recurrent_taps(model: Recurrent) -> tuple[Tap, ...]:
    """The embedding, each cell's state, and the readout."""
    taps = []
    for i in range(model.n_layer):
        scan = _Scan(model, i)
        if i == 0:
            taps.append(_fed(layer_of(model, "token_embedding/embedding"), scan))
        taps.append(_stepped(layer_of(model, f"cell_{i}/hidden_kernel"), scan))
    return (*taps, tap_at(layer_of(model, "readout/kernel"), LOGITS))


@dataclasses.dataclass(frozen=True)
class _Scan:
    """A cell along a text, run once more: what goes on within the model's scan has no door.

    Its outputs go through a door behind it, the next dropout's. The slope there is that of what
    the layer above reads; going back through this scan adds what later times do with it.
    """

    model: Recurrent
    index: int

    @property
    def door(self) -> Door:
        """Where the cell's outputs (T, B, H) are seen."""
        return input_of(f"Dropout_{self.index}")

    @property
    def doors(self) -> frozenset[Door]:
        """Those of its inputs and outputs."""
        below = {input_of(f"Dropout_{self.index - 1}")} if self.index else set()
        return frozenset({self.door, *below})

    def inputs(self, seen: Pass) -> Array:
        """(T, B, D): the symbols' embeddings, or the outputs of the cell below."""
        if self.index:
            return seen.arrays[input_of(f"Dropout_{self.index - 1}")]
        table_VD = seen.variables["params"]["token_embedding"]["embedding"]
        return table_VD.astype(self.model.dtype)[seen.inputs_BS.T]

    def run(self, seen: Pass, x_TBD: Array, push_TBH: Array) -> Array:
        """The outputs (T, B, H), with a push added to the state h after each time."""
        model, params = self.model, self._params(seen)
        cell = Cell(model.cell_update, model.gates, x_TBD.shape[-1], model.d_hidden, model.dtype)

        def step(state: tuple[Array, ...], now: tuple[Array, Array]) -> Any:
            x_BD, push_BH = now
            (h_BH, *rest), _ = cell.apply({"params": params}, state, x_BD, None)
            h_BH += push_BH.astype(h_BH.dtype)
            return (h_BH, *rest), h_BH.astype(model.dtype)

        start = model.init_cache(x_TBD.shape[1])[self.index]
        return lax.scan(step, start, (x_TBD, push_TBH))[1]

    def gradients(self, seen: Pass, slopes: Arrays) -> tuple[Array, Array]:
        """With respect to the inputs (T, B, D), and to the state h at each time (T, B, H)."""
        x_TBD, slope_TBH = self.inputs(seen), slopes[self.door]
        h_TBH, back = jax.vjp(
            lambda x, push: self.run(seen, x, push), x_TBD, jnp.zeros_like(slope_TBH)
        )
        return back(slope_TBH.astype(h_TBH.dtype))

    def products(self, seen: Pass) -> Array:
        """x W_i + b_i + h W_h + b_h for all gates, (T, B, G); h is that of the time before."""
        params, x_TBD, h_TBH = self._params(seen), self.inputs(seen), seen.arrays[self.door]
        before_TBH = jnp.concatenate([jnp.zeros_like(h_TBH[:1]), h_TBH[:-1]])
        wide = wide_dtype(self.model.dtype)
        x_TBG = x_TBD @ params["input_kernel"].astype(x_TBD.dtype)
        h_TBG = before_TBH @ params["hidden_kernel"].astype(h_TBH.dtype)
        biases_G = params["input_bias"] + params["hidden_bias"]
        return x_TBG.astype(wide) + h_TBG.astype(wide) + biases_G

    def _params(self, seen: Pass) -> Any:
        return seen.variables["params"][f"cell_{self.index}"]


def _fed(layer: Layer, scan: _Scan) -> Tap:
    """The embedding that a cell reads; the model may look up its product instead."""

    def value(seen: Pass) -> Array:
        return scan.inputs(seen).swapaxes(0, 1)

    def gradient(seen: Pass, slopes: Arrays) -> Array:
        return scan.gradients(seen, slopes)[0].swapaxes(0, 1)

    return Tap(layer, scan.doors, value, value, gradient)


def _stepped(layer: Layer, scan: _Scan) -> Tap:
    """A cell's outputs; the gradient is the whole one, through later times too."""
    return Tap(
        layer,
        scan.doors,
        value=lambda seen: seen.arrays[scan.door].swapaxes(0, 1),
        preactivation=lambda seen: scan.products(seen).swapaxes(0, 1),
        gradient=lambda seen, slopes: scan.gradients(seen, slopes)[1].swapaxes(0, 1),
    )
