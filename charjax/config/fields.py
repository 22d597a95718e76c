"""Section, the base of every group of settings, and the bounds that several of them share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


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
Rate = Annotated[float, Field(ge=0, lt=1)]
