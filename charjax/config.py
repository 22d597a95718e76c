"""Configuration: frozen, validated sections read from TOML and `section.key=value` overrides.

Importing this module must stay cheap (no JAX): `--help` and every config error go through it.
"""

import difflib
import hashlib
import json
import tomllib
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from charjax.errors import UserError


class Section(BaseModel):
    """A frozen group of settings; unknown keys and silent type conversions are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )


Corpus = Literal["stdlib", "shakespeare", "names", "warpeace"]
Split = Literal["tail", "shuffled_lines", "interleaved"]
Layout = Literal["stream", "lines", "pairs"]


class DataConfig(Section):
    """Which text, how it is split, and how it is laid out in batches."""

    name: Corpus = Field("stdlib", description="a corpus that is found, cached or downloaded")
    path: str | None = Field(None, description="a text file of your own; overrides data.name")
    tokenizer: Literal["char", "byte"] = Field("char", description="what one token is")
    split: Split | None = Field(
        None, description="how train, val and test are cut; unset: the corpus's own"
    )
    val_fraction: float = Field(
        0.1, ge=0, lt=0.5, description="part held out (shuffled_lines: also the test part's size)"
    )
    layout: Layout | None = Field(
        None, description="windows of one text, one document a line, or (context, target) pairs"
    )
    sampling: Literal["random", "epoch", "contiguous"] = Field(
        "random", description="with replacement; each window once an epoch; rows read in order"
    )
    rows: int = Field(100, ge=1, description="interleaved: rows the text is folded into")
    chunk: int = Field(100, ge=1, description="interleaved: characters a chunk of a row")

    @model_validator(mode="after")
    def _resolve(self) -> "DataConfig":
        """Fill in the corpus's own split and layout, and refuse the pairs that make no sense."""
        split, layout = self.split, self.layout
        own_split, own_layout = _CORPUS_DEFAULTS[None if self.path else self.name]
        if layout is None:
            layout = "lines" if split == "shuffled_lines" else own_layout
        if (
            layout == "lines"
            and split == "interleaved"
            or (layout == "lines" and self.sampling == "contiguous")
        ):
            raise ValueError(
                'data.layout: "lines" given; interleaved splits and contiguous sampling read one '
                'long text: use data.layout = "stream"'
            )
        if layout == "pairs" and self.sampling == "contiguous":
            raise ValueError(
                'data.sampling: "contiguous" given; pairs have no state to carry: use "random" or '
                '"epoch", or data.layout = "stream"'
            )
        if split is None:
            is_list = own_split == "shuffled_lines" and layout != "stream"
            split = "shuffled_lines" if layout == "lines" or is_list else own_split
            split = "tail" if split == "shuffled_lines" and layout == "stream" else split
        if split == "shuffled_lines" and layout == "stream":
            raise ValueError(
                'data.split: "shuffled_lines" given with data.layout = "stream"; shuffled lines '
                'are documents: use data.layout = "lines" or "pairs", or data.split = "tail"'
            )
        object.__setattr__(self, "split", split)
        object.__setattr__(self, "layout", layout)
        return self

    @property
    def documents(self) -> Literal["lines", "one"]:
        """Whether each line is a document of its own, or the text is one."""
        is_list = self.path is None and self.name == "names" and self.layout != "stream"
        lines = self.layout == "lines" or self.split == "shuffled_lines" or is_list
        return "lines" if lines else "one"


_CORPUS_DEFAULTS: dict[str | None, tuple[Split, Layout]] = {
    "stdlib": ("tail", "stream"),
    "shakespeare": ("tail", "stream"),
    "names": ("shuffled_lines", "lines"),
    "warpeace": ("interleaved", "stream"),
    None: ("tail", "stream"),
}

_Width = Annotated[int, Field(ge=1, le=1_000_000)]
_Rate = Annotated[float, Field(ge=0, lt=1)]


class _Family(Section):
    """What every model family shares."""

    context_length: int | None = Field(
        None, ge=1, description="characters seen at once; unset: the longest line (lines)"
    )


