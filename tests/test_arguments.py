"""Values that Python callers give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charjax import arguments
from charjax.errors import UserError


@pytest.mark.parametrize(
    ("read", "values", "mistakes"),
    [
        (
            lambda value: arguments.whole_number("n", value, 1, 9),
            [1, 9, np.int64(3)],
            [0, 10, -1, 1.5, 2.0, "2", True, None, float("nan"), 10**5000],
        ),
        (
            lambda value: arguments.finite_number("n", value),
            [0.5, -1, np.float32(2)],
            ["x", None, float("nan"), float("inf"), True, 1j],
        ),
        (lambda value: arguments.text("n", value), ["", "a\nb"], [None, 3, b"a", ["a"]]),
        (lambda value: arguments.flag("n", value), [True, False], [None, 1, "no"]),
        (lambda value: arguments.choice("n", value, ("a", "b")), ["a"], ["c", "", None, ["a"]]),
        (
            lambda value: arguments.path("n", value),
            ["a", Path("a/b"), "a b"],
            ["", "  ", "a\0b", None, 3, b"a", ["a"]],
        ),
    ],
)
def test_other_values_are_refused_in_one_line(
    read: Callable[[Any], Any], values: list[Any], mistakes: list[Any]
) -> None:
    for value in values:
        assert read(value) in (value, Path(str(value)))
    for value in mistakes:
        with pytest.raises(UserError, match=r"^n: .* given; it must ") as caught:
            read(value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200
