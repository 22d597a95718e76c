"""The registry: every scheme that `init.scheme` can name, and the numbers of [init] it reads.

To add a scheme, write a function from the section [init] to a Scheme in one of the modules
imported here (`classic` for any family, `identity`, `residual`, `memory` for recurrent networks,
`widths` and `unit_scaling` for learning rates that do not move with the size), and enter it in
SCHEMES. A new number of [init] is a field of InitConfig in `charjax.config.sections`.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from charjax.config import Config, InitConfig
from charjax.config.own_families import is_own as is_own_family
from charjax.config.values import format_value, value_text
from charjax.errors import UserError, did_you_mean
from charjax.extensions import is_reference
from charjax.extensions.loading import installed_names
from charjax.init import classic, identity, memory, residual, unit_scaling, widths
from charjax.init.own import own_scheme
from charjax.init.scheme import Scheme
from charjax.models.own import is_own


class Entry(NamedTuple):
    """A function that builds a scheme from [init], and the numbers of [init] that it reads."""

    build: Callable[[InitConfig], Scheme]
    numbers: tuple[str, ...] = ()


SCHEMES: dict[str, Entry] = {
    "default": Entry(classic.default),
    "pytorch": Entry(classic.pytorch),
    "zeros": Entry(classic.zeros),
    "normal": Entry(classic.normal, ("std",)),
    "uniform": Entry(classic.uniform, ("scale",)),
    "lecun_normal": Entry(classic.lecun_normal),
    "lecun_uniform": Entry(classic.lecun_uniform),
    "glorot_normal": Entry(classic.glorot_normal),
    "glorot_uniform": Entry(classic.glorot_uniform),
    "he_normal": Entry(classic.he_normal),
    "he_uniform": Entry(classic.he_uniform),
    "orthogonal": Entry(classic.orthogonal),
    "critical": Entry(classic.critical, ("sigma_w", "sigma_b")),
    "identity": Entry(identity.identity),
    "idinit": Entry(identity.idinit),
    "delta_orthogonal": Entry(identity.delta_orthogonal),
    "lsuv": Entry(classic.lsuv),
    "metainit": Entry(classic.metainit, ("meta_steps",)),
    "small_readout": Entry(classic.small_readout),
    "zero_readout": Entry(classic.zero_readout),
    "unigram_readout": Entry(classic.unigram_readout),
    "naive": Entry(classic.naive),
    "naive_readout": Entry(classic.naive_readout),
    "naive_hidden": Entry(classic.naive_hidden),
    "kaiming_tanh": Entry(classic.kaiming_tanh),
    "lecun_readout": Entry(classic.lecun_readout),
    "gpt2": Entry(residual.gpt2),
    "small_init": Entry(residual.small_init),
    "tfixup": Entry(residual.tfixup),
    "deepnorm": Entry(residual.deepnorm),
    "rezero": Entry(residual.rezero),
    "fixup": Entry(residual.fixup),
    "zero_output": Entry(residual.zero_output),
    "layerscale": Entry(residual.layerscale, ("epsilon",)),
    "irnn": Entry(memory.irnn),
    "forget_bias": Entry(memory.forget_bias, ("forget_bias",)),
    "chrono": Entry(memory.chrono, ("longest_delay",)),
    "mup": Entry(widths.mup, ("base_width",)),
    "mup_zero_query": Entry(widths.mup_zero_query, ("base_width",)),
    "umup": Entry(unit_scaling.umup),
    "depth_mup": Entry(widths.depth_mup, ("base_width", "base_depth")),
    "completep": Entry(widths.completep, ("base_width", "base_depth")),
    "spectral": Entry(widths.spectral, ("base_width",)),
}


def scheme_names() -> list[str]:
    """Return the schemes that `init.scheme` can name."""
    return list(SCHEMES)


def scheme_numbers(name: str) -> tuple[str, ...]:
    """Return the numbers of [init] that a scheme reads.

    Raises:
      UserError: no such scheme.
    """
    if is_own_scheme(name):
        built = own_scheme(InitConfig(scheme=name))
        assert built is not None
        return ("gain", *built[1])
    return ("gain", *_entry(name).numbers)


def is_own_scheme(name: str) -> bool:
    """Return True for a scheme of the user's own, in a file or an installed package."""
    return name not in SCHEMES and (is_reference(name) or name in installed_names("init.scheme"))


def find_scheme(init: InitConfig) -> Scheme:
    """Build the scheme that the section [init] names.

    Raises:
      UserError: no such scheme, or a number that it does not read.
    """
    built = own_scheme(init) if is_own_scheme(init.scheme) else None
    read = built[1] if built else _entry(init.scheme).numbers
    for number in InitConfig.model_fields:
        value = getattr(init, number)
        if number in ("scheme", "gain") or value is None or number in read:
            continue
        owners = [f'"{name}"' for name, other in SCHEMES.items() if number in other.numbers]
        if built:
            raise UserError(
                f"init.{number}: {format_value(value)} given; {init.scheme!r} does not read it "
                "when it is called: leave it out"
            )
        raise UserError(
            f"init.{number}: {format_value(value)} given; only init.scheme = {' or '.join(owners)} "
            "reads it: leave it out"
        )
    scheme = built[0] if built else _entry(init.scheme).build(init)
    if init.gain is None:
        return scheme
    if scheme.adjust is not None:
        raise UserError(
            f"init.gain: {init.gain} given; init.scheme = {init.scheme!r} finds the size of every "
            "kernel itself, and would undo it: leave it out"
        )
    return dataclasses.replace(scheme, gain=init.gain)


def _entry(name: str) -> Entry:
    if name not in SCHEMES:
        hint = did_you_mean(name, SCHEMES)
        raise UserError(
            f"init.scheme: {name!r} given; allowed: {', '.join(SCHEMES)}, or your own as "
            f"FILE.py:NAME{hint}"
        )
    return SCHEMES[name]


def scheme_for(config: Config) -> Scheme:
    """Build the scheme of a whole config, whose settings must be those that the scheme needs.

    Raises:
      UserError: as find_scheme, and for a setting that the scheme does not work with.
    """
    init = config.init
    if init.scheme == "chrono" and init.longest_delay is None:
        # Shorter than 3 there is nothing to draw from.
        length = max(3, config.model.context_length or 64)
        init = init.model_copy(update={"longest_delay": length})
    activation = getattr(config.model, "activation", "tanh")
    if init.scheme == "critical" and init.sigma_w is None and is_own(activation):
        sigma_w = classic.critical_sigma_w(init.sigma_b, activation)
        init = init.model_copy(update={"sigma_w": sigma_w})
    scheme = find_scheme(init)
    for name, allowed in scheme.requirements.items():
        if name == "model.kind" and is_own_family(config.model.kind):
            # By its roles: charjax.init.own_families.
            continue
        section, _, key = name.partition(".")
        value = getattr(getattr(config, section), key, None)
        if value is not None and value not in allowed:
            words = " or ".join(map(value_text, allowed))
            raise UserError(
                f"init.scheme: {init.scheme!r} given with {name}={value_text(value)}; it needs "
                f"{name}={words}: set that, or choose another scheme"
            )
    if scheme.rules_of is not None:
        scheme = dataclasses.replace(scheme, rules=scheme.rules_of(config.model))
    return scheme.with_rates_of(config.optim)
