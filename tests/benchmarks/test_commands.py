"""The benchmarks as commands: the JSON, what is left out, and mistakes."""

import importlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_steps, harness, initlab, peers, subprocess_worker
from benchmarks.render_speed import NAMES
from benchmarks.section import Section
from charjax.config import load_config
from charjax.errors import UserError
from charjax.performance import failures, show
from charjax.performance.failures import LeftOut


def test_a_result_holds_hardware_versions_flags_date_command_and_every_repeat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from benchmarks.roofline import BENCHMARK

    out = tmp_path / "roofline.json"
    argv = ["--devices", "cpu,gpu", "--quick", "--only", "dispatch*", "--out", str(out)]
    assert harness.main(BENCHMARK, argv) == 0
    tree = json.loads(out.read_text())
    assert tree["benchmark"] == "roofline"
    assert tree["quick"] is True
    assert tree["date"].startswith("20")
    assert tree["command"].startswith("python -m benchmarks.roofline --devices cpu,gpu --quick")
    (cpu,) = tree["devices"]
    assert {"processor", "cores", "versions", "date"} <= cpu["hardware"].keys()
    assert {"jax", "jaxlib"} <= cpu["hardware"]["versions"].keys()
    assert cpu["flags"]["JAX_PLATFORMS"] == "cpu"
    assert cpu["roofline"]["drift"].keys() >= {"float32", "bfloat16", "copy", "dispatch"}
    assert [row["name"] for row in cpu["rows"]] == ["dispatch", "dispatch, waiting"]
    for row in cpu["rows"]:
        assert len(row["repeats"]) == 2
        assert row["q1"] <= row["median"] <= row["q3"]
        assert row["nominal"] is None
    (missing,) = tree["left_out"]
    assert (missing["device"], missing["what"]) == ("gpu", "everything")
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("left out: gpu")]
    assert "finds only cpu" in line


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_is_a_command_with_columns_that_fit_no_rows(name: str):
    benchmark = importlib.import_module(f"benchmarks.{name}").BENCHMARK
    assert benchmark.name == name
    assert f"python -m benchmarks.{name} [--devices cpu,gpu] [--quick]" in benchmark.doc
    show.make_table(benchmark.title, benchmark.columns, [])
    benchmark.extra([])
    assert name in {step.name for step in gpu_steps.STEPS}


@pytest.mark.parametrize(
    "argv",
    [
        ["--devices", "tpu"],
        ["--devices", ""],
        ["--out", "result.txt"],
        ["--quik"],
        ["--seconds", "0"],
    ],
)
def test_mistakes_are_one_line(argv: list[str]):
    from benchmarks.roofline import BENCHMARK

    with pytest.raises(UserError, match=r"^[^\n]+$"):
        harness.main(BENCHMARK, argv)


def test_without_pytorch_one_line_says_so_and_the_rest_is_compared(
    monkeypatch: pytest.MonkeyPatch,
):
    without_pytorch(monkeypatch)
    compared = []
    monkeypatch.setattr(peers, "_compare", lambda *arguments: compared.append(arguments))
    here = Section("cpu", quick=True)
    peers.measure(here)
    (line,) = here.left_out
    assert line["what"] == "PyTorch"
    assert "not installed" in line["why"]
    assert line["failed"] is False
    assert len(compared) == len(peers._QUICK)
    assert all(arguments[-1] is None for arguments in compared)


def without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess_worker, "_ENVIRONMENT", Path("/nowhere"))
    monkeypatch.delenv("CHARJAX_TORCH_PYTHON", raising=False)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("echo 2.13.0 on python 3.11.7", None),
        (
            "echo Traceback >&2; echo 'ImportError: no torch' >&2; exit 1",
            "ImportError: no torch; name another",
        ),
        (None, "No such file or directory; name another"),
    ],
)
def test_pytorch_of_another_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str | None, why: str | None
):
    without_pytorch(monkeypatch)
    python = tmp_path / "python"
    if words is not None:
        python.write_text(f"#!/bin/sh\n{words}\n", encoding="utf-8")
        python.chmod(0o755)
    monkeypatch.setenv("CHARJAX_TORCH_PYTHON", str(python))
    here = Section("cpu", facts={"hardware": {"versions": {}}})
    found = subprocess_worker.find_torch(here)
    if why is None:
        assert found == str(python)
        assert here.facts["hardware"]["versions"] == {"torch": "2.13.0 on python 3.11.7"}
    else:
        assert found is None
        (line,) = here.left_out
        assert why in line["why"]
        assert "\n" not in line["why"]


def test_a_row_that_fails_leaves_no_process_behind(monkeypatch: pytest.MonkeyPatch):
    started, closed = [], []

    class Process:
        def __init__(self, python: str, module: str, variables: object, **arguments: object):
            started.append(arguments["label"])
            self.close = lambda: closed.append(arguments["label"])

    def fails(*arguments: object):
        raise MemoryError

    monkeypatch.setattr(subprocess_worker, "start", Process)
    monkeypatch.setattr(peers, "_take_turns", fails)
    with pytest.raises(MemoryError):
        peers._compare(Section("cpu"), "name", "bigram", peers._BIGRAM, "float32", "python")
    assert closed == started != []


class ExhaustedError(RuntimeError):
    """Stand-in for XLA's error."""


