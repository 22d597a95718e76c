"""The steps of `make gpu-bench`: their commands, their dry run, and the pages of their results."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    gpu,
    gpu_state,
    gpu_steps,
    harness,
    peers,
    render,
    throughput,
    time_to_quality,
)
from benchmarks.gpu_state import State
from benchmarks.gpu_steps import STEPS
from benchmarks.section import Section
from charjax import reproduce
from charjax.config import load_config
from charjax.initlab.commands import reproduce as initlab_reproduce
from charjax.initlab.reproductions import REPRODUCTIONS, select
from charjax.reproduction import published

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("least", "installed", "enough"),
    [
        ("2.11", "2.9.9", False),
        ("2.11", "2.11", True),
        ("0.10", "0.11.2", True),
        ("0.2.8", None, False),
    ],
)
def test_versions_are_compared_by_their_numbers(least: str, installed: str | None, enough: bool):
    assert gpu_steps.is_enough(least, installed) is enough


def test_steps_are_short_and_in_the_order_of_their_importance():
    names = [step.name for step in STEPS]
    assert len(names) == len(set(names))
    assert names[:5] == ["tests-ops", "tests-models", "correctness", "peers", "time_to_quality"]
    assert names.index("gru") < names.index("reproduce-shakespeare") < names.index("throughput")
    assert all(step.least_seconds <= gpu_steps.LONGEST_SECONDS < 480 for step in STEPS)


def commands_of(folder: Path) -> dict[str, list[str]]:
    """Return the words after `python` that each step has on a GPU."""
    return {
        each.name: gpu_steps.words_of(each, dry=False, folder=folder, devices="gpu", seconds=99)[1:]
        for each in STEPS
    }


def test_the_commands_of_a_gpu_are_understood_and_cover_its_rows(tmp_path: Path):
    """A dry run has others."""
    rows, reproductions = set(), set()
    for name, (_, module, *argv) in commands_of(tmp_path).items():
        if module.startswith("benchmarks."):
            benchmark = importlib.import_module(module).BENCHMARK
            args = harness._arguments(benchmark, argv)
            assert (args.devices, args.seconds, args.resume) == (["gpu"], 99, True)
            assert args.out == tmp_path / f"{name}-gpu.json"
        elif module == "charjax.reproduce":
            args = reproduce._arguments(argv)
            chosen = published.select(args.only)
            rows |= {row.name for row in reproduce._plan(args, chosen, has_gpu=True)[1]}
            assert (args.out, args.resume) == (str(tmp_path), True)
        elif module == "charjax.initlab":
            args = initlab_reproduce._arguments(argv[1:])
            reproductions |= {each.name for each in select(args.names)}
            assert (args.tier, args.out, args.resume) == ("gpu", str(tmp_path), True)
        else:
            assert (module, (ROOT / argv[-1]).is_dir() or "-n" in argv) == ("pytest", True)
    assert rows == {row.name for row in published.ROWS if row.tier == "gpu"}
    assert reproductions == {each.name for each in REPRODUCTIONS}


def test_the_settings_of_a_gpus_rows_are_valid():
    text = ["data.path=text.txt", "data.layout=stream"]
    words = [
        [*text, *work, f"runtime.dtype={dtype}"]
        for work in peers.WORKS["gpu"].values()
        for dtype in ("float32", "bfloat16")
    ]
    words += [
        [*text, f"model.kind={kind}", *model, f"train.batch_size={batch}"]
        for kind, model in throughput.MODELS.items()
        for batch in throughput.BATCHES["gpu"]
    ]
    for each in words:
        assert load_config(None, each).train.batch_size >= 1
    for goal in time_to_quality.GOALS["gpu"]:
        assert load_config(goal.config, [*goal.overrides, "train.seed=2"]).eval.every


def test_what_comes_back_is_published_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """TEST DATA: the CPU's published results under the name of a GPU that does not exist."""
    results, state = tmp_path / "results", State(tmp_path / gpu_state.NAME)
    results.mkdir()
    for each in STEPS:
        files = {}
        if each.name in ("peers", "gru"):
            path = render.RESULTS / f"{each.name}-cpu.json"
            files = {f"{each.name}-gpu.json": as_gpu(json.loads(path.read_text()))}
        elif each.name == "reproduce-shakespeare":
            tree = json.loads((render.RESULTS / "reproduce-cpu.json").read_text())
            row = next(row for row in tree["rows"] if row["name"] == "nanogpt-cpu")
            row |= {"name": "nanogpt-char", "config": "nanogpt-char"}
            files = {"results.json": as_gpu(tree | {"rows": [row]})}
        elif each.name == "initlab-reproduce-names":
            tree = json.loads((render.RESULTS / "initlab-reproduce-cpu.json").read_text())
            rows = [row | {"tier": "gpu"} for row in tree["reproductions"] if row["number"] == 8]
            files = {"results.json": as_gpu(tree | {"reproductions": rows})}
        state[each.name].files = files
    state.save()
    monkeypatch.setattr(gpu, "RESULTS", results)
    assert gpu.main(["--publish", "--resume", str(tmp_path)]) == 0
    written = {path.name for path in results.iterdir()}
    assert {"peers-gpu.json", "peers-gpu.png", "reproduce-shakespeare-gpu.json"} <= written
    assert "initlab-reproduce-names-gpu.json" in written
    for path in render.RESULTS.glob("*.json"):
        (results / path.name).write_text(path.read_text())
    pages = render.pages(render.reproduced(results), results)
    speed = pages[render.DOCS / "speed.md"]
    for name in ("peers", "gru"):
        assert f"benchmarks/results/{name}-gpu.png" in speed
    assert "gpu: 1 x TEST DATA GPU" in speed
    assert "1 x TEST DATA GPU" in pages[ROOT / "README.md"]
    assert "# Measured: 1 x TEST DATA GPU" in pages[ROOT / "configs" / "nanogpt-char.toml"]
    assert "1 x TEST DATA GPU" in pages[render.DOCS / "initlab.md"]
    assert "gpu, " in pages[render.DOCS / "initlab.md"]


