"""Small runs, and what must be the same of an interrupted one and of one that never was."""

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
    """About 6,000 characters with something to learn."""
    path = folder / "text.txt"
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "ran", "off"]
    lines = [" ".join(words[(i * j + i) % 10] for j in range(1, 9)) for i in range(200)]
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclasses.dataclass
class Lab:
    """Starts runs, and keeps what they come to when nothing happens to them."""

    forks: Forks
    folder: Path
    text: Path
    _whole: dict[tuple[str, ...], Path] = dataclasses.field(default_factory=dict)
    _count: int = 0

    def new(self) -> Path:
        """A directory for a run, not made yet."""
        self._count += 1
        return self.folder / f"run-{self._count}"

    def options(self, kind: str, *more: str) -> list[str]:
        """A run's configuration as words of the command line."""
        return [f"data.path={self.text}", *tiny(kind), *_SETTINGS, *more]

    def start(self, directory: Path, kind: str, *more: str, **how: Any) -> Process:
        """Start a run."""
        return self.forks.start("train", *self.options(kind, *more), "--workdir", directory, **how)

    def start_again(self, directory: Path, **how: Any) -> Process:
        """Go on with it."""
        return self.forks.start("train", "--workdir", directory, "--resume", **how)

    def resume(self, directory: Path) -> Process:
        """Go on with it, to its end."""
        process = self.start_again(directory)
        process.wait()
        return process

    def whole(self, kind: str, *more: str) -> Path:
        """A run of the same configuration that nothing has happened to."""
        key = (kind, *more)
        if key not in self._whole:
            directory = self.new()
            done = self.start(directory, kind, *more)
            assert done.wait() == 0, done.err
            assert done.err == ""
            self._whole[key] = directory
        return self._whole[key]

    def copy(self, directory: Path) -> Path:
        """The same run in another place."""
        return Path(shutil.copytree(directory, self.new()))

    def assert_survives(self, directory: Path, kind: str, *more: str) -> Process:
        """Resume a run, and compare it with one that nothing has happened to."""
        done = self.resume(directory)
        assert done.status == 0, f"exit {done.status}: {done.err or done.out[-300:]}"
        assert_same(directory, self.whole(kind, *more))
        return done


def assert_same(directory: Path, other: Path) -> None:
    """Two finished runs of one configuration: the same bits, the same story."""
    told, want = summary(directory), summary(other)
    assert told["state_digest"] == want["state_digest"]
    for name in ("steps", "val_loss", "best_val_loss", "best_step", "skipped"):
        assert told[name] == want[name], name
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
    """The steps of the lines written so far, whole ones alone; of a run that goes on."""
    path = directory / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    found = re.findall(r'^\{"step": (\d+), "split": "(\w+)".*\}\n', text, re.MULTILINE)
    return [int(step) for step, name in found if name == split]


def saved(directory: Path) -> list[int]:
    """The steps that have been saved."""
    places = (directory / "checkpoints").glob("[0-9]*")
    return sorted(int(place.name) for place in places)


def saving(directory: Path) -> int | None:
    """The step that is being saved, or was when the process died."""
    for place in (directory / "checkpoints").glob(".saving-*"):
        return int(place.name.removeprefix(".saving-"))
    return None


def going_on_from(process: Process) -> int:
    """The step that a resumed run began at."""
    found = re.search(r"^going on from step (\d+)$", process.out, re.MULTILINE)
    if found is None:
        assert "no checkpoint was saved yet: beginning at step 0" in process.out
        return 0
    return int(found[1])
