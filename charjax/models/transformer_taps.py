"""The layers of a transformer as taps, and the roles of its parameters.

Letters: T time, D width of the residual stream, C context length.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from charjax.models.attention import GATES, MLPActivation
from charjax.models.layers import EMBEDDING, ENDS
from charjax.models.residual import NORM_FIRST, norm_read_by
from charjax.models.roles import Parameter, Role, Roles, dense
from charjax.models.taps import (
    LOGITS,
    Arrays,
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
    grouped = model.form.n_kv_head is not None
    for i in range(model.n_layer):
        block = f"block_{i}"
        attention = ("query", "key_value") if grouped else ("qkv",)
        taps += [
            tap_at(linear(name, "norm"), output_of(name))
            for name in (f"{block}/attention/{part}" for part in attention)
        ]
        out, up, down = f"{block}/attention/out", f"{block}/mlp/up", f"{block}/mlp/down"
        taps.append(tap_at(linear(out, None), output_of(out)))
        if model.activation in GATES:
            gate = linear(f"{block}/mlp/gate", "norm")
            taps += [
                _gate_tap(gate, block, model.activation),
                tap_at(linear(up, "norm"), output_of(up)),
            ]
            # Of a product of two layers no size is predicted.
            taps.append(tap_at(linear(down, None), output_of(down)))
        else:
            taps.append(tap_at(linear(up, "norm"), input_of(down), output_of(up)))
            taps.append(tap_at(linear(down, "previous"), output_of(down)))
        taps.append(tap_at(bare_layer(block, norm_of(block)), output_of(block)))
    if model.residual in NORM_FIRST:
        taps.append(tap_at(bare_layer("final_norm", "final_norm"), output_of("final_norm")))
    kernel = "token_embedding/embedding" if model.tie_embeddings else "readout/kernel"
    reads: Reads | None = None if model.final_softcap else "norm"
    norm = norm_of("readout") if reads else None
    readout = layer_of(model.roles, kernel, "readout", reads=reads, norm=norm)
    return (*taps, tap_at(readout, LOGITS))


def transformer_roles(activation: MLPActivation) -> Roles:
    """Return the roles of a transformer's parameters.

    Args:
      activation: of the MLP; a gated one has the function in its gate, and a linear factor
        beside it.
    """
    up = "linear" if activation in GATES else activation
    gate = GATES[activation][0] if activation in GATES else "linear"
    return (
        *ENDS,
        ("position_embedding/embedding", EMBEDDING),
        (
            r"block_\d+/attention/qkv/kernel",
            dense(gates=3, gate_names=("query", "key", "value"), in_block=True),
        ),
        (r"block_\d+/attention/query/kernel", dense(gate_names=("query",), in_block=True)),
        (
            r"block_\d+/attention/key_value/kernel",
            dense(gates=2, gate_names=("key", "value"), in_block=True),
        ),
        (r"block_\d+/mlp/gate/kernel", dense(activation=gate, in_block=True)),
        (r"block_\d+/mlp/up/kernel", dense(activation=up, in_block=True)),
        (
            r"block_\d+/attention/out/kernel",
            dense(Role.RESIDUAL_OUTPUT, in_block=True, reads_attention=True),
        ),
        (r"block_\d+/mlp/down/kernel", dense(Role.RESIDUAL_OUTPUT, in_block=True)),
        (r"block_\d+/residual_gain_\d", Parameter(Role.RESIDUAL_GAIN, in_block=True)),
        (
            r"block_\d+/(norm_\d|attention/(query|key)_norm)/scale",
            Parameter(Role.GAIN, in_block=True),
        ),
        (r"block_\d+/.*/bias", Parameter(Role.BIAS, in_block=True)),
        ("final_norm/scale", Parameter(Role.GAIN, before_readout=True)),
        ("final_(norm|shift)/bias", Parameter(Role.BIAS, before_readout=True)),
    )


def _gate_tap(layer: Layer, block: str, activation: str) -> Tap:
    """Read the gate of a gated MLP after its function, which no module ends with."""
    gate, up = output_of(f"{block}/mlp/gate"), output_of(f"{block}/mlp/up")
    product = input_of(f"{block}/mlp/down")
    _, function = GATES[activation]

    def gradient(recording: Recording, gradients: Arrays) -> Array:
        return gradients[product] * recording.arrays[up]

    return Tap(
        layer,
        frozenset((gate, up, product)),
        value=lambda recording: function(recording.arrays[gate]),
        preactivation=lambda recording: recording.arrays[gate],
        gradient=gradient,
    )


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
