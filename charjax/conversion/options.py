"""Settings of a transformer that an original does not have."""

from collections.abc import Mapping

from charjax.config import TransformerConfig
from charjax.config.values import value_text
from charjax.errors import UserError


def refuse_options(config: TransformerConfig, title: str, *, has_sizes: bool = False) -> None:
    """Raise a UserError for a model with parts that GPT-2 does not have.

    Args:
      config: of the model.
      title: of the GPT, for messages.
      has_sizes: it has any width within the MLP, and any epsilon.
    """
    heads = "as many heads of keys and values as of queries"
    needed: dict[str, tuple[tuple[object, ...], str]] = {
        "norm": (("layernorm",), "has layer norms"),
        "qk_norm": ((False,), "does not normalise queries and keys"),
        "n_kv_head": ((None, config.n_head), f"has {heads}"),
        "activation": (("gelu", "gelu_tanh"), "has an MLP with a GELU"),
        "window": ((None,), "sees its whole context"),
        "attn_softcap": ((0.0,), "does not cap scores"),
        "attention_scale": (("inverse_sqrt",), "divides scores by the root of a head's width"),
        "final_softcap": ((0.0,), "does not cap logits"),
        "positions": (("learned",), "has learned positions"),
        "residual": (("pre_norm",), "is pre_norm"),
        "scale_embeddings": ((False,), "does not scale them"),
    }
    if not has_sizes:
        needed["d_ff"] = ((None, 4 * config.d_model), "has an MLP of 4 x model.d_model")
        needed["norm_epsilon"] = ((1e-5,), "has 1e-5")
    refuse_other_values(config, title, needed)


def refuse_other_values(
    config: TransformerConfig, title: str, needed: Mapping[str, tuple[tuple[object, ...], str]]
) -> None:
    """Raise a UserError for a setting with a value that an original does not have.

    Args:
      config: of the model.
      title: of the original, for messages.
      needed: the values it has by the setting's name, and a clause about them.
    """
    for name, (values, has) in needed.items():
        value = getattr(config, name)
        if value not in values:
            wanted = f"with model.{name}={value_text(values[0])}"
            if values[0] is None:
                wanted = f"without model.{name}"
            raise UserError(
                f"model.{name}: {value_text(value)} in this model, but {title} {has}; only a model "
                f"{wanted} can be written as one"
            )
