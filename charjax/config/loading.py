"""Configuration: frozen, validated sections read from TOML and `section.key=value` overrides.

Importing this module must stay cheap (no JAX): `--help` and every config error go through it.
The sections themselves are in `charjax.config.sections`.
"""

import json
import os.path
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from charjax.config.errors import (
    choices,
    explain,
    fields_of,
    is_text,
    own_name,
    shown,
    type_name,
    unknown_key,
)
from charjax.config.peers import advise
from charjax.config.reads import Unread, why_unread
from charjax.config.sections import (
    FAMILIES,
    SECTIONS,
    Config,
)
from charjax.errors import UserError, did_you_mean

_DEFAULT_KIND = "transformer"
Tree = dict[str, dict[str, Any]]
# Settings of a transformer that go with a scheme unless they are given; the same as its `sets`.
IMPLIED: dict[str, dict[str, Any]] = {"tfixup": {"scale_embeddings": True}}


def load_config(
    source: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    saved: bool = False,
    note: Callable[[str], None] = lambda text: None,
    unread: Callable[[Config, str], Unread | None] = why_unread,
) -> Config:
    """Read a TOML file (a path, or a bare name in `configs/`), then apply the overrides.

    A value other than the default of a setting that nothing reads is an error, but for a value of
    the file that an override leaves unread: that one returns to its default, with one note.

    Args:
      source: the file; None is the default run.
      overrides: `section.key=value` words, in any order; of one key, the last counts.
      saved: the file is a run's resolved config.toml, in which optim.decay_steps has a value even
        where it only followed train.steps; it then follows an overridden train.steps too. Older
        versions saved values that nothing reads: they stay. The scheme implies nothing of it.
      note: called with a line for the user.
      unread: the reason why nothing reads a setting, or None.

    Raises:
      UserError: unknown key, wrong type, value out of bounds, a setting that nothing reads,
        missing or malformed file.
    """
    given = _read_given(source, overrides, saved=saved)
    config = parse_config(given.tree, saved=saved)
    causes, reset = ["model.kind"] * bool(given.dropped), dict(given.dropped)
    settled: Tree = {section: dict(values) for section, values in given.tree.items()}
    # Until nothing changes: a value may have followed one that has returned to its default.
    while unread_here := list(_unread_values(config, settled, unread)):
        before = len(reset), sum(map(len, settled.values()))
        for section, key, value, reason in unread_here:
            name = f"{section}.{key}"
            chosen = [c for c in reason.choices if c in given.words or c.startswith("--")]
            followed = value == _default(given.file, section, key)
            if name in given.words or not (chosen or followed or saved):
                raise UserError(_refusal(name, value, reason))
            if chosen and not followed:
                causes.append(chosen[0])
                reset[name] = value
            if chosen or followed:
                del settled[section][key]
        if before == (len(reset), sum(map(len, settled.values()))):
            break
        config = parse_config(settled, saved=saved)
    if reset:
        words = [f"{name}={text}" for name, text in given.words.items() if name in causes]
        words += [flag for flag in dict.fromkeys(causes) if flag not in given.words]
        listed = ", ".join(f"{name} = {shown(value)}" for name, value in reset.items())
        note(f"with {', '.join(words)} nothing reads these settings of {source}: {listed}")
    return config


def refuse_unread(config: Config, tree: Tree, overrides: Sequence[str]) -> None:
    """Raise a UserError for an override, other than the default, that nothing reads.

    Args:
      config: the resolved configuration.
      tree: the settings that it was made of.
      overrides: `section.key=value` words.
    """
    names = {_split_override(word)[0] for word in overrides}
    for section, key, value, reason in _unread_values(config, tree, why_unread):
        if f"{section}.{key}" in names:
            raise UserError(_refusal(f"{section}.{key}", value, reason))


def _unread_values(
    config: Config, tree: Tree, unread: Callable[[Config, str], Unread | None]
) -> Iterator[tuple[str, str, Any, Unread]]:
    """The settings of a tree that nothing reads and that are not at their defaults."""
    for section, values in tree.items():
        for key in values:
            value, reason = (
                getattr(getattr(config, section), key),
                unread(config, f"{section}.{key}"),
            )
            if reason is not None and value != _default(tree, section, key):
                yield section, key, value, reason


def _refusal(name: str, value: Any, reason: Unread) -> str:
    return f"{name}: {shown(value)} given; {reason.clause}: change that, or leave {name} out"


def _default(tree: Tree, section: str, key: str) -> Any:
    """The value of a setting where the tree does not give it; None if the rest is not valid."""
    if key not in tree.get(section, {}):
        rest = tree
    else:
        rest = tree | {section: {k: v for k, v in tree[section].items() if k != key}}
    try:
        return getattr(getattr(parse_config(rest), section), key, None)
    except UserError:
        return None


class Given(NamedTuple):
    """The settings as they were given, by section.

    Attributes:
      tree: those of the file, with the overrides applied.
      file: those of the file alone.
      words: the overrides: `section.key` -> text.
      dropped: settings of the file that another model.kind does not have.
    """

    tree: Tree
    file: Tree
    words: dict[str, str]
    dropped: dict[str, Any]


