"""Llama and Qwen3 as Hugging Face's transformers holds them: LlamaForCausalLM, Qwen3ForCausalLM.

Source: github.com/huggingface/transformers, `models/llama` and `models/qwen3`. Both are
pre-norm transformers with RMSNorm, a gated MLP, rotary positions and grouped queries; Qwen3
normalises queries and keys too. Heads, epsilon and the base of the angles are in config.json.

Letters: V vocabulary, D width of the residual stream, H heads, J heads of keys and values, K width
of a head, F width within the MLP.
"""

import dataclasses
import re

import numpy as np

from charjax.config import TransformerConfig
from charjax.conversion.layout import (
    Arrays,
    Inferred,
    Layout,
    Tensor,
    axis_length,
    count_layers,
    linear_weight,
    most_common,
)
from charjax.conversion.options import refuse_other_values
from charjax.models.transformer_sizes import mlp_width

_PREFIX = "model."
_READOUT = "lm_head.weight"
_LAYER = re.compile(r"(?:model\.)?layers\.(\d{1,4})\..*")
_QUERY = re.compile(r"(?:model\.)?layers\.\d+\.self_attn\.q_proj\.weight")
_QUERY_NORM = re.compile(r"(?:model\.)?layers\.\d+\.self_attn\.q_norm\.weight")
_BIAS = re.compile(r"(?:model\.)?layers\.\d+\..*_proj\.bias")


def _recognises(tensors: Arrays, *, qk_norm: bool) -> bool:
    found = any(_QUERY.fullmatch(name) for name in tensors)
    return found and qk_norm == any(_QUERY_NORM.fullmatch(name) for name in tensors)


def _infer(tensors: Arrays, *, qk_norm: bool) -> Inferred:
    # LlamaModel's own tensors have no prefix.
    prefix = "" if "embed_tokens.weight" in tensors else _PREFIX
    layers = [match for match in map(_LAYER.fullmatch, tensors) if match]
    n_layer = count_layers(int(match[1]) for match in layers)
    blocks = [f"{prefix}layers.{i}" for i in range(n_layer)]
    tokens, readout = tensors.get(f"{prefix}embed_tokens.weight"), tensors.get(_READOUT)
    norms = [axis_length(tensors, f"{block}.input_layernorm.weight", 0, 1) for block in blocks]
    widths = [axis_length(tensors, f"{block}.mlp.up_proj.weight", 0) for block in blocks]
    tied = readout is None or (tokens is not None and np.array_equal(readout, tokens))
    settings = {
        "kind": "transformer",
        "n_layer": n_layer or None,
        "d_model": most_common(axis_length(tensors, f"{prefix}embed_tokens.weight", 1), *norms),
        "d_ff": most_common(*widths),
        "bias": any(_BIAS.fullmatch(name) for name in tensors),
        "tie_embeddings": tied,
        "positions": "rotary",
        "norm": "rmsnorm",
        "qk_norm": qk_norm,
    }
    # Rotary positions have no table, so that a shorter context is the same function.
    overridable = {"context_length", *(("tie_embeddings",) if tied and readout is not None else ())}
    tables = (f"{prefix}embed_tokens.weight", _READOUT)
    V = most_common(*(axis_length(tensors, name, 0) for name in tables))
    return Inferred(settings, V, frozenset(overridable))


def _tensors(
    config: TransformerConfig, vocab_size: int, tensors: Arrays, *, title: str, qk_norm: bool
) -> list[Tensor]:
    _refuse_variants(config, title, qk_norm=qk_norm)
    bare = bool(tensors) and not any(name.startswith(_PREFIX) for name in tensors)
    prefix = "" if bare else _PREFIX
    V, D = vocab_size, config.d_model
    table = "params/token_embedding/embedding"
    entries = [
        Tensor(f"{prefix}embed_tokens.weight", table, (V, D)),
        Tensor(f"{prefix}norm.weight", "params/final_norm/scale", (D,)),
    ]
    for i in range(config.n_layer):
        there, here = f"{prefix}layers.{i}", f"params/block_{i}"
        for name, norm in (("input_layernorm", "norm_1"), ("post_attention_layernorm", "norm_2")):
            entries.append(Tensor(f"{there}.{name}.weight", f"{here}/{norm}/scale", (D,)))
        entries += _block(config, there, here)
    if config.tie_embeddings:
        return [*entries, Tensor(_READOUT, table, (V, D), is_alias=True)]
    return [*entries, linear_weight(_READOUT, "params/readout/kernel", V, D)]


