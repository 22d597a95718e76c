"""The layers of recurrent networks, as taps.

Letters: B batch, T time, D width of a cell's input, H width of its state, G gates * H.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from charjax.models.taps import LOGITS, Arrays, Recording, Tap, TapPoint, input_of, layer_of, tap_at
from charjax.ops.precision import wide_dtype


def recurrent_taps(model: Any, *, has_theory: bool) -> tuple[Tap, ...]:
    """Describe the embedding, each cell's state, and the readout.

    Args:
      model: a Recurrent.
      has_theory: mean-field theory predicts the size of its states.
    """
    taps = []
    for i in range(model.n_layer):
        scan = _Scan(model, i)
        if i == 0:
            taps.append(_embedding_tap(scan))
        taps.append(_state_tap(scan, has_theory))
    readout = layer_of(model.roles, "readout/kernel", reads="previous" if has_theory else None)
    return (*taps, tap_at(readout, LOGITS))


@dataclasses.dataclass(frozen=True)
class _Scan:
    """A cell along a text, run once more: the steps within the model's scan have no tap points.

    Its outputs pass a tap point behind it, the next dropout's input. The gradient there is that
    of the layer above; the backward pass through this scan adds the effect on later times.
    """

    model: Any
    index: int

    @property
    def point(self) -> TapPoint:
        """The tap point of the cell's outputs (T, B, H)."""
        return input_of(f"Dropout_{self.index}")

    @property
    def points(self) -> frozenset[TapPoint]:
        """The tap points of its inputs and outputs."""
        below = {input_of(f"Dropout_{self.index - 1}")} if self.index else set()
        return frozenset({self.point, *below})

    def inputs(self, recording: Recording) -> Array:
        """(T, B, D): the symbols' embeddings, or the outputs of the cell below."""
        if self.index:
            return recording.arrays[input_of(f"Dropout_{self.index - 1}")]
        table_VD = recording.variables["params"]["token_embedding"]["embedding"]
        return table_VD.astype(self.model.dtype)[recording.inputs_BS.T]

    def run(self, recording: Recording, x_TBD: Array, perturbation_TBH: Array) -> Array:
        """Return the outputs (T, B, H), a perturbation added to the state h after each time."""
        model, params = self.model, self._params(recording)
        cell = model.make_cell(x_TBD.shape[-1])

        def step(state: tuple[Array, ...], now: tuple[Array, Array]) -> Any:
            x_BD, perturbation_BH = now
            (h_BH, *rest), _ = cell.apply({"params": params}, state, x_BD, None)
            h_BH += perturbation_BH.astype(h_BH.dtype)
            return (h_BH, *rest), h_BH.astype(model.dtype)

        start = model.init_cache(x_TBD.shape[1])[self.index]
        return lax.scan(step, start, (x_TBD, perturbation_TBH))[1]

    def gradients(self, recording: Recording, gradients: Arrays) -> tuple[Array, Array]:
        """Return those of the inputs (T, B, D), and of the state h at each time (T, B, H)."""
        x_TBD, gradient_TBH = self.inputs(recording), gradients[self.point]
        h_TBH, backward = jax.vjp(
            lambda x, perturbation: self.run(recording, x, perturbation),
            x_TBD,
            jnp.zeros_like(gradient_TBH),
        )
        return backward(gradient_TBH.astype(h_TBH.dtype))

    def products(self, recording: Recording) -> Array:
        """x W_i + b_i + h W_h + b_h for all gates, (T, B, G); h is that of the time before.

        Of a layer-norm cell, the two products are normalised.
        """
        params, x_TBD = self._params(recording), self.inputs(recording)
        h_TBH = recording.arrays[self.point]
        before_TBH = jnp.concatenate([jnp.zeros_like(h_TBH[:1]), h_TBH[:-1]])
        if self.model.norm != "none":
            cell, variables = self.model.make_cell(x_TBD.shape[-1]), {"params": params}
            x_TBG = cell.apply(variables, x_TBD, method="project")
            return x_TBG + cell.apply(variables, before_TBH, method="recur")
        wide = wide_dtype(self.model.dtype)
        x_TBG = x_TBD @ params["input_kernel"].astype(x_TBD.dtype)
        h_TBG = before_TBH @ params["hidden_kernel"].astype(h_TBH.dtype)
        biases_G = params["input_bias"] + params["hidden_bias"]
        return x_TBG.astype(wide) + h_TBG.astype(wide) + biases_G

    def _params(self, recording: Recording) -> Any:
        return recording.variables["params"][f"cell_{self.index}"]


def _embedding_tap(scan: _Scan) -> Tap:
    """Read the embedding of a cell's input; the model may look up its product instead."""

    def value(recording: Recording) -> Array:
        return scan.inputs(recording).swapaxes(0, 1)

    def gradient(recording: Recording, gradients: Arrays) -> Array:
        return scan.gradients(recording, gradients)[0].swapaxes(0, 1)

    layer = layer_of(scan.model.roles, "token_embedding/embedding")
    return Tap(layer, scan.points, value, value, gradient)


def _state_tap(scan: _Scan, has_theory: bool) -> Tap:
    """Read a cell's outputs; the gradient is the whole one, through later times too."""
    kernel = f"cell_{scan.index}/hidden_kernel"
    return Tap(
        layer_of(scan.model.roles, kernel, reads="state" if has_theory else None),
        scan.points,
        value=lambda recording: recording.arrays[scan.point].swapaxes(0, 1),
        preactivation=lambda recording: scan.products(recording).swapaxes(0, 1),
        gradient=lambda recording, gradients: scan.gradients(recording, gradients)[1].swapaxes(
            0, 1
        ),
    )