@pytest.mark.parametrize(
    ("error", "why", "failed"),
    [
        (LeftOut("not here"), "not here", False),
        (UserError("data: none"), "data: none", False),
        (MemoryError(), "not enough memory", False),
        (ExhaustedError("RESOURCE_EXHAUSTED: Out of memory\nmore"), "not enough memory", False),
        (ValueError("the losses\ndiffer"), "ValueError: the losses", True),
    ],
)
def test_what_goes_wrong_in_a_row_is_a_line_and_the_next_row_still_runs(
    error: Exception, why: str, failed: bool
):
    here = Section("cpu")
    with here.attempt("first"):
        raise error
    with here.attempt("second"):
        here.add("second", median=1.0)
    (line,) = here.left_out
    assert line["what"] == "first"
    assert line["why"].startswith(why)
    assert "\n" not in line["why"]
    assert line["failed"] is failed
    assert [row["name"] for row in here.rows] == ["second"]


def test_what_the_time_is_too_short_for_is_left_out():
    times = iter([0.0, 260.0, 280.0])
    here = Section("cpu", now=lambda: next(times))
    assert here.wants("in time")
    assert not here.wants("too late")
    (line,) = here.left_out
    assert (line["what"], line["failed"]) == ("too late", False)
    assert "were over" in line["why"]


def test_only_rows_of_the_pattern_are_wanted_and_the_others_are_not_called_left_out():
    here = Section("cpu", only="gpt*")
    assert here.wants("gpt 4L float32")
    assert not here.wants("gru float32")
    assert here.left_out == []


def test_a_program_that_needs_more_memory_than_there_is_is_not_run():
    class Stats:
        argument_size_in_bytes, output_size_in_bytes = 10, 10
        temp_size_in_bytes, alias_size_in_bytes = 90, 10

    class Compiled:
        @staticmethod
        def memory_analysis() -> Any:
            return Stats

    assert failures.check_memory(Compiled, 90) == 100
    with pytest.raises(LeftOut, match="not enough memory"):
        failures.check_memory(Compiled, 89)


def test_a_crash_leaves_the_rows_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Kill the process of a device halfway."""
    script = tmp_path / "half.py"
    script.write_text(
        "import sys, os, pathlib\n"
        "part = sys.argv[sys.argv.index('--part') + 1]\n"
        'pathlib.Path(part).write_text(\'{"device": "cpu", "hardware": {}, "rows": [{}], '
        '"left_out": []}\')\n'
        "os._exit(137)\n"
    )
    from benchmarks.roofline import BENCHMARK

    out = tmp_path / "roofline.json"
    args = harness._arguments(BENCHMARK, ["--devices", "cpu", "--quick", "--out", str(out)])
    run = harness._run
    monkeypatch.setattr(
        harness,
        "_run",
        lambda command, *arguments: run([sys.executable, str(script), *command[3:]], *arguments),
    )
    part = harness._part(args, "cpu", tmp_path)
    found, left_out, _ = harness._measure_in_processes(BENCHMARK, "cpu", args, part)
    assert found is not None
    assert len(found["rows"]) == 1
    assert left_out[0]["why"] == "the process ended with status 137"


def test_a_second_process_goes_on_where_the_first_has_ended(tmp_path: Path):
    part = tmp_path / "part.json"
    first = Section("cpu", path=part, heap="own")
    first.facts["roofline"] = {"start": {"copy": 2.0}}
    first.add("small", median=1.0)
    first.leave_out("other", "too large")
    second = Section("cpu", path=part, heap="one")
    second.load()
    second.add("large", median=2.0)
    section = json.loads(part.read_text())
    assert [row["name"] for row in section["rows"]] == ["small", "large"]
    assert [each["what"] for each in section["left_out"]] == ["other"]
    assert section["roofline"] == {"start": {"copy": 2.0}}


def test_a_row_is_measured_in_the_one_process_whose_heap_its_run_would_have():
    small = load_config(None, ["model.kind=gru"])
    large = load_config(None, ["model.kind=transformer", "train.batch_size=256"])
    for heap, expected in (("own", [True, False]), ("one", [False, True]), (None, [True, True])):
        here = Section("cpu", heap=heap)
        assert [here.has_heap_for(config) for config in (small, large)] == expected


@pytest.mark.parametrize("theirs", [1.00002, float("nan")])
def test_a_sweep_is_not_timed_beside_another_network(theirs: float):
    assert initlab.compare([2.0, 1.0], [2.0, 1.000001]) == pytest.approx(1e-6, rel=0.01)
    with pytest.raises(ValueError, match="the losses differ"):
        initlab.compare([2.0, 1.0], [2.0, theirs])


def test_a_process_that_is_stopped_leaves_none_of_its_own_behind(tmp_path: Path):
    script = (
        "import subprocess, sys, time\n"
        'code = \'import os, sys, time; open(sys.argv[1], "w").write(str(os.getpid())); '
        "time.sleep(60)'\n"
        "subprocess.Popen([sys.executable, '-c', code, sys.argv[1]])\n"
        "time.sleep(60)\n"
    )
    pid_file = tmp_path / "pid"
    why = harness._run([sys.executable, "-c", script, str(pid_file)], dict(os.environ), 2.0)
    assert why == "stopped after 2 s"
    for _ in range(100):
        if not _is_running(int(pid_file.read_text())):
            return
        time.sleep(0.02)
    pytest.fail("the grandchild still runs")


def _is_running(pid: int) -> bool:
    """Return True if the process exists and has not ended; a zombie has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
