"""Checks: a measured number, how near it has to be to a published one, and the verdict."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Tier = Literal["cpu", "gpu"]
Relation = Literal["near", "at most", "at least", "shown", "stated"]
Verdict = Literal["reproduced", "out of tolerance", "not finite", "stated", "not run"]

# Verdicts that make the exit status 1; the last three are those of a row or an ordering (rows.py).
FAILURES = ("out of tolerance", "not finite", "missed", "diverged", "does not hold")

# Called with the units of work done and the units in all.
Progress = Callable[[int, int], None]
# Called often during the work; may raise to stop it.
Poll = Callable[[], None]
# A check in results.json.
CheckData = dict[str, Any]


def part_of(progress: Progress, before: int, total: int) -> Progress:
    """Return the progress of a part of the work, which begins after `before` of `total` units."""
    return lambda done, _: progress(before + done, total)


def is_within(measured: float, expected: float, above: float | None, below: float | None) -> bool:
    """Return whether a number lies at most so far above or below another; None: any distance."""
    difference = measured - expected
    return (above is None or difference <= above) and (below is None or difference >= -below)


class Mean(NamedTuple):
    """A measured number.

    Attributes:
      value: the mean, or the number itself.
      n: how many values it is the mean of; 1 for a number that is no mean.
      standard_error: of the mean; None for one value.
    """

    value: float
    n: int = 1
    standard_error: float | None = None


def mean_of(values_N: ArrayLike) -> Mean:
    """Return mean and standard error of independent values (N,)."""
    data_N = np.asarray(values_N, np.float64)
    n = data_N.size
    error = float(data_N.std(ddof=1)) / math.sqrt(n) if n > 1 else None
    return Mean(float(data_N.mean()), n, error)


def geometric_mean_of(logs_N: ArrayLike) -> Mean:
    """Return exp of the mean of logarithms (N,), and its standard error."""
    logs = mean_of(logs_N)
    value = math.exp(logs.value) if math.isfinite(logs.value) else math.nan
    error = None if logs.standard_error is None else value * logs.standard_error
    return Mean(value, logs.n, error)


@dataclasses.dataclass(frozen=True)
class Check:
    """A number to be reproduced, made by `near`, `at_most`, ... below.

    Attributes:
      what: the quantity.
      relation: how the measured value has to lie to the expected one. "near": within the
        tolerance; "at most" and "at least"; "shown": a claim that holds or not; "stated": reported
        without a verdict.
      expected: as published; None where nothing is.
      tolerance: on either side, in the unit of the value; 0 for a bound.
      of: what the measured value is, such as "mean of the networks"; the tolerance applies to it.
      measured: None if it was not run.
      n: number of values that it is the mean of.
      standard_error: of the mean; None for one value.
      relative: whether the tolerance was set as a share of the expected value.
      unit: of the value; "" for a pure number.
      theory: the prediction of charjax.theory, unrounded; None where there is no theory.
      holds: whether a claim holds.
      note: a remark on the verdict.
    """

    what: str
    relation: Relation
    expected: float | None
    tolerance: float
    of: str
    measured: float | None
    n: int = 1
    standard_error: float | None = None
    relative: bool = False
    unit: str = ""
    theory: float | None = None
    holds: bool = False
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """Verdict on the measured value."""
        if self.measured is None:
            return "not run"
        if not math.isfinite(self.measured):
            return "not finite"
        if self.relation == "stated":
            return "stated"
        return "reproduced" if self._is_met(self.measured) else "out of tolerance"

    def _is_met(self, measured: float) -> bool:
        if self.relation == "shown":
            return self.holds
        assert self.expected is not None
        above = None if self.relation == "at least" else self.tolerance
        below = None if self.relation == "at most" else self.tolerance
        return is_within(measured, self.expected, above, below)

    def as_data(self) -> CheckData:
        """Return the check for results.json; a measured value that is not finite is null there."""
        tree = dataclasses.asdict(self)
        for name in ("measured", "standard_error"):
            if tree[name] is not None and not math.isfinite(tree[name]):
                tree[name] = None
        return tree | {"verdict": self.verdict}


def near(
    what: str,
    measured: Mean,
    expected: float,
    *,
    of: str,
    within: float | None = None,
    percent: float | None = None,
    unit: str = "",
    theory: float | None = None,
    note: str = "",
) -> Check:
    """Expect a value `within` a distance, or within a `percent`age, of the published one."""
    assert (within is None) != (percent is None)
    tolerance = within if within is not None else abs(expected) * (percent or 0.0) / 100
    relative = percent is not None
    return Check(
        what,
        "near",
        expected,
        tolerance,
        of,
        *measured,
        relative=relative,
        unit=unit,
        theory=theory,
        note=note,
    )


def at_most(what: str, measured: Mean, bound: float, **details: str) -> Check:
    """Expect a value not above a bound; `details` is `of`, and `unit` or `note`."""
    return _check(what, "at most", bound, measured, **details)


def at_least(what: str, measured: Mean, bound: float, **details: str) -> Check:
    """Expect a value not below a bound; `details` is `of`, and `unit` or `note`."""
    return _check(what, "at least", bound, measured, **details)


def shown(what: str, holds: bool, measured: Mean, **details: str) -> Check:
    """Expect a claim to hold, which rests on a number; `details` is `of`, and `unit` or `note`."""
    return dataclasses.replace(_check(what, "shown", None, measured, **details), holds=holds)


def stated(what: str, measured: Mean, note: str, **details: str) -> Check:
    """Report a number without a verdict; `details` is `of`, and `unit`."""
    return _check(what, "stated", None, measured, note=note, **details)


def _check(
    what: str,
    relation: Relation,
    expected: float | None,
    measured: Mean,
    *,
    of: str,
    unit: str = "",
    note: str = "",
) -> Check:
    return Check(what, relation, expected, 0.0, of, *measured, unit=unit, note=note)


def not_run(what: str, why: str, expected: float | None = None) -> Check:
    """Report that a number was not measured, and why not."""
    return Check(what, "stated", expected, 0.0, "", None, n=0, note=why)