class NgramConfig(_Family):
    """Counts of n-grams, smoothed (Kneser and Ney 1995; Chen and Goodman 1999)."""

    kind: Literal["ngram"] = Field("ngram", description="the model family")
    order: int = Field(5, ge=1, le=32, description="n: a character given the n - 1 before it")
    smoothing: Literal["additive", "kneser_ney", "modified_kneser_ney"] = Field(
        "kneser_ney", description="add alpha; one discount an order; three discounts an order"
    )
    alpha: float = Field(1.0, gt=0, description="additive: the count added to every n-gram")


class BigramConfig(_Family):
    """A table of V x V logits."""

    kind: Literal["bigram"] = Field("bigram", description="the model family")


class BowConfig(_Family):
    """A causal average of embeddings."""

    kind: Literal["bow"] = Field("bow", description="the model family")
    d_embed: _Width = Field(64, description="width of an embedding")


class MLPConfig(_Family):
    """The feed-forward model of Bengio et al. 2003; context_length is its window."""

    kind: Literal["mlp"] = Field("mlp", description="the model family")
    d_embed: _Width = Field(10, description="width of an embedding")
    hidden: tuple[_Width, ...] = Field((200,), description="widths of the hidden layers")
    norm: Literal["none", "batch"] = Field("none", description="normalisation before each tanh")


class _RecurrentConfig(_Family):
    n_layer: int = Field(1, ge=1, le=64, description="layers, one upon the other")
    d_embed: _Width = Field(128, description="width of an embedding")
    d_hidden: _Width = Field(256, description="width of the hidden state")
    dropout: _Rate = Field(0.0, description="rate of dropout on every layer's output")


class RNNConfig(_RecurrentConfig):
    """The simple recurrent network of Elman 1990 (tanh)."""

    kind: Literal["rnn"] = Field("rnn", description="the model family")


class GRUConfig(_RecurrentConfig):
    """The gated recurrent unit of Cho et al. 2014, as PyTorch and cuDNN write it."""

    kind: Literal["gru"] = Field("gru", description="the model family")


class LSTMConfig(_RecurrentConfig):
    """The long short-term memory of Hochreiter and Schmidhuber 1997, with a forget gate."""

    kind: Literal["lstm"] = Field("lstm", description="the model family")


class TransformerConfig(_Family):
    """The decoder of GPT-2 (Radford et al. 2019): pre-norm, causal attention, GELU."""

    kind: Literal["transformer"] = Field("transformer", description="the model family")
    n_layer: int = Field(4, ge=1, le=512, description="blocks")
    n_head: int = Field(4, ge=1, le=1024, description="attention heads a block")
    d_model: _Width = Field(128, description="width of the residual stream")
    dropout: _Rate = Field(0.0, description="rate of dropout")
    bias: bool = Field(False, description="biases in the linear layers and the norms")
    tie_embeddings: bool = Field(True, description="the readout is the token embedding")
    positions: Literal["learned", "rotary"] = Field(
        "learned", description="a learned vector a position, or rotated queries and keys"
    )

    @model_validator(mode="after")
    def _check_heads(self) -> "TransformerConfig":
        if self.d_model % self.n_head:
            raise ValueError(
                f"model.d_model: {self.d_model} given; it must be a multiple of model.n_head "
                f"({self.n_head})"
            )
        if self.positions == "rotary" and (self.d_model // self.n_head) % 2:
            raise ValueError(
                f"model.d_model: {self.d_model} given; rotary positions need an even width a "
                f"head, and {self.d_model} / {self.n_head} is odd"
            )
        return self


ModelConfig = Annotated[
    NgramConfig
    | BigramConfig
    | BowConfig
    | MLPConfig
    | RNNConfig
    | GRUConfig
    | LSTMConfig
    | TransformerConfig,
    Field(discriminator="kind"),
]
FAMILIES: dict[str, type[_Family]] = {
    family.model_fields["kind"].default: family
    for family in typing.get_args(typing.get_args(ModelConfig)[0])
}
# Training windows where model.context_length is not given and the layout is not lines.
_DEFAULT_CONTEXT = {"ngram": 64, "bigram": 8, "mlp": 8}
_DEFAULT_CONTEXT_OTHERS = 128


class InitConfig(Section):
    """How parameters are drawn."""

    scheme: str = Field("default", description="the initialisation scheme")
    std: float | None = Field(None, gt=0, description="normal: standard deviation")
    scale: float | None = Field(None, gt=0, description="uniform: half the width of the interval")


class OptimConfig(Section):
    """The optimiser and its schedule."""

    kind: Literal["adamw", "sgd", "rmsprop"] = Field("adamw", description="the optimiser")
    learning_rate: float = Field(1e-3, gt=0, description="the highest learning rate")
    schedule: Literal["constant", "cosine", "step", "exponential"] = Field(
        "constant", description="how the learning rate moves after the warm-up"
    )
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up")
    decay_steps: int | None = Field(
        None, ge=1, description="cosine: where it ends; exponential: steps a factor (train.steps)"
    )
    min_learning_rate: float = Field(0.0, ge=0, description="cosine, exponential: the floor")
    boundaries: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="step: where the rate is multiplied; exponential: where the decay begins"
    )
    factor: float = Field(0.1, gt=0, le=1, description="step, exponential: the multiplier")
    staircase: bool = Field(False, description="exponential: whole powers of the factor only")
    weight_decay: float = Field(0.0, ge=0, description="decoupled decay, on matrices only")
    beta1: _Rate = Field(0.9, description="adamw: decay of the first moment")
    beta2: _Rate = Field(0.999, description="adamw: decay of the second moment")
    eps: float = Field(1e-8, gt=0, description="adamw, rmsprop: added to the denominator")
    rms_decay: _Rate = Field(0.95, description="rmsprop: decay of the mean square")
    momentum: _Rate = Field(0.0, description="sgd, rmsprop: momentum")
    l2: float = Field(0.0, ge=0, description="penalty l2 * mean(W**2), summed over the matrices")
    grad_clip: float = Field(1.0, ge=0, description="largest global norm of a gradient; 0 is off")
    accumulate_steps: int = Field(
        1, ge=1, description="micro-batches of train.batch_size that make one step"
    )


