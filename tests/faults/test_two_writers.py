"""Row 12: the second of two runs in one directory refuses, and names the first's process."""

import re
import shutil
import signal
from pathlib import Path
from typing import Any

from tests.faults.histories import STEPS, Lab, story
from tests.faults.processes import Process

_KIND = "bigram"
# So many that the first still runs whenever the second comes; then it is asked to stop.
_ENDLESS = "train.steps=100000000"


def start_pair(lab: Lab, directory: Path, how: str) -> tuple[Process, Process]:
    """Start two runs in one directory, the second immediately or a moment later."""
    if how == "both resume":
        shutil.copytree(lab.whole(_KIND), directory)
        words = ["--workdir", directory, "--resume", _ENDLESS]
        return lab.forks.start("train", *words), lab.forks.start("train", *words)
    first = lab.start(directory, _KIND, _ENDLESS)
    if how == "resume":
        assert first.until(lambda: (directory / "config.toml").exists()), first.err
        return first, lab.start_again(directory)
    if how == "later":
        assert first.until(lambda: "compiled in" in first.out), first.err
    return first, lab.start(directory, _KIND, _ENDLESS)


def test_the_second_refuses(lab: Lab, faults: Any):
    ways = ("at once", "later", "resume", "both resume")
    row = faults(12, "two runs into one directory", few=2, full=20)
    for number in row:
        how, directory = ways[number % len(ways)], lab.new()
        with row.case((number, how)):
            check_refusal(lab, directory, start_pair(lab, directory, how))


def check_refusal(lab: Lab, directory: Path, pair: tuple[Process, Process]) -> None:
    pair[0].until(lambda: not pair[1].alive())
    second, first = pair if not pair[0].alive() else pair[::-1]
    try:
        assert second.wait() == 2, (second.status, second.out, second.err)
        assert len(second.err.strip().splitlines()) == 1, second.err
        named = re.search(r"is being written by process (\d+);", second.err)
        assert named, second.err
        assert int(named[1]) == first.pid
        # The first goes on as if there were no other.
        assert first.until(lambda: is_past(directory, STEPS), every=0.05), first.err
    finally:
        first.send(signal.SIGTERM)
    assert first.wait() == 143, first.err
    whole = [line for line in story(lab.whole(_KIND)) if line["step"] <= STEPS]
    assert story(directory)[: len(whole)] == whole


def is_past(directory: Path, step: int) -> bool:
    """Return True if a later step has been recorded."""
    path = directory / "metrics.jsonl"
    return path.exists() and f'"step": {step + 20}, ' in path.read_text()
