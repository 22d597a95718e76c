"""Which scheme is better than which: chosen, compared and told.

Axes as in tables.py: C schemes, G gains, R learning rates, S seeds; K settings (gain, rate).
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from charjax.errors import printable
from charjax.initlab.report.assumptions import basis, cautions
from charjax.initlab.report.pairs import Found, compare_all
from charjax.initlab.report.swaps import losses_without_own_seed, settings_without_own_seed
from charjax.initlab.report.tables import Array, Sweep
from charjax.initlab.statistics import Comparison, Interval, interval

# So many pairs are told one by one; of more, each scheme says which it beats.
_MOST_PAIRS = 12


@dataclasses.dataclass(frozen=True)
class Arm:
    """A scheme at one depth and width, at its best gain and learning rate.

    Attributes:
      scheme: its place among the sweep's.
      gain: the place of the gain that is best over all seeds.
      rate: of the learning rate.
      loss_S: validation losses; seed s at the setting that is best over the other seeds.
      loss: their mean and interval.
      same: whether leaving a seed out never changed the setting.
      diverged: of all its runs at this depth and width, how many.
      runs: how many there are.
    """

    scheme: int
    gain: int
    rate: int
    loss_S: Array
    loss: Interval
    same: bool
    diverged: int
    runs: int


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two arms of a cell, the first ranked higher.

    Attributes:
      first: place in the cell.
      second: of the other.
      found: what comparing them gave.
      cautions: what to know of single seeds, see assumptions.py.
    """

    first: int
    second: int
    found: Comparison
    cautions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Cell:
    """All schemes at one depth and width.

    Attributes:
      depth: place among the sweep's depths.
      width: of the widths.
      arms: by rank: the lowest mean loss first, those with runs that diverged last.
      pairs: all pairs of arms, corrected as one family with those of all other cells; none where
        there is only one seed.
    """

    depth: int
    width: int
    arms: list[Arm]
    pairs: list[Pair]


def judge(sweep: Sweep) -> list[Cell]:
    """Every depth and width, in order."""
    _, _, depths, widths, _, _ = sweep.shape
    places = [(d, w) for d in range(depths) for w in range(widths)]
    ranked = [_ranked(sweep, *place) for place in places]
    if len(sweep.seeds) < 2:
        return [Cell(*place, arms, []) for place, arms in zip(places, ranked, strict=True)]
    found = compare_all(
        [
            np.stack([_settings(sweep.losses[arm.scheme, :, d, w]) for arm in arms])
            for (d, w), arms in zip(places, ranked, strict=True)
        ]
    )
    return [
        Cell(*place, arms, _pairs(sweep, arms, of))
        for place, arms, of in zip(places, ranked, found, strict=True)
    ]


