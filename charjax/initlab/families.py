"""Where the layers of each family are: what a layer is called, what it gives out, its gradient.

Letters: B batch, T time, P places (or positions), D width, L layers, S inputs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from charjax.init.site import parameter_of
from charjax.initlab.watching import Arrays, Door
from charjax.models.bigram import Bigram
from charjax.models.bow import BagOfCharacters
from charjax.models.contract import CharModel
from charjax.models.mlp import MLP
from charjax.models.recurrent import RNN, Cell, Recurrent
from charjax.models.roles import Activation, Role
from charjax.models.transformer import Transformer
from charjax.models.wavenet import WaveNet
from charjax.ops.precision import wide_dtype

_LOGITS = Door("", "output")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of a model.

    Attributes:
      name: the path of its module, such as "hidden_0" or "block_1/mlp/down"; what no module gives
        out has a name of its own: "stream" (what a transformer's first block reads), "average"
        (of a bag of characters), "logits" (of a bigram).
      kernel: the path of its main parameter, or None: "block_0" is the stream after that block.
      role: of the kernel; of a readout always that, be it tied or not; None without a kernel.
      activation: what is done to its product.
    """

    name: str
    kernel: str | None
    role: Role | None
    activation: Activation


class Pass(NamedTuple):
    """One pass through a model.

    Attributes:
      variables: with which.
      inputs_BS: over which tokens.
      num_outputs: how many of the last positions were asked for.
      arrays: what went through the doors.
    """

    variables: Any
    inputs_BS: Array
    num_outputs: int
    arrays: Arrays


@dataclasses.dataclass(frozen=True)
class Tap:
    """A layer and how to read it.

    Attributes:
      layer: the layer.
      doors: what `value`, `preactivation` and `gradient` look at.
      value: what it gives out after its activation, (B, P, D); (1, P, D) where all rows share it.
      preactivation: its product (with bias or norm) before.
      gradient: from the slopes at the doors the derivative with respect to the value.
    """

    layer: Layer
    doors: frozenset[Door]
    value: Callable[[Pass], Array]
    preactivation: Callable[[Pass], Array]
    gradient: Callable[[Pass, Arrays], Array]


def find_taps(model: CharModel) -> tuple[Tap, ...]:
    """The taps of a model, in the order of computation.

    Raises:
      ValueError: a family without layers, such as one that counts.
    """
    for family, taps in _FAMILIES.items():
        if isinstance(model, family):
            return taps(model)
    raise ValueError(f"{type(model).__name__} has no layers to look into")


def _layer(model: CharModel, kernel: str, name: str | None = None) -> Layer:
    """The layer of a kernel, named as its module if not otherwise."""
    parameter = parameter_of(model.roles, kernel)
    role = Role.READOUT if name == "readout" else parameter.role
    activation = "linear" if name == "readout" else parameter.activation
    return Layer(name or kernel.rpartition("/")[0], kernel, role, activation)


def _bare(name: str) -> Layer:
    """A layer without a kernel."""
    return Layer(name, None, None, "linear")


def _tap(layer: Layer, door: Door, before: Door | None = None) -> Tap:
    """What is given out goes through one door, and what it is made of through another."""
    before = before or door
    return Tap(
        layer,
        frozenset((door, before)),
        value=lambda seen: seen.arrays[door],
        preactivation=lambda seen: seen.arrays[before],
        gradient=lambda seen, slopes: slopes[door],
    )


def _out(path: str) -> Door:
    return Door(path, "output")


def _in(path: str) -> Door:
    return Door(path, "input")


def _bigram(model: Bigram) -> tuple[Tap, ...]:
    return (_tap(_layer(model, "logits", "logits"), _LOGITS),)


def _bow(model: BagOfCharacters) -> tuple[Tap, ...]:
    return (
        _tap(_layer(model, "token_embedding/embedding"), _out("token_embedding")),
        _tap(_bare("average"), _in("readout")),
        _tap(_layer(model, "readout/kernel"), _LOGITS),
    )


def _mlp(model: MLP) -> tuple[Tap, ...]:
    """The embedding's value is the vectors side by side, as the first hidden layer reads them."""
    names = [f"hidden_{i}" for i in range(len(model.hidden))]
    readers = [*names, "readout"]
    taps = [_tap(_layer(model, "token_embedding/embedding"), _in(readers[0]))]
    for i, name in enumerate(names):
        product = _out(f"norm_{i}" if model.norm == "batch" else name)
        taps.append(_tap(_layer(model, f"{name}/kernel"), _in(readers[i + 1]), product))
    return (*taps, _tap(_layer(model, "readout/kernel"), _LOGITS))


