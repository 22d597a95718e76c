"""A scheme: for each role of a parameter its draw, its learning rate and its multiplier.

With theta the parameter that is trained and saved, m its multiplier, f its learning-rate factor, d
its decay factor and u the optimiser's direction (of AdamW with e times its epsilon), the model is
applied to m * theta, and a step is theta - rate * (f * u + d * weight_decay * theta). The decay is
not scaled by f: in the package `mup` of Yang et al. 2022 (arXiv:2203.03466) it grows as the rate
shrinks with the width. A scheme in which the decay follows the rate sets d.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from charjax.config import OptimConfig
from charjax.config.families import families_where
from charjax.errors import UserError
from charjax.init.draws import ONE, ZERO, Demanding, Draw, after, factorises
from charjax.init.site import Site, find_sites
from charjax.models.roles import MATRIX_ROLES, Role, Roles


class Factor(Protocol):
    """A number for a parameter, by where it stands."""

    def __call__(self, site: Site) -> float:
        """Return the factor."""
        ...


def unit(site: Site) -> float:
    """Return 1."""
    return 1.0


@dataclasses.dataclass(frozen=True)
class Rule:
    """The treatment of the parameters of a role.

    Attributes:
      draw: their distribution.
      learning_rate: factor of the direction of their step.
      multiplier: factor of the parameters before the model is applied.
      epsilon: factor of AdamW's epsilon.
      decay: factor of their weight decay; with AdamW only.
    """

    draw: Draw
    learning_rate: Factor = unit
    multiplier: Factor = unit
    epsilon: Factor = unit
    decay: Factor = unit


class Drawn(NamedTuple):
    """Three pytrees of one structure: arrays, and two of float32 scalars."""

    params: Any
    learning_rates: Any
    multipliers: Any


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The draws and factors of all kinds of parameters.

    Attributes:
      source: the paper or program it is taken from.
      rules: the rule of each role; a model with a role that is not here cannot use the scheme.
      readout_bias: the rule of the readout's bias, where it differs from other biases.
      needs: settings that the scheme works with, by "section.key": the values that are allowed.
      trait: the attribute of `charjax.config.FamilyConfig` that a family has; None: any family.
      changes_function: the settings of the model in `needs` and `sets` change its function, and
        the scheme is made for that function alone.
      sets: settings that go with the scheme where the configuration does not give them, by
        "section.key"; they are in `charjax.config.IMPLIED`, too.
      about: roles without which the scheme would do nothing.
      reads_text: whether it draws by the frequencies of the training text's symbols.
      rules_of: from [model] to the rules, where these depend on its settings; `rules` then covers
        the same roles.
      rates: by optim.kind, from [optim] to the learning-rate factor of every parameter, where it is
        not that of the rules.
      gain: factor of every kernel but the readout once it is drawn; it may be traced, so that one
        program draws many gains.
      adjust: (model, variables, inputs (B, S), outputs) -> parameters: a change of the drawn
        parameters by a batch; None: no change.
    """

    source: str
    rules: Mapping[Role, Rule]
    readout_bias: Rule | None = None
    needs: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    trait: str | None = None
    changes_function: bool = False
    sets: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    about: tuple[Role, ...] = ()
    reads_text: bool = False
    adjust: Callable[[Any, Any, Array, int], Any] | None = None
    rules_of: Callable[[Any], Mapping[Role, Rule]] | None = None
    rates: Mapping[str, Callable[[OptimConfig], Factor]] = dataclasses.field(default_factory=dict)
    gain: float | Array | None = None

    @property
    def requirements(self) -> dict[str, tuple[Any, ...]]:
        """The allowed values of `needs`, and the families that have the trait."""
        if self.trait is None:
            return dict(self.needs)
        return {"model.kind": families_where(**{self.trait: True}), **self.needs}

    def with_rates_of(self, optim: OptimConfig) -> "Scheme":
        """Return the scheme with the learning-rate factors of the optimiser."""
        if optim.kind not in self.rates:
            return self
        factor = self.rates[optim.kind](optim)
        rules = {
            role: dataclasses.replace(rule, learning_rate=factor)
            for role, rule in self.rules.items()
        }
        return dataclasses.replace(self, rules=rules)

    @property
    def scaled(self) -> bool:
        """True if there is a learning-rate factor or a multiplier."""
        return any((rule.learning_rate, rule.multiplier) != (unit, unit) for rule in self._all)

    @property
    def scales_adam(self) -> bool:
        """True if there is a factor of AdamW's epsilon or of the weight decay."""
        return any((rule.epsilon, rule.decay) != (unit, unit) for rule in self._all)

    @property
    def _all(self) -> list[Rule]:
        return [*self.rules.values(), *([self.readout_bias] if self.readout_bias else [])]

    @property
    def reads_data(self) -> bool:
        """True if the scheme needs the training text to draw."""
        return self.reads_text or self.adjust is not None

    def rule_of(self, site: Site) -> Rule:
        """Return the one rule that covers a parameter.

        Raises:
          UserError: none does.
        """
        if self.readout_bias is not None and site.beside is Role.READOUT:
            return self.readout_bias
        if site.parameter.role not in self.rules:
            raise _not_covered(site.path, site.parameter.role)
        return self.rules[site.parameter.role]


