"""The roofline of a step, written out by hand."""

from pathlib import Path

import pytest

from charjax.performance import estimate, memory
from charjax.performance.devices import DEVICES
from charjax.training.optimizers.muon import newton_schulz_flops
from charjax.training.state import state_shapes
from tests.performance.test_memory import SMALL, session_of

H100 = DEVICES["h100"]


def work(**changed: float) -> estimate.Work:
    values = {"flops": 1e12, "traffic": 1e9, "collectives": 0.0, "sequence": 0} | changed
    return estimate.Work(**values, targets=1, devices=int(changed.get("devices", 1)))  # type: ignore[arg-type]


def test_a_step_is_bound_by_products_or_by_memory() -> None:
    by_products = estimate.step_time(work(), H100, "transformer", "float32")
    by_memory = estimate.step_time(work(flops=0.0, traffic=1e12), H100, "transformer", "float32")
    assert by_products is not None
    assert by_memory is not None
    assert by_products.compute == pytest.approx(1e12 / 494.5e12)
    assert by_memory.traffic == pytest.approx(1e12 / 3.35e12)
    high = estimate.efficiency("transformer", "float32")[1]
    assert by_products.low == pytest.approx(by_products.compute / high)
    assert by_memory.low == pytest.approx(by_memory.traffic / high)
    for found in (by_products, by_memory):
        assert found.low < found.middle < found.high
        assert found.guess


def test_the_all_reduce_comes_after_the_backward_pass() -> None:
    alone = estimate.step_time(work(), H100, "transformer", "float32")
    shared = estimate.step_time(work(collectives=45e9), H100, "transformer", "float32")
    assert alone is not None
    assert shared is not None
    assert shared.network == 0.0
    assert shared.low == pytest.approx(alone.low + 45e9 / 450e9)


def test_kernels_that_follow_one_another_are_a_lower_bound() -> None:
    found = estimate.step_time(work(flops=1.0, traffic=1.0, sequence=1000), H100, "gru", "float32")
    assert found is not None
    assert found.low >= 1000 * estimate.LAUNCH[0]
    assert found.high >= 1000 * estimate.LAUNCH[1]


def test_a_rate_that_is_not_known_gives_no_time() -> None:
    assert estimate.step_time(work(), DEVICES["t4"], "transformer", "bfloat16") is None


def test_work_is_counted_for_all_devices_and_traffic_for_each(tmp_path: Path) -> None:
    session = session_of(tmp_path, *SMALL)
    found = memory.predict(session, devices=2, platform="cuda")
    counted = estimate.work_of(session, found, 2)
    targets = 4 * 8
    forward = session.model.forward_flops
    assert forward is not None
    assert (counted.targets, counted.flops) == (targets, 3 * forward * targets)
    # 2 (n - 1) / n of the gradients.
    assert counted.collectives == found.parameters
    assert counted.traffic == 2 * (found.state + found.temporary)
    one = estimate.work_of(session, found, 1)
    assert one.collectives == 0


def test_only_a_scan_has_a_kernel_for_every_time(tmp_path: Path) -> None:
    sequences = {}
    for kind in ("gru", "mingru"):
        words = (f"model.kind={kind}", "model.d_hidden=16", "model.context_length=64")
        session = session_of(tmp_path, *words)
        found = memory.predict(session, devices=1, platform="cuda")
        sequences[kind] = estimate.work_of(session, found, 1).sequence
    assert sequences["gru"] > sequences["mingru"]


def test_what_was_not_measured_has_a_wide_range() -> None:
    low, high, where = estimate.efficiency("no such family", "float32")
    assert low < 0.2 < 0.5 < high
    assert where == "nothing comparable was measured"


def test_muon_has_the_products_of_its_orthogonalisation_on_every_device(tmp_path: Path) -> None:
    def counted(*words: str, devices: int = 1) -> float:
        session = session_of(tmp_path, *SMALL, *words)
        found = memory.predict(session, devices=devices, platform="cuda")
        return estimate.work_of(session, found, devices).flops

    session = session_of(tmp_path, *SMALL)
    shapes = state_shapes(session.model, session.config).params
    each = newton_schulz_flops(shapes, session.model.roles)
    assert each > 0
    assert counted("optim.kind=muon") == pytest.approx(counted() + each)
    assert counted("optim.kind=muon", devices=2) == pytest.approx(counted() + 2 * each)
