"""Counters of energy, with fake files and a fake nvidia-smi."""

import math
import time
from pathlib import Path

import pytest

from charjax.performance import energy


def make_zone(folder: Path, number: int, name: str, microjoules: int) -> Path:
    zone = folder / f"intel-rapl:{number}"
    zone.mkdir()
    (zone / "name").write_text(f"{name}\n")
    (zone / "max_energy_range_uj").write_text("1000000\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    return zone


def test_the_packages_are_added_up_and_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    first = make_zone(tmp_path, 0, "package-0", 900_000)
    second = make_zone(tmp_path, 1, "package-1", 100)
    make_zone(tmp_path, 2, "psys", 5)
    counter = energy.Rapl.find(tmp_path)
    assert counter is not None
    (first / "energy_uj").write_text("100000\n")
    (second / "energy_uj").write_text("300100\n")
    assert counter.read() == pytest.approx(0.2 + 0.3)


def test_without_a_counter_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for device in ("cpu", "gpu", "tpu"):
        assert energy.find(device, 1) is None


def test_the_power_of_all_gpus_is_added_up_over_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    line = "echo 100.0; echo 200.0; sleep 0.01"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/words\nwhile {line}; do :; done\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    counter = energy.find("gpu", 2)
    assert counter is not None
    try:
        while math.isnan(counter.read()):
            time.sleep(0.01)
        began, before = time.perf_counter(), counter.read()
        time.sleep(0.2)
        watts = (counter.read() - before) / (time.perf_counter() - began)
    finally:
        counter.close()
    assert watts == pytest.approx(300, rel=0.05)
    assert "--id=3,5 " in (tmp_path / "words").read_text()


class Meter:
    """A counter of one joule per step."""

    name = "a meter"

    def __init__(self, joules: float):
        self.steps, self._joules = 0, joules

    def run(self, count: int) -> None:
        self.steps += count

    def read(self) -> float:
        return self._joules * self.steps

    def close(self) -> None:
        pass


def test_the_joules_of_a_step() -> None:
    meter = Meter(3.0)
    assert energy.joules_per_step(meter, meter.run, 0.01, 2.0) == pytest.approx(3.0)
    # A second for the averages of what was before, then two.
    assert meter.steps == 300


@pytest.mark.parametrize("joules", [0.0, math.nan])
def test_a_counter_that_does_not_move_is_no_measurement(joules: float) -> None:
    meter = Meter(joules)
    assert energy.joules_per_step(meter, meter.run, 0.01, 2.0) is None