def read_settings(
    source: str | Path | None = None, overrides: Sequence[str] = (), *, saved: bool = False
) -> Tree:
    """The settings that a file and overrides give, by section, not yet validated or completed.

    Arguments and errors are those of `load_config`.
    """
    return _read_given(source, overrides, saved=saved).tree


def _read_given(source: str | Path | None, overrides: Sequence[str], *, saved: bool) -> Given:
    tree = _read_toml(source) if source is not None else {}
    _check_sections(tree)
    file = {section: dict(values) for section, values in tree.items()}
    decay_steps = _get(tree, "optim", "decay_steps")
    followed = decay_steps is not None and decay_steps == _get(tree, "train", "steps")
    words = [_split_override(word) for word in overrides]
    # The family first: it decides which other keys of [model] there are.
    for name, text in sorted(words, key=lambda word: word[0] != "model.kind"):
        _apply_override(tree, name, text)
    touched = dict(words)
    if saved and followed and "train.steps" in touched and "optim.decay_steps" not in touched:
        del tree["optim"]["decay_steps"]
    return Given(tree, file, touched, _dropped(tree, file))


def _dropped(tree: Tree, file: Tree) -> dict[str, Any]:
    """The settings of a file's family, other than its defaults, that the family in force lacks."""
    before, after = _kind(file), _kind(tree)
    if not isinstance(before, str) or before not in FAMILIES or after not in FAMILIES:
        return {}
    fields, kept = fields_of("model", before), tree.get("model", {})
    return {
        f"model.{key}": value
        for key, value in file.get("model", {}).items()
        if key in fields and key not in kept and value != fields[key].default
    }


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
            f"{did_you_mean(kind, FAMILIES)}"
        )
    try:
        return Config.model_validate(_tuples(tree | {"model": model | {"kind": kind}}))
    except ValidationError as error:
        raise UserError(explain(error)) from None


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
    here = Path(__file__).parent.parent
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
            f"{did_you_mean(name, shipped) or _of_nanogpt(path)}"
        )
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"config: {path!r} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # bad TOML, bad UTF-8, absurd numbers or depth
        raise UserError(
            f"config: {path!r} cannot be read as TOML: {error}{_of_nanogpt(path)}"
        ) from None


def _of_nanogpt(path: str) -> str:
    """A hint for one of nanoGPT's configurations, which are Python."""
    known = "; nanoGPT's configurations of Shakespeare are nanogpt-char and nanogpt-cpu here"
    return known if path.endswith(".py") else ""


def _check_sections(tree: dict[str, Any]) -> None:
    for name, section in tree.items():
        if name not in SECTIONS:
            raise UserError(unknown_key(name, value=section))
        if not isinstance(section, dict):
            raise UserError(f"{name}: {shown(section)} given; it is a section: write [{name}]")


def _split_override(word: str) -> tuple[str, str]:
    """`section.key=value` as name and text; both sides of the dot exist in some section."""
    name, equals, text = word.partition("=")
    name = name.strip()
    section, dot, key = name.partition(".")
    if not equals or not dot:
        text = text.strip()
        if equals and (advice := advise(name, text)):
            raise UserError(f"{name}: {text} given; {advice}")
        if ours := own_name(name):
            raise UserError(
                f"override: {word!r} given; did you mean {ours}? write {ours}={text or '...'}"
            )
        raise UserError(f"override: {word!r} given; write section.key=value, as in train.steps=100")
    if section not in SECTIONS or key not in fields_of(section):
        raise UserError(unknown_key(name, value=text))
    return name, text


def _apply_override(tree: dict[str, Any], name: str, text: str) -> None:
    section, _, key = name.partition(".")
    fields = fields_of(section, _kind(tree))
    if key not in fields:
        raise UserError(unknown_key(name, _kind(tree), text))
    values = tree.setdefault(section, {})
    if name == "model.kind":
        # Of another family, only the settings that this one has too stay in force.
        shared = fields_of("model", _unquote(text))
        tree["model"] = values = {
            k: v for k, v in values.items() if k in shared and _may_be(shared[k], v)
        }
    values[key] = _unquote(text) if is_text(fields[key]) else _toml_value(text)


def _may_be(field: FieldInfo, value: Any) -> bool:
    """False for a choice that only another family has, as an activation."""
    options = choices(field)
    return not options or value in options


def _kind(tree: dict[str, Any]) -> Any:
    kind = _get(tree, "model", "kind")
    return _DEFAULT_KIND if kind is None else kind


def _get(tree: dict[str, Any], section: str, key: str) -> Any:
    return tree.get(section, {}).get(key)


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else text


def _toml_value(text: str) -> Any:
    """The value that a text stands for; text that is no TOML stays text, and is refused by type."""
    # TOML wants a digit on both sides of the point; people, and Python, do not.
    text = re.sub(r"^([+-]?)\.(?=\d)", r"\g<1>0.", text.strip())
    text = re.sub(r"^([+-]?\d+)\.(?=$|[eE])", r"\1.0", text)
    if text in ("True", "False"):
        return text == "True"
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
