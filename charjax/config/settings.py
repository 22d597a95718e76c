"""Settings as given by a TOML file and `section.key=value` overrides, not yet validated."""

import os.path
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from charjax.config.errors import (
    choices,
    fields_of,
    full_name,
    group_of,
    is_text,
    unknown_key,
    unknown_part,
)
from charjax.config.own_families import find_family, is_own
from charjax.config.peers import advise
from charjax.config.sections import SECTIONS
from charjax.config.values import format_value
from charjax.errors import UserError, did_you_mean
from charjax.extensions import FIELDS, bind, is_reference, name_word, refuse_unnamed

Tree = dict[str, dict[str, Any]]
DEFAULT_KIND = "transformer"


class UserSettings(NamedTuple):
    """The settings of a file and its overrides, by section.

    Attributes:
      tree: those of the file with the overrides applied.
      file: those of the file alone.
      words: the overrides, `section.key` -> text.
      dropped: settings of the file that the model.kind of an override does not have.
    """

    tree: Tree
    file: Tree
    words: dict[str, str]
    dropped: dict[str, Any]


def read_settings(
    source: str | Path | None = None, overrides: Sequence[str] = (), *, saved: bool = False
) -> Tree:
    """Return the settings of a file and overrides, by section, neither validated nor completed.

    Arguments and errors are those of `load_config`.
    """
    return read_user_settings(source, overrides, saved=saved).tree


def read_user_settings(
    source: str | Path | None, overrides: Sequence[str], *, saved: bool
) -> UserSettings:
    """Read a file and apply the overrides; arguments and errors are those of `load_config`."""
    tree = _read_toml(source) if source is not None else {}
    check_sections(tree)
    bind_own(tree, saved=saved)
    file = {section: dict(values) for section, values in tree.items()}
    decay_steps = get_setting(tree, "optim", "decay_steps")
    follows_steps = decay_steps is not None and decay_steps == get_setting(tree, "train", "steps")
    kinds = [word[11:] for word in overrides if word.startswith("model.kind=")]
    is_family = any(map(is_own, [*kinds, model_kind(tree)]))
    words = [split_override(word, own_family=is_family) for word in overrides]
    # The family first: it determines the other keys of [model].
    for name, text in sorted(words, key=lambda word: word[0] != "model.kind"):
        _apply_override(tree, name, text)
    last = {setting_of(name): text for name, text in words}
    _keep_one_length(tree, last)
    has_length = "train.steps" in last or "train.epochs" in last
    if saved and follows_steps and has_length and "optim.decay_steps" not in last:
        del tree["optim"]["decay_steps"]
    return UserSettings(tree, file, last, _dropped(tree, file))


def _keep_one_length(tree: Tree, words: dict[str, str]) -> None:
    """Drop the one of train.steps and train.epochs that an override of the other replaces."""
    lengths = [name for name in ("steps", "epochs") if f"train.{name}" in words]
    if len(lengths) > 1:
        raise UserError(
            f"train.epochs: {words['train.epochs']} given with train.steps={words['train.steps']}; "
            "both are the length of the run: leave one out"
        )
    if lengths:
        tree["train"].pop("epochs" if lengths == ["steps"] else "steps", None)


def _dropped(tree: Tree, file: Tree) -> dict[str, Any]:
    """Return the settings of a file, other than defaults, that the overriding family lacks."""
    before, after = model_kind(file), model_kind(tree)
    if before == after or not (_is_family(before) and find_family(after)):
        return {}
    fields, remaining = fields_of("model", before), tree.get("model", {})
    return {
        f"model.{key}": value
        for key, value in file.get("model", {}).items()
        if key in fields and key not in remaining and value != fields[key].default
    }


def bind_own(tree: Tree, *, saved: bool) -> None:
    """Give each setting that is code of the user's own the version of the file that was named.

    Args:
      tree: settings by section, changed in place.
      saved: the settings are a saved run's, which may be shown without its code.

    Raises:
      UserError: a file was not named by the user, or has changed.
    """
    for field in FIELDS:
        section, _, key = field.partition(".")
        if isinstance(text := get_setting(tree, section, key), str):
            tree[section][key] = bind(field, text)
            if not saved:
                refuse_unnamed(field, tree[section][key])


def _is_family(kind: Any) -> bool:
    """Return True for a family that is known, or whose file the user has named."""
    try:
        return find_family(kind) is not None
    except UserError:
        return False


def shipped_configs() -> dict[str, Path]:
    """Return the paths of the configurations shipped with the package, by bare name."""
    here = Path(__file__).parent.parent
    folder = here / "configs" if (here / "configs").is_dir() else here.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"), key=lambda path: path.stem)}


def _read_toml(source: str | Path) -> dict[str, Any]:
    path, name = str(source), str(source).removesuffix(".toml")
    shipped = shipped_configs()
    if not os.path.isfile(path) and name in shipped:
        path = str(shipped[name])
    if not os.path.isfile(path):
        if os.path.isdir(path):
            raise UserError(
                f"config: {path!r} is a directory; to train on the text files in it give "
                f"data.path={path}, and for a configuration a TOML file"
            )
        known = f" or one of {', '.join(shipped)}" if shipped else ""
        raise UserError(
            f"config: {path!r} is not a file; give a TOML file{known}, and settings as "
            f"section.key=value{did_you_mean(name, shipped) or _nanogpt_hint(path)}"
        )
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"config: {path!r} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # bad TOML or UTF-8, huge numbers, deep nesting
        raise UserError(
            f"config: {path!r} cannot be read as TOML: {error}{_nanogpt_hint(path)}"
        ) from None


