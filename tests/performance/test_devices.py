"""Accelerators by name, by kind and from a file."""

import json
from pathlib import Path

import pytest

from charjax.errors import UserError
from charjax.performance import devices
from charjax.performance.devices import DEVICES


def test_every_device_has_a_source_and_figures_that_are_possible() -> None:
    for name, device in DEVICES.items():
        assert devices.by_name(name.upper()) is devices.find(device.device_kind) is device
        assert device.source
        assert 1e9 < device.usable <= device.memory
        assert device.float32
        assert device.float32 <= (device.bfloat16 or device.float32)
        # A product of square matrices of a few thousand rows is bound by its operations.
        assert 10 < device.float32 / device.bandwidth < 1000


def test_products_are_those_of_the_default_precision() -> None:
    h200 = DEVICES["h200"]
    assert (h200.of("float32"), h200.of("bfloat16")) == (494.5e12, 989.5e12)
    v5e = DEVICES["v5e"]
    assert v5e.of("float32") == v5e.of("bfloat16")
    assert devices.nominal("Tesla T4", "float32") == 8.1e12
    assert devices.nominal("Tesla T4", "bfloat16") is None


def test_a_mistyped_name_is_one_line() -> None:
    with pytest.raises(UserError, match=r"'h10' given; must be cpu, h100.*did you mean h100"):
        devices.by_name("h10")


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_file_describes_a_device(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    table = {"memory": 24e9, "float32": 30e12, "bandwidth": 1e12, "platform": "cuda"}
    if suffix == ".json":
        path.write_text(json.dumps({"device": table}))
    else:
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        path.write_text("\n".join(["[device]", *lines]))
    device = devices.parse(devices.read_file(path)["device"], str(path))
    assert device.usable == 0.75 * 24e9
    assert device.bfloat16 is device.interconnect is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no table \[device\]"),
        ("memory = ", "cannot be read"),
        ("[device]\nmemory = 1e9\nfloat32 = 1e12", "bandwidth is missing"),
        ("[device]\nmemory = -1", "memory is -1; must be a number greater than 0"),
        ("[device]\nmemory = true", "memory is True"),
        ("[device]\nmemroy = 1e9", "unknown key 'memroy'; did you mean memory"),
        ("[device]\nplatform = 3", "platform is 3; must be a text"),
        (
            '[device]\nmemory = 1e9\nfloat32 = 1e9\nbandwidth = 1e9\nplatform = "npu"',
            "must be cpu, cuda or tpu",
        ),
    ],
)
def test_a_file_that_does_not_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        devices.parse(devices.read_file(path)["device"], str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml' cannot be read: No such file"):
        devices.read_file(tmp_path / "none.toml")
