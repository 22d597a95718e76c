"""What the verdicts rest on, in words: the family, its power, the test's assumption, odd seeds.

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
# A difference, in standard deviations of the paired differences, that is worth seeds.
_LARGE = 1.5
_MOST_SEEDS = 1000
_SAMPLES = 20_000


def basis(seeds: int, sizes: int, comparisons: int, tuned: bool = False) -> list[str]:
    """The lines beside the verdicts: the family, what it can find, what is assumed.

    Args:
      seeds: n.
      sizes: depths times widths.
      comparisons: over all sizes.
      tuned: whether each scheme's best setting was chosen among several.
    """
    lines = []
    if comparisons > 1:
        each = f"{comparisons // sizes} pair{'s' if comparisons > sizes else ''}"
        over = f" ({sizes} sizes x {each})" if sizes > 1 else ""
        lines.append(
            f"one family: p is adjusted for all {comparisons} comparisons of this report{over}, so "
            f"that any false verdict in it has a chance of about {100 * LEVEL:.0f} % at most"
        )
    return [
        *lines,
        _power_in_words(seeds, comparisons) + ("; less where settings tie" if tuned else ""),
        "assumed: were two schemes alike, a seed's runs could be exchanged between them (their "
        "differences are symmetric about 0); a kind of run that comes in fewer than "
        f"{100 * _unseen(seeds):.0f} % of seeds may be missing from {seeds}, and the verdicts are "
        "of the other runs",
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
    # Of 6 seeds every sign must agree, which costs more than the formula knows (measured: 66-73 %).
    share = 70 if seeds == seeds_needed() else 80
    found = f"power: a difference of {detectable(seeds, comparisons):.1f} {unit} is found in "
    found += f"about {share} % of reports with {seeds} seeds"
    return found if enough <= seeds else f"{found}; {would}"


def _unseen(seeds: int) -> float:
    """The share of runs that none of so many seeds may show with a chance of 5 %."""
    return float(1 - LEVEL ** (1 / seeds))


def detectable(seeds: int, comparisons: int) -> float:
    """The difference, in standard deviations of the paired differences, found in 80 % of reports.

    Of normal differences, by Student's t at the level over the number of comparisons; the level is
    the largest that so many sign vectors can keep.
    """
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _power(middle, seeds, comparisons) > _POWER else (middle, high)
    return high


def seeds_for(difference: float, comparisons: int) -> int:
    """The fewest seeds that find a difference, in such standard deviations, in 80 % of reports."""
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
    """What a reader of a pair's verdict should know of its seeds.

    That the differences are more skewed than 99 % of normal samples of as many values are; that a
    verdict rests on a single seed, without which Student's 95 % interval includes 0; that a single
    seed stands against one. Measured at 8 seeds: of false verdicts of normal losses 60 % are said
    to rest on one seed, of right ones at d = 1.5 9 %, at d = 2 1 %.

    Args:
      first_S: losses that were compared.
      second_S: those of the other scheme.
      found: what that gave.
      names: of the two schemes.
      seeds: as they are numbered.
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
            student(paired_differences(np.delete(first_S, s), np.delete(second_S, s)))
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
    """The third central moment over the 3/2 power of the second; 0 where all values are equal."""
    deviation_S = x_S - x_S.mean()
    spread = math.sqrt(float((deviation_S**2).mean()))
    return float((deviation_S**3).mean()) / spread**3 if spread > 0 else 0.0


@functools.lru_cache
def skewness_limit(seeds: int) -> float:
    """The size of skewness that 99 % of normal samples stay below (20,000 of them, drawn)."""
    x_BS = np.random.default_rng([seeds, 3]).standard_normal((_SAMPLES, seeds))
    deviation_BS = x_BS - x_BS.mean(1, keepdims=True)
    third_B = (deviation_BS**3).mean(1) / (deviation_BS**2).mean(1) ** 1.5
    return float(np.quantile(np.abs(third_B), 0.99))


def student(x_S: Array) -> float:
    """Student's t of the mean; infinite where all values are equal and not 0."""
    mean, spread = float(x_S.mean()), float(x_S.std(ddof=1))
    if spread == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / (spread / math.sqrt(len(x_S)))
