"""`make gpu-bench`: its order, its time, what stops it, and what a later call goes on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, gpu_state, gpu_steps
from benchmarks.gpu_state import Record, State
from benchmarks.gpu_steps import Step
from charjax.errors import UserError

ROOT = Path(__file__).resolve().parent.parent.parent


def step(name: str, code: str = "", **settings: Any) -> Step:
    return Step(name, ("-c", code), ("-c", code), 1.0, **settings)


class Clock:
    """Time that passes while a step runs, and at no other moment."""

    def __init__(self, *seconds: float):
        self.time, self.ran = 0.0, []
        self._seconds = iter(seconds)

    def run(self, step: Step, record: Record, seconds: float) -> None:
        self.ran.append((step.name, seconds))
        self.time += next(self._seconds)
        record.status = "done"

    def now(self) -> float:
        return self.time


def test_steps_run_in_order_and_a_shorter_one_takes_what_time_is_left(tmp_path: Path):
    steps = [step("a"), step("b"), step("long", least_seconds=200.0), step("short")]
    clock, state = Clock(300.0, 30.0, 50.0, 90.0), State(tmp_path / "state")
    gpu.work_through(steps, state, clock.run, 480.0, clock.now)
    assert clock.ran == [("a", gpu.LONGEST_SECONDS), ("b", 180.0), ("short", 150.0)]
    assert state["long"].status == "open"
    # The next call does the rest, and nothing again.
    clock = Clock(200.0)
    gpu.work_through(steps, state, clock.run, 480.0, clock.now)
    assert [name for name, _ in clock.ran] == ["long"]


def test_a_step_goes_on_as_long_as_it_brings_something(tmp_path: Path):
    rows, ran = {"big": [4, 8, 9], "stuck": [1, 1, 1]}, []

    def run(step: Step, record: Record, seconds: float) -> None:
        ran.append(step.name)
        before = record.measured()
        count = rows[step.name].pop(0)
        late = [{"what": "x", "failed": False, "late": True}] if rows[step.name] else []
        tree = {"devices": [{"rows": [{}] * count}], "left_out": late}
        record.files = {"result.json": tree}
        gpu._judge(record, 0, progressed=record.measured() > before)

    state = State(tmp_path / "state")
    gpu.work_through([step("big"), step("stuck")], state, run, 1e6, lambda: 0.0)
    assert ran == ["big", "stuck", "big", "stuck", "big", "stuck"]
    assert (state["big"].status, state["stuck"].status) == ("done", "done")
    ran.clear()
    rows |= {"stuck": [1, 1, 1, 1, 1]}
    state = State(tmp_path / "state")
    gpu.work_through([step("stuck")], state, run, 1e6, lambda: 0.0)
    assert (len(ran), state["stuck"].status) == (3, "failed")


def run_steps(tmp_path: Path, steps: list[Step], seconds: float = 60.0) -> State:
    state = State(tmp_path / gpu_state.NAME, dry=True)

    def run(step: Step, record: Record, _: float) -> None:
        gpu.run_step(step, record, seconds, state, tmp_path / "work" / step.name)

    gpu.work_through(steps, state, run, 1000.0)
    return state


def test_what_fails_or_hangs_is_ended_kept_and_the_next_step_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gpu, "_PATIENCE", 0.2)
    monkeypatch.setattr(gpu, "_MOST_TRIES", 1)
    pid = tmp_path / "pid"
    hangs = (
        # It ignores SIGTERM, and has started a process in a session of its own.
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], "
        "start_new_session=True)\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
        "print('hanging', flush=True)\n"
        "time.sleep(60)"
    )
    fails = "print('some output'); raise SystemExit('error: planted')"
    good = "import json; json.dump(dict(rows=[1, 2]), open('{folder}/results.json', 'w'))"
    steps = [step("bad", fails), step("hangs", hangs), step("good", good)]
    state = run_steps(tmp_path, steps, seconds=4.2)
    assert [state[each.name].status for each in steps] == ["failed", "failed", "done"]
    assert state["bad"].why == "status 1; error: planted"
    assert "some output" in state["bad"].log
    assert state["hangs"].why == "stopped after 4 s; hanging"
    assert not is_running(int(pid.read_text()))
    row = {"device": "gpu", "what": "gpt B256", "why": "the losses differ", "failed": True}
    state["bad"].files = {"x.json": {"left_out": [row, row | {"failed": False}]}}
    assert gpu._reason(state["bad"]) == "gpt B256: the losses differ"
    tree = json.loads((tmp_path / gpu_state.NAME).read_text())
    assert tree["steps"]["good"]["files"] == {"results.json": {"rows": [1, 2]}}


def is_running(pid: int) -> bool:
    """Return True if the process exists and has not ended; a zombie has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# A command with two steps, of which the second waits.
