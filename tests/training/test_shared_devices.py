"""The devices of several processes that share a batch, with fakes of devices."""

from types import SimpleNamespace
from typing import Any

import pytest

from charjax import backend
from charjax.config import load_config
from charjax.errors import UserError
from charjax.training.devices import make_run_mesh, mesh_sizes, shared_devices

LARGE = ["model.n_layer=4", "model.d_model=128", "model.context_length=64"]


def devices_of(*counts: int, platform: str = "gpu") -> list[Any]:
    return [
        SimpleNamespace(process_index=process, platform=platform, id=10 * process + number)
        for process, count in enumerate(counts)
        for number in range(count)
    ]


def used(devices: list[Any], *words: str) -> list[int]:
    return [device.id for device in shared_devices(load_config(None, [*words]), devices)]


def test_all_accelerators_are_used() -> None:
    assert used(devices_of(2, 2), "train.batch_size=12") == [0, 1, 10, 11]
    # Processes come in order: those of one stand side by side.
    assert used(devices_of(2, 2)[::-1], "train.batch_size=12") == [1, 0, 11, 10]


def test_processes_of_different_size_are_refused() -> None:
    with pytest.raises(UserError, match="the processes have 2, 1 devices"):
        used(devices_of(2, 1))


def test_a_batch_that_they_do_not_divide_is_refused() -> None:
    config = load_config(None, ["train.batch_size=6"])
    with pytest.raises(UserError, match=r"train.batch_size: 6 given; .* 4 devices"):
        make_run_mesh(config, devices_of(2, 2))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # A small step is not worth sharing: one device, of all threads, in each process.
        (["model.kind=bigram", "train.batch_size=12"], [0, 10]),
        ([*LARGE, "train.batch_size=16"], [0, 1, 10, 11]),
        ([*LARGE, "train.batch_size=14"], [0, 10]),
        (["train.batch_size=16", "runtime.mesh.fsdp=4"], [0, 1, 10, 11]),
        (["train.batch_size=16", "runtime.mesh={data=1, fsdp=2}"], [0, 10]),
    ],
)
def test_cores_are_used_as_far_as_they_help(
    words: list[str], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "devices_are_given", lambda: False)
    devices = devices_of(2, 3, platform="cpu")
    assert used(devices, *words) == expected
    config = load_config(None, words)
    data, fsdp = mesh_sizes(config, len(expected), uses_all=True)
    assert data * fsdp == len(expected)


def test_one_process_has_the_devices_that_it_has() -> None:
    assert used(devices_of(3)) == [0, 1, 2]
