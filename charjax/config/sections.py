"""The sections of a configuration: every setting with its type, bounds, default and meaning.

`charjax.config` reads them from files and overrides, and is what other modules import.
"""

import hashlib
import json
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from charjax.config.data import DataConfig
from charjax.config.families import FAMILIES, ModelConfig, TransformerConfig
from charjax.config.family import FamilyConfig
from charjax.config.fields import Count, Period, Rate, Section, Width
from charjax.config.mesh import MeshConfig
from charjax.config.optim import YOUNGER as _YOUNGER_OPTIM
from charjax.config.optim import OptimConfig
from charjax.config.values import format_value, toml_text
from charjax.errors import UserError


class InitConfig(Section):
    """The initialisation of the parameters."""

    scheme: str = Field("default", description="the initialisation scheme")
    std: float | None = Field(None, gt=0, description="normal: standard deviation")
    scale: float | None = Field(None, gt=0, description="uniform: half the width of the interval")
    gain: float | None = Field(
        None,
        gt=0,
        description="multiplies every kernel but the readout, once drawn (he_*: instead of the "
        "activation's gain, tanh 5/3, relu and gelu sqrt(2)); unset: as the scheme draws them",
    )
    sigma_w: float | None = Field(
        None,
        gt=0,
        description="critical: weights N(0, sigma_w^2 / n); unset: tanh's critical value",
    )
    sigma_b: float | None = Field(
        None, ge=0, description="critical: biases N(0, sigma_b^2); unset: sqrt(0.05)"
    )
    epsilon: float | None = Field(
        None, gt=0, description="layerscale: initial gains; unset: by depth, as in the paper"
    )
    forget_bias: float | None = Field(
        None, description="forget_bias: the bias of the forget gate; unset: 1"
    )
    longest_delay: int | None = Field(
        None, ge=3, le=2**31 - 2, description="chrono: steps to remember; unset: the context"
    )
    base_width: Width | None = Field(
        None,
        description="mup, mup_zero_query, depth_mup, completep, spectral: the width to which the "
        "learning rate refers; unset: 128",
    )
    base_depth: int | None = Field(
        None,
        ge=1,
        le=512,
        description="depth_mup, completep: likewise the number of blocks; unset: 4",
    )
    meta_steps: int | None = Field(
        None, ge=1, le=100_000, description="metainit: steps of its descent; unset: 500"
    )


class TrainConfig(Section):
    """Length of the run, size of a batch, and reports meanwhile."""

    steps: Count = Field(2000, description="optimiser steps")
    epochs: float | None = Field(
        None,
        gt=0,
        le=10**9,
        description="length in passes over the training split, instead of train.steps",
    )
    batch_size: Count = Field(16, description="windows in a batch")
    seed: int = Field(0, ge=0, lt=2**32, description="the one seed of the run")
    log_every: Count = Field(100, description="steps between lines of metrics.jsonl")
    sample_every: Period = Field(0, description="steps between samples; 0: only at the end")
    patience: Period = Field(
        0,
        description="evaluations without a better validation loss after which the run ends; 0: "
        "never",
    )
    max_skipped: Count = Field(
        100, description="non-finite steps in a row after which the run stops"
    )
    label_smoothing: Rate = Field(
        0.0, description="part of the target's probability spread over all symbols, in training"
    )
    z_loss: float = Field(
        0.0, ge=0, description="weight of logsumexp(logits)^2 in what is trained, as in PaLM"
    )


class EvalConfig(Section):
    """The measurement of the validation loss."""

    every: Period = Field(1000, description="steps between evaluations; 0: only at the end")
    protocol: Literal["exact", "random"] = Field(
        "exact", description="the whole split, each target once; or nanoGPT's random batches"
    )
    batches: Count = Field(200, description="random: batches averaged")
    batch_size: Count = Field(
        64, description="windows in an evaluation batch; fewer where there are many symbols"
    )
    max_targets: Count | None = Field(
        None,
        description="exact: targets scored at most, in windows spread evenly over the split; "
        "unset: every one",
    )
    streams: int = Field(
        1,
        ge=1,
        le=65_536,
        description="exact, families that carry a state: parts of the split read in parallel",
    )
    warmup: Period = Field(
        256,
        description="likewise: characters read before each of these parts, or windows of "
        "eval.max_targets, without being scored",
    )


class CheckpointConfig(Section):
    """The checkpoints that are saved."""

    every: Period = Field(500, description="steps between checkpoints; 0: only at the end")
    keep: Count = Field(2, description="newest checkpoints kept, beside the best one")


