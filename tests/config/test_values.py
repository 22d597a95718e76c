"""Values of settings in messages: as the user writes them."""

import math
import tomllib
from typing import Any

import pytest

from charjax.config import FAMILIES, describe_conflicts, parse_config
from charjax.config.errors import fields_of
from charjax.config.sections import SECTIONS
from charjax.config.values import format_value, toml_text, value_text
from charjax.tracking.tracker import settings

SHOWN: dict[str, tuple[Any, str]] = {
    "a list": ((2, 4), "[2, 4]"),
    "a list of words": (("a.txt", "b c.txt"), '["a.txt", "b c.txt"]'),
    "an empty list": ((), "[]"),
    "a list of JSON": ([2, 4], "[2, 4]"),
    "a truth": (True, "true"),
    "a word": ("gru", '"gru"'),
    "quotes": ('a"b', '"a\\"b"'),
    "a number": (1e-05, "1e-05"),
    "infinity": (math.inf, "inf"),
    "nothing": (None, "unset"),
    "a table": ({"data": 1, "fsdp": 2}, "{data = 1, fsdp = 2}"),
}


@pytest.mark.parametrize("case", SHOWN)
def test_a_value_is_shown_as_the_user_writes_it(case: str) -> None:
    value, text = SHOWN[case]
    assert format_value(value) == text
    if value is not None:
        read = tomllib.loads(f"value = {text}")["value"]
        assert read == (list(value) if isinstance(value, tuple) else value)
    assert value_text(value) == (value if isinstance(value, str) else text)


def test_a_long_value_is_cut_in_a_message_alone() -> None:
    value = tuple(range(100))
    assert format_value(value) == toml_text(value)[:57] + "..."
    assert value_text(value) == toml_text(value)


def lists_of_settings() -> list[tuple[str, str]]:
    """Return (family, section.key) of every setting that may be a list."""
    found = [("gru", "data.path"), ("gru", "data.val_path")]
    for section in SECTIONS:
        for kind in FAMILIES if section == "model" else ("gru",):
            fields = fields_of(section, kind)
            keys = [key for key, field in fields.items() if isinstance(field.default, tuple)]
            found += [(kind, f"{section}.{key}") for key in keys]
    return found


@pytest.mark.parametrize(("kind", "name"), lists_of_settings())
def test_no_list_is_shown_as_a_tuple(kind: str, name: str) -> None:
    section, key = name.split(".")
    is_path, first = section == "data", {"model": {"kind": kind}}
    value: list[Any] = ["a.txt", "b.txt"] if is_path else [0, 7] if key == "prune" else [3, 7]
    if key == "boundaries":
        first["optim"] = {"schedule": "step", "boundaries": [5]}
    if key == "val_path":
        first["data"] = {"path": "c.txt"}
    second = {**first, section: {**first.get(section, {}), key: value}}
    old, new = parse_config(first), parse_config(second)
    if not is_path:
        shown = toml_text(tuple(value))
        conflict, _, _ = describe_conflicts(old, new, completed=1).partition("; ")
        assert not conflict or conflict.endswith(f" and is {shown}")
        assert "(" not in conflict
    assert settings(new)[name] == toml_text(tuple(value))
