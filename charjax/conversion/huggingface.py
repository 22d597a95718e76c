"""GPT-2 as Hugging Face's transformers holds it: GPT2LMHeadModel and GPT2Model.

Source: github.com/huggingface/transformers, `models/gpt2`. Its linear layers are `Conv1D`, whose
weights are (fan_in, fan_out), as flax's and unlike torch.nn.Linear's; all have biases, and so have
the norms. The heads and the activation stand in config.json.

Letters: V vocabulary, D width of the residual stream.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from charjax.config import TransformerConfig
from charjax.conversion import nanogpt
from charjax.conversion.config_json import (
    real_number,
    refuse_values,
    whole_number,
    without_defaults,
)
from charjax.conversion.layout import Arrays, Inferred, Layout, Tensor

_PREFIX = "transformer."
_READOUT = "lm_head.weight"
_ATTENTION = re.compile(r"(?:transformer\.)?h\.\d+\.attn\.c_attn\.weight")
# GPT2Config's defaults, for what a config.json leaves out.
_DEFAULTS: dict[str, Any] = {
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "n_positions": 1024,
    "vocab_size": 50257,
    "activation_function": "gelu_new",
    "tie_word_embeddings": True,
    "n_inner": None,
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
}
_SIZES = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "d_model",
    "n_positions": "context_length",
}
_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
_DROPOUT = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


def to_config(config: TransformerConfig, vocab_size: int, *, boundary: bool) -> dict[str, Any]:
    """Return the config.json with which transformers computes a model's function.

    Args:
      config: the section `model`.
      vocab_size: V.
      boundary: symbol 0 begins and ends every text.
    """
    token = 0 if boundary else None
    activation = next(name for name, ours in _ACTIVATIONS.items() if ours == config.activation)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        "vocab_size": vocab_size,
        "activation_function": activation,
        "tie_word_embeddings": config.tie_embeddings,
        "n_inner": config.d_ff,
        "layer_norm_epsilon": config.norm_epsilon,
        **dict.fromkeys(_DROPOUT, config.dropout),
        "torch_dtype": "float32",
        # GPT2Config's default, 50256, would be no symbol of this alphabet.
        "bos_token_id": token,
        "eos_token_id": token,
    }


def from_config(tree: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the settings of the section `model` that a config.json determines, and V.

    Raises:
      UserError: it has a setting that no family of charjax has.
    """
    known = {name: tree.get(name, default) for name, default in _DEFAULTS.items()}
    fixed = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "add_cross_attention")
    refuse_values(
        known,
        {
            "activation_function": tuple(_ACTIVATIONS),
            "tie_word_embeddings": (True, False),
            **{name: (_DEFAULTS[name],) for name in fixed},
        },
    )
    settings: dict[str, Any] = {
        ours: whole_number(known, theirs) for theirs, ours in _SIZES.items()
    }
    settings["activation"] = _ACTIVATIONS[known["activation_function"]]
    settings["tie_embeddings"] = bool(known["tie_word_embeddings"])
    settings["norm_epsilon"] = real_number(known, "layer_norm_epsilon")
    settings["d_ff"] = None if known["n_inner"] is None else whole_number(known, "n_inner")
    # Without an effect on the function: three different rates are left to the user.
    first, *others = (known[name] for name in _DROPOUT)
    if isinstance(first, float | int) and others == [first, first]:
        settings["dropout"] = float(first)
    return without_defaults(settings), whole_number(known, "vocab_size")


def _recognises(tensors: Arrays) -> bool:
    shapes = [array.shape for name, array in tensors.items() if _ATTENTION.fullmatch(name)]
    return any(len(shape) == 2 and shape[1] == 3 * shape[0] for shape in shapes)


def _infer(tensors: Arrays) -> Inferred:
    inferred = nanogpt.infer({_prefixed(name): array for name, array in tensors.items()})
    biases = [a for name, a in tensors.items() if name.endswith(".bias") and not _is_mask(name, a)]
    # Biases of zeros may be those of a model that has none.
    unbiased = {"bias"} if not any(array.any() for array in biases) else set()
    settings = inferred.settings | {"bias": True}
    return Inferred(settings, inferred.vocab_size, inferred.overridable | unbiased)


def _prefixed(name: str) -> str:
    bare = name.startswith(("wte.", "wpe.", "h.", "ln_f."))
    return _PREFIX + name if bare else name


def _is_mask(name: str, array: np.ndarray) -> bool:
    return nanogpt.is_mask(_prefixed(name), array)


def _tensors(config: TransformerConfig, vocab_size: int, tensors: Arrays) -> list[Tensor]:
    # GPT2Model, as in the checkpoint "gpt2", has no prefix.
    bare = bool(tensors) and not any(name.startswith(_PREFIX) for name in tensors)
    form = nanogpt.Form(
        "Hugging Face's GPT-2",
        _conv1d,
        always_biased=True,
        prefix="" if bare else _PREFIX,
        has_sizes=True,
    )
    return nanogpt.gpt_tensors(config, vocab_size, form)


def _conv1d(name: str, path: str, fan_out: int, fan_in: int) -> Tensor:
    return Tensor(name, path, (fan_in, fan_out))


HF_GPT2 = Layout(
    title="Hugging Face's GPT-2",
    recognises=_recognises,
    infer=_infer,
    tensors=_tensors,
    original=lambda config: "Hugging Face's GPT2LMHeadModel",
    assumptions=nanogpt.NANOGPT.assumptions,
    is_ignored=_is_mask,
    questions={
        "n_head": nanogpt.NANOGPT.questions["n_head"],
        "activation": dataclasses.replace(
            nanogpt.NANOGPT.questions["activation"],
            answers="gelu_tanh (activation_function gelu_new of config.json) or gelu; or give the "
            "directory that holds config.json",
        ),
    },
)
