"""The facts that all processes of a run must have in common."""

import argparse
import json
from typing import Any

import pytest

from charjax import processes
from charjax.config import parse_config
from charjax.errors import UserError
from charjax.run.agreement import check_start

ARGS = argparse.Namespace(resume=False, workdir="a", init_from=None, checkpoint=None, profile=None)


def with_other(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    """Let the facts of a second process be those of this one, but for some."""

    def gather(text: str) -> list[str]:
        facts = json.loads(text)
        return [text, json.dumps({**facts, **{k: v for k, v in changes.items() if k in facts}})]

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "gather", gather)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jax": "0.1"}, r"jax is \"[0-9.]+\" on process 0 and \"0.1\" on process 1; install"),
        ({"train.seed": 3}, r"train.seed is 0 on process 0 and 3 on process 1; start every"),
        ({"--resume": True}, r"--resume is false on process 0 and true on process 1"),
        (
            {"train.seed": 3, "train.steps": 1, "data.name": "x", "optim.l2": 1},
            r"data.name is .*; optim.l2 is .*; train.seed is .*; and 1 more",
        ),
    ],
)
def test_what_differs_is_named(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_other(monkeypatch, changes)
    with pytest.raises(UserError, match=message):
        check_start(parse_config({}), ARGS)


def test_the_place_of_the_text_may_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    with_other(monkeypatch, {"data.path": "/elsewhere/text.txt"})
    check_start(parse_config({}), ARGS)
