"""Rows 1, 2, 9 and 20: kill -9 at any moment and during a save."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.histories import (
    INTERVAL,
    STEPS,
    Lab,
    going_on_from,
    lines,
    saved,
    saving,
)
from tests.faults.processes import Process

# A run is killed as often as this before it is let go on to its end.
_KILLS = 4


def test_killed_at_any_moment(faults, lab: Lab):
    row = faults(1, "kill -9 at random moments, resumed to the same bits", few=1)
    for case in row.over(range(50)):
        kind, rng, deaths = row.family(case), random.Random(case), 1 if row.brief else _KILLS
        with row.case(f"{case}, {kind}", deaths):
            die_and_live(lab, kind, lambda d, p, rng=rng: wait_a_while(d, p, rng), deaths)


def wait_a_while(directory: Path, process: Process, rng: random.Random) -> bool:
    """Wait until a random moment after the first file; return False if the run ends first."""
    before = max(saved(directory), default=0)
    process.until(lambda: (directory / "config.toml").exists())
    if rng.random() < 0.7:
        goal = before + rng.uniform(0, 0.4) * STEPS
        process.until(lambda: max(lines(directory, "train"), default=0) > goal)
    time.sleep(rng.uniform(0, 0.15))
    return process.alive()


def test_killed_during_a_save(faults, lab: Lab):
    row = faults(2, "kill -9 during a save, at most one interval lost", few=1)
    for case in row.over(range(25)):
        kind, rng, deaths = row.family(case), random.Random(case), 1 if row.brief else _KILLS
        with row.case(f"{case}, {kind}", deaths):
            die_and_live(
                lab, kind, lambda d, p, rng=rng: wait_for_a_save(d, p, rng), deaths, in_save=True
            )


def wait_for_a_save(directory: Path, process: Process, rng: random.Random) -> bool:
    """Wait for a random moment in the first, second or third save; return False if missed."""
    left_over = saving(directory)
    # What the kill before this one has left is cleared away first.
    process.until(lambda: left_over is None or saving(directory) is None, every=0.0002)
    for _ in range(rng.choice([1, 1, 2, 3])):
        process.until(lambda: saving(directory) is None, every=0.0002)
        process.until(lambda: saving(directory) is not None, every=0.0002)
    time.sleep(rng.uniform(0, 0.02))
    return process.alive() and saving(directory) is not None


def die_and_live(
    lab: Lab,
    kind: str,
    wait: Callable[[Path, Process], bool],
    wanted: int,
    in_save: bool = False,
) -> None:
    """Kill runs at the moment of `wait`, `wanted` times; each must resume to the same end."""
    lab.whole(kind)
    deaths = 0
    for _ in range(20 * wanted):
        if deaths == wanted:
            return
        directory = lab.new()
        process = lab.start(directory, kind)
        while True:
            hit = wait(directory, process)
            process.send(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                assert process.status == 0, process.err
                break
            deaths += hit and (not in_save or saving(directory) is not None)
            reached, lost = max(saved(directory), default=0), saving(directory)
            if deaths == wanted:
                break
            process = lab.start_again(directory)
            process.until(lambda p=process: "compiled in" in p.out or "nothing" in p.out)
            assert process.err == ""
            assert going_on_from(process) == reached >= (lost or 0) - INTERVAL
        done = lab.assert_survives(directory, kind)
        assert done.err == ""
        shutil.rmtree(directory)
    raise AssertionError(f"killed only {deaths} times")


def test_leftovers_of_dead_saves(faults, lab: Lab):
    row = faults(9, "leftovers of dead saves: ignored by readers, cleared by a writer", few=1)
    kind = row.family(0)
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
