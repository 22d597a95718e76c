"""Rows 3 and 4: stop signals in every phase, once and twice."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.histories import (
    EVALUATED,
    Lab,
    assert_same,
    going_on_from,
    lines,
    saved,
    saving,
)
from tests.faults.processes import Process

# Whose evaluation takes a while: one window of 8 characters at a time.
_SLOW = ("transformer", "eval.batch_size=1", "data.val_fraction=0.4")


def sampled(directory: Path) -> list[int]:
    """Return the steps with written samples."""
    path = directory / "samples.txt"
    text = path.read_text() if path.exists() else ""
    return [int(step) for step in re.findall(r"^--- step (\d+) ---$", text, re.MULTILINE)]


def compiling(directory: Path, process: Process) -> bool:
    return (directory / "config.toml").exists() and not compiled(process)


def compiled(process: Process) -> bool:
    return "compiled in" in process.out


def training(directory: Path, process: Process) -> bool:
    newest = max(lines(directory, "train"), default=0)
    return compiled(process) and newest > 0 and newest % EVALUATED > 0


def evaluating(directory: Path, process: Process) -> bool:
    newest = max(lines(directory, "train"), default=0)
    due = newest > 0 and newest % EVALUATED == 0
    return compiled(process) and due and newest not in lines(directory, "val")


def sampling(directory: Path, process: Process) -> bool:
    newest = max(lines(directory, "val"), default=0)
    return compiled(process) and newest > 0 and newest not in sampled(directory)


def storing(directory: Path, process: Process) -> bool:
    return compiled(process) and saving(directory) is not None


Phase = Callable[[Path, Process], bool]
# In the order in which one run can be stopped in all of them.
PHASES: list[Phase] = [compiling, training, evaluating, sampling, storing]


def test_sigterm_in_every_phase(faults, lab: Lab):
    row = faults(3, "SIGTERM while compiling, training, evaluating, sampling, saving", few=1)
    for case in row.over(range(10)):
        phases = [training, sampling] if row.brief else PHASES
        what = (row.family(0),) if row.brief else _SLOW
        with row.case(case, len(phases)):
            stop_in_phases(lab, what, signal.SIGTERM, phases, random.Random(case))


def test_interrupt_in_every_phase(faults, lab: Lab):
    row = faults(4, "Ctrl-C in the same phases", few=0)
    for case in row.over(range(2)):
        with row.case(case, len(PHASES)):
            stop_in_phases(lab, _SLOW, signal.SIGINT, PHASES, random.Random(case))


def stop_in_phases(
    lab: Lab,
    what: tuple[str, ...],
    number: signal.Signals,
    phases: list[Phase],
    rng: random.Random,
) -> None:
    """Stop one run in each phase; resumed, it must equal an uninterrupted one."""
    lab.whole(*what)
    left = list(phases)
    for _ in range(6):
        directory = lab.new()
        process = lab.start(directory, *what)
        for phase in list(left):
            hit = wait_for(phase, directory, process, rng)
            process.send(number)
            if process.wait() in (0, -number):  # it came too late: the run was over
                process = lab.start_again(directory)
                break
            step = assert_stopped(directory, process, number)
            # What is long was cut short, not ended first.
            hit = hit and (phase not in (evaluating, sampling) or phase(directory, process))
            if hit:
                left.remove(phase)
            if hit and phase is sampling:
                # The evaluation before was the best, and will not be again when it is repeated.
                record = directory / "checkpoints" / str(step) / "meta.json"
                assert json.loads(record.read_bytes())["best"]
            process = lab.start_again(directory)
            process.until(lambda p=process: "going on from" in p.out)
            assert going_on_from(process) == step
        process.wait()
        assert (process.status, process.err) == (0, "")
        assert_same(directory, lab.whole(*what))
        shutil.rmtree(directory)
        if not left:
            return
    raise AssertionError(f"never seen: {', '.join(phase.__name__ for phase in left)}")


def wait_for(phase: Phase, directory: Path, process: Process, rng: random.Random) -> bool:
    """Wait for a phase, and a little longer; return True if the run still goes on."""
    process.until(lambda: phase(directory, process), every=0.0005)
    time.sleep(rng.uniform(0, 0.01))
    return process.alive() and phase(directory, process)


def assert_stopped(directory: Path, process: Process, number: int) -> int:
    """Check that the run has saved all its steps; return the last."""
    assert process.status == 128 + number, (process.status, process.err)
    assert process.err == ""
    match = re.search(r"stopped by SIG\w+ at step (\d+); the state is saved", process.out)
    assert match, process.out[-300:]
    step = int(match[1])
    assert step == max(saved(directory))
    # Whatever was written down is in what was saved.
    assert step >= max(lines(directory, "train"), default=0)
    return step


def test_a_second_signal_ends_at_once(faults, lab: Lab):
    row = faults(4, "a second SIGTERM: the end at once, the checkpoint before it intact", few=0)
    for case in row.over(range(2)):
        rng = random.Random(case)
        with row.case(case, len(PHASES)):
            directory = lab.new()
            process = lab.start(directory, *_SLOW)
            for phase in PHASES:
                wait_for(phase, directory, process, rng)
                before = max(saved(directory), default=0)
                process.send(signal.SIGTERM)
                time.sleep(rng.uniform(0, 0.02))
                process.send(signal.SIGTERM)
                asked = time.monotonic()
                assert process.wait() == 128 + signal.SIGTERM, process.status
                assert time.monotonic() - asked < 1
                assert process.err == ""
                process = lab.start_again(directory)
                process.until(lambda p=process: compiled(p))
                assert going_on_from(process) >= before
            process.wait()
            assert (process.status, process.err) == (0, "")
            assert_same(directory, lab.whole(*_SLOW))
            shutil.rmtree(directory)


# One call of native code that no signal cuts short, as compiling is.
_DEAF = """
import hashlib
from charjax.signals import Signals
with Signals():
    print("deaf", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)
"""


def test_a_second_signal_during_a_long_call(faults):
    row = faults(4, "a second SIGTERM in native code that no handler interrupts", few=1)
    for case in row.over([signal.SIGTERM, signal.SIGINT]):
        with row.case(case.name):
            process = subprocess.Popen([sys.executable, "-c", _DEAF], stdout=subprocess.PIPE)
            assert process.stdout is not None
            with process.stdout:
                process.stdout.readline()
                process.send_signal(signal.SIGTERM)
                time.sleep(0.2)
                process.send_signal(case)
                try:
                    assert process.wait(5) == 128 + case
                finally:
                    process.kill()
                    process.wait()
