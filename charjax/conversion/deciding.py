"""The configuration of an imported model: from the tensors, the header and what the user gave."""

from collections.abc import Sequence
from typing import Any

from charjax.config import FAMILIES, Config, parse_config, read_settings, refuse_unread
from charjax.conversion.headers import Header
from charjax.conversion.layout import Layout, Question, Told
from charjax.errors import UserError

Tree = dict[str, dict[str, Any]]


def decide_config(
    layout: Layout, told: Told, header: Header | None, source: str | None, overrides: Sequence[str]
) -> tuple[Config, dict[str, Question], bool]:
    """Put the settings together.

    Returns:
      The configuration; the questions that nobody has answered, for which it has stand-ins; and
      whether the user named a text.

    Raises:
      UserError: a setting that was given contradicts the tensors or the header.
    """
    kind = told.settings["kind"]
    if kind not in FAMILIES:
        raise UserError(
            f"FILE: the tensors are of {layout.title}, but their shapes fit no number of gates: "
            "1 (rnn), 3 (gru) or 4 (lstm) times the width of the state"
        )
    fields = FAMILIES[kind].model_fields
    questions = {name: question for name, question in layout.asked.items() if name in fields}
    asked = _asked(kind, source, overrides)
    known = {name: value for name, value in told.settings.items() if value is not None}
    base: Tree = {}
    if header is not None:
        base = header.config
        if base.get("model", {}).get("kind") != kind:
            raise UserError(
                f"FILE: its tensors are those of a {kind}, but its header says otherwise"
            )
        # A setting younger than the file was at its default.
        known |= {name: fields[name].default for name in questions} | base["model"]
    model = asked.get("model", {})
    for name in sorted((set(told.settings) - told.free) | set(questions)):
        if name in model and name in known and _plain(model[name]) != _plain(known[name]):
            raise UserError(
                f"model.{name}: {model[name]!r} given, but that of the file is {known[name]!r}; "
                "leave it out"
            )
    open_questions = {
        name: question
        for name, question in questions.items()
        if name not in known and name not in model
    }
    stand_ins = {name: question.stand_in for name, question in open_questions.items()}
    data = asked.get("data", {}) if asked.get("data") or header is None else base["data"]
    tree = {name: base.get(name, {}) | asked.get(name, {}) for name in {*base, *asked}}
    tree["model"] = known | stand_ins | model
    tree["data"] = told.data | data
    config = parse_config(tree)
    refuse_unread(config, tree, overrides)
    return config, open_questions, bool(asked.get("data"))


def _asked(kind: str, source: str | None, overrides: Sequence[str]) -> Tree:
    """What the user gave, the family being known."""
    words = [word.partition("=") for word in overrides]
    kinds = [text.strip("\"'") for name, _, text in words if name.strip() == "model.kind"]
    given = read_settings(source).get("model", {}).get("kind") if source is not None else None
    given = kinds[-1] if kinds else given
    if given not in (None, kind):
        raise UserError(
            f"model.kind: {given!r} given, but the tensors are those of a {kind}; leave it out"
        )
    return read_settings(source, [f"model.kind={kind}", *overrides])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
