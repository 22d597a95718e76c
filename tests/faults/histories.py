"""Small runs, and the comparison of an interrupted run with an uninterrupted one."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

from tests.commands import tiny
from tests.faults.processes import Forks, Process

# As different as families are: no state but Adam's, batch norm's statistics, a carried state,
# dropout.
FAMILIES = ("bigram", "mlp", "gru", "transformer")
STEPS, INTERVAL, EVALUATED = 600, 100, 200
_SETTINGS = [
    f"train.steps={STEPS}",
    f"checkpoint.every={INTERVAL}",
    f"eval.every={EVALUATED}",
    "train.log_every=20",
    f"train.sample_every={EVALUATED}",
    "checkpoint.keep=2",
]


def write_text(folder: Path) -> Path:
    """Write a learnable text of about 6,000 characters."""
    path = folder / "text.txt"
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "ran", "off"]
    lines = [" ".join(words[(i * j + i) % 10] for j in range(1, 9)) for i in range(200)]
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclasses.dataclass
class Lab:
    """Starter of runs, with a cache of undisturbed ones."""

    forks: Forks
    folder: Path
    text: Path
    _whole: dict[tuple[str, ...], Path] = dataclasses.field(default_factory=dict)
    _count: int = 0

    def new(self) -> Path:
        """Return a directory for a run, not created yet."""
        self._count += 1
        return self.folder / f"run-{self._count}"

    def options(self, kind: str, *settings: str) -> list[str]:
        """Return a run's configuration as words of the command line."""
        return [f"data.path={self.text}", *tiny(kind), *_SETTINGS, *settings]

    def start(self, directory: Path, kind: str, *settings: str, **how: Any) -> Process:
        """Start a run."""
        return self.forks.start(
            "train", *self.options(kind, *settings), "--workdir", directory, **how
        )

    def start_again(self, directory: Path, **how: Any) -> Process:
        """Resume a run."""
        return self.forks.start("train", "--workdir", directory, "--resume", **how)

    def resume(self, directory: Path) -> Process:
        """Resume a run and wait for its end."""
        process = self.start_again(directory)
        process.wait()
        return process

    def whole(self, kind: str, *settings: str) -> Path:
        """Return an undisturbed run of the same configuration."""
        key = (kind, *settings)
        if key not in self._whole:
            directory = self.new()
            done = self.start(directory, kind, *settings)
            assert done.wait() == 0, done.err
            assert done.err == ""
            self._whole[key] = directory
        return self._whole[key]

    def copy(self, directory: Path) -> Path:
        """Copy a run to another place."""
        return Path(shutil.copytree(directory, self.new()))

    def assert_survives(self, directory: Path, kind: str, *settings: str) -> Process:
        """Resume a run, and compare it with an undisturbed one."""
        done = self.resume(directory)
        assert done.status == 0, f"exit {done.status}: {done.err or done.out[-300:]}"
        assert_same(directory, self.whole(kind, *settings))
        return done


def assert_same(directory: Path, other: Path) -> None:
    """Compare two finished runs of one configuration: state, metrics and samples."""
    result, want = summary(directory), summary(other)
    assert result["state_digest"] == want["state_digest"]
    for name in ("steps", "val_loss", "best_val_loss", "best_step", "skipped"):
        assert result[name] == want[name], name
    assert story(directory) == story(other)
    assert (directory / "samples.txt").read_text() == (other / "samples.txt").read_text()
    left = {path.name for path in directory.rglob("*")}
    assert not [name for name in left if name.startswith((".saving", ".removed", ".replaced"))]
    assert not [name for name in left if name.endswith(".tmp")]
    assert str(want["best_step"]) in left, "the best checkpoint is gone"
    assert str(STEPS) in left, "the latest checkpoint is gone"


def summary(directory: Path) -> dict[str, Any]:
    """summary.json."""
    return json.loads((directory / "summary.json").read_text())


def story(directory: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without times; every line whole, (step, split) unique and in order (row 20)."""
    text = (directory / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    lines = [json.loads(line) for line in text[:-1].split("\n")]
    keys = [(line["step"], line["split"]) for line in lines]
    assert len(set(keys)) == len(keys), "a line twice"
    assert keys == sorted(keys, key=lambda key: key[0]), "lines out of order"
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


def lines(directory: Path, split: str) -> list[int]:
    """Return the steps of the complete lines written so far by a running process."""
    path = directory / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    found = re.findall(r'^\{"step": (\d+), "split": "(\w+)".*\}\n', text, re.MULTILINE)
    return [int(step) for step, name in found if name == split]


def saved(directory: Path) -> list[int]:
    """Return the saved steps."""
    places = (directory / "checkpoints").glob("[0-9]*")
    return sorted(int(place.name) for place in places)


def saving(directory: Path) -> int | None:
    """Return the step being saved, now or when the process died."""
    for place in (directory / "checkpoints").glob(".saving-*"):
        # Of several processes, with a mark.
        return int(place.name.removeprefix(".saving-").partition(".")[0])
    return None


def going_on_from(process: Process) -> int:
    """Return the step from which a run was resumed."""
    found = re.search(r"^going on from step (\d+)$", process.out, re.MULTILINE)
    if found is None:
        assert "no checkpoint was saved yet: beginning at step 0" in process.out
        return 0
    return int(found[1])
