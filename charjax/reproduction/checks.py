"""What a reproduction is, and the checks it is made of: a number, how near is near, a verdict."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

Tier = Literal["cpu", "gpu"]
Relation = Literal["near", "at most", "at least", "shown", "stated"]
Verdict = Literal["reproduced", "out of tolerance", "not finite", "stated", "not run"]

FAILURES: tuple[Verdict, ...] = ("out of tolerance", "not finite")

# Told the pieces done and the pieces in all.
Progress = Callable[[int, int], None]
# Called between pieces; may raise to stop.
Poll = Callable[[], None]


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
    """Mean and standard error of independent values (N,)."""
    data_N = np.asarray(values_N, np.float64)
    n = data_N.size
    error = float(data_N.std(ddof=1)) / math.sqrt(n) if n > 1 else None
    return Mean(float(data_N.mean()), n, error)


def geometric_mean_of(logs_N: ArrayLike) -> Mean:
    """exp of the mean of logarithms (N,), and its standard error."""
    logs = mean_of(logs_N)
    value = math.exp(logs.value) if math.isfinite(logs.value) else math.nan
    error = None if logs.standard_error is None else value * logs.standard_error
    return Mean(value, logs.n, error)


@dataclasses.dataclass(frozen=True)
class Check:
    """One number of a reproduction. Make it by `near`, `at_most`, ... below.

    Attributes:
      what: the quantity.
      relation: how the measured value has to lie to the expected one. "near": within the
        tolerance; "at most" and "at least"; "shown": a claim that holds or not; "stated": said,
        not judged.
      expected: as published; None where nothing is.
      tolerance: on either side, in the unit of the value; 0 for a bound.
      relative: whether the tolerance was set as a share of what is expected.
      of: what the measured value is, and so what the tolerance is of: "mean of the nets".
      measured: None if it was not run.
      n: values that it is the mean of.
      standard_error: of the mean; None for one value.
      unit: of the value; "" for a pure number.
      theory: what the theory of charjax.theory gives, unrounded; None where it is silent.
      holds: of a claim.
      note: what else is to be said.
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
        """Whether the number was reproduced."""
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
        if self.relation == "near":
            return abs(measured - self.expected) <= self.tolerance
        if self.relation == "at most":
            return measured <= self.expected
        return measured >= self.expected

    def as_data(self) -> dict[str, Any]:
        """For results.json; a measured value that is not finite is null there."""
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
    """A value to be met `within` a distance, or within a `percent`age of what is expected."""
    assert (within is None) != (percent is None)
    tolerance = within if within is not None else abs(expected) * (percent or 0.0) / 100
    return Check(
        what,
        "near",
        expected,
        tolerance,
        of,
        *measured,
        relative=percent is not None,
        unit=unit,
        theory=theory,
        note=note,
    )


def at_most(
    what: str, measured: Mean, bound: float, *, of: str, unit: str = "", note: str = ""
) -> Check:
    """A value that must not lie above a bound."""
    return Check(what, "at most", bound, 0.0, of, *measured, unit=unit, note=note)


def at_least(
    what: str, measured: Mean, bound: float, *, of: str, unit: str = "", note: str = ""
) -> Check:
    """A value that must not lie below a bound."""
    return Check(what, "at least", bound, 0.0, of, *measured, unit=unit, note=note)


def shown(
    what: str, holds: bool, measured: Mean, *, of: str, unit: str = "", note: str = ""
) -> Check:
    """A claim, and the number it rests on."""
    return Check(what, "shown", None, 0.0, of, *measured, unit=unit, holds=holds, note=note)


def stated(what: str, measured: Mean, note: str, *, of: str, unit: str = "") -> Check:
    """A number with no verdict on it; the note says what it says."""
    return Check(what, "stated", None, 0.0, of, *measured, unit=unit, note=note)


def not_run(what: str, why: str, expected: float | None = None) -> Check:
    """A number that was not measured, and why not."""
    return Check(what, "stated", expected, 0.0, "", None, n=0, note=why)


class Run(Protocol):
    """Measures a reproduction."""

    def __call__(self, tier: Tier, progress: Progress, poll: Poll) -> Sequence[Check]:
        """Measure at a tier's size."""
        ...


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """Published numbers that belong together.

    Attributes:
      name: what the command takes.
      number: its place in the list, from 1; the command takes that, too.
      title: what it is.
      source: where the numbers are published.
      run: measures it.
      larger_on_gpu: whether the GPU tier measures something larger, which no CPU is asked to do.
      corpora: the texts it needs; they are sought before anything is measured.
    """

    name: str
    number: int
    title: str
    source: str
    run: Run
    larger_on_gpu: bool = False
    corpora: tuple[str, ...] = ()