def _nanogpt_hint(path: str) -> str:
    """Return a hint for one of nanoGPT's configurations, which are Python files."""
    hint = "; nanoGPT's configurations of Shakespeare are nanogpt-char and nanogpt-cpu here"
    return hint if path.endswith(".py") else ""


def check_sections(tree: dict[str, Any]) -> None:
    """Raise a UserError for an unknown section, or a value in place of one."""
    for name, section in tree.items():
        if name not in SECTIONS:
            raise UserError(unknown_key(name, value=section))
        if not isinstance(section, dict):
            raise UserError(
                f"{name}: {format_value(section)} given; it is a section: write [{name}]"
            )


def split_override(word: str, *, own_family: bool = False) -> tuple[str, str]:
    """Split `section.key=value` into name and text.

    Args:
      word: the override.
      own_family: the model is of a family of the user's own, whose settings are not known yet.

    Raises:
      UserError: it has another form, or names an unknown section or key.
    """
    name, equals, text = word.partition("=")
    name = name.strip()
    section, dot, key = name.partition(".")
    if not equals or not dot:
        text = text.strip()
        if equals and (advice := advise(name, text)):
            raise UserError(f"{name}: {text} given; {advice}")
        if setting := full_name(name):
            raise UserError(
                f"override: {word!r} given; did you mean {setting}? write {setting}={text or '...'}"
            )
        raise UserError(f"override: {word!r} given; write section.key=value, as in train.steps=100")
    known = section in SECTIONS and key in fields_of(section)
    setting, dot, part = key.partition(".")
    if dot and section in SECTIONS and (group := group_of(fields_of(section).get(setting))):
        if part not in group.model_fields:
            raise UserError(unknown_part(f"{section}.{setting}", part, group))
        known = True
    if not known and not (section == "model" and own_family):
        raise UserError(unknown_key(name, value=text))
    return name, text


def setting_of(name: str) -> str:
    """Return the setting that an override changes: of `runtime.mesh.fsdp`, `runtime.mesh`."""
    return ".".join(name.split(".")[:2])


def _apply_override(tree: dict[str, Any], name: str, text: str) -> None:
    section, _, key = name.partition(".")
    key, _, part = key.partition(".")
    word = _unquote(text)
    if name in FIELDS:
        # Before the settings of a family of the user's own are looked up.
        word = name_word(name, word)
    fields = fields_of(section, model_kind(tree))
    if key not in fields:
        raise UserError(unknown_key(name, model_kind(tree), text))
    values = tree.setdefault(section, {})
    if name == "model.kind":
        # Settings of the previous family that the new one shares remain in force.
        shared = fields_of("model", word)
        tree["model"] = values = {
            k: v for k, v in values.items() if k in shared and _is_allowed(shared[k], v)
        }
    if part:
        group = values.get(key, {})
        # What is no table is replaced, as it would be by the whole setting.
        values[key] = {**(group if isinstance(group, dict) else {}), part: _toml_value(text)}
    elif name in ("data.path", "data.val_path"):
        values[key] = parse_paths(text, name)
    else:
        values[key] = word if is_text(fields[key]) else _toml_value(text)


def parse_paths(text: str, name: str) -> str | list[str]:
    """Return the path of a `data.path=...` override, or the paths of a list.

    Raises:
      UserError: a list that is not TOML, and no file has that name.
    """
    if not (text.startswith("[") and text.endswith("]")) or os.path.exists(text):
        return _unquote(text)
    value = _toml_value(text)
    if not isinstance(value, list):
        raise UserError(
            f"{name}: {text} given; a list of files has quotes around each, which the shell drops "
            f'unless they are quoted too: \'{name}=["a.txt", "b.txt"]\''
        )
    return value


def _is_allowed(field: FieldInfo, value: Any) -> bool:
    """Return False for a choice that only another family has, such as an activation."""
    options = choices(field)
    return not options or value in options or is_reference(value)


def model_kind(tree: dict[str, Any]) -> Any:
    """Return model.kind as given, or the default."""
    kind = get_setting(tree, "model", "kind")
    return DEFAULT_KIND if kind is None else kind


def get_setting(tree: dict[str, Any], section: str, key: str) -> Any:
    """Return a value of the tree; None if it is not given."""
    return tree.get(section, {}).get(key)


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else text


def _toml_value(text: str) -> Any:
    """Parse a TOML value; other text is returned as it is, to be rejected by its type."""
    # TOML requires digits on both sides of the decimal point; Python does not.
    text = re.sub(r"^([+-]?)\.(?=\d)", r"\g<1>0.", text.strip())
    text = re.sub(r"^([+-]?\d+)\.(?=$|[eE])", r"\1.0", text)
    if text in ("True", "False"):
        return text == "True"
    try:
        tree = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return tree["value"] if len(tree) == 1 else text