class TrainConfig(Section):
    """How long, on how much at once, and what is told on the way."""

    steps: int = Field(2000, ge=1, le=2**31 - 2, description="optimiser steps")
    batch_size: int = Field(32, ge=1, description="windows in a batch")
    seed: int = Field(0, ge=0, lt=2**32, description="the one seed of the run")
    log_every: int = Field(100, ge=1, description="steps between lines of metrics.jsonl")
    sample_every: int = Field(0, ge=0, description="steps between samples; 0: only at the end")
    max_skipped: int = Field(
        100, ge=1, description="non-finite steps in a row after which the run stops"
    )


class EvalConfig(Section):
    """How the validation loss is measured."""

    every: int = Field(500, ge=0, description="steps between evaluations; 0: only at the end")
    protocol: Literal["exact", "random"] = Field(
        "exact", description="the whole split, each target once; or nanoGPT's random batches"
    )
    batches: int = Field(200, ge=1, description="random: batches averaged")
    batch_size: int = Field(64, ge=1, description="windows in an evaluation batch")


class CheckpointConfig(Section):
    """What is saved, and when."""

    every: int = Field(500, ge=0, description="steps between checkpoints; 0: only at the end")
    keep: int = Field(1, ge=1, description="newest checkpoints kept, beside the best one")


class RuntimeConfig(Section):
    """Where and in what precision it runs."""

    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="the kind of device")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="dtype of the compute")
    deterministic: bool = Field(False, description="gpu: the same bits on every run, slower")


