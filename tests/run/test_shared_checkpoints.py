"""Checkpoints of several processes, each of which writes its own parts of the arrays."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from charjax.errors import UserError
from charjax.run.checkpoint import Checkpoints, state_digest
from tests.faults.crafting import craft
from tests.run.shared_worker import arrays

ROOT = Path(__file__).resolve().parent.parent.parent


def start(directory: Path, count: int, devices: int, *jobs: Any) -> list[subprocess.Popen[str]]:
    """Start processes that do the same jobs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The tests' proxy, which leads nowhere, is not for the processes' own connection.
    env = {name: value for name, value in os.environ.items() if "_proxy" not in name.lower()}
    words = [str(count), str(port), str(devices), str(directory), json.dumps(jobs)]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.run.shared_worker", str(index), *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=env,
        )
        for index in range(count)
    ]  # fmt: skip


def run(directory: Path, count: int, devices: int, *jobs: Any) -> list[list[Any]]:
    """Run the same jobs in processes, and return the results of each process."""
    started = start(directory, count, devices, *jobs)
    try:
        outputs = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    codes = [process.returncode for process in started]
    assert codes == [0] * count, "\n".join(err for _, err in outputs)
    return [results(out) for out, _ in outputs]


def results(out: str) -> list[Any]:
    """Return the results that a process printed; gloo prints there, too."""
    lines = [line.removeprefix("JOB ") for line in out.splitlines() if line.startswith("JOB ")]
    return [json.loads(line) for line in lines]


def digest(seed: int) -> str:
    """Return the digest of a state that one process has."""
    return state_digest(arrays(seed))


def restored(directory: Path, which: str | int) -> tuple[int, str]:
    """Restore a step in this process."""
    tree, _, step = Checkpoints(directory, warn=lambda text: None).restore(which, arrays(0))
    return step, state_digest(tree)


def test_two_processes_save_and_restore_as_one(tmp_path: Path):
    store, shard = tmp_path / "checkpoints", "shards-1/bytes-0/0"
    first, second = run(
        store, 2, 2,
        ["save", 100, 200, 300],
        ["restore", "latest"],
        ["restore", "best"],
        ["harm", f"300/{shard}", "alter", 1],
        ["restore", "latest"],
        ["restore", 300],
        ["fail", 1, "full"],
        ["save", 400],
        ["fail", 0, "broken"],
        ["save", 400],
        ["save", 250],
        ["save_alone"],
        ["save_whole", 5],
    )  # fmt: skip
    back = f"300 is damaged ({shard} is altered)"
    failed = f"saving checkpoint 400 in {str(store)!r} failed: "
    before = "; saved before it: 100, 200, 300"
    common = [
        [100, 200, 300],
        [300, digest(300), []],
        [200, digest(200), []],
        None,
        [200, digest(200), [f"checkpoint {back}: going back to checkpoint 200"]],
        {"UserError": f"checkpoint: in {str(store)!r} {back}, ask for latest or another step"},
        None,
        {"SaveError": f"{failed}No space left on device (process 1){before}"},
        None,
        {"SaveError": f"{failed}Input/output error{before}"},
        # As where a run goes on from a step before.
        [100, 200, 250],
    ]
    assert first[:-2] == common
    # The first process alone warns; a process has its own error, the others name it.
    common[4] = [200, digest(200), []]
    common[7] = {"SaveError": f"{failed}No space left on device{before}"}
    common[9] = {"SaveError": f"{failed}Input/output error (process 0){before}"}
    assert second[:-2] == common
    assert first[-2] != second[-2]
    assert sorted(path.name for path in store.iterdir()) == ["100", "200", "250"]
    assert {path.name for path in (store / "250").iterdir()} == {
        *("meta.json", "state", "shards-0", "shards-1")
    }
    # One process reads them as any other's.
    assert restored(store, "latest") == (250, digest(250))
    assert restored(store, "best") == (250, digest(250))
    assert restored(store, 100) == (100, digest(100))
    assert_same_files(tmp_path)
    # Parts that were written wrong, in files that are what was written.
    craft(store / "250", forge)
    with pytest.raises(UserError, match=r"250 is damaged \(opt/mu is altered\)"):
        restored(store, 250)


def forge(record: dict[str, Any]) -> None:
    """Alter the digest of a part."""
    record["leaves"]["opt/mu"]["shards"][1]["sha256"] = "0" * 64


