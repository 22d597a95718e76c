"""Dtype, accumulation and devices change how a step is computed, not its result.

Every family, optimiser and scheme with factors, small, trains on the same rows in float32 and
bfloat16, whole and in two pieces, on one device and on two. All losses of 21 steps, of which the
last is that after 20, are compared with those in float32, whole, on one device.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

# Another order of additions rounds otherwise, by 6e-8 each: measured at most 7e-7 of a loss.
FLOAT32 = 5e-6
# Products have 8 bits, and their errors are those of the gradients' means: measured at most 9e-3,
# by RMSProp, which makes a whole step of a small gradient; without it 6e-3.
BFLOAT16 = 2e-2

_GPT = [
    "model.kind=transformer", "model.n_layer=2", "model.n_head=2", "model.d_model=16",
    "model.context_length=16",
]  # fmt: skip
_UNTIED = [*_GPT, "model.tie_embeddings=false"]
_CELLS = ["model.d_embed=8", "model.d_hidden=16", "model.context_length=16"]
_PAIRS = ["data.layout=pairs", "model.context_length=4", "model.d_embed=4"]
_MLP = ["model.kind=mlp", "model.hidden=[16]", *_PAIRS]
_WAVENET = ["model.kind=wavenet", "model.d_hidden=16", *_PAIRS]
_SGD = ["optim.kind=sgd", "optim.momentum=0.9", "optim.learning_rate=0.03"]
_NARROW = ["init.base_width=4"]
_SHALLOW = [*_NARROW, "init.base_depth=1"]

TRAININGS: dict[str, list[str]] = {
    "bigram": ["model.kind=bigram", "model.context_length=16"],
    "bow": ["model.kind=bow", "model.d_embed=16", "model.context_length=16"],
    "mlp": _MLP,
    "mlp, batch norm": [*_MLP, "model.norm=batch"],
    "wavenet": _WAVENET,
    "wavenet, batch norm": [*_WAVENET, "model.norm=batch"],
    "rnn": ["model.kind=rnn", *_CELLS],
    "gru": ["model.kind=gru", "model.n_layer=2", *_CELLS],
    "gru, carried on": ["model.kind=gru", *_CELLS, "data.sampling=contiguous"],
    "lstm": ["model.kind=lstm", *_CELLS],
    "transformer": _GPT,
    "transformer, other": [*_UNTIED, "model.bias=true", "model.positions=rotary"],
    "deepnorm": [*_GPT, "model.residual=deepnorm", "init.scheme=deepnorm"],
    "rezero": [*_GPT, "model.residual=rezero", "init.scheme=rezero"],
    "layerscale": [*_GPT, "model.residual=layerscale", "init.scheme=layerscale"],
    "decay, clipping, warm-up": [
        *_GPT, "optim.weight_decay=0.1", "optim.grad_clip=0.1", "optim.warmup_steps=5"
    ],
    "sgd, cosine": [*_GPT, *_SGD, "optim.schedule=cosine", "train.steps=21"],
    "sgd, l2": [*_MLP, *_SGD, "optim.l2=0.01"],
    "rmsprop": [
        *_GPT, "optim.kind=rmsprop", "optim.momentum=0.5", "optim.learning_rate=0.003"
    ],
    "mup": [*_UNTIED, "init.scheme=mup", *_NARROW],
    "mup, lstm": ["model.kind=lstm", *_CELLS, "init.scheme=mup", *_NARROW],
    "spectral": [*_MLP, "init.scheme=spectral", *_NARROW],
    "depth_mup": [*_UNTIED, "init.scheme=depth_mup", *_SHALLOW],
    "completep": [*_UNTIED, "init.scheme=completep", *_SHALLOW],
}  # fmt: skip
# test_cores.py has a transformer and a GRU, for three steps on four devices.
QUICK = ("mlp",)
IN_CI = ("mlp", "wavenet, batch norm")
Way = tuple[str, int, int]
WAYS: list[Way] = [
    (dtype, pieces, devices)
    for dtype in ("float32", "bfloat16")
    for pieces in (1, 2)
    for devices in (1, 2)
]


def losses_of(cases: list[tuple[str, Way]], text: Path) -> list[np.ndarray]:
    """Return the losses of trainings in several ways, by a process with two devices."""
    text.write_text("the cat sat on a mat, and then it ran off.\n" * 200)
    first = [f"data.path={text}", "eval.every=0", "optim.learning_rate=0.01"]
    asked = [[[*first, *TRAININGS[name]], *way] for name, way in cases]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.ways_to_train"],
        env={**os.environ, "XLA_FLAGS": flags},
        input=json.dumps(asked), capture_output=True, text=True, cwd=ROOT, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [np.array(losses) for losses in json.loads(done.stdout)]


def assert_alike(losses: dict[Way, np.ndarray], exact: np.ndarray) -> None:
    assert exact[-1] < 0.95 * exact[0]
    for way, actual in losses.items():
        tolerance = FLOAT32 if way[0] == "float32" else BFLOAT16
        np.testing.assert_allclose(actual, exact, rtol=tolerance, err_msg=str(way))


def test_a_training_in_the_ways_furthest_apart(tmp_path: Path):
    ways = [WAYS[0], ("float32", 2, 2), ("bfloat16", 2, 2)]
    cases = [(name, way) for name in QUICK for way in ways]
    measured = losses_of(cases, tmp_path / "text.txt")
    for i in range(0, len(cases), len(ways)):
        assert_alike(dict(zip(ways, measured[i : i + len(ways)], strict=True)), measured[i])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if name in IN_CI else pytest.param(name, marks=pytest.mark.longest)
        for name in TRAININGS
    ],
)
def test_every_training_in_every_way(name: str, tmp_path: Path):
    measured = losses_of([(name, way) for way in WAYS], tmp_path / "text.txt")
    losses = dict(zip(WAYS, measured, strict=True))
    if "batch norm" not in name:
        assert_alike(losses, losses["float32", 1, 1])
        return
    # Statistics are those of a piece, so two pieces are another training by definition.
    for pieces in (1, 2):
        same = {way: loss for way, loss in losses.items() if way[1] == pieces}
        assert_alike(same, losses["float32", pieces, 1])
    assert abs(losses["float32", 2, 1] / losses["float32", 1, 1] - 1).max() > 1e-3


@pytest.mark.slow
def test_the_command_in_the_ways_furthest_apart(tmp_path: Path, run_command):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat, and then it ran off.\n" * 200)
    same = [f"data.path={text}", *_GPT, "train.steps=20", "optim.learning_rate=0.01"]
    ways = {
        1: ["train.batch_size=8"],
        2: ["train.batch_size=4", "optim.accumulate_steps=2", "runtime.dtype=bfloat16"],
    }
    losses = []
    for devices, words in ways.items():
        workdir = tmp_path / str(devices)
        flags = f"--xla_force_host_platform_device_count={devices}"
        done = run_command("train", *same, *words, "--workdir", workdir, env={"XLA_FLAGS": flags})
        assert done.code == 0, done.stderr
        summary = json.loads((workdir / "summary.json").read_text())
        assert summary["devices"] == devices
        losses.append(summary["val_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=BFLOAT16)
