"""Where the layers of each family are.

Letters: B batch, T time, P places, D width, C context length.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from charjax.initlab.activations.cells import recurrent_taps
from charjax.initlab.activations.intercept import Arrays, Door
from charjax.initlab.activations.taps import (
    LOGITS,
    Layer,
    Pass,
    Tap,
    bare_layer,
    input_of,
    layer_of,
    output_of,
    tap_at,
)
from charjax.models.bigram import Bigram
from charjax.models.bow import BagOfCharacters
from charjax.models.contract import CharModel
from charjax.models.mlp import MLP
from charjax.models.recurrent import Recurrent
from charjax.models.transformer import Transformer
from charjax.models.wavenet import WaveNet


def find_taps(model: CharModel) -> tuple[Tap, ...]:
    """The taps of a model, in the order of computation.

    Raises:
      ValueError: a family without layers, such as one that counts.
    """
    for family, taps in _FAMILIES.items():
        if isinstance(model, family):
            return taps(model)
    raise ValueError(f"{type(model).__name__} has no layers to look into")


def _bigram(model: Bigram) -> tuple[Tap, ...]:
    return (tap_at(layer_of(model, "logits", "logits"), LOGITS),)


def _bow(model: BagOfCharacters) -> tuple[Tap, ...]:
    return (
        tap_at(layer_of(model, "token_embedding/embedding"), output_of("token_embedding")),
        tap_at(bare_layer("average"), input_of("readout")),
        tap_at(layer_of(model, "readout/kernel"), LOGITS),
    )


def _mlp(model: MLP) -> tuple[Tap, ...]:
    """The embedding's value is the vectors side by side, as the first hidden layer reads them."""
    names = [f"hidden_{i}" for i in range(len(model.hidden))]
    readers = [*names, "readout"]
    taps = [tap_at(layer_of(model, "token_embedding/embedding"), input_of(readers[0]))]
    for i, name in enumerate(names):
        product = output_of(f"norm_{i}" if model.norm == "batch" else name)
        taps.append(tap_at(layer_of(model, f"{name}/kernel"), input_of(readers[i + 1]), product))
    return (*taps, tap_at(layer_of(model, "readout/kernel"), LOGITS))


def _wavenet(model: WaveNet) -> tuple[Tap, ...]:
    names = [f"level_{i}" for i in range((model.context_length - 1).bit_length())]
    taps = [tap_at(layer_of(model, "token_embedding/embedding"), output_of("token_embedding"))]
    for i, name in enumerate(names):
        product = output_of(f"norm_{i}" if model.norm == "batch" else name)
        layer = layer_of(model, f"{name}/kernel")
        last = i == len(names) - 1
        taps.append(
            tap_at(layer, input_of("readout"), product)
            if last
            else _paired(layer, product, input_of(names[i + 1]), 2 ** (i + 1))
        )
    return (*taps, tap_at(layer_of(model, "readout/kernel"), LOGITS))


def _paired(layer: Layer, product: Door, pair: Door, distance: int) -> Tap:
    """A level whose places the next reads two by two: a place may be read in two pairs."""

    def value(seen: Pass) -> Array:
        return jnp.tanh(seen.arrays[product].astype(jnp.float32)).astype(seen.arrays[pair].dtype)

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
    taps = [tap_at(layer_of(model, "token_embedding/embedding"), output_of("token_embedding"))]
    if model.positions == "learned":
        taps.append(_positions(layer_of(model, "position_embedding/embedding")))
    taps.append(tap_at(bare_layer("stream"), input_of("block_0")))
    for i in range(model.n_layer):
        block = f"block_{i}"
        up, down = f"{block}/mlp/up", f"{block}/mlp/down"
        taps += [
            _whole(model, f"{block}/attention/qkv"),
            _whole(model, f"{block}/attention/out"),
            tap_at(layer_of(model, f"{up}/kernel"), input_of(down), output_of(up)),
            _whole(model, down),
            tap_at(bare_layer(block), output_of(block)),
        ]
    if model.residual in ("pre_norm", "layerscale"):
        taps.append(tap_at(bare_layer("final_norm"), output_of("final_norm")))
    kernel = "token_embedding/embedding" if model.tie_embeddings else "readout/kernel"
    return (*taps, tap_at(layer_of(model, kernel, "readout"), LOGITS))


def _whole(model: Transformer, path: str) -> Tap:
    """A linear layer whose module gives out the product itself."""
    return tap_at(layer_of(model, f"{path}/kernel"), output_of(path))


def _positions(layer: Layer) -> Tap:
    """The positions' vectors (1, T, D), which every row of the batch adds to its own."""
    door = input_of("block_0")

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


_FAMILIES: dict[type[CharModel], Callable[[Any], tuple[Tap, ...]]] = {
    Bigram: _bigram,
    BagOfCharacters: _bow,
    MLP: _mlp,
    WaveNet: _wavenet,
    Recurrent: recurrent_taps,
    Transformer: _transformer,
}
