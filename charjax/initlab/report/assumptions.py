"""The basis of the verdicts in words: family, power, the test's assumption, single seeds.

Letters: S seeds.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from charjax.errors import printable
from charjax.initlab.statistics import LEVEL, Array, Comparison, paired_differences, seeds_needed

_POWER = 0.8
# A large difference, in standard deviations of the paired differences.
_LARGE = 1.5
_MOST_SEEDS = 1000
_SAMPLES = 20_000


def basis(seeds: int, sizes: int, comparisons: int, tuned: bool = False) -> list[str]:
    """Return the lines below the verdicts: the family, its power, the assumption.

    Args:
      seeds: number of seeds.
      sizes: depths times widths.
      comparisons: their number over all sizes.
      tuned: whether each scheme's best setting was chosen among several.
    """
    lines = []
    if comparisons > 1:
        each = f"{comparisons // sizes} pair{'s' if comparisons > sizes else ''}"
        over = f" ({sizes} sizes x {each})" if sizes > 1 else ""
        lines.append(
            f"one family: p is adjusted for all {comparisons} comparisons of this report{over}, so "
            f"that the chance of any false verdict in it is at most about {100 * LEVEL:.0f} %"
        )
    return [
        *lines,
        _power_in_words(seeds, comparisons) + ("; less where settings tie" if tuned else ""),
        "assumed: if two schemes are equal, a seed's runs can be exchanged between them (their "
        "differences are symmetric about 0); outcomes that occur in fewer than "
        f"{100 * _unseen(seeds):.0f} % of seeds may be missing from {seeds}, and the verdicts do "
        "not cover them",
    ]


def _power_in_words(seeds: int, comparisons: int) -> str:
    unit = "standard deviations of the differences"
    enough = seeds_for(_LARGE, comparisons)
    would = f"{enough} seeds would find one of {_LARGE:g}"
    if seeds < seeds_needed():
        return (
            f"power: {seeds} seeds cannot reach p < {LEVEL}, whatever the difference; "
            f"{seeds_needed()} can, and in 80 % of reports {would} {unit}"
        )
    # At 6 seeds every sign must agree, which the formula leaves out (measured: 66-73 %).
    share = 70 if seeds == seeds_needed() else 80
    found = f"power: a difference of {detectable(seeds, comparisons):.1f} {unit} is found in "
    found += f"about {share} % of reports with {seeds} seeds"
    return found if enough <= seeds else f"{found}; {would}"


def _unseen(seeds: int) -> float:
    """Return the share of runs that n seeds all miss with a probability of 5 %."""
    return float(1 - LEVEL ** (1 / seeds))


def detectable(seeds: int, comparisons: int) -> float:
    """Return the difference found in 80 % of reports, in standard deviations of the differences.

    For normal differences, by Student's t at the level over the number of comparisons; the level is
    the largest that 2^n sign vectors can have.
    """
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _power(middle, seeds, comparisons) > _POWER else (middle, high)
    return high


def seeds_for(difference: float, comparisons: int) -> int:
    """Return the fewest seeds that find a difference, in such units, in 80 % of reports."""
    for seeds in range(seeds_needed(), _MOST_SEEDS):
        if _power(difference, seeds, comparisons) > _POWER:
            return seeds
    return _MOST_SEEDS


def _power(difference: float, seeds: int, comparisons: int) -> float:
    vectors = 2.0 ** (seeds - 1)
    level = (math.ceil(LEVEL * vectors) - 1) / vectors
    limit = float(special.stdtrit(seeds - 1, 1 - level / (2 * comparisons)))
    return float(1 - special.nctdtr(seeds - 1, difference * math.sqrt(seeds), limit))


def cautions(
    first_S: Array, second_S: Array, found: Comparison, names: tuple[str, str], seeds: Sequence[int]
) -> list[str]:
    """Return remarks about single seeds for the reader of a pair's verdict.

    Remarks: the differences are more skewed than those of 99 % of normal samples of this size; a
    verdict rests on a single seed, without which Student's 95 % interval includes 0; a single seed
    prevents a verdict. Measured at 8 seeds on normal losses: 60 % of false verdicts rest on one
    seed, and 9 % of right ones at d = 1.5, 1 % at d = 2.

    Args:
      first_S: losses of the one scheme.
      second_S: losses of the other.
      found: their comparison.
      names: of the two schemes.
      seeds: their numbers.
    """
    if found.n < 3:
        return []
    lines, differences_S = [], paired_differences(first_S, second_S)
    is_skewed = not found.ranked and abs(skewness(differences_S)) > skewness_limit(found.n)
    if is_skewed:
        odd = int(np.argmax(np.abs(differences_S - np.median(differences_S))))
        others_S: Array = np.delete(differences_S, odd)
        lines.append(
            f"skewed: seed {seeds[odd]} differs by {differences_S[odd]:+.4f}, the others by "
            f"{float(np.min(others_S)):+.4f} to {float(np.max(others_S)):+.4f}"
        )
    t_S = np.array(
        [
            student_t(paired_differences(np.delete(first_S, s), np.delete(second_S, s)))
            for s in range(found.n)
        ]
    )
    limit = float(special.stdtrit(found.n - 2, 1 - LEVEL / 2))
    if found.verdict in ("better", "worse"):
        signed_S = t_S if found.verdict == "worse" else -t_S
        weakest = int(np.argmin(signed_S))
        if signed_S[weakest] <= limit:
            lines.append(f"rests on seed {seeds[weakest]}: without it the 95 % interval includes 0")
    elif is_skewed or found.diverged_a + found.diverged_b == 1:
        strongest = int(np.argmax(np.abs(t_S)))
        if abs(t_S[strongest]) > limit and found.n > seeds_needed():
            name = printable(names[0] if t_S[strongest] < 0 else names[1])
            lines.append(f"seed {seeds[strongest]} decides: without it {name} would look better")
    return lines


def skewness(x_S: Array) -> float:
    """Return the third central moment over the 3/2 power of the second; 0 for equal values."""
    deviation_S = x_S - x_S.mean()
    spread = math.sqrt(float((deviation_S**2).mean()))
    return float((deviation_S**3).mean()) / spread**3 if spread > 0 else 0.0


@functools.lru_cache
def skewness_limit(seeds: int) -> float:
    """Return the 99 % point of |skewness| over 20,000 normal samples."""
    x_BS = np.random.default_rng([seeds, 3]).standard_normal((_SAMPLES, seeds))
    deviation_BS = x_BS - x_BS.mean(1, keepdims=True)
    third_B = (deviation_BS**3).mean(1) / (deviation_BS**2).mean(1) ** 1.5
    return float(np.quantile(np.abs(third_B), 0.99))


def student_t(x_S: Array) -> float:
    """Return Student's t of the mean; infinite where all values are equal and not 0."""
    mean, spread = float(x_S.mean()), float(x_S.std(ddof=1))
    if spread == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / (spread / math.sqrt(len(x_S)))
