"""Run commands from tests, in this process or as separate ones."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from charjax import cli
from charjax.config import FAMILIES


class Result(NamedTuple):
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


def run(command: str, *arguments: object) -> Result:
    """Run `python -m charjax.COMMAND ...` in this process, without its start-up time."""
    module = importlib.import_module(f"charjax.{command}")
    out, err = io.StringIO(), io.StringIO()
    status: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.run(module.main, [str(argument) for argument in arguments])
        except SystemExit as leave:
            status = leave.code
    return Result(int(status or 0), out.getvalue(), err.getvalue())  # type: ignore[call-overload]


def start(
    command: str, *arguments: object, cwd: Path | None = None, **environment: str
) -> subprocess.Popen[str]:
    """Start a command as a separate process, by default in the repository's root."""
    return subprocess.Popen(
        [sys.executable, "-m", f"charjax.{command}", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        cwd=cwd or Path(__file__).parent.parent,
    )


# Every family, at a size that trains in a moment.
LISTED = {
    "ngram": ["model.order=3"],
    "bigram": ["model.context_length=8"],
    "bow": ["model.context_length=8", "model.d_embed=8"],
    "mlp": ["model.context_length=4", "model.d_embed=4", "model.hidden=[8]", "model.norm=batch"],
    "rnn": ["model.context_length=8", "model.d_embed=4", "model.d_hidden=8"],
    "gru": ["model.context_length=8", "model.d_embed=4", "model.d_hidden=8"],
    "lstm": ["model.context_length=8", "model.d_embed=4", "model.d_hidden=8"],
    "transformer": [
        "model.context_length=8",
        "model.n_layer=1",
        "model.n_head=2",
        "model.d_model=8",
        "model.dropout=0.1",
    ],
}
# Of families that are not listed: the settings that they have.
_SMALL = {"n_layer": 1, "n_head": 2, "d_embed": 4, "d_hidden": 8, "d_model": 8}
TINY = LISTED | {
    kind: ["model.context_length=8"]
    + [f"model.{key}={_SMALL[key]}" for key in _SMALL if key in family.model_fields]
    for kind, family in FAMILIES.items()
    if kind not in LISTED
}


def tiny(kind: str) -> list[str]:
    """Return overrides for a small, quick run of a family; ngram reads few of them."""
    if kind == "ngram":
        return [f"model.kind={kind}", *TINY[kind]]
    layout = ["data.layout=pairs"] if kind == "mlp" else []
    carried = ["data.sampling=contiguous"] if kind in ("gru", "lstm") else []
    return [
        f"model.kind={kind}",
        *TINY[kind],
        *layout,
        *carried,
        "train.batch_size=4",
        "train.log_every=5",
        "eval.every=10",
        "checkpoint.every=10",
    ]
