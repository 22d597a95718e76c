"""A bar for each row of a benchmark."""

from collections.abc import Callable
from typing import Any

from charjax.performance.show import Row


def bars(axes: Any, rows: list[Row], value: Callable[[Row], float], label: str) -> None:
    """Draw a horizontal bar for each row."""
    names = [f"{row['device']}  {row['name']}" for row in rows]
    axes.barh(range(len(rows)), [value(row) for row in rows])
    axes.set_yticks(range(len(rows)), names, fontsize="x-small")
    axes.invert_yaxis()
    axes.set_xlabel(label)
