"""Rows 6, 7 and 8: files truncated, lost or altered."""

import contextlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.crafting import craft
from tests.faults.histories import Lab, saved
from tests.faults.processes import Process

_KIND = "gru"


@pytest.fixture
def run(lab: Lab) -> Iterator[Path]:
    """Train a run with two checkpoints."""
    directory = lab.copy(lab.whole(_KIND))
    yield directory
    shutil.rmtree(directory)


@contextlib.contextmanager
def harmed(path: Path, data: bytes | None) -> Iterator[None]:
    """Replace a file by other bytes, or remove it."""
    intact = path.read_bytes()
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(intact)


def payload(directory: Path) -> list[Path]:
    newest = directory / "checkpoints" / str(max(saved(directory)))
    return sorted(path for path in newest.rglob("*") if path.is_file())


def evaluate(lab: Lab, directory: Path) -> Process:
    return lab.forks.run("evaluate", directory, "--checkpoint", "latest", "--json")


def assert_fell_back(lab: Lab, directory: Path, harm: str) -> None:
    """Check that readers of the run use the previous step, and name both."""
    older, newest = saved(directory)[-2:]
    done = evaluate(lab, directory)
    assert done.status == 0, done.err
    assert f'"step": {older}' in done.out
    assert len(done.err.splitlines()) == 1, done.err
    assert f"warning: checkpoint {newest} is damaged ({harm}" in done.err
    assert f"going back to checkpoint {older}" in done.err


def test_every_file_missing_empty_and_half(faults, lab: Lab, run: Path):
    files = payload(run)
    assert len(files) == 3
    harms = [(file, harm) for file in files for harm in ("missing", "empty", "half")]
    row = faults(6, "a file of the newest step missing, empty or half", few=1)
    for file, harm in row.over(harms):
        data, name = file.read_bytes(), file.relative_to(run / "checkpoints" / "600")
        with row.case(f"{name}, {harm}"):
            less = {"missing": None, "empty": b"", "half": data[: len(data) // 2]}[harm]
            with harmed(file, less):
                assert_fell_back(lab, run, str(name))


HARMS = ["files cut", "directory empty", "no files", "record missing", "arrays of another step"]


def test_a_harmed_run_is_trained_to_the_same_bits(faults, lab: Lab):
    row = faults(6, "the newest step lost, emptied or cut, resumed to the same bits", few=1)
    for harm in row.over(HARMS):
        with row.case(harm):
            directory = lab.copy(lab.whole(_KIND))
            newest = directory / "checkpoints" / str(max(saved(directory)))
            older, record = saved(directory)[-2], newest / "meta.json"
            for file in payload(directory):
                if harm == "files cut":
                    file.write_bytes(file.read_bytes()[:-1])
                elif harm == "no files" or (harm == "record missing" and file == record):
                    file.unlink()
            if harm == "arrays of another step":
                shutil.rmtree(newest / "state")
                shutil.copytree(newest.with_name(str(older)) / "state", newest / "state")
                craft(newest)
            if harm == "directory empty":
                shutil.rmtree(newest)
                newest.mkdir()
            done = lab.assert_survives(directory, _KIND)
            assert f"going on from step {older}" in done.out
            assert f"checkpoint {newest.name} is damaged" in done.err
            assert f"going back to checkpoint {older}" in done.err
            assert len(done.err.splitlines()) == 1
            shutil.rmtree(directory)


def test_one_flipped_bit(faults, lab: Lab, run: Path):
    files = payload(run)
    row = faults(7, "one bit flipped in a file of the newest step", few=1, full=200)
    for case in row:
        rng = random.Random(case)
        # Every file as often, and in a file every bit as likely.
        file = files[case % len(files)]
        data = bytearray(file.read_bytes())
        place, bit = rng.randrange(len(data)), rng.randrange(8)
        data[place] ^= 1 << bit
        name = file.relative_to(run / "checkpoints" / "600")
        with row.case(f"{name}, byte {place}, bit {bit}"), harmed(file, bytes(data)):
            assert_fell_back(lab, run, f"{name} is altered")


def test_all_steps_bad(faults, lab: Lab):
    row = faults(8, "all steps bad: refused with the list, nothing written", few=1)
    for harm in row.over(["altered", "missing"]):
        with row.case(harm):
            directory = lab.copy(lab.whole(_KIND))
            older, newest = saved(directory)
            for step in (older, newest):
                file = directory / "checkpoints" / str(step) / "meta.json"
                if harm == "missing":
                    file.unlink()
                else:
                    file.write_bytes(file.read_bytes()[:-2] + b"X}")
            before = contents(directory)
            commands = [lab.resume(directory)]
            if not row.brief:
                commands.append(evaluate(lab, directory))
            for done in commands:
                store = str(directory / "checkpoints")
                assert done.status == 2
                assert done.err == (
                    f"error: checkpoint: in {store!r} {newest} is damaged (meta.json is {harm}), "
                    f"{older} is damaged (meta.json is {harm}), and there is no other; put a copy "
                    "back, or start a new run\n"
                )
            assert contents(directory) == before
            shutil.rmtree(directory)


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