def _wavenet(model: WaveNet) -> tuple[Tap, ...]:
    names = [f"level_{i}" for i in range((model.context_length - 1).bit_length())]
    taps = [_tap(_layer(model, "token_embedding/embedding"), _out("token_embedding"))]
    for i, name in enumerate(names):
        product = _out(f"norm_{i}" if model.norm == "batch" else name)
        layer = _layer(model, f"{name}/kernel")
        last = i == len(names) - 1
        taps.append(
            _tap(layer, _in("readout"), product)
            if last
            else _paired(layer, product, _in(names[i + 1]), 2 ** (i + 1))
        )
    return (*taps, _tap(_layer(model, "readout/kernel"), _LOGITS))


def _paired(layer: Layer, product: Door, pair: Door, distance: int) -> Tap:
    """A level whose places the next reads two by two: a place may be read in two pairs."""

    def value(seen: Pass) -> Array:
        return jnp.tanh(seen.arrays[product].astype(seen.arrays[pair].dtype))

    def gradient(seen: Pass, slopes: Arrays) -> Array:
        # Where one output is asked for, the places are those of its tree, and no pairs overlap.
        step, stride = (1, 2) if seen.num_outputs == 1 else (distance, 1)

        def read(h_BPD: Array) -> Array:
            return jnp.concatenate([h_BPD[:, :-step:stride], h_BPD[:, step::stride]], axis=-1)

        h_BPD = value(seen).astype(jnp.float32)
        (slope_BPD,) = jax.linear_transpose(read, h_BPD)(slopes[pair])
        return slope_BPD

    doors = frozenset((product, pair))
    return Tap(layer, doors, value, lambda seen: seen.arrays[product], gradient)


def _transformer(model: Transformer) -> tuple[Tap, ...]:
    taps = [_tap(_layer(model, "token_embedding/embedding"), _out("token_embedding"))]
    if model.positions == "learned":
        taps.append(_positions(_layer(model, "position_embedding/embedding")))
    taps.append(_tap(_bare("stream"), _in("block_0")))
    for i in range(model.n_layer):
        block = f"block_{i}"
        up, down = f"{block}/mlp/up", f"{block}/mlp/down"
        taps += [
            _whole(model, f"{block}/attention/qkv"),
            _whole(model, f"{block}/attention/out"),
            _tap(_layer(model, f"{up}/kernel"), _in(down), _out(up)),
            _whole(model, down),
            _tap(_bare(block), _out(block)),
        ]
    if model.residual in ("pre_norm", "layerscale"):
        taps.append(_tap(_bare("final_norm"), _out("final_norm")))
    kernel = "token_embedding/embedding" if model.tie_embeddings else "readout/kernel"
    return (*taps, _tap(_layer(model, kernel, "readout"), _LOGITS))


def _whole(model: Transformer, path: str) -> Tap:
    """A linear layer whose module gives out the product itself."""
    return _tap(_layer(model, f"{path}/kernel"), _out(path))


def _positions(layer: Layer) -> Tap:
    """The positions' vectors (1, T, D), which every row of the batch adds to its own."""
    door = _in("block_0")

    def value(seen: Pass) -> Array:
        table_CD = seen.variables["params"]["position_embedding"]["embedding"]
        return table_CD[None, : seen.inputs_BS.shape[1]]

    return Tap(
        layer,
        frozenset((door,)),
        value,
        value,
        gradient=lambda seen, slopes: jnp.sum(slopes[door], axis=0, keepdims=True),
    )


def _recurrent(model: Recurrent) -> tuple[Tap, ...]:
    taps = []
    for i in range(model.n_layer):
        scan = _Scan(model, i)
        if i == 0:
            taps.append(_fed(_layer(model, "token_embedding/embedding"), scan))
        layer = _layer(model, f"cell_{i}/hidden_kernel")
        if isinstance(model, RNN):
            # Its role is written for tanh, and holds for both.
            layer = dataclasses.replace(layer, activation=model.activation)
        taps.append(_stepped(layer, scan))
    return (*taps, _tap(_layer(model, "readout/kernel"), _LOGITS))


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
        return _in(f"Dropout_{self.index}")

    @property
    def doors(self) -> frozenset[Door]:
        """Those of its inputs and outputs."""
        below = {_in(f"Dropout_{self.index - 1}")} if self.index else set()
        return frozenset({self.door, *below})

    def inputs(self, seen: Pass) -> Array:
        """(T, B, D): the symbols' embeddings, or the outputs of the cell below."""
        if self.index:
            return seen.arrays[_in(f"Dropout_{self.index - 1}")]
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


_FAMILIES: dict[type[CharModel], Callable[[Any], tuple[Tap, ...]]] = {
    Bigram: _bigram,
    BagOfCharacters: _bow,
    MLP: _mlp,
    WaveNet: _wavenet,
    Recurrent: _recurrent,
    Transformer: _transformer,
}