def rules_for(
    kernels: Draw, biases: Draw = ZERO, *, without: tuple[Role, ...] = (), **special: Draw
) -> dict[Role, Rule]:
    """Build rules: a draw for every weight, one for every bias, gains 1, `special` by role."""
    draws: dict[Role, Draw] = dict.fromkeys(Role, kernels)
    draws |= {Role.BIAS: biases, Role.GATE_BIAS: biases, Role.GAIN: ONE, Role.RESIDUAL_GAIN: ONE}
    draws |= {Role[name.upper()]: draw for name, draw in special.items()}
    return {role: Rule(draw) for role, draw in draws.items() if role not in without}


def initialise(
    scheme: Scheme,
    shapes: Any,
    roles: Roles,
    key: Array,
    depth: int,
    log_unigram_V: Array | None = None,
) -> Drawn:
    """Draw every parameter of a tree, and find its factors.

    Args:
      scheme: the scheme.
      shapes: the parameters as a nested dictionary of anything with a `.shape`.
      roles: (regular expression over a path, its role), as a model declares them.
      key: a typed key; each path has its own stream, so that a parameter's draw depends on
        neither the order nor the number of the others.
      depth: residual blocks of the model.
      log_unigram_V: (V,) log frequencies, for a scheme that reads the text.

    Raises:
      ValueError: a parameter that is not covered by exactly one entry of `roles`.
      UserError: a parameter that the scheme has no rule for.
    """
    sites = find_sites(shapes, roles, depth, log_unigram_V)
    rules = [scheme.rule_of(site) for site in sites]
    drawn = _draw([rule.draw for rule in rules], sites, key)
    if scheme.gain is not None:
        drawn = [
            scheme.gain * x if site.parameter.role in MATRIX_ROLES else x
            for x, site in zip(drawn, sites, strict=True)
        ]
    params = jax.tree.unflatten(jax.tree.structure(shapes), drawn)
    return Drawn(params, *find_factors(scheme, shapes, roles, depth))


def _draw(draws: list[Draw], sites: list[Site], key: Array) -> list[Array]:
    """Draw all parameters; those that differ in their paths alone, as from block to block, at once.

    The bits are those of separate draws. A program that draws them one by one has
    thousands of operations for a deep model, and takes longer to load than the step's.
    """
    alike: dict[Any, list[int]] = {}
    for index, (draw, site) in enumerate(zip(draws, sites, strict=True)):
        # An array cannot be compared here; but all sites of a model have the same.
        place = dataclasses.replace(site, path="", log_unigram_V=None)
        alike.setdefault((draw, place), []).append(index)
    drawn: dict[int, Array] = {}
    key_in_turn = key
    for (draw, _), indices in alike.items():
        site = sites[indices[0]]
        from_key = key_in_turn if factorises(draw) else key
        names = [zlib.crc32(sites[index].path.encode()) for index in indices]
        if len(indices) == 1:
            drawn[indices[0]] = draw(jax.random.fold_in(from_key, names[0]), site)
        else:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(from_key, jnp.asarray(names, jnp.uint32))
            stacked = jax.vmap(functools.partial(draw, site=site))(keys)
            drawn |= {index: stacked[i] for i, index in enumerate(indices)}
        if factorises(draw):
            key_in_turn = after(key_in_turn, drawn[indices[0]])
    return [drawn[index] for index in range(len(sites))]


def find_factors(scheme: Scheme, shapes: Any, roles: Roles, depth: int) -> tuple[Any, Any]:
    """Return learning-rate factors and multipliers; arguments and errors as of `initialise`."""
    return _factors(scheme, shapes, roles, depth, "learning_rate", "multiplier")


def find_adam_factors(scheme: Scheme, shapes: Any, roles: Roles, depth: int) -> tuple[Any, Any]:
    """Return factors of AdamW's epsilon and of the decay; arguments as of `initialise`."""
    return _factors(scheme, shapes, roles, depth, "epsilon", "decay")


def _factors(
    scheme: Scheme, shapes: Any, roles: Roles, depth: int, first: str, second: str
) -> tuple[Any, Any]:
    """Evaluate two factors of the rules, each to a pytree of float32 scalars."""
    sites = find_sites(shapes, roles, depth)
    rules = [scheme.rule_of(site) for site in sites]
    tree = jax.tree.structure(shapes)

    def build(name: str) -> Any:
        values = [getattr(rule, name)(site) for rule, site in zip(rules, sites, strict=True)]
        return jax.tree.unflatten(tree, [jnp.float32(x) for x in values])

    return build(first), build(second)


def check_cover(scheme: Scheme, name: str, shapes: Any, roles: Roles) -> None:
    """Raise a UserError unless a scheme suits every parameter, and has something to do."""
    sites = find_sites(shapes, roles, 0)
    for site in sites:
        if site.parameter.role not in scheme.rules:
            raise _not_covered(site.path, site.parameter.role, name)
        draw = scheme.rule_of(site).draw
        if isinstance(draw, Demanding):
            draw.check_site(site)
    missing = [str(role) for role in scheme.about if all(s.parameter.role != role for s in sites)]
    if scheme.reads_text and all(site.beside is not Role.READOUT for site in sites):
        missing.append("bias of the readout")
    if missing:
        hint = ""
        if "readout" in missing[0]:
            hint = (
                " (a transformer has a readout, without a bias, where model.tie_embeddings=false)"
            )
        raise UserError(
            f"init.scheme: {name!r} given; it is about the {missing[0]}, and no parameter of this "
            f"model is one{hint}: choose another scheme or model"
        )


def _not_covered(path: str, role: Role, name: str | None = None) -> UserError:
    prefix = f"{name!r} given; " if name else ""
    return UserError(
        f"init.scheme: {prefix}it has no rule for {path!r} (role: {role}); choose another scheme, "
        "or a model without this parameter"
    )
