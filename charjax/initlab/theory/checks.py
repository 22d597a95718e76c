"""What the theory's functions refuse: they are called by programs, so each raises ValueError."""

import math
import numbers


def check_positive(**values: float) -> None:
    """Raise ValueError, by name, for a value that is not a finite number above 0."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value!r}; it must be finite and above 0")


def check_nonnegative(**values: float) -> None:
    """Raise ValueError, by name, for a value that is negative or not finite."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value!r}; it must be finite and at least 0")


def check_count(**values: int) -> None:
    """Raise ValueError, by name, for a value that is not a whole number of at least 1."""
    for name, value in values.items():
        if not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")


def check_correlation(correlation: float) -> None:
    """Raise ValueError for a correlation outside [-1, 1]."""
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation is {correlation!r}; it must lie in [-1, 1]")