class LogConfig(Section):
    """Other places that metrics and samples are written to, beside the run's own files."""

    tensorboard: bool = Field(False, description="write event files to tensorboard/ in the run")
    wandb: bool = Field(False, description="write a run of Weights & Biases")
    wandb_project: str | None = Field(
        None, min_length=1, description="its project; unset: $WANDB_PROJECT or charjax"
    )


class RuntimeConfig(Section):
    """The device and the precision."""

    device: Literal["auto", "cpu", "gpu", "tpu"] = Field("auto", description="the kind of device")
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="dtype of the compute; auto: bfloat16 where it is faster (a CPU is measured)",
    )
    deterministic: bool = Field(False, description="gpu: the same bits on every run, slower")
    prng: Literal["threefry", "rbg", "auto"] = Field(
        "threefry",
        description="generator of the dropout masks (parameters and batches are threefry's); "
        "auto: rbg on a TPU, threefry elsewhere",
    )
    mesh: MeshConfig = Field(
        MeshConfig(),
        description="devices that share a batch (data x fsdp), and the parameters (fsdp); -1: rest",
    )


class OrOwnFamily:
    """Beside the sections of charjax's families, one of the user's own that has been validated."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Extend the schema of the union."""

        def check(value: Any, known: Callable[[Any], Any]) -> Any:
            is_family = isinstance(value, FamilyConfig) and type(value) not in FAMILIES.values()
            return value if is_family else known(value)

        def dump(value: FamilyConfig, info: core_schema.SerializationInfo) -> dict[str, Any]:
            return value.model_dump(mode=info.mode, exclude_none=info.exclude_none)

        return core_schema.no_info_wrap_validator_function(
            check,
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(dump, info_arg=True),
        )


