"""Axes that are given by a setting's name: `--axis optim.beta2=0.9,0.95,0.99`."""

from collections.abc import Callable, Sequence
from typing import Any

from charjax.config import Config, load_config, parse_config
from charjax.config.errors import fields_of, unknown_key
from charjax.config.optimizers import KINDS
from charjax.config.reads import Unread, why_unread
from charjax.config.settings import setting_of, split_override
from charjax.config.values import value_text
from charjax.errors import UserError
from charjax.initlab.sweeps.axes import Axes

# Numbers that a program can take as data, with the same bits as if they were part of it.
_TRACED = {"adamw": ("optim.weight_decay", "optim.eps"), "sgd": ("optim.momentum",)}
# Axes that have a flag of their own.
_FLAGS = {
    "init.scheme": "--scheme",
    "init.gain": "--gain",
    "optim.learning_rate": "--lr",
    "train.seed": "--seeds",
    "train.steps": "--steps",
    "train.epochs": "--steps",
    "model.kind": "--arch",
}
_OWN = "a sweep measures at steps and on windows of its own"
_REFUSED = {
    "data": "all runs of a sweep share one text",
    "eval": _OWN,
    "checkpoint": "a sweep keeps no checkpoints of its runs",
    "log": _OWN,
    "runtime": "all runs of a sweep share one machine",
    **dict.fromkeys(
        ("train.log_every", "train.sample_every", "train.patience", "train.max_skipped"), _OWN
    ),
}
_ALLOWED = ("data.sampling", "runtime.dtype")


def check_names(
    axes: Sequence[tuple[str, tuple[str, ...]]],
    kind: Any,
    sizes: dict[str, str],
    overrides: Sequence[str],
) -> None:
    """Raise a UserError for a setting that is unknown, has a flag, or cannot be an axis.

    Args:
      axes: of `split_axis`.
      kind: the family.
      sizes: the family's settings of depth and width, and their flags.
      overrides: the `section.key=value` words of the command line.
    """
    overridden = {word.partition("=")[0].strip() for word in overrides}
    seen: set[str] = set()
    for name, texts in axes:
        section, _, key = name.partition(".")
        split_override(f"{name}={texts[0]}")
        if setting_of(name) != name:
            raise UserError(f"--axis: {name} given; give the values of {setting_of(name)} itself")
        if key not in fields_of(section, kind):
            raise UserError(unknown_key(name, kind, texts[0]))
        if flag := (_FLAGS | sizes).get(name):
            raise UserError(
                f"--axis: {name} given; its values are given as {flag} {','.join(texts)}"
            )
        reason = _REFUSED.get(name, _REFUSED.get(section))
        if reason and name not in _ALLOWED:
            raise UserError(f"--axis: {name} given; {reason}: give one value, as {name}={texts[0]}")
        if name in seen:
            raise UserError(f"--axis: {name} given twice; give all its values once, as a,b,c")
        if name in overridden:
            raise UserError(
                f"{name}: given as a setting and as --axis; add its value to the axis, or leave "
                "one out"
            )
        seen.add(name)


def read_values(
    source: Any, overrides: Sequence[str], axes: Sequence[tuple[str, tuple[str, ...]]]
) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Return the axes with the values that the configuration gives their texts.

    Raises:
      UserError: a value that its setting does not have, or the same value twice.
    """
    first = [f"{name}={texts[0]}" for name, texts in axes]
    found = []
    for name, texts in axes:
        section, _, key = name.partition(".")
        values: list[Any] = []
        for text in texts:
            words = [*overrides, *first, f"{name}={text}"]
            config = load_config(source, words, unread=lambda config, name: None)
            value = getattr(getattr(config, section), key)
            if value in values:
                raise UserError(
                    f"--axis: {name} has the value {value_text(value)} twice; give each value once"
                )
            values.append(value)
        found.append((name, tuple(values)))
    return tuple(found)


def with_settings(config: Config, settings: dict[str, Any]) -> Config:
    """Return the configuration with other values of settings, by `section.key`, validated.

    With another optimiser, settings at the defaults of the earlier one take its own.

    Raises:
      UserError: they do not go together.
    """
    if not settings:
        return config
    tree = config.model_dump(mode="json")
    if settings.get("optim.kind", config.optim.kind) != config.optim.kind:
        tree["optim"] = without_defaults(tree["optim"])
    for name, value in settings.items():
        section, _, key = name.partition(".")
        tree[section][key] = value
    return parse_config(tree)


def without_defaults(optim: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of [optim] without those that are the optimiser's own defaults."""
    kind = KINDS.get(optim["kind"])
    defaults = {} if kind is None else kind.settings
    return {
        key: value for key, value in optim.items() if key not in defaults or value != defaults[key]
    }


def without_axes(tree: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a dumped configuration without the settings that axes give."""
    tree = {section: dict(values) for section, values in tree.items()}
    if "optim.kind" in names:
        tree["optim"] = without_defaults(tree["optim"])
    for name in names:
        section, _, key = name.partition(".")
        tree[section].pop(key, None)
    return tree


def is_traced(config: Config, name: str) -> bool:
    """Return whether runs that differ in a setting share a program.

    A weight decay or a momentum of 0 is a program of its own.
    """
    section, _, key = name.partition(".")
    return name in _TRACED.get(config.optim.kind, ()) and getattr(getattr(config, section), key) > 0


def check_read(base: Config, axes: Axes) -> None:
    """Raise a UserError for an axis that some run does not read: its runs would be the same."""
    for values in axes.combinations:
        config = with_settings(base, dict(zip(axes.names, values, strict=True)))
        for scheme in axes.schemes:
            init = config.init.model_copy(update={"scheme": scheme})
            each = config.model_copy(update={"init": init})
            for name in axes.names:
                if reason := why_unread(each, name):
                    raise UserError(
                        f"--axis: {name} given; {reason.clause}: leave the axis out, or vary "
                        f"{reason.choices[0]} in a sweep of its own"
                    )


def read_by_some(
    combinations: Sequence[dict[str, Any]], unread: Callable[[Config, str], Unread | None]
) -> Callable[[Config, str], Unread | None]:
    """Return the reason why no combination reads a setting, where `unread` is that of one."""

    def of_all(config: Config, name: str) -> Unread | None:
        reason = unread(config, name)
        if reason is None or len(combinations) < 2:
            return reason
        others = (with_settings(config, settings) for settings in combinations)
        return None if any(unread(other, name) is None for other in others) else reason

    return of_all