def _block(config: TransformerConfig, there: str, here: str) -> list[Tensor]:
    """Return the entries of a block's linear layers, and of its norms of queries and keys."""
    D, F, K = config.d_model, mlp_width(config), config.head_width
    J = config.n_kv_head or config.n_head
    E = J * K
    # Queries, keys and values are one kernel, or keys and values are.
    if config.n_head == J:
        heads = [(name, "qkv", D, part, 3) for part, name in enumerate("qkv")]
    else:
        heads = [("q", "query", D, 0, 1), ("k", "key_value", E, 0, 2), ("v", "key_value", E, 1, 2)]
    linear = [
        *((f"self_attn.{n}_proj", f"attention/{path}", f, D, i, of) for n, path, f, i, of in heads),
        ("self_attn.o_proj", "attention/out", D, D, 0, 1),
        ("mlp.gate_proj", "mlp/gate", F, D, 0, 1),
        ("mlp.up_proj", "mlp/up", F, D, 0, 1),
        ("mlp.down_proj", "mlp/down", D, F, 0, 1),
    ]
    entries = []
    for name, path, fan_out, fan_in, part, parts in linear:
        kernel = linear_weight(f"{there}.{name}.weight", f"{here}/{path}/kernel", fan_out, fan_in)
        bias = Tensor(f"{there}.{name}.bias", f"{here}/{path}/bias", (fan_out,))
        entries += [
            dataclasses.replace(entry, part=part, parts=parts)
            for entry in ((kernel, bias) if config.bias else (kernel,))
        ]
    if config.qk_norm:
        for name, norm in (("q_norm", "query_norm"), ("k_norm", "key_norm")):
            path = f"{here}/attention/{norm}/scale"
            entries.append(Tensor(f"{there}.self_attn.{name}.weight", path, (K,)))
    return entries


def _refuse_variants(config: TransformerConfig, title: str, *, qk_norm: bool) -> None:
    """Raise a UserError for a model with parts that the original does not have, or without its."""
    queries = "normalises queries and keys" if qk_norm else "does not normalise queries and keys"
    needed: dict[str, tuple[tuple[object, ...], str]] = {
        "norm": (("rmsnorm",), "has RMSNorm"),
        "activation": (tuple(ACTIVATIONS.values()), "has a gated MLP"),
        "positions": (("rotary",), "has rotary positions"),
        "qk_norm": ((qk_norm,), queries),
        "residual": (("pre_norm",), "is pre_norm"),
        "scale_embeddings": ((False,), "does not scale them"),
        "window": ((None,), "sees its whole context"),
        "attn_softcap": ((0.0,), "does not cap scores"),
        "attention_scale": (("inverse_sqrt",), "divides scores by the root of a head's width"),
        "final_softcap": ((0.0,), "does not cap logits"),
    }
    if qk_norm:
        needed["bias"] = ((False,), "has none in its MLP")
    refuse_other_values(config, title, needed)


# Function of the gate, by its name in transformers.
ACTIVATIONS = {"silu": "swiglu", "gelu": "geglu"}


def _layout(title: str, original: str, *, qk_norm: bool) -> Layout:
    def tensors(config: TransformerConfig, vocab_size: int, reference: Arrays) -> list[Tensor]:
        return _tensors(config, vocab_size, reference, title=title, qk_norm=qk_norm)

    return Layout(
        title=title,
        recognises=lambda tensors: _recognises(tensors, qk_norm=qk_norm),
        infer=lambda tensors: _infer(tensors, qk_norm=qk_norm),
        tensors=tensors,
        original=lambda config: original,
        assumptions=lambda config: "each half of a head's queries and keys is turned as one",
        # A buffer of older versions, which config.json determines.
        is_ignored=lambda name, array: name.endswith("rotary_emb.inv_freq"),
        needs_config=True,
    )


LLAMA = _layout("Hugging Face's Llama", "Hugging Face's LlamaForCausalLM", qk_norm=False)
QWEN3 = _layout("Hugging Face's Qwen3", "Hugging Face's Qwen3ForCausalLM", qk_norm=True)
