"""Code of the user's own, checked before anything of a run is written."""

import jax
import jax.numpy as jnp

from charjax.config import Config
from charjax.config.own_families import is_own as is_own_family
from charjax.init import is_own_scheme, scheme_for
from charjax.init.own import check_draws
from charjax.models.contract import CharModel
from charjax.models.own import is_own as is_own_activation
from charjax.models.own_checks import check_activation, check_family
from charjax.training.own_optimizer import check_direction
from charjax.training.own_optimizer import is_own as is_own_optimizer


def check_own(config: Config, model: CharModel) -> None:
    """Check the scheme, optimiser, activation and family of a run that are the user's own.

    Raises:
      UserError: one of them is not what it should be; the message says how.
    """
    activation = getattr(config.model, "activation", None)
    if activation is not None and is_own_activation(activation):
        check_activation(activation)
    if is_own_family(config.model.kind):
        check_family(config.model.kind, model)
    has_scheme, has_optimizer = is_own_scheme(config.init.scheme), is_own_optimizer(config.optim)
    if not (has_scheme or has_optimizer):
        return
    tokens_BT = jnp.zeros((1, model.lookback + 1), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
    if has_scheme:
        depth = getattr(model, "n_layer", 0)
        name, scheme = config.init.scheme, scheme_for(config)
        check_draws(name, scheme, shapes, model.roles, depth, model.vocab_size)
    if has_optimizer:
        check_direction(config.optim, shapes)
