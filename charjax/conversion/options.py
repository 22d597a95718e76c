"""Options of today's transformers, which no GPT that charjax converts to has."""

from charjax.config import TransformerConfig
from charjax.errors import UserError


def refuse_options(config: TransformerConfig, title: str) -> None:
    """Raise a UserError for an option that GPT-2 does not have.

    Args:
      config: of the model.
      title: of the GPT, for messages.
    """
    heads = "as many heads of keys and values as of queries"
    needed = {
        "norm": (("layernorm",), "has layer norms"),
        "qk_norm": ((False,), "does not normalise queries and keys"),
        "n_kv_head": ((None, config.n_head), f"has {heads}"),
        "activation": (("gelu", "gelu_tanh"), "has an MLP with a GELU"),
        "window": ((None,), "sees its whole context"),
        "attn_softcap": ((0.0,), "does not cap scores"),
        "final_softcap": ((0.0,), "does not cap logits"),
        "d_ff": ((None, 4 * config.d_model), "has an MLP of 4 x model.d_model"),
        "norm_epsilon": ((1e-5,), "has norms with 1e-5"),
    }
    for name, (values, has) in needed.items():
        value = getattr(config, name)
        if value not in values:
            shown = str(value).lower() if isinstance(value, bool) else value
            raise UserError(
                f"model.{name}: {shown} in this model, but {title} {has}; only a model without "
                f"that has a PyTorch original: train one with the default of model.{name}"
            )
