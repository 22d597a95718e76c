"""Configuration: frozen, validated sections read from TOML and `section.key=value` overrides.

Importing this module must stay cheap (no JAX): `--help` and every config error go through it.
The sections themselves are in `charjax.config_sections`.
"""

import json
import os.path
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from charjax.config_errors import (
    choices,
    explain,
    fields_of,
    is_text,
    nearest,
    shown,
    type_name,
    unknown_key,
)
from charjax.config_sections import (
    FAMILIES,
    SECTIONS,
    BigramConfig,
    BowConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EvalConfig,
    GRUConfig,
    InitConfig,
    LSTMConfig,
    MLPConfig,
    ModelConfig,
    NgramConfig,
    OptimConfig,
    RNNConfig,
    RuntimeConfig,
    TrainConfig,
    TransformerConfig,
)
from charjax.errors import UserError

__all__ = [
    "FAMILIES",
    "BigramConfig",
    "BowConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "GRUConfig",
    "InitConfig",
    "LSTMConfig",
    "MLPConfig",
    "ModelConfig",
    "NgramConfig",
    "OptimConfig",
    "RNNConfig",
    "RuntimeConfig",
    "TrainConfig",
    "TransformerConfig",
    "describe_fields",
    "differences",
    "load_config",
    "parse_config",
    "read_settings",
    "resume_conflicts",
    "shipped_configs",
]

_DEFAULT_KIND = "transformer"
# Settings of a transformer that go with a scheme unless they are given; the same as its `sets`.
IMPLIED: dict[str, dict[str, Any]] = {"tfixup": {"scale_embeddings": True}}


def load_config(
    source: str | Path | None = None, overrides: Sequence[str] = (), *, saved: bool = False
) -> Config:
    """Read a TOML file (a path, or a bare name in `configs/`), then apply the overrides.

    Args:
      source: the file; None is the default run.
      overrides: `section.key=value` words, in any order; of one key, the last counts.
      saved: the file is a run's resolved config.toml, in which optim.decay_steps has a value even
        where it only followed train.steps; it then follows an overridden train.steps too. The
        scheme implies nothing of it.

    Raises:
      UserError: unknown key, wrong type, value out of bounds, missing or malformed file.
    """
    return parse_config(read_settings(source, overrides, saved=saved), saved=saved)


def read_settings(
    source: str | Path | None = None, overrides: Sequence[str] = (), *, saved: bool = False
) -> dict[str, Any]:
    """The settings that a file and overrides give, by section, not yet validated or completed.

    Arguments and errors are those of `load_config`.
    """
    tree = _read_toml(source) if source is not None else {}
    _check_sections(tree)
    decay_steps = _get(tree, "optim", "decay_steps")
    followed = decay_steps is not None and decay_steps == _get(tree, "train", "steps")
    words = [_split_override(word) for word in overrides]
    # The family first: it decides which other keys of [model] there are.
    for name, text in sorted(words, key=lambda word: word[0] != "model.kind"):
        _apply_override(tree, name, text)
    touched = {name for name, _ in words}
    if saved and followed and "train.steps" in touched and "optim.decay_steps" not in touched:
        del tree["optim"]["decay_steps"]
    return tree


def parse_config(tree: dict[str, Any], *, saved: bool = False) -> Config:
    """Validate a nested dictionary; a mistake is a UserError of one line.

    Args:
      tree: settings by section.
      saved: they are a saved run's, which may be older than what its scheme implies today.
    """
    _check_sections(tree)
    model = tree.get("model", {})
    kind = _kind(tree)
    if not saved and kind == "transformer":
        model = IMPLIED.get(str(_get(tree, "init", "scheme")), {}) | model
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(
            f"model.kind: {shown(kind)} given; must be one of {', '.join(FAMILIES)}"
            f"{nearest(kind, FAMILIES)}"
        )
    try:
        return Config.model_validate(_tuples(tree | {"model": model | {"kind": kind}}))
    except ValidationError as error:
        raise UserError(explain(error)) from None


