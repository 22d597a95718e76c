"""Rows 5 and 14: the disk is full, the directory vanishes or becomes read-only."""

import contextlib
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.histories import Lab, lines, saved, saving
from tests.faults.processes import Process

# As many steps between two saves as last longer than a save.
_SLOW = ("train.steps=600", "checkpoint.every=100", "eval.every=100", "train.log_every=10")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 2 MB, if allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("a small file system can be mounted by root alone")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_the_disk_is_full(faults, lab: Lab, small_disk: Path):
    row = faults(5, "disk full during a save", few=1)
    for case in row.over(range(10)):
        rng, kind = random.Random(case), row.family(case)
        with row.case(f"{case}, {kind}"):
            lab.whole(kind)
            for left in small_disk.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            directory = small_disk / "run"
            process = lab.start(directory, kind)
            enough = rng.choice([1, 2])
            process.until(lambda d=directory, n=enough: len(saved(d)) >= n)
            # In the middle of a save, or before one; some room is left, but not enough.
            if case % 2:
                process.until(lambda d=directory: saving(d) is not None, every=0.0005)
            newest = max(saved(directory))
            leave = rng.randrange(size_of(directory / "checkpoints" / str(newest)))
            # Kept full: a save that still fitted removes an older step, and that makes room.
            process.until(lambda n=leave, p=process: fill(small_disk, n) or not p.alive())
            assert_loud(process, "No space left on device")
            saved_step = max(saved(directory))
            assert saved_step >= newest
            (small_disk / "filler").unlink()
            done = lab.assert_survives(directory, kind)
            assert f"going on from step {saved_step}" in done.out
            assert done.err == ""


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def fill(disk: Path, leave: int) -> None:
    """Fill the disk up to a number of free bytes."""
    # The suppression outermost: what is left in the buffer is written when the file is closed.
    with contextlib.suppress(OSError), (disk / "filler").open("ab") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - leave)))


def test_a_file_may_not_grow(faults, lab: Lab):
    row = faults(5, "a quota on files reached during a save", few=0, full=2)
    for case in row:
        with row.case(case):
            lab.whole("gru")
            directory = lab.new()
            process = lab.start(directory, "gru", file_limit=4096)
            assert_loud(process, "File too large")
            lab.assert_survives(directory, "gru")
            shutil.rmtree(directory)


def assert_loud(process: Process, reason: str) -> None:
    """Check that the process ends with a one-line error and a nonzero status."""
    assert process.wait() == 1, (process.status, process.err)
    assert len(process.err.splitlines()) == 1, process.err
    assert process.err.startswith("error: ")
    assert reason in process.err


def test_the_directory_vanishes(faults, lab: Lab):
    row = faults(14, "the run's directory is moved away in mid-run", few=0)
    for case in row.over(range(4)):
        with row.case(case):
            directory, process, seen = in_mid_run(lab, case)
            directory.rename(directory.with_name("away"))
            assert_loud(process, "No such file or directory")
            assert evaluations(process) - seen <= 1, "another interval was wasted"
            assert not directory.exists(), "made again"
            directory.with_name("away").rename(directory)
            lab.assert_survives(directory, "gru", *_SLOW)
            shutil.rmtree(directory)


@pytest.mark.slow
def test_the_directory_turns_read_only(faults, lab: Lab):
    row = faults(14, "the checkpoints' directory turns read-only in mid-run", few=1)
    for case in row.over(range(4)):
        with row.case(case):
            directory, process, seen = in_mid_run(lab, case, mortal=True)
            store = directory / "checkpoints"
            store.chmod(0o500)
            try:
                assert_loud(process, "Permission denied")
            finally:
                store.chmod(0o700)
            assert evaluations(process) - seen <= 1, "another interval was wasted"
            if not row.brief:
                lab.assert_survives(directory, "gru", *_SLOW)
            shutil.rmtree(directory)


def test_the_checkpoints_vanish(faults, lab: Lab):
    row = faults(14, "the checkpoints' directory is moved away in mid-run", few=0)
    for case in row.over(range(2)):
        with row.case(case):
            directory, process, seen = in_mid_run(lab, case)
            # At once: a save that goes on would put more into what is being emptied.
            (directory / "checkpoints").rename(directory / "gone")
            assert_loud(process, "No such file or directory")
            assert evaluations(process) - seen <= 1, "another interval was wasted"
            assert not (directory / "checkpoints").exists(), "made again"
            shutil.rmtree(directory)


def test_the_directory_is_deleted(faults, lab: Lab):
    """Delete the directory between two saves, and during one, whose writer could recreate it."""
    cases = [(name, moment) for moment in ("save", "between") for name in ("run", "checkpoints")]
    row = faults(14, "the run's or the checkpoints' directory is deleted in mid-run", few=0)
    for case, (name, moment) in enumerate(row.over(cases * 3)):
        with row.case((case, name, moment)):
            directory, process, seen = in_mid_run(lab, case)
            victim = directory / "checkpoints" if name == "checkpoints" else directory
            if moment == "save":
                process.until(lambda d=directory: saving(d) is not None, every=0.0002)
                time.sleep(random.Random(case).uniform(0, 0.015))
            # A save that goes on may put something into what is being emptied.
            while victim.exists():
                shutil.rmtree(victim, ignore_errors=True)
            seen = max(seen, evaluations(process))
            assert_loud(process, "No such file or directory")
            assert str(victim) in process.err
            assert evaluations(process) - seen <= 1, "another interval was wasted"
            assert not saved(directory), "a checkpoint after all"
            assert name == "checkpoints" or not (directory / "metrics.jsonl").exists(), "made again"
            shutil.rmtree(directory, ignore_errors=True)


def in_mid_run(lab: Lab, case: int, **how: bool) -> tuple[Path, Process, int]:
    """Start a run; return it between two saves, and its number of reported evaluations."""
    directory = lab.new()
    process = lab.start(directory, "gru", *_SLOW, **how)
    # A train line of the next interval: the save before it is done, or as good as.
    after = 100 * (1 + case % 3)
    process.until(lambda: max(lines(directory, "train"), default=0) > after)
    process.until(lambda: after in saved(directory))
    return directory, process, evaluations(process)


def evaluations(process: Process) -> int:
    return len(re.findall(r"^step \d+/\d+  val ", process.out, re.MULTILINE))
