"""`python -m benchmarks.verdicts`: error rates and power of initlab's verdicts, by simulation.

python -m benchmarks.verdicts [--trials N] [--out FILE.json] [--only SECTION,...]

Schemes are simulated as tables of losses, and judged by the code that judges a sweep. Each row is a
cell of a table in docs/initlab.md (`make results`). A seed always draws the same tables. With
--only the other sections of the file stay as they are.

Letters: S seeds, K settings, C schemes, N trials, M pairs, B swaps.
"""

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import results_file
from benchmarks.results_file import RESULTS
from charjax.hardware import machine_facts
from charjax.initlab.report.assumptions import cautions
from charjax.initlab.report.swaps import (
    compare_all,
    losses_without_own_seed,
    scaled,
    swap_statistics,
)
from charjax.initlab.statistics import LEVEL, Array, compare, sign_flips

TRIALS = 10_000
SEEDS = (6, 8, 12)
LOSSES = ("normal", "t2", "exponential")
_ROUNDING = 1e-9
# Number of trials with p below the level whose verdict (p and interval) is computed.
_VERDICTS = 100
# Number of swaps computed before deciding whether more are needed.
_BLOCK = 128
Rng = np.random.Generator
Rows = Iterator[dict[str, Any]]

# By null: mean losses of the settings, in standard deviations of a run, and their correlation.
NULLS: dict[str, tuple[Array, float]] = {
    "untied": (np.array([0.0, 10, 10, 10, 10]), 0.0),
    "2 tied": (np.array([0.0, 0, 10, 10, 10]), 0.0),
    "5 tied": (np.zeros(5), 0.0),
    "5 tied, correlation 0.5": (np.zeros(5), 0.5),
    "5 tied, correlation 0.9": (np.zeros(5), 0.9),
    "parabola": (0.25 * (np.arange(9) - 4.2) ** 2, 0.0),
}


