"""The section [optim]: the optimiser, its schedule, and averages of the parameters."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from charjax.config.fields import Count, OrOwn, Period, Rate, Section
from charjax.config.optimizers import REFUSED, with_defaults

OptimKind = Literal[
    "adamw", "sgd", "rmsprop", "adabelief", "adadelta", "adafactor", "adagrad", "adamax", "adan",
    "ademamix", "adopt", "amsgrad", "fromage", "lamb", "lars", "lion", "muon", "nadamw", "novograd",
    "radam", "schedule_free_adamw", "signum", "sm3", "yogi",
]  # fmt: skip
Schedule = Literal["constant", "cosine", "wsd", "step", "exponential"]


class OptimConfig(Section):
    """The optimiser and its schedule."""

    kind: Annotated[OptimKind, OrOwn("optim.kind")] = Field("adamw", description="the optimiser")
    learning_rate: float = Field(1e-3, gt=0, description="the highest learning rate")
    schedule: Schedule = Field("constant", description="the learning rate after the warm-up")
    warmup_steps: Period = Field(0, description="steps of linear warm-up")
    decay_steps: Count | None = Field(
        None,
        description="cosine, wsd: the last step; exponential: steps per factor; unset: train.steps",
    )
    min_learning_rate: float = Field(0.0, ge=0, description="cosine, wsd, exponential: the floor")
    decay_fraction: float = Field(
        0.2, gt=0, le=1, description="wsd: part of decay_steps in which the rate falls"
    )
    tail: Literal["linear", "1-sqrt", "cosine"] = Field(
        "linear", description="wsd: the form of its fall"
    )
    boundaries: tuple[Count, ...] = Field(
        (), description="step: where the rate is multiplied; exponential: where the decay begins"
    )
    factor: float = Field(0.1, gt=0, le=1, description="step, exponential: the multiplier")
    staircase: bool = Field(False, description="exponential: whole powers of the factor only")
    weight_decay: float = Field(0.0, ge=0, description="decoupled decay, on matrices only")
    cautious_decay: bool = Field(
        False, description="decay only numbers that the step moves towards 0 too"
    )
    beta1: Rate = Field(0.9, description="decay of the first moment")
    beta2: Rate = Field(0.999, description="decay of the second moment")
    beta3: Rate = Field(0.99, description="adan: decay of the squares; ademamix: of its slow mean")
    alpha: float = Field(5.0, ge=0, description="ademamix: weight of its slow mean")
    eps: float = Field(1e-8, gt=0, description="added to the denominator")
    rms_decay: Rate = Field(0.95, description="rmsprop, adadelta: decay of the mean square")
    momentum: Rate = Field(
        0.0, description="decay of the mean gradient, of optimisers without betas"
    )
    trust_coefficient: float = Field(1e-3, gt=0, description="lars: step over the parameter's norm")
    adam_learning_rate: float | None = Field(
        None, gt=0, description="muon: the rate of what AdamW trains; unset: learning_rate"
    )
    consistent_rms: float | None = Field(
        None, gt=0, description="muon: root mean square of a step, as optax; unset: by the shape"
    )
    l2: float = Field(0.0, ge=0, description="penalty l2 * mean(W**2), summed over the matrices")
    grad_clip: float = Field(1.0, ge=0, description="largest global norm of a gradient; 0 is off")
    clip_value: float = Field(
        0.0, ge=0, description="largest size of a gradient's element, before grad_clip; 0 is off"
    )
    accumulate_steps: Count = Field(
        1, description="micro-batches of train.batch_size that make one step"
    )
    ema: Rate = Field(
        0.0, description="decay of the moving average of the parameters; 0: none is kept"
    )

    @property
    def keeps_ema(self) -> bool:
        """True if a moving average of the parameters is kept."""
        return self.ema > 0 and self.kind != "schedule_free_adamw"

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, section: Any) -> Any:
        """Fill in the optimiser's own defaults."""
        return with_defaults(section)

    @field_validator("kind", mode="before")
    @classmethod
    def _refuse(cls, kind: Any) -> Any:
        """Give the reason where an optimiser of optax's is not offered."""
        if isinstance(kind, str) and kind in REFUSED:
            raise ValueError(f"optim.kind: {json.dumps(kind)} given; {REFUSED[kind]}")
        return kind

    @model_validator(mode="after")
    def _check_beta(self) -> "OptimConfig":
        if self.kind == "schedule_free_adamw" and self.beta1 == 0:
            raise ValueError(
                "optim.beta1: 0.0 given; schedule_free_adamw divides by it: give more than 0, or "
                'optim.kind = "adamw"'
            )
        return self


# Settings that are younger than the first runs.
YOUNGER = (
    *("decay_fraction", "tail", "cautious_decay", "beta3", "alpha", "trust_coefficient"),
    *("adam_learning_rate", "consistent_rms", "ema"),
)
