"""Calibrations: the fit, the file, and the process that measures."""

import json
from pathlib import Path
from typing import Any

import pytest

from charjax.commands import calibrating
from charjax.config import load_config
from charjax.config.families import families_where
from charjax.errors import UserError
from charjax.performance import calibrate, calibration, workers
from charjax.performance.calibration import Calibration, Work
from charjax.performance.failures import LeftOut
from charjax.training.session import open_session

# Seconds per FLOP, saved byte, one beyond the caches, byte of a parameter, operation in sequence,
# and step.
COSTS = (1e-11, 2e-10, 3e-10, 5e-10, 1e-6, 1e-4)
WORKS = [
    Work(flops=1e9, saved_bytes=1e6, parameter_bytes=4e5, sequence=64, devices=1),
    Work(flops=2e10, saved_bytes=2e7, parameter_bytes=8e5, sequence=128, devices=1),
    Work(flops=5e9, saved_bytes=8e7, parameter_bytes=4e6, sequence=32, devices=1),
    Work(flops=1e8, saved_bytes=4e6, parameter_bytes=3e7, sequence=64, devices=1),
    Work(flops=3e7, saved_bytes=2e5, parameter_bytes=2e5, sequence=512, devices=1),
    Work(flops=4e9, saved_bytes=1.5e7, parameter_bytes=2e6, sequence=16, devices=1),
]


def seconds(work: Work) -> float:
    return sum(cost * size for cost, size in zip(COSTS, work.features(), strict=True))


def point(work: Work, factor: float = 1.0) -> dict[str, Any]:
    return {
        "kind": "gru",
        "dtype": "float32",
        "settings": [],
        "work": vars(work),
        "seconds": {"repeats": [3 * seconds(work), factor * seconds(work), 4 * seconds(work)]},
    }


def made_of(points: list[dict[str, Any]]) -> Calibration:
    rates = {"products": {"float32": {"64": 1e10, "512": 5e10}}, "copy": 1e10, "dispatch": 1e5}
    return Calibration({"format": 1, "rates": rates, "points": points}, Path("c.json"))


def test_a_step_that_is_a_sum_of_costs_is_predicted() -> None:
    found = made_of([point(work) for work in WORKS])
    other = Work(flops=7e9, saved_bytes=3e7, parameter_bytes=2e6, sequence=256, devices=1)
    prediction = found.predict("gru", "float32", other)
    assert prediction is not None
    assert prediction.middle == pytest.approx(seconds(other), rel=1e-3)
    assert prediction.low < prediction.middle < prediction.high < 1.2 * prediction.middle


def test_a_fit_with_errors_has_a_range_as_wide_as_they_are() -> None:
    points = [point(work, 2.0 if n == 1 else 1.0) for n, work in enumerate(WORKS)]
    doubled = [*points, point(WORKS[1]), point(WORKS[1])]
    prediction = made_of(doubled).predict("gru", "float32", WORKS[1])
    assert prediction is not None
    assert prediction.high / prediction.low > 1.5


def test_products_that_are_looked_up_are_not_work(tmp_path: Path) -> None:
    """A recurrent network projects each symbol once; the width of its embedding costs no more."""
    text = tmp_path / "text.txt"
    text.write_text("abcdefgh" * 200, encoding="ascii")
    words = ["model.kind=gru", "model.d_hidden=16", "model.context_length=8", f"data.path={text}"]
    works = [
        calibrate.work_of(open_session(load_config(None, [*words, f"model.d_embed={width}"])))
        for width in (8, 24)
    ]
    # 3 passes over 8 symbols, 2 operations for each of 3 gates of 16 units.
    assert works[1].flops - works[0].flops == 3 * 8 * 2 * 3 * 16 * (24 - 8)


def test_no_cost_is_negative() -> None:
    assert (calibration.fit([(work, seconds(work) ** 0.5) for work in WORKS]) >= 0).all()


def test_a_family_that_was_not_measured_is_not_predicted() -> None:
    found = made_of([point(WORKS[0])])
    assert found.predict("gru", "float32", WORKS[0]) is None
    assert found.predict("lstm", "float32", WORKS[0]) is None
    assert found.efficiency("lstm", "float32") is None
    low, high = found.efficiency("gru", "float32") or (0.0, 0.0)
    assert low == high == pytest.approx(WORKS[0].flops / seconds(WORKS[0]) / 5e10)


def test_the_file_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert calibration.load("cpu", "cpu", "a processor") is None
    path = calibration.default_path("cpu", "cpu", "a processor")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(made_of([point(WORKS[0])]).tree))
    found = calibration.load("cpu", "cpu", "a processor")
    assert found is not None
    assert found.points("gru", "float32")[0][0] == WORKS[0]
    assert calibration.load("cpu", "cpu", "another processor") is None


@pytest.mark.parametrize("text", ["", "[]", '{"format": 0, "points": []}', '{"format": 1}'])
def test_another_file_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(UserError, match="charjax benchmark --calibrate"):
        calibration.read(path)


@pytest.mark.parametrize("kind", families_where(fitted=False))
def test_the_points_of_a_family_are_configurations(kind: str) -> None:
    """On every device, and no two alike."""
    for device in ("cpu", "gpu"):
        found = [load_config(None, words) for words in calibrate.settings_of(kind, device)]
        assert len({config.digest() for config in found}) == 8


class FakeWorker:
    """A process that measures nothing; the device is missing on a TPU."""

    def __init__(self, *arguments: Any, device: str, slice_seconds: float):
        self._device = device

    @property
    def facts(self) -> dict[str, Any]:
        if self._device == "tpu":
            raise LeftOut("no TPU here")
        hardware = {"processor": "a processor"}
        return {"device_kind": "cpu", "hardware": hardware, "families": ["gru", "lstm"]}

    def ask(self, method: str, **arguments: Any) -> Any:
        return [{**point(WORKS[0]), **arguments}] if method == "family" else {"copy": 1.0}

    def close(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "Worker", FakeWorker)


@pytest.mark.usefixtures("fake")
def test_a_calibration_is_written_to_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert calibrating.calibrate(("cpu", "tpu"), None, 60.0, "a command") == 0
    assert "note: tpu: no TPU here" in capsys.readouterr().err
    found = calibration.load("cpu", "cpu", "a processor")
    assert found is not None
    assert found.tree["complete"] is True
    assert len(found.tree["points"]) == 4


@pytest.mark.usefixtures("fake")
def test_a_calibration_that_ends_early_says_so(tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    assert calibrating.calibrate(("cpu",), out, 0.0, "a command") == 1
    assert calibrating.calibrate(("tpu",), out, 60.0, "a command") == 2
    assert list(tmp_path.iterdir()) == []
