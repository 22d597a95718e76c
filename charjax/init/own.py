"""Schemes of the user's own: a function from the section [init] to a Scheme, or a Scheme itself."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from charjax.config import InitConfig
from charjax.errors import UserError
from charjax.extensions import calling, check_callable, find_object
from charjax.init.scheme import Drawn, Rule, Scheme, initialise
from charjax.models.roles import Role, Roles

_FORM = "scheme(init)"


class ReadSettings:
    """A section of a configuration that keeps count of the settings read."""

    def __init__(self, section: Any):
        self._section = section
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            self.read.add(name)
        return getattr(self._section, name)


def own_scheme(init: InitConfig) -> tuple[Scheme, tuple[str, ...]] | None:
    """Build the user's scheme that [init] names.

    Returns:
      The scheme, and the numbers of [init] that it read; None if no file or package has it.

    Raises:
      UserError: the file was not named by the user, fails, or gives no Scheme.
    """
    name = init.scheme
    found = find_object("init.scheme", name)
    if found is None:
        return None
    if isinstance(found, Scheme):
        return _checked(name, found), ()
    settings = ReadSettings(init)
    scheme = check_callable("init.scheme", name, found, 1, _FORM)
    with calling("init.scheme", name):
        made = scheme(settings)
    numbers = set(InitConfig.model_fields) - {"scheme", "gain"}
    return _checked(name, made), tuple(sorted(settings.read & numbers))


def _checked(name: str, scheme: Any) -> Scheme:
    if not isinstance(scheme, Scheme):
        raise UserError(
            f"init.scheme: {name!r} gives a {type(scheme).__name__}; it must give a "
            "charjax.init.Scheme, as in Scheme('mine', rules_for(Normal(0.02)))"
        )
    if not isinstance(scheme.rules, Mapping):
        raise UserError(
            f"init.scheme: {name!r} gives rules that are a {type(scheme.rules).__name__}; they are "
            "a dictionary of rules by Role, as rules_for(Normal(0.02)) makes it"
        )
    rules = [*scheme.rules.items(), *([("readout_bias", b)] if (b := scheme.readout_bias) else [])]
    for role, rule in rules:
        if not (isinstance(role, Role) or role == "readout_bias"):
            raise UserError(
                f"init.scheme: {name!r} has a rule for {role!r}; rules are by Role: "
                f"{', '.join(each.name for each in Role)}"
            )
        if not isinstance(rule, Rule):
            raise UserError(
                f"init.scheme: the rule of {name!r} for {role} is a {type(rule).__name__}; it must "
                "be a Rule, as in Rule(Normal(0.02))"
            )
        for part in ("draw", "learning_rate", "multiplier", "epsilon", "decay"):
            if not callable(getattr(rule, part)):
                raise UserError(
                    f"init.scheme: {part} of the rule of {name!r} for {role} is a "
                    f"{type(getattr(rule, part)).__name__}; a draw is called with (key, site), a "
                    "factor with (site)"
                )
    return scheme


def check_draws(
    name: str, scheme: Scheme, shapes: Any, roles: Roles, depth: int, size: int
) -> None:
    """Draw the parameters once by a user's scheme.

    Args:
      name: of the scheme.
      scheme: the scheme.
      shapes: the parameters as a nested dictionary of anything with a `.shape`.
      roles: of the model.
      depth: residual blocks of the model.
      size: symbols of the text.

    Raises:
      UserError: a draw has another shape or dtype than its parameter, is not finite or not a
        function of its key, or a factor is not a finite number.
    """
    log_V = jnp.full(size, -np.log(size), jnp.float32)

    def draw() -> Drawn:
        compiled = jax.jit(lambda key: initialise(scheme, shapes, roles, key, depth, log_V))
        return compiled(jax.random.key(0))

    drawn, again = draw(), draw()
    wanted = jax.tree_util.tree_flatten_with_path(shapes)[0]
    leaves = jax.tree.leaves(drawn.params), jax.tree.leaves(again.params)
    for (path, shape), array, second in zip(wanted, *leaves, strict=True):
        where = "/".join(str(getattr(part, "key", part)) for part in path)
        if (array.shape, array.dtype) != (shape.shape, jnp.float32):
            raise UserError(
                f"init.scheme: {name!r} draws {array.dtype}{list(array.shape)} for {where!r}, "
                f"which is float32{list(shape.shape)}; a draw returns an array of site.shape, "
                "float32"
            )
        if not np.array_equal(array, second, equal_nan=True):
            raise UserError(
                f"init.scheme: {name!r} draws other numbers for {where!r} with the same key; draw "
                "with jax.random and the key that is given"
            )
        if not bool(jnp.isfinite(array).all()):
            raise UserError(
                f"init.scheme: {name!r} draws numbers that are not finite for {where!r}"
            )
    for what, tree in (("learning-rate factor", drawn.learning_rates),
                       ("multiplier", drawn.multipliers)):  # fmt: skip
        if not all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(tree)):
            raise UserError(f"init.scheme: {name!r} has a {what} that is not finite")