class Config(Section):
    """Everything a run depends on."""

    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=TransformerConfig)
    init: InitConfig = Field(default_factory=InitConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    @model_validator(mode="after")
    def _resolve(self) -> "Config":
        """Fill in what depends on other sections (decay_steps, context_length of streams)."""
        if self.optim.decay_steps is None:
            object.__setattr__(
                self, "optim", self.optim.model_copy(update={"decay_steps": self.train.steps})
            )
        from_lines = self.data.layout == "lines" and self.model.kind != "mlp"
        if self.model.context_length is None and not from_lines:
            length = _DEFAULT_CONTEXT.get(self.model.kind, _DEFAULT_CONTEXT_OTHERS)
            object.__setattr__(
                self, "model", self.model.model_copy(update={"context_length": length})
            )
        if self.optim.schedule == "step" and not self.optim.boundaries:
            raise ValueError(
                "optim.boundaries: none given; the step schedule needs the steps at which the "
                "rate is multiplied, as in optim.boundaries = [100000]"
            )
        return self

    def to_toml(self, comments: bool = False) -> str:
        """The resolved configuration as TOML; with comments, one a field."""
        lines: list[str] = []
        for name in Config.model_fields:
            section = getattr(self, name)
            lines.append(f"[{name}]")
            for key, field in _ordered_fields(type(section)):
                value = getattr(section, key)
                comment = f"  # {field.description}" if comments else ""
                if value is None:
                    if comments:
                        lines.append(f"# {key} is unset{comment}")
                else:
                    value = list(value) if isinstance(value, tuple) else value
                    lines.append(tomli_w.dumps({key: value}, multiline_strings=False).strip())
                    lines[-1] = _one_line(lines[-1]) + comment
            lines.append("")
        return "\n".join(lines)

    def digest(self) -> str:
        """SHA-256 over the resolved configuration."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


def load_config(
    source: str | Path | None = None, overrides: Sequence[str] = (), *, saved: bool = False
) -> Config:
    """Read a TOML file (a path, or a bare name in `configs/`), then apply the overrides.

    Args:
      source: the file; None is the default run.
      overrides: `section.key=value` words.
      saved: the file is a run's resolved config.toml, so its resolved values are kept.

    Raises:
      UserError: unknown key, wrong type, value out of bounds, missing or malformed file.
    """
    tree = _read_toml(source) if source is not None else {}
    touched = [_apply_override(tree, word) for word in overrides]
    if saved and "train.steps" in touched and "optim.decay_steps" not in touched:
        # decay_steps followed train.steps when the run began; let it follow again where no
        # schedule reads it, so that a constant rate can be trained on.
        if tree.get("optim", {}).get("schedule", "constant") in ("constant", "step"):
            tree["optim"].pop("decay_steps", None)
    return parse_config(tree)


def parse_config(tree: dict[str, Any]) -> Config:
    """Validate a nested dictionary; a mistake is a UserError of one line."""
    for name, section in tree.items():
        if name not in Config.model_fields:
            raise UserError(_unknown(name, list(Config.model_fields), "section"))
        if not isinstance(section, dict):
            raise UserError(f"{name}: {section!r} given; it is a section: write [{name}] above it")
    model = tree.get("model", {})
    kind = model.get("kind", "transformer")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(
            f"model.kind: {kind!r} given; allowed: {', '.join(FAMILIES)}{_nearest(kind, FAMILIES)}"
        )
    tree = tree | {"model": model | {"kind": kind}}
    try:
        return Config.model_validate(_tuples(tree))
    except ValidationError as error:
        raise UserError(_explain(error)) from None


def differences(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """The fields that differ: (section.key, old value, new value)."""
    before, after = (dict(_flatten(config.model_dump())) for config in (old, new))
    keys = list(dict.fromkeys([*before, *after]))
    return [
        (key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    ]


def describe_fields() -> Iterator[tuple[str, str, str, str]]:
    """Every field as (section.key, type, default, meaning); model fields once a family."""
    for name, info in Config.model_fields.items():
        sections = FAMILIES.values() if name == "model" else [info.annotation]
        for section in sections:
            label = f"model[{section.model_fields['kind'].default}]" if name == "model" else name
            for key, field in _ordered_fields(section):
                if name == "model" and key == "kind":
                    continue
                default = "unset" if field.default is None else json.dumps(field.default)
                yield f"{label}.{key}", _type_name(field), default, field.description or ""


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the package, by bare name."""
    here = Path(__file__).parent
    folder = here / "configs" if (here / "configs").is_dir() else here.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _read_toml(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    shipped = shipped_configs()
    if not path.exists() and path.parent == Path(".") and path.stem in shipped:
        path = shipped[path.stem]
    if not path.is_file():
        raise UserError(
            f"config: {str(source)!r} is not a file; give a TOML file or one of: "
            f"{', '.join(shipped)}{_nearest(path.stem, shipped)}"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"config: {str(source)!r} cannot be read as TOML: {message}") from None


def _apply_override(tree: dict[str, Any], word: str) -> str:
    """Put one `section.key=value` into the tree; returns `section.key`."""
    name, equals, text = word.partition("=")
    name = name.strip()
    section, dot, key = name.partition(".")
    if not equals or not dot or not key:
        raise UserError(f"override: {word!r} given; write section.key=value, as in train.steps=100")
    if section not in Config.model_fields:
        raise UserError(_unknown(section, list(Config.model_fields), "section"))
    tree.setdefault(section, {})
    if not isinstance(tree[section], dict):
        raise UserError(f"{section}: {tree[section]!r} given; it is a section")
    fields = _fields_of(section, tree)
    if key not in fields:
        raise UserError(_unknown(name, [f"{section}.{field}" for field in fields], "key"))
    if key == "kind" and section == "model" and tree["model"].get("kind", "") != text:
        # The other family's keys would only be refused one by one.
        tree["model"] = {
            k: v for k, v in tree["model"].items() if k in _fields_for_kind(_unquote(text))
        }
    tree[section][key] = _unquote(text) if fields[key] else _toml_value(name, text)
    return name


def _fields_of(section: str, tree: dict[str, Any]) -> dict[str, bool]:
    """The section's keys, each with whether it holds text."""
    if section == "model":
        families = [FAMILIES[kind]] if (kind := _kind(tree)) in FAMILIES else FAMILIES.values()
    else:
        families = [Config.model_fields[section].annotation]
    return {
        key: _is_text(field.annotation)
        for family in families
        for key, field in family.model_fields.items()
    }


def _kind(tree: dict[str, Any]) -> str:
    return str(tree.get("model", {}).get("kind", "transformer"))


def _fields_for_kind(kind: str) -> set[str]:
    return set(FAMILIES[kind].model_fields) if kind in FAMILIES else set()


def _is_text(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_is_text(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is Literal:
        return True
    return annotation is str


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else text


def _toml_value(name: str, text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        raise UserError(
            f"{name}: {text!r} given, which is not a TOML value; write a number, true, false or "
            "a list such as [200]"
        ) from None


def _tuples(tree: dict[str, Any]) -> dict[str, Any]:
    """TOML's lists as the tuples that the frozen sections hold; whole numbers stay whole."""
    return {
        name: {key: tuple(v) if isinstance(v, list) else v for key, v in section.items()}
        for name, section in tree.items()
    }


def _flatten(tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, section in tree.items():
        for key, value in section.items():
            yield f"{name}.{key}", value


def _ordered_fields(section: Any) -> list[tuple[str, Any]]:
    """`kind` first, then as declared."""
    return sorted(section.model_fields.items(), key=lambda item: item[0] != "kind")


def _one_line(text: str) -> str:
    return " ".join(part.strip() for part in text.splitlines()).replace(",]", "]")


def _explain(error: ValidationError) -> str:
    """The first mistake of a validation, in one line."""
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"] if part not in FAMILIES]
    name = ".".join(location)
    if first["type"] == "value_error" and not first["msg"].startswith(name + ":"):
        return first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        section = location[0]
        kind = next((str(part) for part in first["loc"] if part in FAMILIES), "transformer")
        fields = _fields_of(section, {"model": {"kind": kind}})
        return _unknown(name, [f"{section}.{key}" for key in fields], "key")
    given = first.get("input")
    shown = json.dumps(given, default=str) if not isinstance(given, float) else repr(given)
    message = first["msg"].removeprefix("Value error, ")
    return f"{name}: {shown} given; {message[0].lower() + message[1:]}"


def _unknown(name: str, known: Sequence[str], what: str) -> str:
    return f"{name}: unknown {what}; allowed: {', '.join(known)}{_nearest(name, known)}"


def _nearest(name: Any, known: Any) -> str:
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""


def _type_name(field: Any) -> str:
    annotation = field.annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        annotation = parts[0]
    if typing.get_origin(annotation) is Literal:
        return " | ".join(typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        return "list of int"
    return getattr(annotation, "__name__", str(annotation))
