"""Parameters and moments divided over devices: the single device's losses, a part on each.

Trainings on eight virtual devices, data-parallel and fully sharded, are compared with those on one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charjax import parallel
from charjax.config import load_config
from charjax.config.optimizers import KINDS
from charjax.errors import UserError
from charjax.training.devices import mesh_sizes
from charjax.training.ensemble import check_config
from tests.own import SOURCE
from tests.training.test_ways_to_train import TRAININGS

ROOT = Path(__file__).resolve().parent.parent.parent
# Another order of additions rounds otherwise: measured at most 5e-7 after 21 steps.
TOLERANCE = 1e-5
# (devices, those that divide the parameters); 8 of 4: two groups.
MESHES = ((8, 1), (2, 2), (4, 4), (8, 8), (8, 4))
_GPT, _CELLS = TRAININGS["transformer"], TRAININGS["lstm"][1:]
OPTIMIZERS = [f"optim.kind={kind}" for kind in KINDS if kind not in ("adamw", "sgd", "rmsprop")]
OTHERS: dict[str, list[str]] = {
    **{word: [*_GPT, word] for word in OPTIMIZERS},
    "average": [*_GPT, "optim.ema=0.9"],
    "smoothed, elements clipped": [*_GPT, "train.label_smoothing=0.1", "optim.clip_value=0.01"],
    "lines": [*_GPT, "data.layout=lines"],
    "mingru": ["model.kind=mingru", *_CELLS],
    "minlstm": ["model.kind=minlstm", *_CELLS],
    "own family and optimiser": ["model.kind=./mine.py:Pair", "optim.kind=./mine.py:make"],
}  # fmt: skip
CASES = {**TRAININGS, **OTHERS}
IN_CI = ("mlp, batch norm", "gru, carried on")


def losses_of(
    name: str,
    meshes: tuple[tuple[int, int], ...],
    folder: Path,
    *,
    pieces: int = 1,
    steps: int = 21,
    rate: float = 0.01,
) -> list[np.ndarray]:
    """Return the losses on one device, then on each mesh, by a process with eight devices."""
    text = folder / "text.txt"
    text.write_text("the cat sat on a mat, and then it ran off.\n" * 200)
    (folder / "mine.py").write_text(SOURCE)
    words = [f"data.path={text}", "eval.every=0", f"optim.learning_rate={rate}", *CASES[name]]
    asked: list[list[Any]] = [
        [words, "float32", pieces, devices, fsdp, steps] for devices, fsdp in ((1, 1), *meshes)
    ]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.ways_to_train"],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": path},
        input=json.dumps(asked), capture_output=True, text=True, cwd=folder, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [np.array(losses) for losses in json.loads(done.stdout)]


def assert_alike(found: list[np.ndarray], meshes: tuple[tuple[int, int], ...]) -> None:
    exact, *others = found
    assert exact[-1] < exact[0]
    for mesh, losses in zip(meshes, others, strict=True):
        np.testing.assert_allclose(losses, exact, rtol=TOLERANCE, err_msg=str(mesh))


@pytest.mark.slow
def test_two_groups_of_two_in_two_pieces_train_as_one_device(tmp_path: Path):
    meshes = ((4, 2),)
    assert_alike(losses_of("mlp", meshes, tmp_path, pieces=2), meshes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name if name in IN_CI else pytest.param(name, marks=pytest.mark.longest) for name in CASES],
)
def test_every_training_on_every_mesh(name: str, tmp_path: Path):
    assert_alike(losses_of(name, MESHES, tmp_path), MESHES)


@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.parametrize("name", ["transformer", "lstm", "mlp", "mlp, batch norm", "bow"])
def test_two_hundred_steps(name: str, tmp_path: Path):
    """At the default rate: at ten times that, rounding grows to 1e-5 of nats by then."""
    meshes = ((8, 1), (8, 4))
    assert_alike(losses_of(name, meshes, tmp_path, steps=200, rate=1e-3), meshes)


@pytest.mark.parametrize(
    ("shape", "count", "axis"),
    [
        ((), 2, None),
        ((3,), 2, None),
        ((4,), 2, 0),
        ((4, 6), 2, 1),
        # The largest that can be divided, not the largest.
        ((4, 7), 2, 0),
        ((6, 6), 3, 0),
        ((5, 7), 2, None),
        ((4, 6), 1, None),
        ((0, 2), 2, 1),
        ((0,), 2, None),
    ],
)
def test_the_largest_axis_that_can_be_is_divided(
    shape: tuple[int, ...], count: int, axis: int | None
):
    assert parallel.divided_axis(shape, count) == axis


def sizes(mesh: str, count: int, batch: int, **others: bool) -> tuple[int, int]:
    config = load_config(None, [f"runtime.mesh={mesh}", f"train.batch_size={batch}"])
    return mesh_sizes(config, count, **others)


@pytest.mark.parametrize(
    ("mesh", "count", "batch", "expected"),
    [
        ("{}", 8, 16, (8, 1)),
        ("{}", 8, 12, (6, 1)),
        ("{fsdp=2}", 8, 16, (4, 2)),
        ("{fsdp=2}", 8, 12, (3, 2)),
        ("{fsdp=2}", 8, 2, (1, 2)),
        ("{data=2}", 8, 16, (2, 1)),
        ("{data=2, fsdp=2}", 8, 16, (2, 2)),
        ("{data=2, fsdp=-1}", 8, 16, (2, 4)),
        ("{data=1, fsdp=-1}", 8, 12, (1, 6)),
    ],
)
def test_what_is_left_is_used_as_far_as_it_divides_the_batch(
    mesh: str, count: int, batch: int, expected: tuple[int, int]
):
    assert sizes(mesh, count, batch) == expected


def test_several_processes_use_all_devices():
    assert sizes("{}", 8, 16, uses_all=True) == (8, 1)
    assert sizes("{fsdp=2}", 8, 16, uses_all=True) == (4, 2)
    with pytest.raises(UserError, match=r"^train.batch_size: 12 given; .* multiple of 8"):
        sizes("{}", 8, 12, uses_all=True)
    with pytest.raises(UserError, match=r"data x fsdp = 4 must be the number of devices, 8"):
        sizes("{data=2, fsdp=2}", 8, 16, uses_all=True)


def test_runs_of_one_program_refuse_divided_parameters():
    check_config(load_config(None, ["runtime.mesh.data=2"]))
    with pytest.raises(UserError, match=r"^runtime.mesh.fsdp: 2 given; .* leave it at 1$"):
        check_config(load_config(None, ["runtime.mesh.fsdp=2"]))


@pytest.mark.parametrize(
    ("mesh", "count", "batch", "message"),
    [
        ("{fsdp=3}", 8, 12, "fsdp = 3 must divide the number of devices, 8"),
        ("{data=16}", 8, 16, "data x fsdp = 16 must divide the number of devices, 8"),
        ("{data=3, fsdp=2}", 8, 12, "data x fsdp = 6 must divide the number of devices, 8"),
        ("{fsdp=4}", 8, 6, "train.batch_size: 6 given; its rows are divided over 4 devices"),
        ("{data=4}", 8, 6, "must be a multiple of 4: change it, or runtime.mesh"),
    ],
)
def test_a_mesh_that_divides_neither_devices_nor_batch_is_refused(
    mesh: str, count: int, batch: int, message: str
):
    with pytest.raises(UserError) as caught:
        sizes(mesh, count, batch)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
