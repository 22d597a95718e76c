"""Describe every setting, for --help."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from charjax.config.errors import choices, type_name
from charjax.config.fields import Section
from charjax.config.sections import FAMILIES, SECTIONS
from charjax.config.settings import DEFAULT_KIND
from charjax.config.values import toml_text


def describe_fields() -> Iterator[tuple[str, list[tuple[str, str, str, str]]]]:
    """Yield the settings in groups: a heading, then rows (section.key, type, default, meaning)."""
    for name, group in SECTIONS.items():
        if name == "model":
            kinds = f"the family ({', '.join(FAMILIES)})"
            yield "model: The network.", [("model.kind", "choice", DEFAULT_KIND, kinds)]
        for section in group:
            fields = section.model_fields.copy()
            kind = fields.pop("kind").default if name == "model" else ""
            rows = [
                (f"{name}.{key}", type_name(field), _default(field.default), _meaning(field))
                for key, field in fields.items()
            ]
            heading = f"{name}.kind={kind}" if kind else name
            yield f"{heading}: {section.__doc__}", rows


def _default(default: Any) -> str:
    if default is None:
        return "unset"
    if isinstance(default, Section):
        return toml_text(default)
    return default if isinstance(default, str) else json.dumps(default)


def _meaning(field: FieldInfo) -> str:
    options = choices(field)
    listed = f" ({', '.join(options)})" if len(options) > 1 else ""
    return f"{field.description}{listed}"