def ranked_schemes(sweep: Sweep, cells: list[Cell], most: int) -> list[int]:
    """Schemes to show, best first, as ranked in the deepest and widest network.

    Where there are more than `most`, the better half of them are the best, the others the worst.
    """
    order = [arm.scheme for arm in cells[-1].arms]
    if len(order) > most:
        order = order[: (most + 1) // 2] + order[len(order) - most // 2 :]
    return order


def best_setting(losses_GRS: Array) -> tuple[int, int]:
    """The gain and learning rate of the fewest runs that diverged, then of the lowest mean loss."""
    _, rates, seeds = losses_GRS.shape
    diverged_K = (~np.isfinite(losses_GRS)).sum(-1).ravel()
    finite_KS = np.where(np.isfinite(losses_GRS), losses_GRS, 0.0).reshape(-1, seeds)
    mean_K = finite_KS.sum(1) / np.maximum(seeds - diverged_K, 1)
    gain, rate = divmod(int(np.lexsort((mean_K, diverged_K))[0]), rates)
    return gain, rate


def judged(losses_GRS: Array) -> Array:
    """Each seed's loss (S,) at the setting that is best without it.

    So that no run is judged by a choice that it had a part in: the best of many settings on the
    same seeds is lower than a fresh seed's loss there, the more so the more settings are tried.
    """
    return losses_without_own_seed(_settings(losses_GRS).T[..., None])[:, 0]


def _settings(losses_GRS: Array) -> Array:
    """A row a setting, (K, S)."""
    return losses_GRS.reshape(-1, losses_GRS.shape[-1])


def verdict_lines(sweep: Sweep) -> list[str]:
    """The verdicts, one a line: which scheme is better than which; what diverged; the basis."""
    cells = judge(sweep)
    return headlines(sweep, cells) + basis_lines(sweep, cells)


def basis_lines(sweep: Sweep, cells: list[Cell]) -> list[str]:
    """The family, its power and the test's assumption; nothing where there is no comparison."""
    comparisons = sum(len(cell.pairs) for cell in cells)
    is_tuned = len(sweep.gains) * len(sweep.rates) > 1
    return basis(len(sweep.seeds), len(cells), comparisons, is_tuned) if comparisons else []


def headlines(sweep: Sweep, cells: list[Cell]) -> list[str]:
    """Pair by pair if they are few, else scheme by scheme; then what diverged."""
    few = sum(len(cell.pairs) for cell in cells) <= _MOST_PAIRS
    lines = []
    for cell in cells:
        place = f"depth {sweep.depths[cell.depth]}, width {sweep.widths[cell.width]}"
        if not cell.pairs:
            told = _alone(sweep, cell)
        elif few and not _is_hopeless(cell):
            told = [pair_in_words(sweep, cell, pair) for pair in cell.pairs]
        else:
            told = _by_scheme(sweep, cell)
        lines += [f"{place}: {one}" for one in told]
    return lines + (list(divergences(sweep)) or ["no run diverged"])


def _is_hopeless(cell: Cell) -> bool:
    """Whether there are too few seeds for any verdict: then one line tells all."""
    return len(cell.pairs) > 1 and all(pair.found.n < pair.found.needed for pair in cell.pairs)


def _alone(sweep: Sweep, cell: Cell) -> list[str]:
    """Losses without a verdict: of one scheme, or of one seed."""
    one_seed = " (one seed: no interval and no verdict)" if len(sweep.seeds) < 2 else ""
    return [f"{name(sweep, arm.scheme)} {loss_in_words(arm.loss)}{one_seed}" for arm in cell.arms]


def _by_scheme(sweep: Sweep, cell: Cell) -> list[str]:
    beaten: dict[int, list[str]] = {rank: [] for rank in range(len(cell.arms))}
    for pair in cell.pairs:
        if pair.found.verdict in ("better", "worse"):
            winner, loser = pair.first, pair.second
            if pair.found.verdict == "worse":
                winner, loser = loser, winner
            words = ", ".join(one.split(":")[0] for one in pair.cautions)
            loser_name = name(sweep, cell.arms[loser].scheme)
            beaten[winner].append(f"{loser_name} ({words})" if words else loser_name)
    if not any(beaten.values()):
        best = cell.arms[0]
        return [
            f"all {len(cell.arms)} schemes are {cell.pairs[0].found.verdict}; the lowest: "
            f"{name(sweep, best.scheme)} {loss_in_words(best.loss)}"
        ]
    return [
        f"{name(sweep, cell.arms[rank].scheme)} {loss_in_words(cell.arms[rank].loss)} is better "
        f"than {', '.join(names) if names else 'none'}"
        for rank, names in beaten.items()
    ]


def pair_in_words(sweep: Sweep, cell: Cell, pair: Pair) -> str:
    """`a is better than b: -0.061 nats (-0.065 to -0.057), p = 0.0078, n = 8`."""
    first, second = (cell.arms[place] for place in (pair.first, pair.second))
    a, b, found = name(sweep, first.scheme), name(sweep, second.scheme), pair.found
    difference = difference_in_words(found)
    p = f"p = {found.p:.2g}" + (f" (adjusted {found.adjusted_p:.2g})" if found.family > 1 else "")
    but = "".join(f"; {one}" for one in pair.cautions)
    if found.verdict in ("better", "worse"):
        return f"{a} is {found.verdict} than {b}: {difference}, {p}, n = {found.n}{but}"
    if found.low == found.high == 0 and not found.ranked:
        return f"{a} and {b} are {found.verdict}: the same loss in every seed"
    return f"{a} and {b} are {found.verdict}: {difference}, {p}{but}"


def difference_in_words(found: Comparison) -> str:
    """The mean difference and its interval; ranks where runs diverged."""
    ends = f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
    if not found.ranked:
        return f"{ends} nats"
    return (
        f"diverged in {found.diverged_a} and {found.diverged_b} of {found.n} seeds, "
        f"mean signed rank {found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
    )


def loss_in_words(loss: Interval) -> str:
    """`2.107 (2.104 to 2.110)`, or in how many seeds it diverged."""
    if loss.diverged:
        return f"diverged in {loss.diverged} of {loss.n}"
    if loss.n < 2:
        return f"{loss.mean:.4f}"
    return f"{loss.mean:.4f} ({loss.low:.4f} to {loss.high:.4f})"


def divergences(sweep: Sweep) -> Iterator[str]:
    """For each scheme of which a run diverged: how many, when first, and where."""
    steps = sweep.cube("diverged_step")
    for scheme in range(len(sweep.schemes)):
        is_bad = sweep.diverged[scheme]
        if not is_bad.any():
            continue
        known = steps[scheme][np.isfinite(steps[scheme])]
        first = f", the first at step {known.min():.0f}" if known.size else ""
        yield (
            f"{name(sweep, scheme)}: {is_bad.sum()} of {is_bad.size} runs diverged{first}"
            f"{_where(sweep, is_bad)}"
        )


def _where(sweep: Sweep, is_bad: NDArray[np.bool_]) -> str:
    """By learning rate and by gain, for those axes that vary."""
    words = ""
    labels = [f"{rate:g}" for rate in sweep.rates]
    for kind, axis, names in (("learning rate", 3, labels), ("gain", 0, gain_names(sweep))):
        rest = tuple(a for a in range(is_bad.ndim) if a != axis)
        counts = is_bad.sum(axis=rest)
        each = is_bad.size // len(names)
        if len(np.unique(counts)) == 1:
            continue
        told = [f"{label} ({n}/{each})" for label, n in zip(names, counts, strict=True) if n]
        words += f"; by {kind}: {', '.join(told)}"
    return words


def name(sweep: Sweep, scheme: int) -> str:
    """A scheme's name, safe to print."""
    return printable(sweep.schemes[scheme])


def gain_names(sweep: Sweep) -> list[str]:
    """The gains as they are told; `own` for a scheme's own."""
    return ["own" if math.isnan(gain) else f"{gain:.4g}" for gain in sweep.gains]


def _ranked(sweep: Sweep, depth: int, width: int) -> list[Arm]:
    """The schemes at one size, the lowest mean loss first."""
    losses_CGRS = sweep.losses[:, :, depth, width]
    arms = [_arm(scheme, losses_GRS) for scheme, losses_GRS in enumerate(losses_CGRS)]
    arms.sort(key=lambda arm: (arm.loss.diverged, _finite_mean(arm.loss_S)))
    return arms


def _pairs(sweep: Sweep, arms: list[Arm], found: Found) -> list[Pair]:
    pairs = []
    for (i, j), one in found.items():
        names = name(sweep, arms[i].scheme), name(sweep, arms[j].scheme)
        told = cautions(arms[i].loss_S, arms[j].loss_S, one, names, sweep.seeds)
        pairs.append(Pair(i, j, one, tuple(told)))
    return pairs


def _arm(scheme: int, losses_GRS: Array) -> Arm:
    best, loss_S = best_setting(losses_GRS), judged(losses_GRS)
    chosen_S = settings_without_own_seed(_settings(losses_GRS).T[..., None])[:, 0]
    return Arm(
        scheme,
        *best,
        loss_S,
        interval(loss_S),
        bool((chosen_S == best[0] * losses_GRS.shape[1] + best[1]).all()),
        int((~np.isfinite(losses_GRS)).sum()),
        losses_GRS.size,
    )


def _finite_mean(loss_S: Array) -> float:
    finite = loss_S[np.isfinite(loss_S)]
    return float(finite.mean()) if finite.size else math.inf
