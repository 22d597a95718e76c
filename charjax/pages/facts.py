"""All that the page shows of a run without loading its model."""

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

from charjax.config import Config, differences, flat_settings, load_config, parse_config
from charjax.config.values import value_text
from charjax.errors import UserError
from charjax.extensions import code_digests
from charjax.run.comparison import read_summary, score_row
from charjax.run.listing import run_state
from charjax.run.load import SavedRun, find_run, has_checkpoints, require_run
from charjax.run.metrics import MetricsFile, best_line, per_character
from charjax.units import bits_per_character

# Of samples.txt: the last steps, each with its texts.
_MOST_STEPS, _MOST_CHARACTERS = 20, 100_000
_STEP = re.compile(r"^--- step (\d+) ---$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Facts:
    """A run, read without its arrays.

    Attributes:
      directory: of the run.
      name: as the page shows it.
      config: the resolved configuration.
      lines: of metrics.jsonl; losses in nats per character.
      saved: its best checkpoint; None where there is none that can be read.
      unreadable: the reason, if there are checkpoints.
      state: as of `charjax runs`.
      scores: as of `charjax compare`.
      summary: summary.json, {} before the end.
    """

    directory: Path
    name: str
    config: Config
    lines: list[dict[str, Any]]
    saved: SavedRun | None
    unreadable: str
    state: str
    scores: dict[str, Any]
    summary: dict[str, Any]

    @property
    def best(self) -> dict[str, Any] | None:
        """The metrics line of the lowest validation loss, or None."""
        return best_line(self.lines)


def read_facts(directories: list[Path]) -> list[Facts]:
    """Read some runs, finished or not.

    Raises:
      UserError: one is unknown, given twice, or its configuration cannot be read.
    """
    for directory in directories:
        require_run(directory, "report")
    if len({directory.resolve() for directory in directories}) < len(directories):
        names = ", ".join(map(str, directories))
        raise UserError(f"report: {names} given; a run is given twice: leave it out")
    return [
        _read(directory, name)
        for directory, name in zip(directories, _names(directories), strict=True)
    ]


def _names(directories: list[Path]) -> list[str]:
    """Return the shortest ends of the paths by which they differ."""
    parts = [directory.absolute().parts for directory in directories]
    for length in range(1, max(map(len, parts))):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [str(directory) for directory in directories]


def _read(directory: Path, name: str) -> Facts:
    config = load_config(directory / "config.toml", saved=True)
    lines = MetricsFile(directory / "metrics.jsonl").read()
    summary, saved, unreadable = read_summary(directory), None, ""
    has_saved = has_checkpoints(directory)
    if has_saved:
        try:
            saved = find_run(directory, "best")
        except UserError as error:
            unreadable = str(error)
    state = run_state(directory, config, has_saved, bool(summary))
    scores = score_row(directory, config, lines)
    lines = [line | {"loss": per_character(line)} for line in lines]
    return Facts(directory, name, config, lines, saved, unreadable, state, scores, summary)


def machine_rows(facts: Facts) -> dict[str, str]:
    """Return what is known of a run's device, versions and speed, in words."""
    summary = facts.summary
    notes = facts.saved.notes if facts.saved else None
    environment = summary if "versions" in summary else notes.environment if notes else {}
    progress = notes.progress if notes else {}
    versions = environment.get("versions")
    rows = {
        "device": environment.get("device"),
        "devices in use": environment.get("devices"),
        "devices that divide the parameters": environment.get("fsdp"),
        "processor cores": environment.get("cores"),
        "tokens per second": _count(summary.get("tokens_per_second") or _speed(progress)),
        "seconds in all": _seconds(summary.get("seconds", progress.get("wall_seconds"))),
        "of them compiling": _seconds(
            summary.get("compile_seconds", progress.get("compile_seconds"))
        ),
        **(versions if isinstance(versions, dict) else {}),
        "random numbers of dropout": environment.get("prng"),
        **{f"SHA-256 of {name}": digest for name, digest in code_digests(environment).items()},
        "SHA-256 of the text": notes.dataset_digest if notes else None,
        "SHA-256 of the final state": summary.get("state_digest"),
    }
    return {name: str(value) for name, value in rows.items() if value is not None}


def _speed(progress: dict[str, Any]) -> float | None:
    targets, seconds = progress.get("targets"), progress.get("seconds")
    are_numbers = isinstance(targets, int | float) and isinstance(seconds, int | float)
    return targets / seconds if are_numbers and seconds else None


def _count(value: Any) -> str | None:
    return f"{value:,.0f}" if isinstance(value, int | float) else None


def _seconds(value: Any) -> str | None:
    return f"{value:,.1f}" if isinstance(value, int | float) else None


def score_cells(facts: Facts) -> list[str]:
    """Return the cells of the run in the table of scores, after its name."""
    scores, steps = facts.scores, facts.config.train.steps
    last = scores["step"]
    loss = scores["best_val_loss"]
    return [
        facts.state,
        facts.config.model.kind,
        _cell(scores["params"], ",.0f"),
        f"{last:,}" if facts.config.model.fitted else f"{last:,} of {steps:,}",
        _cell(loss, ".4f"),
        _cell(bits_per_character(loss), ".4f"),
        _cell(scores["best_step"], ",.0f"),
        _cell(scores["test_loss"], ".4f"),
        _cell(scores["tokens_per_second"], ",.0f"),
    ]


SCORE_HEAD = [
    "run", "state", "model", "parameters", "step", "best val loss", "bpc", "at step", "test loss",
    "tokens/s",
]  # fmt: skip


def _cell(value: Any, form: str) -> str:
    is_number = isinstance(value, int | float) and value == value
    return format(value, form) if is_number else "–"


def setting_rows(facts: list[Facts]) -> list[tuple[str, list[str], bool]]:
    """Return (section.key, a value for each run, whether it is marked).

    Marked are those that differ between runs; of a single run, those that are not the default of
    its family.
    """
    trees = [_flat(run.config) for run in facts]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    if len(facts) > 1:
        marked = {
            key for run in facts[1:] for key, _, _ in differences(facts[0].config, run.config)
        }
    else:
        (run,) = facts
        # Of a saved run, whose family may be code that is not named here.
        default = parse_config({"model": {"kind": run.config.model.kind}}, saved=True)
        marked = {key for key, _, _ in differences(default, run.config)}
    return [(key, [tree.get(key, "–") for tree in trees], key in marked) for key in keys]


def _flat(config: Config) -> dict[str, str]:
    return {name: value_text(value) for name, value in flat_settings(config)}


def samples(directory: Path) -> tuple[list[tuple[int, list[str]]], bool]:
    """Return (step, texts) of samples.txt, the last step first, and whether more are left out."""
    try:
        # Bytes: a sample may hold any kind of line end.
        text = (directory / "samples.txt").read_bytes().decode("utf-8", "replace")
    except OSError:
        return [], False
    # What stands before the first head was cut by hand.
    _, *pieces = _STEP.split(text)
    found: dict[int, list[str]] = {}
    for step, body in zip(pieces[::2], pieces[1::2], strict=True):
        # Longer numbers than any step are text of a damaged file.
        found.setdefault(int(step[:18]), []).append(body.removeprefix("\n").removesuffix("\n"))
    shown: list[tuple[int, list[str]]] = []
    size = 0
    for step in sorted(found, reverse=True):
        size += sum(map(len, found[step]))
        if shown and (len(shown) == _MOST_STEPS or size > _MOST_CHARACTERS):
            return shown, True
        shown.append((step, [body[:_MOST_CHARACTERS] for body in found[step]]))
    return shown, False


def reproducing(facts: Facts) -> str:
    """Return the command that trains the run again."""
    config = shlex.quote(str(facts.directory / "config.toml"))
    again = shlex.quote(f"{facts.directory}-again")
    return f"charjax train {config} --workdir {again}"
