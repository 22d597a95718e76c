"""The fit of memory to compiled programs, and the shares of the roofline."""

import json
from typing import Any

import pytest

from benchmarks import render_plan


def row(batch: int, width: int, logits: int, temporary: float) -> dict[str, Any]:
    shapes = {"states": [2, 8, width], "logits": [8, logits]}
    return {"batch": batch, "shapes": shapes, "parameters": width, "temporary": temporary}


def exact(batch: int, width: int, logits: int) -> dict[str, Any]:
    size = 4 * (3 * batch * 2 * 8 * width + 1.5 * batch * 8 * logits + 2 * width)
    return row(batch, width, logits, size)


ROWS = [exact(*sizes) for sizes in ((64, 128, 65), (32, 512, 65), (128, 64, 256), (8, 1024, 30))]


def test_numbers_of_arrays_are_found_from_sizes() -> None:
    found = render_plan.fit(ROWS, tpu=False)
    assert found["arrays"] == pytest.approx({"states": 3.0, "logits": 1.5}, abs=0.01)
    assert found["parameters"] == pytest.approx(2.0, abs=0.1)


def test_an_error_is_that_on_a_program_that_was_not_fitted() -> None:
    assert render_plan.left_out(ROWS, 0, tpu=False) < 0.01
    other = {**ROWS[0], "temporary": 2 * ROWS[0]["temporary"]}
    assert render_plan.left_out([other, *ROWS[1:]], 0, tpu=False) == pytest.approx(0.5, abs=0.01)


def test_a_tpu_pads_what_is_counted() -> None:
    small = row(1, 5, 65, 0.0)
    assert render_plan.features(small, ["states", "logits"], tpu=True) == [
        4.0 * 2 * 8 * 128,
        4.0 * 8 * 128,
        4.0 * 5,
    ]


def test_shares_of_the_roofline_are_at_most_one_and_of_the_better_dispatch() -> None:
    found = render_plan.efficiencies(render_plan.read("throughput-cpu"))
    assert json.dumps(found)
    for shares in found["families"].values():
        for share in shares.values():
            assert 0 < share["low"] <= share["high"] <= 1
