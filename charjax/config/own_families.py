"""Model families of the user's own: their section [model].

A family is a subclass of `charjax.models.CharModel`. Its section is its attribute `section`, a
subclass of FamilyConfig, or else is made of its fields: `d_embed: int = 32` is the setting
model.d_embed.
"""

import dataclasses
from typing import Any, get_type_hints

from pydantic import ConfigDict, Field, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError

from charjax.config.families import FAMILIES
from charjax.config.family import FamilyConfig
from charjax.errors import UserError
from charjax.extensions import calling, find_object

_FIELD = "model.kind"
# Fields of every flax module, and those of CharModel, which no setting sets.
_NOT_SETTINGS = ("vocab_size", "dtype", "parent", "name", "context_length")
_DEPTHS = ("n_layer",)
_WIDTHS = ("d_model", "d_hidden", "d_embed")
_sections: dict[Any, type[FamilyConfig]] = {}


class UnnamedFamily(FamilyConfig):
    """The settings of a family whose file the user has not named: they can be shown, not used."""

    model_config = ConfigDict(extra="allow")

    kind: str = Field(description="the model family")


def find_family(kind: Any) -> type[FamilyConfig] | None:
    """Return the section of a family, of charjax's or the user's own; None if there is none.

    Raises:
      UserError: the family's file was not named, fails, or holds no such family.
    """
    if not isinstance(kind, str):
        return None
    if kind in FAMILIES:
        return FAMILIES[kind]
    found = find_object(_FIELD, kind)
    if found is None:
        return None
    if found not in _sections:
        with calling(_FIELD, kind):
            _sections[found] = _make_section(kind, found)
        _sections[found].carries = getattr(found, "memory", None) == "carried"
    return _sections[found]


def is_own(kind: Any) -> bool:
    """Return True for a family of the user's own."""
    return isinstance(kind, str) and kind not in FAMILIES


def _make_section(kind: str, found: Any) -> type[FamilyConfig]:
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        raise UserError(
            f"{_FIELD}: {kind!r} is of type {type(found).__name__}; it must be a class: a subclass "
            "of charjax.models.CharModel"
        )
    section = getattr(found, "section", None)
    if section is None:
        return _section_of_fields(kind, found)
    if not isinstance(section, type) or not issubclass(section, FamilyConfig):
        raise UserError(
            f"{_FIELD}: the attribute `section` of {kind!r} must be a subclass of "
            "charjax.config.FamilyConfig; leave it out to have one made of the family's fields"
        )
    unset = [name for name, field in section.model_fields.items() if field.is_required()]
    unset = [name for name in unset if name != "kind"]
    if unset:
        raise _no_default(kind, unset[0])
    about = Field(default=kind, description="the model family")
    return create_model(section.__name__, __base__=section, kind=(str, about))


def _section_of_fields(kind: str, found: Any) -> type[FamilyConfig]:
    hints = get_type_hints(found)
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(found):
        name = field.name
        if name in _NOT_SETTINGS or not field.init:
            continue
        if name == "kind" or hasattr(FamilyConfig, name):
            raise UserError(
                f"{_FIELD}: {kind!r} has the setting {name!r}, a name that sections of charjax use "
                "themselves: rename it"
            )
        if field.default is dataclasses.MISSING:
            raise _no_default(kind, name)
        settings[name] = (hints[name], Field(default=field.default, description="of this family"))
    settings["kind"] = (str, Field(default=kind, description="the model family"))
    depths = [name for name in _DEPTHS if name in settings]
    widths = [name for name in _WIDTHS if name in settings]
    try:
        section = create_model(found.__name__, __base__=FamilyConfig, **settings)
        section.model_construct().model_dump_json()
    except (PydanticUserError, PydanticSerializationError, NameError, TypeError) as error:
        raise UserError(
            f"{_FIELD}: {kind!r}: its fields cannot be settings: {str(error).splitlines()[0]}; "
            "settings are int, float, bool, str, Literal or tuples of them"
        ) from None
    section.__doc__ = found.__doc__ or found.__name__
    section.depth_field = depths[0] if depths else None
    section.width_field = widths[0] if widths else None
    return section


def _no_default(kind: str, name: str) -> UserError:
    return UserError(
        f"{_FIELD}: the setting {name!r} of {kind!r} has no default; every setting needs one, as "
        f"in {name}: int = 32"
    )
