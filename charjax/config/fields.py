"""Section, the base of every group of settings, and the bounds that several of them share."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from charjax.extensions import is_reference
from charjax.extensions.loading import installed_names


class Section(BaseModel):
    """A frozen group of settings; unknown keys and silent type conversions are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )


# Whole numbers stay below 2**31, which is how they are counted on the device.
MOST_STEPS = 2**31 - 2
Count = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Period = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Width = Annotated[int, Field(ge=1, le=1_000_000)]
Order = Annotated[int, Field(ge=2, le=32)]
Rate = Annotated[float, Field(ge=0, lt=1)]


@dataclasses.dataclass(frozen=True)
class OrOwn:
    """Beside the words of a choice, code of the user's own: a file's or an installed package's.

    Attributes:
      field: the setting, one of `charjax.extensions.FIELDS`.
    """

    field: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Extend the schema of the choice."""

        def check(value: Any, known: Callable[[Any], Any]) -> Any:
            if is_reference(value):
                return value
            try:
                return known(value)
            except ValidationError:
                if isinstance(value, str) and value in installed_names(self.field):
                    return value
                raise

        return core_schema.no_info_wrap_validator_function(
            check, handler(source), serialization=core_schema.simple_ser_schema("any")
        )