def differences(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """The fields that differ: (section.key, old value, new value)."""
    before, after = (dict(_flatten(config.model_dump())) for config in (old, new))
    keys = list(dict.fromkeys([*before, *after]))
    return [
        (key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    ]


def resume_conflicts(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """The differences that would change what a run has already computed.

    More steps are no conflict by themselves: a schedule that depends on their number does so
    through optim.decay_steps.
    """
    free = set(_FREE_TO_CHANGE)
    if {old.optim.schedule, new.optim.schedule} <= {"constant", "step"}:
        free.add("optim.decay_steps")
    return [
        entry
        for entry in differences(old, new)
        if entry[0] not in free and entry[0].partition(".")[0] not in _FREE_SECTIONS
    ]


_FREE_SECTIONS = ("eval", "checkpoint")
_FREE_TO_CHANGE = (
    "train.steps",
    "train.log_every",
    "train.sample_every",
    "train.max_skipped",
    "runtime.device",
)


def describe_fields() -> Iterator[tuple[str, list[tuple[str, str, str, str]]]]:
    """The settings in groups, for --help: a heading, then (section.key, type, default, meaning)."""
    for name, group in SECTIONS.items():
        if name == "model":
            kinds = f"the family ({', '.join(FAMILIES)})"
            yield "model: The network.", [("model.kind", "choice", _DEFAULT_KIND, kinds)]
        for section in group:
            fields = section.model_fields.copy()
            kind = fields.pop("kind").default if name == "model" else ""
            rows = [
                (f"{name}.{key}", type_name(field), _plain(field.default), _meaning(field))
                for key, field in fields.items()
            ]
            heading = f"{name}.kind={kind}" if kind else name
            yield f"{heading}: {section.__doc__}", rows


def _plain(default: Any) -> str:
    if default is None:
        return "unset"
    return default if isinstance(default, str) else json.dumps(default)


def _meaning(field: FieldInfo) -> str:
    options = choices(field)
    listed = f" ({', '.join(options)})" if len(options) > 1 else ""
    return f"{field.description}{listed}"


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the package, by bare name."""
    here = Path(__file__).parent
    folder = here / "configs" if (here / "configs").is_dir() else here.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"), key=lambda path: path.stem)}


def _read_toml(source: str | Path) -> dict[str, Any]:
    path, name = str(source), str(source).removesuffix(".toml")
    shipped = shipped_configs()
    if not os.path.isfile(path) and name in shipped:
        path = str(shipped[name])
    if not os.path.isfile(path):
        what = "is a directory" if os.path.isdir(path) else "is not a file"
        known = f" or one of {', '.join(shipped)}" if shipped else ""
        raise UserError(
            f"config: {path!r} {what}; give a TOML file{known}, and settings as section.key=value"
            f"{nearest(name, shipped)}"
        )
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"config: {path!r} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # bad TOML, bad UTF-8, absurd numbers or depth
        raise UserError(f"config: {path!r} cannot be read as TOML: {error}") from None


def _check_sections(tree: dict[str, Any]) -> None:
    for name, section in tree.items():
        if name not in SECTIONS:
            raise UserError(unknown_key(name))
        if not isinstance(section, dict):
            raise UserError(f"{name}: {shown(section)} given; it is a section: write [{name}]")


def _split_override(word: str) -> tuple[str, str]:
    """`section.key=value` as name and text; both sides of the dot exist in some section."""
    name, equals, text = word.partition("=")
    name = name.strip()
    section, dot, key = name.partition(".")
    if not equals or not dot:
        known = {key: f"{name}.{key}" for name in SECTIONS for key in fields_of(name)}
        hint = f"; did you mean {known[name]}?" if name in known else ""
        raise UserError(
            f"override: {word!r} given; write section.key=value, as in train.steps=100{hint}"
        )
    if section not in SECTIONS or key not in fields_of(section):
        raise UserError(unknown_key(name))
    return name, text


def _apply_override(tree: dict[str, Any], name: str, text: str) -> None:
    section, _, key = name.partition(".")
    fields = fields_of(section, _kind(tree))
    if key not in fields:
        raise UserError(unknown_key(name, _kind(tree)))
    values = tree.setdefault(section, {})
    if name == "model.kind":
        # Of another family, only the settings that this one has too stay in force.
        shared = fields_of("model", _unquote(text))
        tree["model"] = values = {k: v for k, v in values.items() if k in shared}
    values[key] = _unquote(text) if is_text(fields[key]) else _toml_value(text)


def _kind(tree: dict[str, Any]) -> Any:
    kind = _get(tree, "model", "kind")
    return _DEFAULT_KIND if kind is None else kind


def _get(tree: dict[str, Any], section: str, key: str) -> Any:
    return tree.get(section, {}).get(key)


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else text


def _toml_value(text: str) -> Any:
    """The value that a text stands for; text that is no TOML stays text, and is refused by type."""
    try:
        tree = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return tree["value"] if len(tree) == 1 else text


def _tuples(tree: dict[str, Any]) -> dict[str, Any]:
    """TOML's lists as the tuples that the frozen sections hold."""
    return {
        name: {key: tuple(v) if isinstance(v, list) else v for key, v in section.items()}
        for name, section in tree.items()
    }


def _flatten(tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, section in tree.items():
        for key, value in section.items():
            yield f"{name}.{key}", value
