"""The GPT of nanoGPT, minGPT and makemore (github.com/karpathy).

Their tensors have the same names and shapes, but their functions differ. nanoGPT has nn.GELU(), by
erf, since its commit 594068e7 of 17 May 2023; older nanoGPT, minGPT and makemore's Transformer have
GPT-2's GELU, by tanh. nanoGPT ties the readout to the embedding; the others do not.

Letters: V vocabulary, C context length, D width of the residual stream.
"""

import re
from collections.abc import Iterable

import numpy as np

from charjax.config import TransformerConfig
from charjax.conversion.layout import (
    Arrays,
    Inferred,
    Layout,
    Question,
    Tensor,
    axis_length,
    count_layers,
    linear_weight,
    most_common,
)
from charjax.conversion.options import refuse_options
from charjax.errors import UserError

_PREFIX = "transformer."
_READOUT = "lm_head.weight"
_TOKENS = "transformer.wte.weight"
_POSITIONS = "transformer.wpe.weight"
_BLOCK = re.compile(r"transformer\.h\.(\d{1,4})\..*")
# The causal mask, a buffer in older versions.
_MASK = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")


def _recognises(names: Iterable[str]) -> bool:
    return any(name.startswith(_PREFIX) for name in names)


def _infer(tensors: Arrays) -> Inferred:
    blocks = [match for match in map(_BLOCK.fullmatch, tensors) if match]
    n_layer = count_layers(int(match[1]) for match in blocks)
    norms = [f"transformer.h.{i}.ln_{j}.weight" for i in range(n_layer) for j in (1, 2)]
    tables = [axis_length(tensors, name, 1) for name in (_TOKENS, _POSITIONS, _READOUT)]
    d_model = most_common(*tables, *(axis_length(tensors, name, 0, ndim=1) for name in norms))
    biases = sum(name.endswith(".bias") for name in tensors if name != "lm_head.bias")
    readout, tokens = tensors.get(_READOUT), tensors.get(_TOKENS)
    tied = readout is None or (tokens is not None and np.array_equal(readout, tokens))
    settings = {
        "kind": "transformer",
        "context_length": axis_length(tensors, _POSITIONS, 0),
        "n_layer": n_layer or None,
        "d_model": d_model,
        "bias": 2 * biases > 6 * n_layer + 1,
        "tie_embeddings": tied,
        "positions": "learned",
    }
    # A readout equal to the table may still be a separate parameter.
    overridable = {"tie_embeddings"} if tied and readout is not None else set()
    V = most_common(axis_length(tensors, _TOKENS, 0), axis_length(tensors, _READOUT, 0))
    return Inferred(settings, V, frozenset(overridable))


def _tensors(config: TransformerConfig, vocab_size: int, tensors: Arrays) -> list[Tensor]:
    if config.positions == "rotary":
        raise UserError(
            "model.positions: rotary in this model, but nanoGPT's GPT has learned positions; only "
            "a model with model.positions=learned has a PyTorch original"
        )
    if config.residual != "pre_norm":
        raise UserError(
            f"model.residual: {config.residual} in this model, but nanoGPT's GPT is pre_norm; only "
            "a model with model.residual=pre_norm has a PyTorch original"
        )
    if config.scale_embeddings:
        raise UserError(
            "model.scale_embeddings: true in this model, but nanoGPT's GPT does not scale them; "
            "only a model with model.scale_embeddings=false has a PyTorch original"
        )
    refuse_options(config, "nanoGPT's GPT")
    V, D, C = vocab_size, config.d_model, config.context_length
    assert C is not None
    table = "params/token_embedding/embedding"
    entries = [
        Tensor(_TOKENS, table, (V, D)),
        Tensor(_POSITIONS, "params/position_embedding/embedding", (C, D)),
    ]
    for i in range(config.n_layer):
        there, here = f"transformer.h.{i}", f"params/block_{i}"
        entries += _norm(f"{there}.ln_1", f"{here}/norm_1", D, config.bias)
        entries += _linear(f"{there}.attn.c_attn", f"{here}/attention/qkv", 3 * D, D, config.bias)
        entries += _linear(f"{there}.attn.c_proj", f"{here}/attention/out", D, D, config.bias)
        entries += _norm(f"{there}.ln_2", f"{here}/norm_2", D, config.bias)
        entries += _linear(f"{there}.mlp.c_fc", f"{here}/mlp/up", 4 * D, D, config.bias)
        entries += _linear(f"{there}.mlp.c_proj", f"{here}/mlp/down", D, 4 * D, config.bias)
    entries += _norm("transformer.ln_f", "params/final_norm", D, config.bias)
    if config.tie_embeddings:
        entries.append(Tensor(_READOUT, table, (V, D), is_alias=True))
    else:
        entries.append(linear_weight(_READOUT, "params/readout/kernel", V, D))
    return entries


def _norm(there: str, here: str, width: int, bias: bool) -> list[Tensor]:
    scale = [Tensor(f"{there}.weight", f"{here}/scale", (width,))]
    return scale + _bias(there, here, width, bias)


def _linear(there: str, here: str, fan_out: int, fan_in: int, bias: bool) -> list[Tensor]:
    weight = [linear_weight(f"{there}.weight", f"{here}/kernel", fan_out, fan_in)]
    return weight + _bias(there, here, fan_out, bias)


def _bias(there: str, here: str, width: int, bias: bool) -> list[Tensor]:
    return [Tensor(f"{there}.bias", f"{here}/bias", (width,))] if bias else []


def _ignored(name: str, array: np.ndarray) -> bool:
    return _MASK.fullmatch(name) is not None and array.ndim in (0, 4)


def _original(config: TransformerConfig) -> str:
    if config.activation == "gelu":
        return "nanoGPT's GPT"
    if config.bias and not config.tie_embeddings:
        return "minGPT's GPT or makemore's Transformer"
    return "nanoGPT's GPT with nn.GELU(approximate='tanh')"


def _assumptions(config: TransformerConfig) -> str:
    return "layer norms with epsilon 1e-5; c_attn holds queries, keys and values in this order"


NANOGPT = Layout(
    title="a GPT of nanoGPT, minGPT or makemore",
    recognises=_recognises,
    infer=_infer,
    tensors=_tensors,
    original=_original,
    assumptions=_assumptions,
    is_ignored=_ignored,
    questions={
        "n_head": Question("...", placeholder=1),
        "activation": Question(
            "gelu (nn.GELU(): nanoGPT since May 2023) or gelu_tanh (NewGELU: minGPT, makemore, "
            "GPT-2's weights, older nanoGPT)",
            placeholder="gelu",
        ),
    },
)
