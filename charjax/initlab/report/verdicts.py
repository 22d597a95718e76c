"""The comparison of schemes: the best setting of each, their ranking, and all pairs.

Axes as in tables.py: C schemes, G gains, R learning rates, S seeds; K settings (gain, rate).
"""

import dataclasses
import math

import numpy as np

from charjax.errors import printable
from charjax.initlab.report.assumptions import cautions
from charjax.initlab.report.swaps import (
    compare_all,
    losses_without_own_seed,
    settings_without_own_seed,
)
from charjax.initlab.report.tables import Array, Sweep
from charjax.initlab.statistics import Comparison, Interval, interval


@dataclasses.dataclass(frozen=True)
class Variant:
    """A scheme at one depth and width, at its best gain and learning rate.

    Attributes:
      scheme: index among the sweep's schemes.
      gain: index of the gain that is best over all seeds.
      rate: index of the learning rate that is best over all seeds.
      loss_S: validation losses; seed s at the setting that is best over the other seeds.
      loss: their mean and interval.
      is_stable: whether leaving a seed out never changed the setting.
      diverged: number of diverged runs at this depth and width.
      runs: number of all runs there.
    """

    scheme: int
    gain: int
    rate: int
    loss_S: Array
    loss: Interval
    is_stable: bool
    diverged: int
    runs: int


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two variants of a cell, the first ranked higher.

    Attributes:
      first: index of the one in the cell.
      second: index of the other.
      found: their comparison.
      cautions: remarks about single seeds, see assumptions.py.
    """

    first: int
    second: int
    found: Comparison
    cautions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Cell:
    """All schemes at one depth and width.

    Attributes:
      depth: index among the sweep's depths.
      width: index among its widths.
      variants: by rank: the lowest mean loss first, those with diverged runs last.
      pairs: all pairs of variants, corrected as one family with those of all other cells; none
        where there is only one seed.
    """

    depth: int
    width: int
    variants: list[Variant]
    pairs: list[Pair]


def judge(sweep: Sweep) -> list[Cell]:
    """Rank and compare the schemes at every depth and width, in order."""
    _, _, depths, widths, _, _ = sweep.shape
    places = [(d, w) for d in range(depths) for w in range(widths)]
    ranked = [_ranked(sweep, *place) for place in places]
    if len(sweep.seeds) < 2:
        return [Cell(*place, variants, []) for place, variants in zip(places, ranked, strict=True)]
    found = compare_all(
        [
            np.stack([_settings(sweep.losses[variant.scheme, :, d, w]) for variant in variants])
            for (d, w), variants in zip(places, ranked, strict=True)
        ]
    )
    return [
        Cell(*place, variants, [_pair(sweep, variants, *one) for one in of.items()])
        for place, variants, of in zip(places, ranked, found, strict=True)
    ]


def _ranked(sweep: Sweep, depth: int, width: int) -> list[Variant]:
    """Return the schemes at one size, the lowest mean loss first."""
    losses_CGRS = sweep.losses[:, :, depth, width]
    variants = [_variant(scheme, losses_GRS) for scheme, losses_GRS in enumerate(losses_CGRS)]
    return sorted(variants, key=lambda one: (one.loss.diverged, _finite_mean(one.loss_S)))


def _variant(scheme: int, losses_GRS: Array) -> Variant:
    gain, rate = best_setting(losses_GRS)
    loss_S = judged(losses_GRS)
    chosen_S = settings_without_own_seed(_settings(losses_GRS).T[..., None])[:, 0]
    is_stable = bool((chosen_S == gain * losses_GRS.shape[1] + rate).all())
    diverged = int((~np.isfinite(losses_GRS)).sum())
    return Variant(
        scheme, gain, rate, loss_S, interval(loss_S), is_stable, diverged, losses_GRS.size
    )


def _finite_mean(loss_S: Array) -> float:
    finite = loss_S[np.isfinite(loss_S)]
    return float(finite.mean()) if finite.size else math.inf


def _pair(
    sweep: Sweep, variants: list[Variant], places: tuple[int, int], found: Comparison
) -> Pair:
    one, other = (variants[place] for place in places)
    names = scheme_name(sweep, one.scheme), scheme_name(sweep, other.scheme)
    remarks = cautions(one.loss_S, other.loss_S, found, names, sweep.seeds)
    return Pair(*places, found, tuple(remarks))


def ranked_schemes(sweep: Sweep, cells: list[Cell], most: int) -> list[int]:
    """Return the schemes to show, best first, as ranked in the deepest and widest network.

    Of more than `most`, the better half of those shown are the best and the others the worst.
    """
    order = [variant.scheme for variant in cells[-1].variants]
    if len(order) > most:
        order = order[: (most + 1) // 2] + order[len(order) - most // 2 :]
    return order


def best_setting(losses_GRS: Array) -> tuple[int, int]:
    """Return the gain and learning rate with the fewest diverged runs, then lowest mean loss."""
    _, rates, seeds = losses_GRS.shape
    diverged_K = (~np.isfinite(losses_GRS)).sum(-1).ravel()
    finite_KS = np.where(np.isfinite(losses_GRS), losses_GRS, 0.0).reshape(-1, seeds)
    mean_K = finite_KS.sum(1) / np.maximum(seeds - diverged_K, 1)
    gain, rate = divmod(int(np.lexsort((mean_K, diverged_K))[0]), rates)
    return gain, rate


def judged(losses_GRS: Array) -> Array:
    """Return each seed's loss (S,) at the setting that is best without it.

    No run is then judged by a choice that it took part in: the best of many settings on the same
    seeds is lower than a new seed's loss there, the more so the more settings are tried.
    """
    return losses_without_own_seed(_settings(losses_GRS).T[..., None])[:, 0]


def _settings(losses_GRS: Array) -> Array:
    """Return one row per setting, (K, S)."""
    return losses_GRS.reshape(-1, losses_GRS.shape[-1])


def scheme_name(sweep: Sweep, scheme: int) -> str:
    """Return a scheme's name, safe to print."""
    return printable(sweep.schemes[scheme])


def gain_names(sweep: Sweep) -> list[str]:
    """Return the gains in words; `own` for a scheme's default."""
    return ["own" if math.isnan(gain) else f"{gain:.4g}" for gain in sweep.gains]
