"""Code of the user's own, checked before anything of a run is written."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from charjax.config import Config
from charjax.config.own_families import is_own as is_own_family
from charjax.extensions import calling
from charjax.init import check_cover, is_own_scheme, scheme_for
from charjax.init.own import check_draws
from charjax.init.own_families import check_suits
from charjax.models.contract import CharModel
from charjax.models.own import is_own as is_own_activation
from charjax.models.own_checks import check_activation, check_family
from charjax.training.own_optimizer import check_direction
from charjax.training.own_optimizer import is_own as is_own_optimizer

# What has passed in this process: a sweep has many runs of one model.
_passed: set[tuple[str, ...]] = set()


def check_own(config: Config, model: CharModel) -> None:
    """Check the scheme, optimiser, activation and family of a run that are the user's own.

    Raises:
      UserError: one of them is not what it should be; the message says how.
    """
    activation, kind = getattr(config.model, "activation", None), config.model.kind
    built = config.model.model_dump_json(), str(model.vocab_size), config.runtime.dtype
    if is_own_activation(activation):
        named = str(activation)
        _once("model.activation", named, (), lambda: check_activation(named))
    if is_own_family(kind):
        _once("model.kind", kind, built, lambda: check_family(kind, model))
    init = config.init.model_dump_json()
    if is_own_family(kind):
        _once("model.kind", kind, (*built, init), lambda: _check_suits(config, model))
    if is_own_scheme(config.init.scheme):
        scheme = config.init.scheme
        _once("init.scheme", scheme, (*built, init), lambda: _check_scheme(config, model))
    if is_own_optimizer(config.optim):
        optim = (*built, config.optim.model_dump_json())
        shapes = _shapes(model)
        _once("optim.kind", config.optim.kind, optim, lambda: check_direction(config.optim, shapes))


def _once(field: str, named: str, settings: tuple[str, ...], check: Callable[[], None]) -> None:
    """Check what a setting names, once for each setting of what it is used with."""
    key = field, named, *settings
    if key not in _passed:
        with calling(field, named):
            check()
        _passed.add(key)


def _check_scheme(config: Config, model: CharModel) -> None:
    name, depth = config.init.scheme, getattr(model, "n_layer", 0)
    scheme, shapes = scheme_for(config), _shapes(model)
    check_cover(scheme, name, shapes, model.roles)
    check_draws(name, scheme, shapes, model.roles, depth, model.vocab_size)


def _check_suits(config: Config, model: CharModel) -> None:
    scheme, shapes = scheme_for(config), _shapes(model)
    check_cover(scheme, config.init.scheme, shapes, model.roles)
    check_suits(config, scheme, model, shapes)


def _shapes(model: CharModel) -> Any:
    tokens_BT = jnp.zeros((1, model.lookback + 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
