"""config.json of transformers' Llama and Qwen3.

Source: LlamaConfig and Qwen3Config of transformers 5.24.0, and the names that 4.x wrote.
"""

from collections.abc import Mapping
from typing import Any

from charjax.config import TransformerConfig
from charjax.conversion.config_json import (
    real_number,
    refuse_values,
    whole_number,
    without_defaults,
)
from charjax.conversion.llama import ACTIVATIONS
from charjax.errors import UserError
from charjax.models.transformer_sizes import mlp_width

_SIZES = {
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "n_kv_head",
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "max_position_embeddings": "context_length",
}
# Those of LlamaConfig, for what a config.json leaves out.
_LLAMA: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
_QWEN3: dict[str, Any] = _LLAMA | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
}
_DEFAULTS = {"llama": _LLAMA, "qwen3": _QWEN3}
_ROTARY_BASE = 10000.0


def to_config(
    config: TransformerConfig, vocab_size: int, *, boundary: bool, model_type: str
) -> dict[str, Any]:
    """Return the config.json with which transformers computes a model's function.

    Args:
      config: the section `model`.
      vocab_size: V.
      boundary: symbol 0 begins and ends every text.
      model_type: "llama" or "qwen3".
    """
    token = 0 if boundary else None
    activation = next(name for name, ours in ACTIVATIONS.items() if ours == config.activation)
    return {
        "architectures": [f"{model_type.capitalize()}ForCausalLM"],
        "model_type": model_type,
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        "num_key_value_heads": config.n_kv_head or config.n_head,
        "intermediate_size": mlp_width(config),
        "head_dim": config.head_width,
        "vocab_size": vocab_size,
        "hidden_act": activation,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
        "attention_dropout": config.dropout,
        # Of transformers 5, and of 4.
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_base},
        "rope_theta": config.rotary_base,
        "torch_dtype": "float32",
        # LlamaConfig's defaults, 1 and 2, would be symbols of this alphabet.
        "bos_token_id": token,
        "eos_token_id": token,
    }


def from_config(tree: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the settings of the section `model` that a config.json determines, and V.

    Args:
      tree: its content; `model_type` is "llama" or "qwen3".

    Raises:
      UserError: it has a setting that no family of charjax has.
    """
    defaults = _DEFAULTS[tree["model_type"]]
    known = {name: tree.get(name, default) for name, default in defaults.items()}
    if known["num_key_value_heads"] is None:
        known["num_key_value_heads"] = known["num_attention_heads"]
    is_qwen3 = tree["model_type"] == "qwen3"
    biases: tuple[Any, ...] = (False,) if is_qwen3 else (True, False)
    refuse_values(
        known,
        {
            "hidden_act": tuple(ACTIVATIONS),
            "tie_word_embeddings": (True, False),
            "attention_bias": biases,
            # Ours are in all linear layers or in none.
            **({} if is_qwen3 else {"mlp_bias": (known["attention_bias"],)}),
            **({"use_sliding_window": (False,)} if is_qwen3 else {}),
        },
    )
    settings: dict[str, Any] = {
        ours: whole_number(known, theirs) for theirs, ours in _SIZES.items()
    }
    head_width = settings["d_model"] // settings["n_head"]
    if known["head_dim"] not in (None, head_width):
        raise UserError(
            f"config.json: head_dim is {known['head_dim']!r}, and charjax's transformer has "
            f"hidden_size / num_attention_heads = {head_width}: this model cannot be imported"
        )
    settings["activation"] = ACTIVATIONS[known["hidden_act"]]
    settings["tie_embeddings"] = bool(known["tie_word_embeddings"])
    settings["norm_epsilon"] = real_number(known, "rms_norm_eps")
    settings["rotary_base"] = _rotary_base(tree)
    return without_defaults(settings), whole_number(known, "vocab_size")


def _rotary_base(tree: Mapping[str, Any]) -> float:
    """Return theta, or raise a UserError for angles that are scaled."""
    described = tree.get("rope_parameters") or tree.get("rope_scaling") or {}
    if not isinstance(described, Mapping):
        raise UserError(f"config.json: rope_parameters is {described!r}; it must be an object")
    kind = described.get("rope_type", described.get("type", "default"))
    refuse_values({"rope_type": kind}, {"rope_type": ("default",)})
    refuse_values(
        {"partial_rotary_factor": described.get("partial_rotary_factor", 1.0)},
        {"partial_rotary_factor": (1.0,)},
    )
    theta = described.get("rope_theta", tree.get("rope_theta", _ROTARY_BASE))
    return real_number({"rope_theta": theta}, "rope_theta")