def as_gpu(tree: Any) -> Any:
    """Return a result with the name of a device that does not exist."""
    if isinstance(tree, list):
        return [as_gpu(each) for each in tree]
    if not isinstance(tree, dict):
        return tree
    found = {name: as_gpu(each) for name, each in tree.items()}
    if "processor" in found:
        found |= {"accelerator": "1 x TEST DATA GPU", "device_kind": "TEST DATA GPU"}
    if found.get("device") == "cpu":
        found["device"] = "gpu"
    return found


@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.parametrize("half", [0, 1])
def test_every_step_runs_on_a_cpu_at_its_smallest_sizes(half: int, tmp_path: Path):
    """In two halves, which pytest's processes run at the same time."""
    steps = STEPS[half::2]
    only = [word for each in steps for word in ("--only", each.name)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--out", str(tmp_path), *only],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    state = gpu_state.load(tmp_path, tmp_path, dry=True)
    for each in steps:
        if gpu_steps.lacking(each):
            assert f"left out: {each.name}: needs" in done.stdout
            continue
        assert state[each.name].status == "done"
        assert each.packages or state[each.name].measured() > 0
    assert {path.name for path in tmp_path.iterdir()} == {gpu_state.NAME}


@pytest.mark.slow
def test_a_device_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch):
    from benchmarks import correctness
    from charjax.run.checkpoint import Checkpoints

    train, calls = correctness._train, []

    def wrong(*arguments: Any) -> Any:
        state, losses = train(*arguments)
        calls.append(losses)
        return state, losses * (1.002 if len(calls) == 2 else 1.0)

    def forgets(store: Any, which: str, like: Any) -> Any:
        return like, {}, 0

    monkeypatch.setattr(correctness, "_train", wrong)
    monkeypatch.setattr(Checkpoints, "restore", forgets)
    here = Section("cpu", quick=True, only="[lr]* bigram")
    correctness.measure(here)
    assert here.rows == []
    losses, resumed = here.left_out
    assert "the losses of 4 steps differ by 2.0e-03 of a CPU's" in losses["why"]
    assert "the losses of the resumed run differ from those of one run" in resumed["why"]
    assert losses["failed"]
    assert resumed["failed"]
