"""Flags and memory settings before XLA starts."""

import os
import platform
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from charjax import backend
from charjax.config import RuntimeConfig
from charjax.errors import UserError
from tests.commands import run, tiny

ROOT = Path(__file__).resolve().parent.parent
FUSED = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true"


@pytest.fixture(autouse=True)
def version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 1))


def flags_after(monkeypatch: pytest.MonkeyPatch, before: str, **options: bool) -> str:
    monkeypatch.setenv("XLA_FLAGS", before)
    backend.set_flags(**options)
    return os.environ["XLA_FLAGS"]


def test_flags_are_added_once(monkeypatch: pytest.MonkeyPatch) -> None:
    once = flags_after(monkeypatch, "--xla_a=1", deterministic=True)
    assert once == f"--xla_a=1 {FUSED} --xla_gpu_deterministic_ops=true"
    assert flags_after(monkeypatch, once, deterministic=True) == once


def test_what_the_user_says_of_the_same_flag_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    flag = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=false"
    assert flags_after(monkeypatch, flag) == flag


def test_a_flag_that_the_user_has_set_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    flag, other = "--xla_cpu_collective_call_warn_stuck_timeout_seconds=5", backend._PATIENT[1]
    monkeypatch.setenv("XLA_FLAGS", flag)
    backend._add_flags(*backend._PATIENT)
    assert os.environ["XLA_FLAGS"] == f"{flag} {other}"


@pytest.mark.parametrize("version", [(0, 9, 2), (0, 13, 0)])
def test_a_version_that_was_not_tried_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]
) -> None:
    monkeypatch.setattr(jax, "__version_info__", version)
    assert flags_after(monkeypatch, "") == ""


# The loop's program of a small GPT, with temporary arrays of 34 MB (9,000 pages), called six times
# after a warm-up call: prints the smallest number of page faults of a call.
_FAULTS = """
import resource
from charjax import backend
from charjax.config import RuntimeConfig
from charjax.errors import UserError
from tests.commands import run, tiny
backend.start_backend(RuntimeConfig(device="cpu"))
from benchmarks import workloads
words = "train.batch_size=12", "model.context_length=64"
call = workloads.prepare(workloads.make_config(*workloads.STREAM, *words)).dispatches(2)
call(2)
counts = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(6):
    call(1)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(min(after - before for before, after in zip(counts, counts[1:])))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
@pytest.mark.slow
@pytest.mark.longest
def test_a_program_that_is_called_again_gets_the_memory_it_had() -> None:
    command = [sys.executable, "-c", _FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 6000


@pytest.mark.parametrize("large_calls", [False, True])
def test_threads_have_one_heap_only_where_calls_are_large(
    monkeypatch: pytest.MonkeyPatch, large_calls: bool
) -> None:
    heaps: list[bool] = []
    monkeypatch.setattr(backend, "_memory_is_kept", [])
    monkeypatch.setattr(backend, "_keep_memory", lambda *, one_heap: heaps.append(one_heap))
    backend.start_backend(RuntimeConfig(device="cpu"), large_calls=large_calls)
    # The first call decides.
    backend.start_backend(RuntimeConfig(device="cpu"), large_calls=not large_calls)
    assert heaps == [large_calls]


def test_every_command_starts_the_backend_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = 0
    start_backend = backend.start_backend

    def count(*arguments: Any, **options: Any) -> list[jax.Device]:
        nonlocal starts
        starts += 1
        return start_backend(*arguments, **options)

    monkeypatch.setattr(backend, "start_backend", count)
    text, whole, tensors = tmp_path / "text.txt", tmp_path / "run", tmp_path / "run.safetensors"
    text.write_text("the cat sat on the mat.\n" * 40)
    words = [*tiny("bigram"), f"data.path={text}", "train.steps=4"]
    commands: list[tuple[object, ...]] = [
        ("train", *words, "--workdir", whole),
        ("train", *words, "--workdir", whole, "--resume"),
        ("train", *words, "--init-from", whole, "--workdir", tmp_path / "tuned"),
        ("sample", whole, "--max-new-tokens", "3"),
        ("evaluate", whole),
        ("interop", "export", whole, tensors),
        ("interop", "import", tensors, "--workdir", tmp_path / "imported"),
        ("initlab.__main__", "probe", *words, "--seeds", "2"),
    ]
    for command in commands:
        starts = 0
        done = run(*command)  # type: ignore[arg-type]
        assert (done.status, starts) == (0, 1), (command, done.err)


def devices_of(platform: str, kind: str, size: int = 1) -> Any:
    device = types.SimpleNamespace(platform=platform, device_kind=kind)
    return types.SimpleNamespace(size=size, devices=np.asarray([device] * size, dtype=object))


def test_the_loop_of_an_nvidia_gpu_is_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "")
    gpu = devices_of("gpu", "NVIDIA H100 80GB HBM3")
    options = backend.compiler_options(gpu)
    commands = str(options["xla_gpu_enable_command_buffer"]).split(",")
    assert "WHILE" in commands
    assert "COLLECTIVES" not in commands, "CUDA has no loops with NCCL's nodes"
    assert backend.compiler_options(devices_of("gpu", "AMD Instinct MI300X")) == {}
    assert backend.compiler_options(devices_of("tpu", "TPU v5 lite")) == {}
    several = backend.compiler_options(devices_of("gpu", "NVIDIA H100 80GB HBM3", 4))
    assert several.keys() - options == {"xla_gpu_all_reduce_combine_threshold_bytes"}
    (threshold,) = backend.compiler_options(devices_of("tpu", "TPU v5 lite", 4))
    assert threshold == "xla_jf_crs_combiner_threshold_in_bytes"
    # A user's own flag is what XLA gets.
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_command_buffer=")
    assert "xla_gpu_enable_command_buffer" not in backend.compiler_options(gpu)
    # Not tried on that version.
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
    assert backend.compiler_options(gpu) == {}


@pytest.mark.parametrize(("device", "extra"), [("gpu", "cuda"), ("tpu", "tpu")])
def test_an_accelerator_that_is_missing_names_the_extra(device: Any, extra: str) -> None:
    with pytest.raises(UserError) as refused:
        backend.start_backend(RuntimeConfig(device=device))
    assert f'"{device}" given, but JAX finds only cpu' in str(refused.value)
    assert f'pip install "charjax[{extra}]"' in str(refused.value)


@pytest.mark.parametrize("device", ["gpu", "tpu"])
def test_a_run_of_an_accelerator_is_read_on_a_cpu(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, whole = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("the cat sat on the mat.\n" * 40)
    words = [*tiny("bigram"), f"data.path={text}", "train.steps=2", f"runtime.device={device}"]
    with monkeypatch.context() as patch:
        # As if JAX had found one.
        patch.setattr(backend, "_EXTRAS", {})
        assert run("train", *words, "--workdir", whole).status == 0
    assert f'device = "{device}"' in (whole / "config.toml").read_text()
    for command in (("sample", whole, "--max-new-tokens", "3"), ("evaluate", whole)):
        done = run(*command)
        assert done.status == 0, done.err
    resumed = run("train", "--workdir", whole, "--resume", "train.steps=3")
    assert resumed.status == 2
    assert "use runtime.device=cpu" in resumed.err
    here = ("runtime.device=cpu", "train.steps=3")
    assert run("train", "--workdir", whole, "--resume", *here).status == 0
