"""The GPT of nanoGPT, minGPT and makemore (github.com/karpathy).

Their tensors have the same names and shapes, but their functions differ. nanoGPT has nn.GELU(), by
erf, since its commit 594068e7 of 17 May 2023; older nanoGPT, minGPT and makemore's Transformer have
GPT-2's GELU, by tanh. nanoGPT ties the readout to the embedding; the others do not.

Letters: V vocabulary, C context length, D width of the residual stream, F within the
MLP.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable

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
from charjax.models.transformer_sizes import mlp_width

_PREFIX = "transformer."
_READOUT = "lm_head.weight"
_TOKENS = "transformer.wte.weight"
_POSITIONS = "transformer.wpe.weight"
_BLOCK = re.compile(r"transformer\.h\.(\d{1,4})\..*")
_MASK = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")


def _recognises(names: Iterable[str]) -> bool:
    return any(name.startswith(_PREFIX) for name in names)


def infer(tensors: Arrays) -> Inferred:
    """Infer the settings of a GPT from its tensors, whatever the orientation of the kernels."""
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


@dataclasses.dataclass(frozen=True)
class Form:
    """The form in which one program saves a GPT.

    Attributes:
      title: of the model, in messages.
      kernel: return the entry of a linear layer's weight: (name, path, fan_out, fan_in).
      always_biased: linear layers and norms have biases; a model without them has zeros there.
      prefix: of every name but the readout's.
      has_sizes: a file beside the tensors has the width within the MLP and the norms' epsilon.
    """

    title: str
    kernel: Callable[[str, str, int, int], Tensor]
    always_biased: bool = False
    prefix: str = _PREFIX
    has_sizes: bool = False


_FORM = Form("nanoGPT's GPT", linear_weight)


def gpt_tensors(config: TransformerConfig, vocab_size: int, form: Form) -> list[Tensor]:
    """Return the entries of a GPT's state dict.

    Raises:
      UserError: a GPT-2 does not compute this model.
    """
    refuse_options(config, form.title, has_sizes=form.has_sizes)
    V, D, C, F = vocab_size, config.d_model, config.context_length, mlp_width(config)
    assert C is not None
    table = "params/token_embedding/embedding"
    entries = [
        Tensor(f"{form.prefix}wte.weight", table, (V, D)),
        Tensor(f"{form.prefix}wpe.weight", "params/position_embedding/embedding", (C, D)),
    ]
    layers = {
        "attn.c_attn": ("attention/qkv", 3 * D, D),
        "attn.c_proj": ("attention/out", D, D),
        "mlp.c_fc": ("mlp/up", F, D),
        "mlp.c_proj": ("mlp/down", D, F),
    }
    norms = {f"{form.prefix}ln_f": "params/final_norm"}
    for i in range(config.n_layer):
        there, here = f"{form.prefix}h.{i}", f"params/block_{i}"
        norms |= {f"{there}.ln_{j}": f"{here}/norm_{j}" for j in (1, 2)}
        for name, (path, fan_out, fan_in) in layers.items():
            weight, kernel = f"{there}.{name}.weight", f"{here}/{path}/kernel"
            entries.append(form.kernel(weight, kernel, fan_out, fan_in))
            entries += _bias(f"{there}.{name}", f"{here}/{path}", fan_out, config.bias, form)
    for there, here in norms.items():
        entries.append(Tensor(f"{there}.weight", f"{here}/scale", (D,)))
        entries += _bias(there, here, D, config.bias, form)
    if config.tie_embeddings:
        entries.append(Tensor(_READOUT, table, (V, D), is_alias=True))
    else:
        entries.append(linear_weight(_READOUT, "params/readout/kernel", V, D))
    return entries


def _bias(there: str, here: str, width: int, bias: bool, form: Form) -> list[Tensor]:
    if bias:
        return [Tensor(f"{there}.bias", f"{here}/bias", (width,))]
    return [Tensor(f"{there}.bias", "", (width,), is_zero=True)] if form.always_biased else []


def _tensors(config: TransformerConfig, vocab_size: int, tensors: Arrays) -> list[Tensor]:
    return gpt_tensors(config, vocab_size, _FORM)


def is_mask(name: str, array: np.ndarray) -> bool:
    """Return True for the causal mask, a buffer of older versions."""
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
    infer=infer,
    tensors=_tensors,
    original=_original,
    assumptions=_assumptions,
    is_ignored=is_mask,
    questions={
        "n_head": Question("...", placeholder=1),
        "activation": Question(
            "gelu (nn.GELU(): nanoGPT since May 2023) or gelu_tanh (NewGELU: minGPT, makemore, "
            "GPT-2's weights, older nanoGPT)",
            placeholder="gelu",
        ),
    },
)
