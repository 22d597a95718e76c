"""One-line error messages: the field, the value given, the values allowed, the remedy."""

import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from charjax.config.families import FAMILIES
from charjax.config.fields import OrOwn, Section
from charjax.config.own_families import find_family
from charjax.config.peers import SHORT_FLAGS, advise
from charjax.config.sections import SECTIONS, ordered_fields
from charjax.config.values import format_value, toml_text
from charjax.errors import did_you_mean


def explain(error: ValidationError, within: tuple[str, ...] = ()) -> str:
    """Return the message of the first error of a validation.

    Args:
      error: of a whole configuration, or of one section.
      within: the section's place in the configuration: its name, of [model] also the family.
    """
    first = error.errors(include_url=False)[0]
    if first["type"] == "value_error":  # raised by a section, with its message
        return first["msg"].removeprefix("Value error, ")
    place: list[str | int] = [*within, *first["loc"]]
    section, *rest = place
    if not rest:
        return _explain_section(str(section), first["input"])
    kind = str(rest.pop(0)) if section == "model" else None
    key, *inside = rest
    fields = fields_of(str(section), kind)
    if group := group_of(fields.get(str(key))):
        return _explain_group(f"{section}.{key}", group, inside, first)
    # Of a field of several types, pydantic names the type that it tried.
    inside = [index for index in inside if isinstance(index, int)]
    name = f"{section}.{key}{''.join(f'[{index}]' for index in inside)}"
    if key not in fields:
        return unknown_key(name, kind, first["input"])
    value, field = first["input"], fields[str(key)]
    allowed = _allowed(field, bool(inside))
    if first["type"] in ("finite_number", "float_type") and type(value) in (int, float):
        allowed = allowed.replace("a number", "a finite number")
    hint = did_you_mean(value, choices(field))
    return f"{name}: {format_value(value)} given; must be {allowed}{hint}"


def _explain_group(
    name: str, group: type[Section], inside: list[str | int], error: Mapping[str, Any]
) -> str:
    """Return the message for a setting that is a table of numbers, such as runtime.mesh."""
    if not inside:
        example = toml_text(group())
        return f"{name}: {format_value(error['input'])} given; must be a table such as {example}"
    part = str(inside[0])
    if part not in group.model_fields:
        return unknown_part(name, part, group)
    allowed = _allowed(group.model_fields[part], False)
    return f"{name}.{part}: {format_value(error['input'])} given; must be {allowed}"


def unknown_part(name: str, part: str, group: type[Section]) -> str:
    """Return the error message for an unknown key of a setting that is a table."""
    known = list(group.model_fields)
    return f"{name}.{part}: unknown key; {name} has: {', '.join(known)}{did_you_mean(part, known)}"


def _explain_section(section: str, value: Any) -> str:
    """Return the message for an unknown section, for another value in place of one, or a family."""
    if section not in SECTIONS:
        return unknown_key(section, value=value)
    if section == "model" and isinstance(value, dict):
        kind = value.get("kind")
        return (
            f"model.kind: {format_value(kind)} given; must be one of {', '.join(FAMILIES)}"
            f"{did_you_mean(kind, FAMILIES)}"
        )
    return f"{section}: {format_value(value)} given; it is a section: give a dict of its settings"


def unknown_key(name: str, kind: str | None = None, value: Any = None) -> str:
    """Return the error message for an unknown `section.key`, with the keys that exist.

    Args:
      name: the name given; without a dot, a key at the top of a file.
      kind: the model's family, if known.
      value: the value given, for the example.
    """
    section, dot, key = name.partition(".")
    text = None if value is None or isinstance(value, dict) else format_value(value)
    advice = advise(key if dot else name, text)
    if section not in SECTIONS:
        return _unknown_section(name, text, advice)
    here = list(fields_of(section, kind))
    owners = [owner for owner, family in FAMILIES.items() if key in family.model_fields]
    if section == "model" and kind and owners:
        hint = f"; {', '.join(owners)} has it: model.kind={owners[0]}"
    elif short := [known for known in here if _initials(known) == key]:
        hint = f"; did you mean {section}.{short[0]}?"
    elif advice:
        hint = f"; {advice}"
    elif name_here := full_name(key):
        hint = f"; did you mean {name_here}?"
    else:
        hint = did_you_mean(name, [f"{section}.{key}" for key in here]) or did_you_mean(
            name, _all_names()
        )
    where = f"model.kind = {kind}" if section == "model" and kind else f"[{section}]"
    return f"{name}: unknown key; {where} has: {', '.join(here)}{hint}"


