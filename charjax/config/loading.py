"""Load a configuration: read a TOML file and overrides, validate them, reject unread settings."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from charjax.config.errors import explain
from charjax.config.families import FAMILIES
from charjax.config.family import FamilyConfig
from charjax.config.own_families import UnnamedFamily, find_family, is_own
from charjax.config.reads import Unread, why_unread
from charjax.config.sections import (
    Config,
)
from charjax.config.settings import (
    Tree,
    bind_own,
    check_sections,
    get_setting,
    model_kind,
    read_user_settings,
    setting_of,
    split_override,
)
from charjax.config.values import format_value
from charjax.errors import UserError, did_you_mean
from charjax.extensions import is_named

# Settings of a transformer implied by a scheme unless given; equal to the scheme's `sets`.
IMPLIED: dict[str, dict[str, Any]] = {
    "tfixup": {"scale_embeddings": True},
    "fixup": {"scale_embeddings": True},
    "mup_zero_query": {"attention_scale": "inverse"},
    "umup": {"attention_scale": "inverse"},
}


def load_config(
    source: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    saved: bool = False,
    note: Callable[[str], None] = lambda text: None,
    unread: Callable[[Config, str], Unread | None] = why_unread,
) -> Config:
    """Read a TOML file (a path, or a bare name in `configs/`), then apply the overrides.

    A setting that nothing reads must be at its default. A value of the file that an override
    leaves unread is reset to the default with one note; any other is an error.

    Args:
      source: the file; None for the default run.
      overrides: `section.key=value` words, in any order; of one key, the last counts.
      saved: the file is a run's resolved config.toml. There optim.decay_steps has a value even if
        it followed train.steps; if so, it follows an overridden train.steps too. Values that
        nothing reads, saved by older versions, are kept. The scheme implies no settings.
      note: called with each line to report to the user.
      unread: return the reason why nothing reads a setting, or None.

    Raises:
      UserError: unknown key, wrong type, value out of bounds, a setting that nothing reads, or a
        missing or malformed file.
    """
    user = read_user_settings(source, overrides, saved=saved)
    config = parse_config(user.tree, saved=saved)
    causes, reset = ["model.kind"] * bool(user.dropped), dict(user.dropped)
    remaining: Tree = {section: dict(values) for section, values in user.tree.items()}
    # Repeat until nothing changes: resetting one setting can leave others unread.
    while unread_here := list(_unread_values(config, remaining, unread)):
        before = len(reset), sum(map(len, remaining.values()))
        for section, key, value, reason in unread_here:
            name = f"{section}.{key}"
            chosen = [c for c in reason.choices if c in user.words or c.startswith("--")]
            is_default = value == _default(user.file, section, key)
            if name in user.words or not (chosen or is_default or saved):
                raise UserError(_unread_error(name, value, reason))
            if chosen and not is_default:
                causes.append(chosen[0])
                reset[name] = value
            if chosen or is_default:
                del remaining[section][key]
        if before == (len(reset), sum(map(len, remaining.values()))):
            break
        config = parse_config(remaining, saved=saved)
    if reset:
        words = [f"{name}={text}" for name, text in user.words.items() if name in causes]
        words += [flag for flag in dict.fromkeys(causes) if flag not in user.words]
        listed = ", ".join(f"{name} = {format_value(value)}" for name, value in reset.items())
        note(f"with {', '.join(words)} nothing reads these settings of {source}: {listed}")
    return config


def refuse_unread(config: Config, tree: Tree, overrides: Sequence[str]) -> None:
    """Raise a UserError for an override, other than the default, that nothing reads.

    Args:
      config: the resolved configuration.
      tree: the settings from which it was resolved.
      overrides: `section.key=value` words.
    """
    is_family = is_own(config.model.kind)
    names = {setting_of(split_override(word, own_family=is_family)[0]) for word in overrides}
    for section, key, value, reason in _unread_values(config, tree, why_unread):
        if f"{section}.{key}" in names:
            raise UserError(_unread_error(f"{section}.{key}", value, reason))


def _unread_values(
    config: Config, tree: Tree, unread: Callable[[Config, str], Unread | None]
) -> Iterator[tuple[str, str, Any, Unread]]:
    """Yield the settings of a tree that nothing reads and that are not at their defaults."""
    for section, values in tree.items():
        for key in values:
            value = getattr(getattr(config, section), key)
            reason = unread(config, f"{section}.{key}")
            if reason is not None and value != _default(tree, section, key):
                yield section, key, value, reason


def _unread_error(name: str, value: Any, reason: Unread) -> str:
    return f"{name}: {format_value(value)} given; {reason.clause}: change that, or leave {name} out"


def _default(tree: Tree, section: str, key: str) -> Any:
    """Return the value of a setting without its entry in the tree; None if the rest is invalid."""
    if key not in tree.get(section, {}):
        rest = tree
    else:
        rest = tree | {section: {k: v for k, v in tree[section].items() if k != key}}
    try:
        return getattr(getattr(parse_config(rest), section), key, None)
    except UserError:
        return None


def parse_config(tree: dict[str, Any], *, saved: bool = False) -> Config:
    """Validate a nested dictionary.

    Args:
      tree: settings by section.
      saved: the settings are a saved run's; its scheme implies no others.

    Raises:
      UserError: a setting is unknown or invalid.
    """
    check_sections(tree)
    tree = {section: dict(values) for section, values in tree.items()}
    bind_own(tree, saved=saved)
    model = tree.get("model", {})
    kind = model_kind(tree)
    family = _family(kind, saved=saved)
    if not saved:
        implied = IMPLIED.get(str(get_setting(tree, "init", "scheme")), {})
        fields = family.model_fields
        model = {key: value for key, value in implied.items() if key in fields} | model
    tree = _lists_to_tuples(tree | {"model": model | {"kind": kind}})
    if is_own(kind):
        tree |= {"model": _own_section(family, tree["model"])}
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(explain(error)) from None
    if saved and config.optim.decay_steps is None and "steps" in tree.get("train", {}):
        return config.with_steps(config.train.steps)
    return config


def _family(kind: Any, *, saved: bool) -> type[FamilyConfig]:
    """Return the section of a family; of a saved run's, which may be shown without its code, too.

    Raises:
      UserError: there is no such family.
    """
    try:
        family = find_family(kind)
    except UserError:
        if saved and not is_named(kind):
            return UnnamedFamily
        raise
    if family is not None:
        return family
    raise UserError(
        f"model.kind: {format_value(kind)} given; must be one of {', '.join(FAMILIES)}, or your "
        f"own as FILE.py:NAME{did_you_mean(kind, FAMILIES)}"
    )


def _own_section(family: type[FamilyConfig], settings: dict[str, Any]) -> FamilyConfig:
    """Validate the section of a family of the user's own.

    Raises:
      UserError: a setting is unknown or invalid.
    """
    try:
        return family.model_validate(settings)
    except ValidationError as error:
        raise UserError(explain(error, within=("model", settings["kind"]))) from None


def _lists_to_tuples(tree: dict[str, Any]) -> dict[str, Any]:
    """Convert TOML's lists to the tuples of the frozen sections."""
    return {
        name: {key: tuple(v) if isinstance(v, list) else v for key, v in section.items()}
        for name, section in tree.items()
    }
