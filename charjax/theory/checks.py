"""Checks of the arguments of the theory's functions, each of which raises ValueError."""

import math
import numbers

# No network has variances and scales beyond, their squares leave float64, and quadrature graded
# down to their inverse takes ever longer.
LARGEST = 1e30
SMALLEST = 1e-30
# Not all whole numbers beyond are distinct in float64; a result longer than this is refused.
_LARGEST_COUNT, _LONGEST = 2**53, 10**6


def check_positive(**values: float) -> None:
    """Raise ValueError, by name, for a value that is not in [1e-30, 1e30]."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value!r}; it must be finite and above 0")
        if value < SMALLEST:
            raise ValueError(f"{name} is {value!r}; it must be at least {SMALLEST:g}")
    _check_size(values)


def check_nonnegative(**values: float) -> None:
    """Raise ValueError, by name, for a value that is not in [0, 1e30]."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value!r}; it must be finite and at least 0")
    _check_size(values)


def _check_size(values: dict[str, float]) -> None:
    for name, value in values.items():
        if value > LARGEST:
            raise ValueError(f"{name} is {value!r}; it must be at most {LARGEST:g}")


def check_count(**values: int) -> None:
    """Raise ValueError, by name, for a value that is not a whole number from 1 to 2**53."""
    for name, value in values.items():
        if not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if value > _LARGEST_COUNT:
            raise ValueError(f"{name} is {value!r}; it must be at most 2**53")


def check_length(**values: int) -> None:
    """Raise ValueError, by name, for a value that is no length of a result: from 1 to 10**6."""
    check_count(**values)
    for name, value in values.items():
        if value > _LONGEST:
            raise ValueError(f"{name} is {value!r}; it must be at most {_LONGEST:,}")


def check_result(what: str, value: float) -> float:
    """Return a value, or raise ValueError where it left the range of float64."""
    if not math.isfinite(value):
        raise ValueError(f"{what} leaves the range of float64; take smaller arguments")
    return value


def check_correlation(correlation: float) -> None:
    """Raise ValueError for a correlation outside [-1, 1]."""
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation is {correlation!r}; it must lie in [-1, 1]")
