"""Several processes of one run: their number, and what they say to each other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from charjax import processes
from charjax.errors import UserError
from tests.several import free_port

ROOT = Path(__file__).resolve().parent.parent


def run_together(program: str, count: int) -> list[subprocess.CompletedProcess[str]]:
    """Run a program in several connected processes; it prints JSON, and reads `processes`."""
    start = (
        "import json, sys, jax\n"
        "jax.config.update('jax_enable_preemption_service', False)\n"
        "jax.distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))\n"
        "from charjax import processes\n"
        "from charjax.errors import UserError\n"
    )
    arguments = [sys.executable, "-c", start + program, f"127.0.0.1:{free_port()}", str(count)]
    started = [
        subprocess.Popen(
            [*arguments, str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            # The tests let no one reach the network, through a proxy that does not exist.
            env={**os.environ, "no_grpc_proxy": "127.0.0.1"},
        )
        for number in range(count)
    ]
    outputs = [process.communicate(timeout=60) for process in started]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(started, outputs, strict=True)
    ]


def test_one_process_is_the_first_and_waits_for_nobody() -> None:
    assert (processes.count(), processes.index(), processes.is_first()) == (1, 0, True)
    assert processes.gather("a") == ["a"]
    assert processes.agreed_max([1, 2]) == [1, 2]
    assert processes.together(lambda: 3) == 3
    processes.barrier("nobody", 0.01)
    assert processes.exchange("nobody", "a", 0.01) == ["a"]


@pytest.mark.slow
def test_three_processes_agree() -> None:
    program = """
me = processes.index()
found = [processes.count(), me, processes.is_first()]
for turn in range(3):
    found.append(processes.gather(f"{turn} {me}" if me else ""))
found.append(processes.agreed_max([me, -me]))
processes.barrier("here", 30)
processes.barrier("here", 30)
found.append(processes.together(lambda: me))

def fail():
    if me == 1:
        raise UserError("no such file")
    if me == 2:
        raise OSError("disk full")

try:
    processes.together(fail)
except Exception as error:
    found.append([type(error).__name__, str(error)])

def refuse():
    if me == 1:
        raise OSError("disk full")

try:
    processes.together(refuse)
except OSError as error:
    found.append([type(error).__name__, str(error)])
print(json.dumps(found))
"""
    ended = run_together(program, 3)
    assert [process.returncode for process in ended] == [0, 0, 0], ended[0].stderr
    found = [json.loads(process.stdout) for process in ended]
    texts = [["", f"{turn} 1", f"{turn} 2"] for turn in range(3)]
    mistakes = [
        ["UserError", "process 1: no such file"],
        ["UserError", "no such file"],
        ["OSError", "disk full"],
    ]
    for me in range(3):
        peers = [["PeerError", "process 1 failed: disk full"], ["OSError", "disk full"]]
        expected = [3, me, me == 0, *texts, [2, 0], me, mistakes[me], peers[me == 1]]
        assert found[me] == expected


@pytest.mark.slow
def test_a_barrier_ends_where_a_process_does_not_come() -> None:
    program = """
if processes.is_first():
    try:
        processes.barrier("alone", 0.5)
    except OSError as error:
        print(json.dumps(str(error)))
processes.barrier("end", 30)
"""
    first, second = run_together(program, 2)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert json.loads(first.stdout).startswith("process 0 of 2 waited for the others (alone)")


def test_a_mistake_is_raised_as_it_is_in_one_process() -> None:
    def fail() -> None:
        raise UserError("no such file")

    with pytest.raises(UserError, match="no such file"):
        processes.together(fail)