def main(argv: list[str] | None = None) -> int:
    """Run the simulations, write the JSON; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts")
    parser.add_argument("--trials", metavar="N", type=int, default=TRIALS, help=f"({TRIALS:,})")
    parser.add_argument("--out", metavar="FILE", type=Path, help="(benchmarks/results/...)")
    parser.add_argument("--only", metavar="SECTION,...", help=f"of {', '.join(SECTIONS)}")
    args = parser.parse_args(argv)
    sections = list(SECTIONS) if args.only is None else args.only.split(",")
    unknown = [name for name in sections if name not in SECTIONS]
    if unknown or args.trials < 1:
        parser.error(f"--only takes {', '.join(SECTIONS)}; --trials a number above 0")
    path = args.out or RESULTS / "initlab-verdicts-cpu.json"
    found = _other_sections(path, args.trials, sections) if args.only else {}
    for name in sections:
        start = time.process_time()
        rows = []
        for row in SECTIONS[name](args.trials):
            rows.append(row)
            print(f"{name}: {row}", file=sys.stderr)
        found[name] = {"cpu_seconds": round(time.process_time() - start, 1), "rows": rows}
        facts = machine_facts()
        facts["versions"] |= results_file.optional_versions("numpy", "scipy")
        section = {
            "device": "cpu",
            "hardware": facts,
            "trials": args.trials,
            "sections": {name: found[name] for name in SECTIONS if name in found},
        }
        flags = "" if args.trials == TRIALS else f" --trials {args.trials}"
        if len(found) < len(SECTIONS):
            flags += f" --only {','.join(section['sections'])}"
        command = f"python -m benchmarks.verdicts{flags}"
        tree = results_file.document("verdicts", command, args.trials < TRIALS, [section], [])
        results_file.write(path, tree)
    return 0


def _other_sections(path: Path, trials: int, sections: list[str]) -> dict[str, Any]:
    """Return the other sections of an earlier run with as many trials."""
    if not path.exists():
        return {}
    (section,) = json.loads(path.read_text(encoding="utf-8"))["devices"]
    if section["trials"] != trials:
        return {}
    return {name: x for name, x in section["sections"].items() if name not in sections}


def draw(
    loss: str, means_CK: Array, correlation: float, seeds: int, trials: int, rng: Rng
) -> Array:
    """Draw losses (S, K, C, N) of schemes; the settings of a seed share a part of its noise.

    Args:
      loss: "normal", "t2" (Student's, of 2 degrees) or "exponential"; scale 1.
      means_CK: mean losses.
      correlation: of two settings of a seed, where the noise has a variance.
      seeds: S.
      trials: N.
      rng: draws them.
    """
    sample = {
        "normal": rng.standard_normal,
        "t2": lambda size: rng.standard_t(2, size),
        "exponential": lambda size: rng.exponential(size=size),
    }[loss]
    schemes, settings = means_CK.shape
    noise = np.sqrt(1 - correlation) * sample((seeds, settings, schemes, trials))
    if correlation:
        noise += np.sqrt(correlation) * sample((seeds, 1, schemes, trials))
    return noise + means_CK.T[:, :, None]


def adjusted(losses_SKCN: Array, judged: bool = True) -> tuple[Array, Array, Array]:
    """Return p, adjusted p and Holm's adjusted p of all pairs of schemes, (M, N) each.

    A vectorised `compare_all` of one size; a test compares the two.

    Args:
      losses_SKCN: tables.
      judged: whether settings are chosen anew in every swap; else the signs of the differences
        after the choice are flipped, as by an earlier version of initlab.
    """
    if not judged:
        schemes = losses_SKCN.shape[2]
        chosen = [losses_without_own_seed(losses_SKCN[:, :, c]) for c in range(schemes)]
        losses_SKCN = np.stack(chosen, axis=1)[:, None]
    all_MNB = null(losses_SKCN)
    p_MN = _as_far(all_MNB, all_MNB[..., 0])
    tuned = losses_SKCN.shape[1] > 1
    adjusted_MN = step_down(scaled(all_MNB, len(losses_SKCN)) if tuned else all_MNB, p_MN)
    order_MN = np.argsort(p_MN, axis=0, kind="stable")
    scaled_MN = np.take_along_axis(p_MN, order_MN, 0) * np.arange(len(p_MN), 0, -1)[:, None]
    holm_MN = np.empty_like(p_MN)
    np.put_along_axis(
        holm_MN, order_MN, np.minimum(np.maximum.accumulate(scaled_MN, axis=0), 1.0), axis=0
    )
    return p_MN, adjusted_MN, holm_MN


def null(losses_SKCN: Array) -> Array:
    """Return the statistic of every pair, trial and swap (M, N, B), the unswapped one first."""
    (signs_BS,) = sign_flips(len(losses_SKCN))
    pairs = itertools.combinations(range(losses_SKCN.shape[2]), 2)
    return np.stack(
        [swap_statistics(losses_SKCN[:, :, i], losses_SKCN[:, :, j], signs_BS) for i, j in pairs]
    )


def step_down(scaled_MNB: Array, p_MN: Array) -> Array:
    """Return adjusted p (M, N) by the step-down maximum."""
    observed_MN = scaled_MNB[..., 0]
    step_MN, adjusted_MN = np.empty_like(p_MN), np.empty_like(p_MN)
    for m in range(len(p_MN)):
        is_less_MN = observed_MN <= observed_MN[m]
        largest_NB = np.where(is_less_MN[..., None], scaled_MNB, 0.0).max(0)
        step_MN[m] = np.maximum(_as_far(largest_NB, observed_MN[m]), p_MN[m])
    for m in range(len(p_MN)):
        adjusted_MN[m] = np.where(observed_MN >= observed_MN[m], step_MN, 0.0).max(0)
    return adjusted_MN


def _as_far(statistics_B: Array, observed: Array) -> Array:
    """Return the share of the swaps whose statistic is at least the observed one."""
    far: Array = (statistics_B >= observed[..., None] * (1 - _ROUNDING) - _ROUNDING).mean(-1)
    return far


def _batches(trials: int, seeds: int, settings: int, swaps: int) -> Iterator[int]:
    """Split trials into counts whose tables, of so many swaps, fit in the cache."""
    most = max(1, 100_000 // (settings * seeds * swaps))
    for start in range(0, trials, most):
        yield min(most, trials - start)


def is_found(losses_SKCN: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where p of the first pair, and where any adjusted p, is below the level: (N,) each.

    All swaps are computed only in trials in which some p is below the level.
    """
    pairs = itertools.combinations(range(losses_SKCN.shape[2]), 2)
    below_MN = np.stack([_is_below(losses_SKCN[:, :, i], losses_SKCN[:, :, j]) for i, j in pairs])
    any_N = below_MN.any(0)
    if any_N.any():
        any_N[any_N] = (adjusted(losses_SKCN[..., any_N])[1] < LEVEL).any(0)
    return below_MN[0], any_N


def _is_below(first_SKN: Array, second_SKN: Array) -> NDArray[np.bool_]:
    """Return where p of a pair is below the level, leaving other trials early."""
    seeds, _, trials = first_SKN.shape
    (signs_BS,) = sign_flips(seeds)
    most = math.ceil(LEVEL * len(signs_BS)) - 1
    active_A, count_N = np.arange(trials), np.zeros(trials, np.int64)
    observed_N = swap_statistics(first_SKN, second_SKN, np.ones((1, seeds)))[:, 0]
    reach_N = observed_N * (1 - _ROUNDING) - _ROUNDING
    shuffled_BS = np.random.default_rng(0).permutation(signs_BS)
    for start in range(0, len(signs_BS), _BLOCK):
        block = shuffled_BS[start : start + _BLOCK]
        some_AB = swap_statistics(first_SKN[..., active_A], second_SKN[..., active_A], block)
        count_N[active_A] += (some_AB >= reach_N[active_A, None]).sum(-1)
        active_A = active_A[count_N[active_A] <= most]
        if not active_A.size:
            break
    return count_N <= most


def false_findings(trials: int) -> Rows:
    """Simulate identical schemes: two alone, and any finding among three, now and before."""
    cells = itertools.product(SEEDS, LOSSES, NULLS.items())
    for cell, (seeds, loss, (null, (means_K, correlation))) in enumerate(cells):
        rng, counts = np.random.default_rng([15, cell]), np.zeros(4)
        found = formed = 0
        for count in _batches(trials, seeds, len(means_K), min(_BLOCK, 2 ** (seeds - 1))):
            tables = draw(loss, np.tile(means_K, (3, 1)), correlation, seeds, count, rng)
            two_N, three_N = is_found(tables)
            old_p_MN, old_MN, _ = adjusted(tables, judged=False)
            old = (old_p_MN[0] < LEVEL).sum(), (old_MN < LEVEL).any(0).sum()
            counts += [two_N.sum(), three_N.sum(), *old]
            for n in np.flatnonzero(three_N)[: _VERDICTS - formed]:
                formed += 1
                (pairs,) = compare_all([tables[..., n].transpose(2, 1, 0)])
                found += any(one.verdict in ("better", "worse") for one in pairs.values())
        two, three, two_before, three_before = (100 * counts / trials).round(2).tolist()
        yield {
            "null": null,
            "loss": loss,
            "seeds": seeds,
            "two": two,
            "three": three,
            "three_verdicts": round(three * found / max(formed, 1), 2),
            "two_before": two_before,
            "three_before": three_before,
        }


def sizes(trials: int) -> Rows:
    """Simulate three identical schemes at several sizes, 8 seeds: any finding in the report."""
    seeds = 8
    for case, (name, many) in enumerate(itertools.product(("untuned", "5 tied"), (1, 4, 8))):
        rng, hits, before = np.random.default_rng([16, case]), 0, 0
        settings = 1 if name == "untuned" else 5
        for count in _batches(trials, seeds, settings, 2 ** (seeds - 1)):
            sizes = [
                draw("normal", np.zeros((3, settings)), 0.0, seeds, count, rng) for _ in range(many)
            ]
            all_MNB = np.concatenate([null(size) for size in sizes])
            p_MN = _as_far(all_MNB, all_MNB[..., 0])
            of_MNB = scaled(all_MNB, seeds) if settings > 1 else all_MNB
            hits += int((step_down(of_MNB, p_MN) < LEVEL).any(0).sum())
            single = [(adjusted(size, judged=False)[1] < LEVEL).any(0) for size in sizes]
            before += int(np.any(single, axis=0).sum())
        yield {
            "null": name,
            "sizes": many,
            "seeds": seeds,
            "any": round(100 * hits / trials, 2),
            "any_before": round(100 * before / trials, 2),
        }


# By name: mean losses of the schemes' settings. The first scheme may be better.
_TUNED = {
    "one setting": np.zeros((3, 1)),
    "one clearly best": np.tile([0.0, 10, 10, 10, 10], (3, 1)),
    "clearly best, at another setting": np.array([[0.0, 3, 3, 3, 3], *[[3.0, 3, 0, 3, 3]] * 2]),
    "parabolas, a step apart": np.stack([(np.arange(7) - at) ** 2 for at in (2.0, 3.0, 3.0)]),
    "parabola, nearly tied": np.tile(0.25 * (np.arange(9) - 4.2) ** 2, (3, 1)),
    "5 tied": np.zeros((3, 5)),
}


def power(trials: int) -> Rows:
    """Simulate three schemes, the first better by d standard deviations of a paired difference.

    The pair of the first and the second is judged alone, and in the report of three. At d = 0 a
    finding is false.
    """
    all_trials = trials
    cases = itertools.product(SEEDS, _TUNED.items(), (0.0, 1.0, 1.5, 2.0))
    for case, (seeds, (name, means_CK), d) in enumerate(cases):
        rng, counts = np.random.default_rng([17, case]), np.zeros(5)
        trials = max(1, all_trials // (5 if seeds < 12 else 20))
        shifted_CK = means_CK - d * np.sqrt(2) * (np.arange(3) == 0)[:, None]
        for count in _batches(trials, seeds, means_CK.shape[1], 2 ** (seeds - 1)):
            tables = draw("normal", shifted_CK, 0.0, seeds, count, rng)
            p_MN, now_MN, holm_MN = adjusted(tables)
            old_p_MN, old_MN, _ = adjusted(tables, judged=False)
            counts += [(x[0] < LEVEL).sum() for x in (p_MN, now_MN, holm_MN, old_p_MN, old_MN)]
        keys = ("two", "three", "three_holm", "two_before", "three_before")
        found = dict(zip(keys, (100 * counts / trials).round(1).tolist(), strict=True))
        yield {"case": name, "seeds": seeds, "d": d, "trials": trials, **found}


def partial_nulls(trials: int) -> Rows:
    """Simulate schemes of which some are alike: false findings among those."""
    trials = max(1, trials // 2)
    alike = {
        "2 alike, 1 far worse": (0, 0, 9),
        "3 alike, 1 far worse": (0, 0, 0, 9),
        "2 alike and 2 alike": (0, 0, 4, 4),
    }
    cases = itertools.product((6, 8), ("normal", "exponential"), alike.items(), (1, 5))
    for case, (seeds, loss, (name, means), settings) in enumerate(cases):
        rng, hits = np.random.default_rng([18, case]), 0
        pairs = list(itertools.combinations(range(len(means)), 2))
        true = [m for m, (i, j) in enumerate(pairs) if means[i] == means[j]]
        means_CK = np.tile(np.array(means, float)[:, None], (1, settings))
        for count in _batches(trials, seeds, settings * 2, 2 ** (seeds - 1)):
            _, now_MN, _ = adjusted(draw(loss, means_CK, 0.0, seeds, count, rng))
            hits += int((now_MN[true] < LEVEL).any(0).sum())
        yield {
            "case": name,
            "loss": loss,
            "seeds": seeds,
            "settings": "one" if settings == 1 else "5 tied",
            "false": round(100 * hits / trials, 2),
        }


def single_seeds(trials: int) -> Rows:
    """Simulate two schemes with one setting: verdicts, and cautions about single seeds."""

    def bad(rng: Rng, seeds: int) -> Array:
        """Return a bad run in ten, 30 standard deviations up, and the shift to an equal mean."""
        return 30 * (rng.random(seeds) < 0.1) - 3.0

    shifts: dict[str, Callable[[Rng, int], Array | float]] = {
        "normal, alike": lambda rng, seeds: 0.0,
        "normal, d = 1.5": lambda rng, seeds: -1.5 * np.sqrt(2),
        "normal, d = 2": lambda rng, seeds: -2 * np.sqrt(2),
        "a rare bad seed, equal means": bad,
    }
    trials = max(1, trials // 5)
    for case, (seeds, (name, shift)) in enumerate(itertools.product(SEEDS, shifts.items())):
        rng = np.random.default_rng([19, case])
        counts = dict.fromkeys(
            ("found", "found_rests", "found_skewed", "none_skewed", "decides"), 0
        )
        for _ in range(trials):
            first_S = rng.standard_normal(seeds) + shift(rng, seeds)
            second_S = rng.standard_normal(seeds)
            one = compare(first_S, second_S)
            text = " ".join(cautions(first_S, second_S, one, ("a", "b"), range(seeds)))
            is_found = one.verdict in ("better", "worse")
            counts["found"] += is_found
            counts["found_rests"] += is_found and "rests" in text
            counts["found_skewed"] += is_found and "skewed" in text
            counts["none_skewed"] += not is_found and "skewed" in text
            counts["decides"] += "decides" in text
        shares = {key: round(100 * count / trials, 1) for key, count in counts.items()}
        yield {"case": name, "seeds": seeds} | shares


def intervals(trials: int) -> Rows:
    """Simulate two identical schemes: how often the interval of their difference contains 0."""
    trials = max(1, trials // 10)
    nulls = ("untied", "2 tied", "5 tied", "parabola")
    for case, (seeds, null) in enumerate(itertools.product(SEEDS, nulls)):
        rng, counts = np.random.default_rng([20, case]), np.zeros(2)
        means_K, correlation = NULLS[null]
        for _ in range(trials):
            tables = draw("normal", np.tile(means_K, (2, 1)), correlation, seeds, 1, rng)
            (found,) = compare_all([tables[..., 0].transpose(2, 1, 0)])
            before = compare(*(losses_without_own_seed(tables[:, :, c])[:, 0] for c in (0, 1)))
            counts += [one.low <= 0 <= one.high for one in (found[0, 1], before)]
        now, before_share = (100 * counts / trials).round(1).tolist()
        yield {"null": null, "seeds": seeds, "covered": now, "covered_before": before_share}


SECTIONS: dict[str, Callable[[int], Rows]] = {
    "sizes": sizes,
    "partial": partial_nulls,
    "seeds": single_seeds,
    "power": power,
    "false": false_findings,
    "intervals": intervals,
}


if __name__ == "__main__":
    sys.exit(main())
