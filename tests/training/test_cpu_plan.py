"""Batches shared by the cores of a CPU: when, and that it is the same step."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from charjax import backend, hardware
from charjax.config import load_config
from charjax.ops import choice
from charjax.training.cpu_plan import (
    has_onednn_products,
    matrix_weights,
    needs_one_heap,
    share_batch,
)

ROOT = Path(__file__).resolve().parent.parent.parent
GPT = ("model.kind=transformer", "model.n_head=2")
SMALL = (*GPT, "model.n_layer=4", "model.d_model=128", "model.context_length=64")
LARGE = (*GPT, "model.n_layer=6", "model.d_model=384", "model.context_length=128")
GRU = ("model.kind=gru", "model.d_embed=64", "model.d_hidden=64", "model.context_length=32")
MLP = ("model.kind=mlp", "model.hidden=[4096]", "model.context_length=8", "data.layout=pairs")


@pytest.mark.parametrize(
    ("words", "batch", "cores", "expected"),
    [
        (SMALL, 12, 2, True),
        (SMALL, 12, 1, False),
        (SMALL, 12, 4, True),
        # 64 cores would each read and write all parameters for the sake of one row.
        (SMALL, 64, 64, False),
        (SMALL, 13, 2, False),
        # More parameters to a target than are worth it, and a step that is over too soon.
        (LARGE, 6, 2, False),
        (GRU, 8, 2, False),
        (GRU, 128, 2, True),
        (MLP, 1024, 2, False),
    ],
)
def test_when_the_cores_share_a_batch(
    words: tuple[str, ...], batch: int, cores: int, expected: bool
) -> None:
    config = load_config(None, [*words, f"train.batch_size={batch}"])
    assert share_batch(config, cores) == expected


def test_the_weights_that_are_counted() -> None:
    assert matrix_weights(load_config(None, SMALL)) == 12 * 4 * 128**2
    two = load_config(None, [*GRU, "model.n_layer=2", "model.d_embed=32"])
    assert matrix_weights(two) == 3 * ((32 + 64) * 64 + (64 + 64) * 64)
    assert matrix_weights(load_config(None, ["model.kind=bigram"])) == 0


@pytest.mark.parametrize(
    ("words", "batch", "expected"),
    [
        (SMALL, 12, False),
        # 137 MB by XLA's own figures, on each of two cores.
        (("model.d_model=256", *GPT, "model.n_layer=6", "model.context_length=128"), 16, True),
        ((*GRU, "model.d_hidden=256", "model.n_layer=2", "model.context_length=128"), 128, True),
        (GRU, 32, False),
        (("model.kind=mlp",), 32, False),
        (MLP, 4096, True),
        (("model.kind=bigram",), 4096, False),
    ],
)
def test_when_all_threads_have_one_heap(words: tuple[str, ...], batch: int, expected: bool) -> None:
    config = load_config(None, [*words, f"train.batch_size={batch}"])
    assert needs_one_heap(config, 2) == expected


def test_onednn_is_for_large_float32_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    monkeypatch.setattr(choice.platform, "machine", lambda: "x86_64")
    large = [*LARGE, "train.batch_size=16"]
    assert has_onednn_products(load_config(None, large), 1)
    assert not has_onednn_products(load_config(None, large), 2)
    assert not has_onednn_products(load_config(None, [*large, "runtime.dtype=bfloat16"]), 1)
    assert not has_onednn_products(load_config(None, [*SMALL, "train.batch_size=12"]), 1)
    assert not has_onednn_products(load_config(None, [*GRU, "train.batch_size=4096"]), 1)


@pytest.mark.parametrize(
    ("environment", "are_given"),
    [
        ({}, False),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, True),
        ({"JAX_NUM_CPU_DEVICES": "3"}, True),
    ],
)
def test_a_user_may_say_how_many_devices_there_are(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], are_given: bool
) -> None:
    for name in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert backend.devices_are_given() == are_given


# Three steps of each on one device and on four, from the same parameters: the greatest difference
# in the losses, in the parameters after them and in the state that is carried on. And what four
# devices drop, each of its own rows.
_STEPS = """
import dataclasses, json, sys
from charjax import backend
from charjax.config import RuntimeConfig

backend.start_backend(RuntimeConfig())
import jax, jax.numpy as jnp, numpy as np
from charjax import parallel
from charjax.config import load_config
from charjax.training.program import compile_chunks
from charjax.training.session import first_state, open_session
from charjax.training.step import Sums
from charjax.random_streams import purpose_key

def steps(count, words):
    session = open_session(load_config(None, words))
    mesh = parallel.make_mesh(session.devices[:count], session.config.train.batch_size)
    source = jax.device_put(session.source, parallel.replicated(mesh))
    session = dataclasses.replace(session, mesh=mesh, source=source)
    state, key = first_state(session), purpose_key(0, "dropout")
    program = compile_chunks(session.model, session.config, source, state, mesh, key)
    state, metrics, done = program.run(state, 3)
    reduces = program.compiled.as_text().count(" all-reduce(")
    return jax.tree.map(np.asarray, (metrics[:3, :2], state.params, state.carry)), reduces

