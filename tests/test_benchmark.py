"""`charjax benchmark`: rows, tables, files and mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from charjax.commands import benchmark
from charjax.performance import contest, workers
from tests.commands import Result, run

ROOT = Path(__file__).resolve().parent.parent
FAKE = "tests.performance.fake_contestant"
CONFIG = ("model.kind=bigram", "train.batch_size=4")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contestants that are no networks: a step takes 1 ms on the CPU, 0.5 ms on the GPU."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setattr(contest, "_OURS", FAKE)
    monkeypatch.setattr(contest, "_TORCH", FAKE)
    monkeypatch.setattr(contest, "SLICE_SECONDS", 0.02)
    monkeypatch.setattr(workers, "find_torch", lambda: (sys.executable, "2.0"))


def measure(*words: object) -> tuple[Result, dict[str, Any]]:
    done = run("commands.benchmark", *CONFIG, *words, "--json")
    return done, json.loads(done.out) if done.out else {}


@pytest.mark.usefixtures("fake")
def test_a_row_for_each_device_and_a_line_for_the_one_that_is_missing() -> None:
    done, tree = measure("--devices", "cpu,gpu,tpu")
    assert done.status == 0
    cpu, gpu, tpu = tree["rows"]
    assert [row["device"] for row in tree["rows"]] == ["cpu", "gpu", "tpu"]
    assert cpu["seconds_per_step"]["median"] > gpu["seconds_per_step"]["median"] > 0.0005
    assert len(cpu["seconds_per_step"]["repeats"]) == 5
    assert cpu["tokens_per_second"] == 100 / cpu["seconds_per_step"]["median"]
    assert cpu["mfu_measured"] == pytest.approx(1e4 * cpu["tokens_per_second"] / 1e9)
    assert (cpu["mfu_nominal"], cpu["energy"]) == (None, None)
    assert gpu["energy"]["joules_per_token"] == 0.02
    assert gpu["generation"]["64"]["tokens_per_second"] == 64 * 4 / 0.5
    assert "finds only cpu" in tpu["why"]
    (line,) = [line for line in done.err.splitlines() if "tpu" in line and "note" in line]
    assert "runtime.device" in line


@pytest.mark.usefixtures("fake")
def test_the_document_holds_command_hardware_versions_and_digest() -> None:
    _, tree = measure("--devices", "cpu")
    assert tree["name"] == "benchmark"
    assert (
        tree["command"]
        == "charjax benchmark model.kind=bigram train.batch_size=4 --devices cpu --json"
    )
    assert tree["devices"]["cpu"]["hardware"]["versions"] == {"jax": "0"}
    assert len(tree["config_digest"]) == 64
    assert tree["config"]["model"]["kind"] == "bigram"
    assert "hardware" not in tree["rows"][0]


@pytest.mark.usefixtures("fake")
def test_the_table_has_the_ratio_of_the_devices() -> None:
    done = run("commands.benchmark", *CONFIG, "--devices", "cpu,gpu,tpu")
    (line,) = [line for line in done.out.splitlines() if "tokens/s, training" in line]
    cpu, gpu, tpu, ratio = (cell.strip() for cell in line.split("│")[2:6])
    assert tpu == "not measured"
    numbers = [float(cell.replace(",", "")) for cell in (cpu, gpu)]
    assert float(ratio) == pytest.approx(numbers[1] / numbers[0], abs=0.01)
    assert "n/a" in next(line for line in done.out.splitlines() if "energy" in line)


@pytest.mark.usefixtures("fake")
def test_pytorch_is_timed_in_turns_on_the_same_weights() -> None:
    done, tree = measure("--devices", "cpu", "--against", "torch")
    assert done.status == 0
    (row,) = tree["rows"]
    eager = row["against"][0]
    assert eager["contestant"] == "torch eager"
    turns = zip(
        eager["seconds_per_step"]["repeats"], row["seconds_per_step"]["repeats"], strict=True
    )
    assert eager["times_charjax"]["repeats"] == [theirs / ours for theirs, ours in turns]


@pytest.mark.usefixtures("fake")
def test_another_model_in_pytorch_is_not_timed() -> None:
    done, tree = measure("--devices", "cpu", "--against", "torch", "optim.eps=1e-7")
    assert done.status == 0
    assert tree["rows"][0]["against"] == []
    assert "not the same work" in done.err
    _, tree = measure("--devices", "cpu", "--against", "torch", "model.kind=bow")
    assert "model.kind=bow has no PyTorch original" in tree["left_out"][0]["why"]


@pytest.mark.usefixtures("fake")
@pytest.mark.slow
def test_a_point_of_a_sweep_that_fails_is_a_row_that_says_so(tmp_path: Path) -> None:
    out = tmp_path / "new" / "b.json"
    words = (*CONFIG, "--devices", "cpu", "--sweep", "batch=4,7,8,13", "--out", out)
    done = run("commands.benchmark", *words)
    assert done.status == 0
    tree = json.loads(out.read_text())
    rows = {row["point"]: row for row in tree["rows"]}
    assert [name for name, row in rows.items() if row["why"] is None] == ["batch=4"]
    assert "does not exist" in rows["batch=7"]["why"]
    assert rows["batch=8"]["why"] == "its process ended"
    assert "memory" in rows["batch=13"]["why"]
    assert tree["sweep"] == {"setting": "batch", "values": [4, 7, 8, 13]}
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.parent.iterdir()) == ["b.json", "b.png"]
    assert "does not exist" in done.out


@pytest.mark.usefixtures("fake")
def test_nothing_measured_is_a_status_and_writes_nothing(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "b.json")
    assert measure("--devices", "tpu", *out)[0].status == 2
    assert measure("--devices", "cpu", "train.batch_size=8", *out)[0].status == 1
    mistake, tree = measure("--devices", "cpu", "train.batch_size=7", *out)
    assert (mistake.status, tree) == (2, {})
    assert mistake.err.splitlines()[-1] == "error: data.path: 'nowhere.txt' does not exist"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fake")
def test_what_there_is_no_time_for_is_left_out() -> None:
    done, tree = measure("--devices", "cpu", "--sweep", "batch=66,4", "--seconds", "1.5")
    assert done.status == 1
    assert all("time was over" in row["why"] for row in tree["rows"])


_STOPPED = f"""
import sys
from charjax.performance import contest
contest._OURS = "{FAKE}"
contest.SLICE_SECONDS = 0.02
from charjax import cli
from charjax.commands import benchmark
cli.run(benchmark.main)
"""


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_what_was_measured_before_a_signal_is_saved(
    tmp_path: Path, number: int, status: int
) -> None:
    out = tmp_path / "b.json"
    words = [*CONFIG, "--devices", "cpu", "--sweep", "batch=4,66", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", _STOPPED, *words],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "batch=66" in line:
            break
    time.sleep(0.1)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == status
    rows = json.loads(out.read_text())["rows"]
    assert [row["why"] for row in rows] == [None, contest.PENDING]
    assert "batch" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--devices", "cpu,gpuu"], "'gpuu' given; must be of cpu, gpu, tpu"),
        (["--devices", ""], "'' given; must be of cpu"),
        (["--sweep", "width=3"], "must be batch=N,N,... or context=N,N"),
        (["--sweep", "batch="], "no numbers: write batch=16,64,256"),
        (["--sweep", "context=8,x"], "'x' given; must be a whole number from 1"),
        (["--sweep", "context=8,0"], "'0' given; must be a whole number from 1"),
        (["--against", "jax"], "'jax'"),
        (["--out", "b.txt"], "must end with .json"),
        (["model.n_head=3"], "must be a multiple of model.n_head"),
        (["model.kind=ngram"], "counts and has no training step to time"),
        (["--calibrate", "nanogpt-cpu"], "given with a configuration"),
        (["--calibrate", "--sweep", "batch=4"], "given with --sweep"),
        (["--calibrate", "--devices", "cpu,gpu", "--out", "c.json"], "name one device"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("commands.benchmark", *words)
    assert done.status == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_without_pytorch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv(workers.TORCH_PYTHON, raising=False)
    done = run("commands.benchmark", "--against", "torch")
    assert done.status == 2
    assert 'pip install "charjax[torch]"' in done.err


def test_the_devices_are_those_of_the_configuration_or_all_that_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from charjax.config import load_config

    monkeypatch.setattr(workers, "find_accelerator", lambda: "tpu")
    assert benchmark._default_devices(load_config(None, [])) == ("cpu", "tpu")
    assert benchmark._default_devices(load_config(None, ["runtime.device=gpu"])) == ("gpu",)
    monkeypatch.setattr(workers, "find_accelerator", lambda: None)
    assert benchmark._default_devices(load_config(None, [])) == ("cpu",)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [pytest.param("1", marks=pytest.mark.longest), "4"])
def test_a_model_is_measured_from_end_to_end(
    devices: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if devices != "1":
        monkeypatch.setenv("JAX_NUM_CPU_DEVICES", devices)
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat.\n" * 400)
    words = ["model.kind=gru", "model.d_hidden=16", "model.context_length=8", f"data.path={text}"]
    done, tree = measure(*words, "--devices", "cpu,tpu")
    assert done.status == 0, done.err
    cpu, tpu = tree["rows"]
    assert cpu["devices"] == int(devices)
    assert cpu["tokens_per_step"] == 4 * 8
    assert 0 < cpu["mfu_measured"] < 1
    assert cpu["bytes_measured"] > 0
    assert cpu["bytes_predicted"] > 12 * cpu["parameters"]
    assert cpu["generation"]["1"]["tokens_per_second"] > 0
    assert 'pip install "charjax[tpu]"' in tpu["why"]
