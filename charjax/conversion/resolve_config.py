"""Configuration of an imported model: tensors, header and the user's settings, reconciled."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from charjax.config import FAMILIES, Config, parse_config, read_settings, refuse_unread
from charjax.config.values import format_value
from charjax.conversion.files import Header
from charjax.conversion.layout import Inferred, Layout, Question
from charjax.errors import UserError

Tree = dict[str, dict[str, Any]]


class Resolved(NamedTuple):
    """Configuration of an imported model.

    Attributes:
      config: the configuration, with placeholders for unanswered questions.
      unanswered: the settings that are missing, by name.
      names_text: the user named a text.
      gives_data: the user gave settings of the section `data`.
    """

    config: Config
    unanswered: dict[str, Question]
    names_text: bool
    gives_data: bool


def resolve_config(
    layout: Layout,
    inferred: Inferred,
    header: Header | None,
    source: str | None,
    overrides: Sequence[str],
) -> Resolved:
    """Combine the settings of the tensors, the header, the user's file and the overrides.

    Args:
      layout: the layout of the state dict.
      inferred: the settings inferred from its tensors.
      header: the file's header; None if another program wrote the file.
      source: the user's configuration file, if any.
      overrides: the user's `section.key=value` words.

    Raises:
      UserError: one of the user's settings contradicts the tensors or the header.
    """
    kind = inferred.settings["kind"]
    if kind not in FAMILIES:
        raise UserError(
            f"FILE: the tensors are of {layout.title}, but their shapes fit no number of gates: "
            "1 (rnn), 3 (gru) or 4 (lstm) times the width of the state"
        )
    fields = FAMILIES[kind].model_fields
    questions = {name: question for name, question in layout.questions.items() if name in fields}
    user = _user_settings(kind, source, overrides)
    known = {name: value for name, value in inferred.settings.items() if value is not None}
    base: Tree = {}
    if header is not None:
        base = header.config
        if base.get("model", {}).get("kind") != kind:
            raise UserError(
                f"FILE: its tensors are those of a {kind}, but its header describes another "
                "family; export the run again"
            )
        # A setting added after the file was written was at its default.
        known |= {name: fields[name].default for name in questions} | base["model"]
    model = user.get("model", {})
    for name in sorted((set(inferred.settings) - inferred.overridable) | set(questions)):
        if name in model and name in known and _as_list(model[name]) != _as_list(known[name]):
            raise UserError(
                f"model.{name}: {format_value(model[name])} given, but the file has "
                f"{format_value(known[name])}; leave it out"
            )
    unanswered = {
        name: question
        for name, question in questions.items()
        if name not in known and name not in model
    }
    placeholders = {name: question.placeholder for name, question in unanswered.items()}
    data = user.get("data", {}) if user.get("data") or header is None else base["data"]
    tree = {name: base.get(name, {}) | user.get(name, {}) for name in {*base, *user}}
    tree["model"] = known | placeholders | model
    tree["data"] = inferred.data | data
    config = parse_config(tree)
    refuse_unread(config, tree, overrides)
    settings = user.get("data", {})
    return Resolved(config, unanswered, bool({"name", "path"} & settings.keys()), bool(settings))


def _user_settings(kind: str, source: str | None, overrides: Sequence[str]) -> Tree:
    """Return the settings of the user's file and overrides for a model of this family."""
    words = [word.partition("=") for word in overrides]
    kinds = [text.strip("\"'") for name, _, text in words if name.strip() == "model.kind"]
    named = read_settings(source).get("model", {}).get("kind") if source is not None else None
    named = kinds[-1] if kinds else named
    if named not in (None, kind):
        raise UserError(
            f"model.kind: {named!r} given, but the tensors are those of a {kind}; leave it out"
        )
    return read_settings(source, [f"model.kind={kind}", *overrides])


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