def unknown_flag(flag: str, value: str | None) -> str | None:
    """Return the error message for a setting, charjax's or a peer's, that was written as a flag.

    Args:
      flag: with its dashes; nanoGPT and minGPT write `--batch_size=32`, `--model.n_layer=10`,
        makemore `--batch-size 32` or `-b 32`, char-rnn `-batch_size 32`.
      value: the value given with it, as text.

    Returns:
      The message; None for a flag that is neither.
    """
    name = flag.lstrip("-").replace("-", "_")
    section, _, key = SHORT_FLAGS.get(name, name).rpartition(".")
    setting = f"{section}.{key}" if section in SECTIONS and key in fields_of(section) else None
    advice = None if setting else advise(key, value)
    if advice is None and (setting := setting or full_name(key)):
        written = f"{setting}={value or '...'}"
        advice = f"settings have no dashes: section.key=value, as in {written}"
    return f"{flag}: {value or 'nothing'} given; {advice}" if advice else None


def _unknown_section(name: str, value: str | None, advice: str | None) -> str:
    section, dot, key = name.partition(".")
    setting = full_name(key if dot else name)
    if not dot and (advice or setting):
        return f"{name}: {value or 'nothing'} given; {advice or f'did you mean {setting}?'}"
    hint = f"; {advice}" if advice else did_you_mean(section, SECTIONS)
    if not advice and setting and not any(key in fields_of(s) for s in SECTIONS if s in hint):
        hint = f"; did you mean {setting}?"
    return (
        f"{name}: {format_value(section)} is not a section; sections: {', '.join(SECTIONS)}{hint}"
    )


def full_name(key: str) -> str | None:
    """Return `section.key` for a key, of the first section that has it; None for an unknown key."""
    return next((f"{name}.{key}" for name in SECTIONS if key in fields_of(name)), None)


def _initials(key: str) -> str:
    return "".join(word[0] for word in key.split("_"))


def _all_names() -> list[str]:
    return [f"{section}.{key}" for section in SECTIONS for key in fields_of(section)]


def fields_of(section: str, kind: Any = None) -> dict[str, FieldInfo]:
    """Return the fields of a section; of [model], those of one family, or of all without a kind."""
    family = find_family(kind) if section == "model" else None
    group = (family,) if family else SECTIONS[section]
    return {key: field for known in group for key, field in ordered_fields(known)}


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the allowed words of a field, or () if it is not a choice of words."""
    kind, _ = _type(field)
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def type_name(field: FieldInfo) -> str:
    """Return the type of a field in one word."""
    kind, _ = _type(field)
    if choices(field):
        return "choice"
    if group_of(field):
        return "table"
    if typing.get_origin(kind) is tuple:
        return "[int]"
    return "text" if kind is str else kind.__name__


def group_of(field: FieldInfo | None) -> type[Section] | None:
    """Return the class of a field that is a table of settings, such as runtime.mesh; else None."""
    kind = field and field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def is_text(field: FieldInfo) -> bool:
    """Return True if a field holds text, so that overrides need no quotes."""
    return bool(choices(field)) or _type(field)[0] is str


def _allowed(field: FieldInfo, element: bool) -> str:
    """Describe the allowed values of a field, or of an element of its list."""
    kind, bounds = _type(field)
    if options := choices(field):
        is_open = any(isinstance(part, OrOwn) for part in field.metadata)
        return f"one of {', '.join(options)}{', or your own as FILE.py:NAME' if is_open else ''}"
    if typing.get_origin(kind) is tuple:
        inner, bounds = _unwrap(typing.get_args(kind)[0])
        if element:
            return _NOUNS[inner] + _bounds(bounds)
        return f"a list such as [200], each {_NOUNS[inner]}{_bounds(bounds)}"
    return _NOUNS[kind] + _bounds(bounds)


_NOUNS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
}


def _bounds(metadata: list[Any]) -> str:
    found = {
        word: getattr(part, name)
        for part in metadata
        for name, word in _BOUNDS.items()
        if getattr(part, name, None) is not None
    }
    if "of at least" in found and "at most" in found:
        return f" from {found['of at least']} to {found['at most']}"
    if "longer" in found:
        return " that is not empty"
    return " " + " and ".join(f"{word} {bound}" for word, bound in found.items()) if found else ""


_BOUNDS = {
    "ge": "of at least",
    "gt": "greater than",
    "le": "at most",
    "lt": "less than",
    "min_length": "longer",
}


def _type(field: FieldInfo) -> tuple[Any, list[Any]]:
    kind, bounds = _unwrap(field.annotation)
    return kind, [*bounds, *field.metadata]


def _unwrap(annotation: Any) -> tuple[Any, list[Any]]:
    """Return a type without None, and the bounds annotated with it."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    if typing.get_origin(annotation) is Annotated:
        annotation, *beside = typing.get_args(annotation)
        return annotation, [part for info in beside for part in info.metadata]
    return annotation, []
