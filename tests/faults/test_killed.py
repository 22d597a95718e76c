"""Rows 1, 2, 9 and 20: kill -9, at any moment and in the middle of a save."""

import random
import shutil
import signal
import time
from pathlib import Path

from tests.faults.histories import (
    FAMILIES,
    INTERVAL,
    Lab,
    going_on_from,
    lines,
    saved,
    saving,
)


def began(directory: Path) -> bool:
    return (directory / "config.toml").exists()


def test_killed_at_any_moment(faults, lab: Lab):
    row = faults(1, "kill -9 at a random moment, resumed to the same bits", few=3, full=200)
    for case in row:
        kind = FAMILIES[case % len(FAMILIES)]
        with row.case(f"{case}, {kind}"):
            lab.whole(kind)
            directory = lab.new()
            process = lab.start(directory, kind)
            assert process.until(lambda d=directory: began(d)), process.err
            # From the beginning of the run to about its end, whatever the machine does.
            goal = random.Random(case).uniform(-0.5, 1) * 600
            process.until(lambda d=directory, g=goal: max(lines(d, "train"), default=0) >= g)
            time.sleep(random.Random(case).uniform(0, 0.1))
            process.send(signal.SIGKILL)
            process.wait()
            reached = max(saved(directory), default=0)
            done = lab.assert_survives(directory, kind)
            if process.status == -signal.SIGKILL and "nothing to do" not in done.out:
                assert going_on_from(done) == reached
            shutil.rmtree(directory)


def test_killed_during_a_save(faults, lab: Lab):
    row = faults(2, "kill -9 during a save, at most one interval lost", few=1, full=100)
    for case in row:
        kind = FAMILIES[case % len(FAMILIES)]
        with row.case(f"{case}, {kind}"):
            directory = killed_in_a_save(lab, kind, random.Random(case))
            being_saved = saving(directory)
            assert being_saved is not None
            done = lab.assert_survives(directory, kind)
            assert going_on_from(done) >= being_saved - INTERVAL
            shutil.rmtree(directory)


def killed_in_a_save(lab: Lab, kind: str, rng: random.Random) -> Path:
    """A run that was killed while a save was under way; the chosen one, or the next that is hit."""
    for _ in range(20):
        directory = lab.new()
        process = lab.start(directory, kind)
        for _ in range(rng.randint(1, 4)):
            process.until(lambda d=directory: saving(d) is not None, every=0.0005)
            time.sleep(rng.uniform(0, 0.03))
            if saving(directory) is not None:
                break
        process.send(signal.SIGKILL)
        process.wait()
        if saving(directory) is not None:
            return directory
        shutil.rmtree(directory)
    raise AssertionError("no save was hit")


def test_leftovers_of_dead_saves(faults, lab: Lab):
    row = faults(9, "leftovers of dead saves: ignored by readers, cleared by a writer", few=1)
    kind = "bigram"
    for case in row.over(["saving", "removed", "replaced", "replaced alone", "all"]):
        with row.case(case):
            directory = lab.copy(lab.whole(kind))
            store = directory / "checkpoints"
            newest, older = sorted(saved(directory), reverse=True)[:2]
            if case in ("saving", "all"):
                shutil.copytree(store / str(newest), store / f".saving-{newest + 1}")
                (store / f".saving-{newest + 1}" / "meta.json").unlink()
            if case in ("removed", "all"):
                shutil.copytree(store / str(older), store / ".removed-3")
            if case in ("replaced", "all"):
                shutil.copytree(store / str(newest), store / f".replaced-{newest}")
            if case == "replaced alone":
                (store / str(newest)).rename(store / f".replaced-{newest}")
            else:
                read = lab.forks.run("evaluate", directory, "--checkpoint", "latest", "--json")
                assert (read.status, read.err) == (0, "")
            (directory / "summary.json").unlink()
            done = lab.assert_survives(directory, kind)
            assert "going on" in done.out
            assert done.err == ""
            shutil.rmtree(directory)