WAITING = """
import sys
from benchmarks import gpu, gpu_steps
from benchmarks.gpu_steps import Step
from charjax import cli
code = "import json, time; json.dump(dict(rows=[1, 2]), open(%r, 'w')); time.sleep(60)"
steps = (
    Step("first", ("-c", "pass"), ("-c", "pass"), 1.0),
    Step("waits", ("-c", ""), ("-c", code % "{folder}/results.json"), 1.0),
    Step("never", ("-c", ""), ("-c", ""), 1.0),
)
gpu.STEPS = gpu_steps.STEPS = steps
cli.run(gpu.main)
"""


def test_sigterm_leaves_what_was_measured_and_the_command_that_goes_on(tmp_path: Path):
    command = [sys.executable, "-c", WAITING, "--dry-run", "--out", str(tmp_path)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    path = tmp_path / gpu_state.NAME
    for _ in range(1000):
        if path.exists() and '"rows": [1, 2]' in path.read_text():
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 128 + signal.SIGTERM
    steps = json.loads(path.read_text())["steps"]
    assert steps["first"]["status"] == "done"
    assert steps["waits"]["status"] == "open"
    assert steps["waits"]["files"] == {"results.json": {"rows": [1, 2]}}
    assert "done: first\n" in output
    assert "left, with a guess of their minutes: waits (1 min), never (1 min)" in output
    # A later call, in another folder, begins with these files.
    state = gpu_state.load(tmp_path, tmp_path / "other", dry=True)
    gpu_state.fill(tmp_path / "folder", state["waits"])
    assert json.loads((tmp_path / "folder" / "results.json").read_text()) == {"rows": [1, 2]}


def test_a_missing_text_or_package_is_a_step_left_out_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "names.txt").write_text("emma\n")
    monkeypatch.setenv("CHARJAX_DATA", str(tmp_path))
    steps = (
        step("has its text", corpora=("names",)),
        step("has no text", corpora=("names", "warpeace")),
        step("has no package", packages=("no_such_package",)),
    )
    monkeypatch.setattr(gpu, "STEPS", steps)
    assert gpu.main(["--dry-run", "--out", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert "done: has its text\n" in output
    assert "left out: has no text: needs warpeace.txt, not in CHARJAX_DATA=" in output
    assert "left out: has no package: needs the package no_such_package" in output
    monkeypatch.delenv("CHARJAX_DATA")
    assert gpu_steps.lacking(steps[0]) == "needs names.txt, and CHARJAX_DATA is not set"


def test_a_resumed_call_writes_where_it_was_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """And runs nothing that is done."""
    monkeypatch.setattr(gpu, "STEPS", (step("one"), step("two")))
    assert gpu.main(["--dry-run", "--only", "one", "--out", str(tmp_path)]) == 0
    first = json.loads((tmp_path / gpu_state.NAME).read_text())["steps"]["one"]
    assert gpu.main(["--dry-run", "--resume", str(tmp_path)]) == 0
    assert f"results: {tmp_path / gpu_state.NAME}" in capsys.readouterr().out
    steps = json.loads((tmp_path / gpu_state.NAME).read_text())["steps"]
    assert steps["one"] == first
    assert steps["two"]["status"] == "done"


def test_a_broken_step_of_a_dry_run_is_listed_and_its_status_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(gpu, "STEPS", (step("broken", "import no_such_module"), step("whole")))
    assert gpu.main(["--dry-run", "--out", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "failed: broken: status 1; ModuleNotFoundError: No module named" in output
    assert "done: whole\n" in output


@pytest.mark.parametrize(
    "argv",
    [
        ["--only", "nothing"],
        ["--minutes", "0"],
        ["--resume", "{empty}"],
        ["--resume", "{other}"],
        ["--resume", "{dry}"],
        ["--out", "{dry}"],
        ["--publish"],
        ["--publish", "--dry-run", "--resume", "{dry}"],
    ],
)
def test_mistakes_are_one_line(argv: list[str], tmp_path: Path):
    folders = {name: str(tmp_path / name) for name in ("empty", "other", "dry")}
    for folder in folders.values():
        Path(folder).mkdir()
    (tmp_path / "other" / gpu_state.NAME).write_text('{"rows": []}')
    State(tmp_path / "dry" / gpu_state.NAME, dry=True).save()
    with pytest.raises(UserError, match=r"^[^\n]+$"):
        gpu.main([word.format(**folders) for word in argv])


def test_without_a_gpu_only_a_dry_run_begins(tmp_path: Path):
    with pytest.raises(UserError, match="JAX finds no GPU here"):
        gpu.main(["--only", "roofline", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_without_any_package_the_command_says_which_it_needs():
    """As on a machine that was never set up: nothing but the standard library is found."""
    for argv, status, expected in (
        (["--needs"], 1, "MISSING  jax>=0.10"),
        (["--list"], 0, "tests-ops"),
        (["--only", "roofline"], 2, "packages: jax, flax, optax"),
    ):
        done = subprocess.run(
            [sys.executable, "-S", "-m", "benchmarks.gpu", *argv],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
        assert expected in done.stdout + done.stderr
