"""The layers of a transformer, as taps.

Letters: T time, D width of the residual stream, C context length.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from charjax.models.residual import NORM_FIRST, norm_read_by
from charjax.models.taps import (
    LOGITS,
    Layer,
    Reads,
    Recording,
    Tap,
    bare_layer,
    input_of,
    layer_of,
    output_of,
    tap_at,
)


def transformer_taps(model: Any) -> tuple[Tap, ...]:
    """Describe embeddings, each block's linear layers and stream, the last norm and the readout.

    Args:
      model: a Transformer.
    """

    def norm_of(name: str) -> str | None:
        return norm_read_by(model.residual, name, model.n_layer)

    def linear(name: str, reads: Reads | None) -> Layer:
        norm = norm_of(name) if reads == "norm" else None
        return layer_of(model.roles, f"{name}/kernel", reads=reads, norm=norm)

    embedding = layer_of(model.roles, "token_embedding/embedding")
    taps = [tap_at(embedding, output_of("token_embedding"))]
    if model.positions == "learned":
        taps.append(_position_tap(layer_of(model.roles, "position_embedding/embedding")))
    taps.append(tap_at(bare_layer("stream"), input_of("block_0")))
    for i in range(model.n_layer):
        block = f"block_{i}"
        qkv, out = f"{block}/attention/qkv", f"{block}/attention/out"
        up, down = f"{block}/mlp/up", f"{block}/mlp/down"
        taps += [
            tap_at(linear(qkv, "norm"), output_of(qkv)),
            tap_at(linear(out, None), output_of(out)),
            tap_at(linear(up, "norm"), input_of(down), output_of(up)),
            tap_at(linear(down, "previous"), output_of(down)),
            tap_at(bare_layer(block, norm_of(block)), output_of(block)),
        ]
    if model.residual in NORM_FIRST:
        taps.append(tap_at(bare_layer("final_norm", "final_norm"), output_of("final_norm")))
    kernel = "token_embedding/embedding" if model.tie_embeddings else "readout/kernel"
    readout = layer_of(model.roles, kernel, "readout", reads="norm", norm=norm_of("readout"))
    return (*taps, tap_at(readout, LOGITS))


def _position_tap(layer: Layer) -> Tap:
    """Read the positions' vectors (1, T, D), which every row of the batch adds to the stream."""
    point = input_of("block_0")

    def value(recording: Recording) -> Array:
        table_CD = recording.variables["params"]["position_embedding"]["embedding"]
        return table_CD[None, : recording.inputs_BS.shape[1]]

    return Tap(
        layer,
        frozenset((point,)),
        value,
        value,
        gradient=lambda recording, gradients: jnp.sum(gradients[point], axis=0, keepdims=True),
    )