results = {}
for name, words in json.loads(sys.argv[1]).items():
    (one, _), (four, reduces) = steps(1, words), steps(4, words)
    differ = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b), initial=0)), one, four)
    results[name] = [max(jax.tree.leaves(part), default=0) for part in differ] + [reduces]

def dropped(params, scales, model_state, carry, batch, key):
    mask = jax.random.bernoulli(key, 0.5, batch.shape)
    return Sums(batch.sum(), batch.sum(), ()), (model_state, mask)

mesh = parallel.make_mesh(jax.local_devices(), 4)
drop = jax.jit(parallel.data_parallel(dropped, mesh))
for generator in ("threefry", "rbg"):
    key = purpose_key(0, "dropout", generator)
    sums, (_, mask) = drop((), (), {}, (), jnp.ones((4, 64)), key)
    results[generator] = [float(sums.loss), len({row.tobytes() for row in np.asarray(mask)})]
print(json.dumps(results))
"""


# Case -> settings; what a batch is cut into lies across the devices' rows.
_GRU = ["model.kind=gru", "model.n_layer=2", "model.d_embed=8", "model.d_hidden=8"]
_GRU += ["data.sampling=contiguous"]
_SMALL_GPT = [*GPT, "model.n_layer=1", "model.d_model=16"]
FOUR_DEVICES = {
    # Its windows are found in a loop, of which the devices must not ask each other.
    "transformer, by epochs": [*_SMALL_GPT, "data.sampling=epoch"],
    "transformer": _SMALL_GPT,
    "transformer, in pieces": [*_SMALL_GPT, "optim.accumulate_steps=2"],
    "gru, carried on": _GRU,
    "gru, carried on, in pieces": [*_GRU, "optim.accumulate_steps=2"],
    "transformer, bfloat16": [*_SMALL_GPT, "runtime.dtype=bfloat16"],
}
QUICK = ("gru, carried on, in pieces",)
SLOW = ("transformer, by epochs",)


@pytest.mark.parametrize(
    "names",
    [
        QUICK,
        pytest.param(SLOW, marks=pytest.mark.slow),
        pytest.param(
            [n for n in FOUR_DEVICES if n not in QUICK + SLOW],
            marks=[pytest.mark.slow, pytest.mark.longest],
        ),
    ],
    ids=["quick", "slow", "others"],
)
@pytest.mark.slow
def test_the_step_of_four_devices_is_that_of_one(names: list[str], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat, and then it ran off.\n" * 200)
    shared = [
        f"data.path={text}", "train.batch_size=8", "model.context_length=16", "model.dropout=0",
        "eval.every=0", "optim.grad_clip=0.5",
    ]  # fmt: skip
    works = {name: [*shared, *FOUR_DEVICES[name]] for name in names}
    done = subprocess.run(
        [sys.executable, "-c", _STEPS, json.dumps(works)],
        # Beside the flags of all tests, which have programs compiled quickly.
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "4"},
        check=True, capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    results = json.loads(done.stdout)
    # The mean of all rows' sums; and rows of different devices are dropped apart.
    assert results.pop("threefry") == results.pop("rbg") == [256.0, 4]
    for name, (losses, params, carry, reduces) in results.items():
        exact = "bfloat16" not in name
        assert losses < (1e-5 if exact else 1e-2), name
        # AdamW divides by the gradient's own size, so rounding of a small one is not small.
        assert params < (1e-4 if exact else 1e-2), name
        assert carry < (1e-5 if exact else 1e-2), name
        assert reduces == 1, name


@pytest.mark.skipif(hardware.cores() < 2, reason="one core has nobody to share with")
@pytest.mark.slow
@pytest.mark.longest
def test_a_run_shared_by_the_cores_is_stopped_and_goes_on(tmp_path: Path, run_command) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat, and then it ran off.\n" * 200)
    words = [
        f"data.path={text}", *GPT, "model.n_layer=1", "model.d_model=64", "model.dropout=0.1",
        "model.context_length=32", f"train.batch_size={32 * hardware.cores()}",
        "train.steps=300", "train.log_every=10", "eval.every=100", "train.sample_every=150",
    ]  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = run_command("train", *words, "--workdir", whole)
    assert done.code == 0, done.stderr
    assert "each batch shared by the cores" in done.stdout
    command = [sys.executable, "-m", "charjax.train", *words, "--workdir", str(parts)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and steps_done(parts) < 100:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert 100 <= steps_done(parts) < 300
    done = run_command("train", "--workdir", parts, "--resume")
    assert done.code == 0, done.stderr
    assert "may differ" not in done.stdout
    results, expected = (json.loads((d / "summary.json").read_text()) for d in (parts, whole))
    assert expected["devices"] == hardware.cores()
    assert results["state_digest"] == expected["state_digest"]


def steps_done(workdir: Path) -> int:
    """Return the last step in metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)