class Config(Section):
    """Everything a run depends on."""

    data: DataConfig = Field(default_factory=DataConfig)
    model: Annotated[ModelConfig, OrOwnFamily()] = Field(default_factory=TransformerConfig)
    init: InitConfig = Field(default_factory=InitConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    def __init__(self, **sections: Any) -> None:
        """Make a configuration of sections, or of dictionaries of their settings.

        Raises:
          UserError: a setting is unknown or invalid.
        """
        # The sections are frozen, and have tuples.
        frozen = {
            name: {key: tuple(v) if isinstance(v, list) else v for key, v in section.items()}
            if isinstance(section, dict)
            else section
            for name, section in sections.items()
        }
        try:
            super().__init__(**frozen)
        except ValidationError as error:
            from charjax.config.errors import explain

            raise UserError(explain(error)) from None

    @model_validator(mode="after")
    def _resolve(self) -> "Config":
        """Fill in what depends on other sections (decay_steps, context_length of streams)."""
        # With train.epochs the steps are known once the text is: see `with_steps`.
        if self.optim.decay_steps is None and self.train.epochs is None:
            object.__setattr__(
                self, "optim", self.optim.model_copy(update={"decay_steps": self.train.steps})
            )
        from_lines = self.data.layout == "lines" and not self.model.window_is_shape
        if self.model.context_length is None and not from_lines:
            length = self.model.default_context
            object.__setattr__(
                self, "model", self.model.model_copy(update={"context_length": length})
            )
        self._check_schedule()
        if self.optim.kind == "muon" and not self._has_hidden_matrices():
            raise ValueError(
                'optim.kind: "muon" given; it trains hidden matrices, and this model has none '
                f"(model.kind={self.model.kind}): use another optimiser, or another model"
            )
        if getattr(self.model, "blank", False) and self.data.documents != "lines":
            raise ValueError(
                "model.blank: true given, but the text is not a list of lines; what stands before "
                'a line is known by its boundary: use data.layout = "lines", or model.blank = false'
            )
        norm = getattr(self.model, "norm", "none")
        if norm == "batch" and self.data.layout != "pairs":
            raise ValueError(
                f'model.norm: "batch" given with data.layout = "{self.data.layout}"; statistics '
                'over positions see the future and the padding: use data.layout = "pairs"'
            )
        return self

    def _has_hidden_matrices(self) -> bool:
        return self.model.has_hidden_kernels and getattr(self.model, "hidden", (1,)) != ()

    def _check_schedule(self) -> None:
        optim = self.optim
        if optim.schedule == "step" and not optim.boundaries:
            raise ValueError(
                "optim.boundaries: none given; the step schedule needs the steps at which the "
                "rate is multiplied, as in optim.boundaries = [100000]"
            )
        if optim.schedule == "exponential" and len(optim.boundaries) > 1:
            raise ValueError(
                f"optim.boundaries: {format_value(optim.boundaries)} given; the exponential "
                "schedule has one at most, the step at which the decay begins"
            )
        if optim.schedule in ("cosine", "wsd", "exponential") and (
            optim.min_learning_rate > optim.learning_rate
        ):
            raise ValueError(
                f"optim.min_learning_rate: {optim.min_learning_rate} given; must be at most "
                f"optim.learning_rate ({optim.learning_rate})"
            )

    def with_steps(self, steps: int) -> "Config":
        """Return the configuration with the steps that train.epochs comes to.

        The schedule follows them, unless optim.decay_steps is given.
        """
        train = self.train.model_copy(update={"steps": steps})
        decay_steps = steps if self.optim.decay_steps is None else self.optim.decay_steps
        optim = self.optim.model_copy(update={"decay_steps": decay_steps})
        return self.model_copy(update={"train": train, "optim": optim})

    def to_toml(self, comments: bool = False) -> str:
        """Return the resolved configuration as TOML; with comments, one per field."""
        lines: list[str] = []
        for name in Config.model_fields:
            section = getattr(self, name)
            lines.append(f"[{name}]")
            for key, field in ordered_fields(type(section)):
                value = getattr(section, key)
                if (name, key) == ("optim", "decay_steps") and self._follows_epochs():
                    value = None
                if value is not None:
                    line = f"{key} = {toml_text(value)}"
                elif comments:
                    line = f"# {key} is unset"
                else:
                    continue
                lines.append(f"{line:<31} # {field.description}" if comments else line)
            lines.append("")
        return "\n".join(lines)

    def _follows_epochs(self) -> bool:
        """Return true if the schedule follows train.epochs, as it is to do in another text, too."""
        return self.train.epochs is not None and self.optim.decay_steps == self.train.steps

    def digest(self) -> str:
        """SHA-256 over the resolved configuration.

        A setting that is younger than the first runs counts only where it is not at its default,
        so that their digests stay what they were.
        """
        tree = self.model_dump()
        for section, key in _YOUNGER:
            field = type(getattr(self, section)).model_fields.get(key)
            if (key, self.model.kind) in _OLDER:
                continue
            if field is not None and getattr(getattr(self, section), key) == field.default:
                del tree[section][key]
        tree = {section: values for section, values in tree.items() if values}
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


_YOUNGER: tuple[tuple[str, str], ...] = (
    ("data", "byte_order_mark"),
    ("data", "strip_lines"),
    ("data", "val_path"),
    ("data", "vocab_size"),
    ("data", "device_bytes"),
    ("train", "patience"),
    ("train", "epochs"),
    *(("eval", key) for key in ("max_targets", "streams", "warmup")),
    *(("log", key) for key in LogConfig.model_fields),
    ("model", "residual"),
    ("model", "scale_embeddings"),
    ("model", "blank"),
    ("model", "prune"),
    ("model", "activation"),
    *(("model", key) for key in ("norm", "qk_norm", "n_kv_head", "window")),
    ("model", "attn_softcap"),
    ("model", "final_softcap"),
    *(("model", key) for key in ("d_ff", "rotary_base", "norm_epsilon", "attention_scale")),
    *(("model", key) for key in ("remat", "scan_layers")),
    *(("model", key) for key in ("counts", "count_folds", "count_auxiliary")),
    *(("model", key) for key in ("count_words", "count_temperature")),
    ("optim", "clip_value"),
    ("train", "label_smoothing"),
    ("train", "z_loss"),
    ("runtime", "prng"),
    ("runtime", "mesh"),
    *(("optim", key) for key in _YOUNGER_OPTIM),
    *(("init", key) for key in InitConfig.model_fields if key not in ("scheme", "std", "scale")),
)


# Settings of [model] that are as old as the first runs in these families.
_OLDER = (("norm", "mlp"), ("norm", "wavenet"))


def ordered_fields(section: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """Return the fields of a section: `kind` first, then as declared."""
    return sorted(section.model_fields.items(), key=lambda item: item[0] != "kind")


# Every class that a section may be.
SECTIONS: dict[str, tuple[type[Section], ...]] = {
    name: tuple(FAMILIES.values()) if name == "model" else (typing.cast(Any, field.annotation),)
    for name, field in Config.model_fields.items()
}