def assert_same_files(folder: Path) -> None:
    """Compare what two processes and one write of a state of which every process has all."""
    one = Checkpoints(folder / "one", keep=1)
    one.save(
        5, {name: leaf for name, leaf in arrays(5).items() if leaf.ndim and name != "host"}, {}
    )
    one.close()
    records = [
        json.loads((folder / place / "5" / "meta.json").read_bytes()) for place in ("one", "whole")
    ]
    for record in records:
        assert record.pop("format") == 4
        # Orbax writes the time, too.
        record["files"] = list(record["files"])
        del record["sha256"]
    assert records[0] == records[1]


def _longest(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.longest)


_PLACES = {"1x1": (1, 1), "1x8": (1, 8), "2x1": (2, 1), "2x2": (2, 2), "2x4": (2, 4), "4x1": (4, 1)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("1x8", ["2x1"]),
        ("2x2", ["1x8"]),
        _longest("1x1", ["2x2"]),
        _longest("1x8", ["1x1", "2x4"]),
        _longest("2x2", ["4x1"]),
        _longest("4x1", ["1x1", "2x1", "2x4"]),
    ],
    ids=lambda place: place if isinstance(place, str) else " ".join(place),
)
def test_restored_on_other_processes_and_devices(tmp_path: Path, there: str, here: list[str]):
    saved = run(tmp_path, *_PLACES[there], ["save", 1])
    assert saved == [[[1]]] * _PLACES[there][0]
    for place in here:
        found = run(tmp_path, *_PLACES[place], ["restore", "latest"])
        assert found == [[[1, digest(1), []]]] * _PLACES[place][0]


@pytest.mark.slow
def test_any_damaged_file_sends_all_processes_one_step_back(tmp_path: Path):
    run(tmp_path, 2, 2, ["save", 1])
    files = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*"))
    files = [path for path in files if (tmp_path / "1" / path).is_file()]
    assert {path.parts[0] for path in files} == {"meta.json", "state", "shards-0", "shards-1"}
    steps = range(2, len(files) + 2)
    jobs: list[Any] = [["save", step] for step in (*steps, steps[-1] + 1)]
    for step, (number, file) in zip(reversed(steps), enumerate(files), strict=True):
        how = ("remove", "cut", "alter")[number % 3]
        jobs += [["harm", f"{step + 1}/{file}", how, number % 2], ["restore", "latest"]]
    first, second = run(tmp_path, 2, 2, *jobs)
    found = (each[len(steps) + 2 :: 2] for each in (first, second))
    for step, one, other in zip(reversed(steps), *found, strict=True):
        assert one[:2] == other[:2] == [step, digest(step)]
        assert len(one[2]) == 1
        assert f"checkpoint {step + 1} is damaged" in one[2][0]


@pytest.mark.slow
def test_a_directory_that_is_not_shared_is_named(tmp_path: Path):
    for index in ("0", "1"):
        (tmp_path / index).mkdir()
    first, second = run(tmp_path / "{index}", 2, 1, ["save", 1])
    said = "process 1 does not see what process 0 has in"
    assert said in first[0]
    assert said in second[0]
    for index in ("0", "1"):
        assert list((tmp_path / index).iterdir()) == []


# Functions of `save_together` that a process is about to call, in their order.
_OF_BOTH = ("check_room", "write_arrays", "digest")
_OF_THE_FIRST = ("make_staging", "_record", "write_record", "rename_into_place", "prune")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "moment"),
    [
        (1, "digest"),
        (0, "rename_into_place"),
        *(_longest(1, name) for name in _OF_BOTH[:2]),
        *(_longest(0, name) for name in _OF_BOTH + _OF_THE_FIRST if name != "rename_into_place"),
    ],
)
def test_a_process_killed_during_a_save(tmp_path: Path, victim: int, moment: str):
    jobs = [["save", 1], ["die", victim, moment], ["save", 2], ["leave"]]
    started = start(tmp_path, 2, 2, *jobs)
    try:
        outputs = [process.communicate(timeout=60)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert started[victim].returncode == -9
    if victim == 1:
        # The process that coordinates is left, and has to say why.
        assert "SaveError" in str(results(outputs[0])[2])
    saved = [1, 2] if moment == "prune" else [1]
    assert Checkpoints(tmp_path).steps() == saved
    assert restored(tmp_path, "latest") == (saved[-1], digest(saved[-1]))
    # The next run clears away what is left of it.
    store = Checkpoints(tmp_path, keep=40)
    store.save(3, arrays(3), {})
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [*map(str, saved), "3"]
