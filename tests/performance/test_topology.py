"""Devices to compile for: their tables and messages, without the extra that compiles for them."""

import importlib.util
import math
import types
from typing import Any

import jax
import pytest

from charjax.errors import UserError
from charjax.performance import topology
from charjax.performance.gpu_target import GPUS, target_config


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what is asked of JAX; it answers with one device of this process."""
    calls: list[dict[str, Any]] = []

    def get(**arguments: Any) -> Any:
        calls.append(arguments)
        return types.SimpleNamespace(devices=jax.local_devices()[:1])

    monkeypatch.setattr(topology.topologies, "get_topology_desc", get)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for variable in ("TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(variable, raising=False)
    return calls


@pytest.mark.parametrize("device", topology.TPUS)
def test_a_slice_has_as_many_chips_as_its_sides_say(device: str) -> None:
    for count, name in topology.TPUS[device].items():
        assert math.prod(int(side) for side in name.split("x")) == count


@pytest.mark.parametrize(
    ("device", "count", "name"),
    [("v5e", 1, "v5e:1x1"), ("v5e", 256, "v5e:16x16"), ("v6e", 8, "v6e:2x4")],
)
def test_tpus_by_name(device: str, count: int, name: str, asked: list[dict[str, Any]]) -> None:
    topology.compile_mesh(device, count)
    assert asked == [{"platform": "tpu", "topology_name": name}]


@pytest.mark.parametrize(
    ("count", "shape"), [(1, "1x1x1"), (4, "1x1x4"), (8, "1x1x8"), (16, "1x2x8")]
)
def test_gpus_share_a_machine_up_to_eight(
    count: int, shape: str, asked: list[dict[str, Any]]
) -> None:
    topology.compile_mesh("h100", count)
    config = target_config(GPUS["h100"])
    assert asked == [{"platform": "cuda", "topology": shape, "target_config": config}]
    assert "shared_memory_per_core: 233472" in config
    assert 'device_description_str: "NVIDIA H100 80GB HBM3"' in config


@pytest.mark.parametrize(
    ("device", "count", "message"),
    [
        ("h10", 1, "device: 'h10' given; allowed: h100, h200, a100"),
        ("v5e", 2, "count: 2 given; v5e comes in 1, 4, 8, 16, 32, 64, 128, 256"),
        ("h100", 12, "count: 12 given; h100 comes in 1 to 8, or a multiple of 8"),
        ("a100", 0, "count: 0 given; a100 comes in 1 to 8, or a multiple of 8"),
    ],
)
def test_devices_that_do_not_exist_are_refused(device: str, count: int, message: str) -> None:
    with pytest.raises(UserError) as error:
        topology.compile_mesh(device, count)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("device", ["v5e", "h100"])
def test_a_missing_extra_is_named(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'not installed; pip install "charjax\[aot\]"'):
        topology.compile_mesh(device, 1)


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in hbm. Used 19.50G of 15.75G hbm.", 19.5),
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: the total memory required for HLO "
            "temporaries (32.00G) exceeds available HBM (15.75G).",
            32.0,
        ),
    ],
)
def test_a_tpu_compiler_names_the_bytes_that_do_not_fit(text: str, needed: float) -> None:
    error = topology.too_large(text)
    assert error is not None
    assert (error.needed, error.available) == (int(needed * 2**30), int(15.75 * 2**30))
    assert topology.too_large(text.replace("RESOURCE_EXHAUSTED", "INTERNAL")) is None
