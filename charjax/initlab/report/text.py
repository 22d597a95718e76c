"""The words and tables of the page and the terminal; plain text, escaped by the page's template."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from charjax.initlab.report.assumptions import basis
from charjax.initlab.report.losses import Axis, Transfer, sizes_of
from charjax.initlab.report.tables import Sweep, settings_of
from charjax.initlab.report.verdicts import Cell, Pair, Variant, gain_names, judge, scheme_name
from charjax.initlab.statistics import BestRate, Comparison, Interval

# Up to this many pairs have a line each; of more, each scheme lists those it is better than.
_MOST_PAIRS = 12

# Caption, head and rows.
Rows = tuple[str, list[str], list[list[str]]]


def summary(sweep: Sweep) -> str:
    """Describe the grid in a sentence or two."""
    facts = sweep.facts
    settings = settings_of(facts)
    kinds = ("scheme", "gain", "depth", "width", "learning rate", "seed")
    counts = (sweep.shape[0] // math.prod(len(x) for _, x in settings), *sweep.shape[1:])
    grid = ", ".join(
        f"{n} {kind}{'s' if n > 1 else ''}" for n, kind in zip(counts, kinds, strict=True)
    )
    grid += "".join(f", {len(values)} values of {name}" for name, values in settings)
    runs = len(sweep.runs)
    return (
        f"{runs:,} run{'s' if runs > 1 else ''} of {facts['steps']:,} steps: {grid}. Losses are in "
        f"nats per {facts.get('unit', 'character')} of the validation text, after the last step. "
        f"The text has {facts['vocabulary']} symbols; their unigram entropy is "
        f"{facts['unigram_entropy']:.4f}. "
        "Seed k uses the same batches under every scheme."
    )


# Verdicts


def verdict_lines(sweep: Sweep) -> list[str]:
    """Return the verdicts, one per line: comparisons, divergence, the basis of the tests."""
    cells = judge(sweep)
    return headlines(sweep, cells) + basis_lines(sweep, cells)


def basis_lines(sweep: Sweep, cells: list[Cell]) -> list[str]:
    """Return the family, its power and the test's assumption; nothing without a comparison."""
    comparisons = sum(len(cell.pairs) for cell in cells)
    is_tuned = len(sweep.gains) * len(sweep.rates) > 1
    return basis(len(sweep.seeds), len(cells), comparisons, is_tuned) if comparisons else []


def headlines(sweep: Sweep, cells: list[Cell]) -> list[str]:
    """Return lines for each pair if they are few, else for each scheme; then divergence."""
    few = sum(len(cell.pairs) for cell in cells) <= _MOST_PAIRS
    lines = []
    for cell in cells:
        place = f"depth {sweep.depths[cell.depth]}, width {sweep.widths[cell.width]}"
        # With too few seeds for any verdict, one line is enough.
        hopeless = len(cell.pairs) > 1 and all(p.found.n < p.found.needed for p in cell.pairs)
        if not cell.pairs:
            verdicts = _without_pairs(sweep, cell)
        elif few and not hopeless:
            verdicts = [_pair_in_words(sweep, cell, pair) for pair in cell.pairs]
        else:
            verdicts = _by_scheme(sweep, cell)
        lines += [f"{place}: {one}" for one in verdicts]
    return lines + (list(_divergences(sweep)) or ["no run diverged"])


def _without_pairs(sweep: Sweep, cell: Cell) -> list[str]:
    """Return the losses of one scheme, or of one seed."""
    one_seed = " (one seed: no interval and no verdict)" if len(sweep.seeds) < 2 else ""
    return [
        f"{scheme_name(sweep, one.scheme)} {_loss_in_words(one.loss)}{one_seed}"
        for one in cell.variants
    ]


def _by_scheme(sweep: Sweep, cell: Cell) -> list[str]:
    names = [scheme_name(sweep, one.scheme) for one in cell.variants]
    worse: dict[int, list[str]] = {rank: [] for rank in range(len(names))}
    for pair in cell.pairs:
        if pair.found.verdict in ("better", "worse"):
            winner, loser = pair.first, pair.second
            if pair.found.verdict == "worse":
                winner, loser = loser, winner
            words = ", ".join(one.split(":")[0] for one in pair.cautions)
            worse[winner].append(f"{names[loser]} ({words})" if words else names[loser])
    losses = [
        f"{name} {_loss_in_words(one.loss)}" for name, one in zip(names, cell.variants, strict=True)
    ]
    if not any(worse.values()):
        verdict = cell.pairs[0].found.verdict
        return [f"all {len(names)} {sweep.noun}s are {verdict}; the lowest: {losses[0]}"]
    return [
        f"{losses[rank]} is better than {', '.join(others) if others else 'none'}"
        for rank, others in worse.items()
    ]


def _pair_in_words(sweep: Sweep, cell: Cell, pair: Pair) -> str:
    """Return `a is better than b: -0.061 nats (-0.065 to -0.057), p = 0.0078, n = 8`."""
    a, b = (scheme_name(sweep, cell.variants[place].scheme) for place in (pair.first, pair.second))
    found, difference = pair.found, _difference_in_words(pair.found)
    p = f"p = {found.p:.2g}" + (f" (adjusted {found.adjusted_p:.2g})" if found.family > 1 else "")
    remarks = "".join(f"; {one}" for one in pair.cautions)
    if found.verdict in ("better", "worse"):
        return f"{a} is {found.verdict} than {b}: {difference}, {p}, n = {found.n}{remarks}"
    if found.low == found.high == 0 and not found.ranked:
        return f"{a} and {b} are {found.verdict}: the same loss in every seed"
    return f"{a} and {b} are {found.verdict}: {difference}, {p}{remarks}"


def _difference_in_words(found: Comparison) -> str:
    """Return the mean difference and its interval; of ranks where runs diverged."""
    if not found.ranked:
        return f"{_with_ends(found.mean, found.low, found.high, '+.4f')} nats"
    return (
        f"diverged in {found.diverged_a} and {found.diverged_b} of {found.n} seeds, "
        f"mean signed rank {_with_ends(found.mean, found.low, found.high, '+.2f')}"
    )


def _loss_in_words(loss: Interval) -> str:
    """Return `2.107 (2.104 to 2.110)`, or the number of seeds in which it diverged."""
    if loss.diverged:
        return f"diverged in {loss.diverged} of {loss.n}"
    return _with_ends(loss.mean, loss.low, loss.high, ".4f")


def _with_ends(value: float, low: float, high: float, form: str) -> str:
    """Return `2.107 (2.104 to 2.110)`; the value alone where there is no interval."""
    ends = "" if math.isnan(low) else f" ({low:{form}} to {high:{form}})"
    return f"{value:{form}}{ends}"


def _divergences(sweep: Sweep) -> Iterator[str]:
    """Yield for each scheme with diverged runs their number, the first step, and the settings."""
    steps = sweep.cube("diverged_step")
    for scheme in range(len(sweep.schemes)):
        is_bad = sweep.diverged[scheme]
        if not is_bad.any():
            continue
        known = steps[scheme][np.isfinite(steps[scheme])]
        first = f", the first at step {known.min():.0f}" if known.size else ""
        yield (
            f"{scheme_name(sweep, scheme)}: {is_bad.sum()} of {is_bad.size} runs diverged{first}"
            f"{_where_diverged(sweep, is_bad)}"
        )


def _where_diverged(sweep: Sweep, is_bad: NDArray[np.bool_]) -> str:
    """Count by learning rate and by gain, for those axes along which the counts vary."""
    words = ""
    labels = [f"{rate:g}" for rate in sweep.rates]
    for kind, axis, names in (("learning rate", 3, labels), ("gain", 0, gain_names(sweep))):
        counts = is_bad.sum(axis=tuple(a for a in range(is_bad.ndim) if a != axis))
        total = is_bad.size // len(names)
        if len(np.unique(counts)) > 1:
            some = [f"{label} ({n}/{total})" for label, n in zip(names, counts, strict=True) if n]
            words += f"; by {kind}: {', '.join(some)}"
    return words


def notes(sweep: Sweep, cells: list[Cell]) -> list[str]:
    """Explain how the verdicts were reached, as far as it applies."""
    notes: list[str] = []
    n = len(sweep.seeds)
    if any(cell.pairs for cell in cells):
        many = sum(len(cell.pairs) for cell in cells) > 1
        notes += [f"{line[0].upper()}{line[1:]}." for line in basis_lines(sweep, cells)]
        notes.append(
            "A scheme is called better or worse only where two criteria agree: the 95 % bootstrap "
            f"interval of the difference, paired by seed (n = {n}), excludes 0, and the "
            "permutation test, which swaps a seed's two losses, "
            + ("adjusted for all comparisons of this report (step-down maximum) " if many else "")
            + "gives p < 0.05. The interval is a percentile bootstrap widened to the size of "
            "Student's interval, since plain percentiles are too narrow for few seeds. A diverged "
            "run ranks below any loss; where there is one, signed ranks replace the differences. "
            "Differences are called skewed if they are more so than those of 99 % of normal "
            "samples; a verdict rests on a seed if Student's 95 % interval without that seed "
            "includes 0."
        )
    if len(sweep.gains) * len(sweep.rates) > 1 and n > 1:
        notes.append(
            "Each scheme is judged at its best gain and learning rate. These are chosen by "
            "leave-one-out: a seed's loss is that at the setting that is best over the other "
            "seeds, so that no run is judged by a choice it took part in, and trying more settings "
            "brings no advantage. The permutation test swaps a seed's whole tables of settings and "
            "chooses anew, and the interval of a difference is widened by as much as that widens "
            "its null distribution: where settings are nearly tied, the choice alone makes equal "
            "schemes differ. The interval of a single scheme's loss does not include this. The "
            "tables give the setting that is best over all seeds."
        )
    elif len(sweep.gains) * len(sweep.rates) > 1:
        notes.append(
            "Each scheme is shown at its best gain and learning rate, chosen on the same single "
            "seed: these losses are too low, the more so the more settings were tried."
        )
    return notes


# Tables


def ranking_table(sweep: Sweep, cell: Cell) -> Rows:
    """Return the schemes of a cell by their loss."""
    counts = np.unique(sweep.cube("parameters")[:, 0, cell.depth, cell.width, 0, 0])
    # Settings that are axes may change the number.
    count = counts[0] if counts.size == 1 else 0
    caption = f"Depth {sweep.depths[cell.depth]}, width {sweep.widths[cell.width]}"
    caption += f", {count:,.0f} parameters" if count > 0 else ""
    caption += f"; mean over n = {len(sweep.seeds)} seed{'s' if len(sweep.seeds) > 1 else ''}"
    caption += " and its 95 % interval." if len(sweep.seeds) > 1 else "."
    if not all(one.is_stable for one in cell.variants):
        caption += (
            " A star: leaving out one seed changes which setting is best, and the loss's interval "
            "is too narrow."
        )
    varies = {"gain": len(sweep.gains) > 1, "learning rate": len(sweep.rates) > 1}
    best = [f"best {kind}" for kind, is_varied in varies.items() if is_varied]
    head = ["", sweep.noun, "validation loss", *best, "diverged"]
    rows = [
        [
            str(rank),
            scheme_name(sweep, one.scheme),
            _loss_in_words(one.loss),
            *_setting(sweep, one, varies),
            f"{one.diverged} of {one.runs}",
        ]
        for rank, one in enumerate(cell.variants, start=1)
    ]
    return caption, head, rows


def _setting(sweep: Sweep, one: Variant, varies: dict[str, bool]) -> list[str]:
    """Return the best gain and rate; with a star where leaving out one seed changes them."""
    words = {"gain": gain_names(sweep)[one.gain], "learning rate": f"{sweep.rates[one.rate]:.4g}"}
    axes = (("gain", sweep.gains, one.gain), ("learning rate", sweep.rates, one.rate))
    for kind, grid, place in axes:
        finite = grid[np.isfinite(grid)]
        if finite.size > 1 and grid[place] in (finite[0], finite[-1]):
            words[kind] += " (end of the grid)"
    star = "" if one.is_stable else " *"
    return [words[kind] + star for kind, is_varied in varies.items() if is_varied]


def pair_table(sweep: Sweep, cell: Cell) -> Rows:
    """Return every pair of a cell."""
    caption = f"Depth {sweep.depths[cell.depth]}, width {sweep.widths[cell.width]}."
    head = [sweep.noun, "against", "verdict", "difference (95 % interval)", "p", "p (adjusted)"]
    has_cautions = any(pair.cautions for pair in cell.pairs)
    head += ["caution"] if has_cautions else []
    rows = [
        [
            *(scheme_name(sweep, cell.variants[i].scheme) for i in (pair.first, pair.second)),
            pair.found.verdict,
            _difference_in_words(pair.found),
            f"{pair.found.p:.3g}",
            f"{pair.found.adjusted_p:.3g}",
            *(["; ".join(pair.cautions)] if has_cautions else []),
        ]
        for pair in cell.pairs
    ]
    return caption, head, rows


def transfer_tables(sweep: Sweep, found: Mapping[Axis, Sequence[Transfer]]) -> list[Rows]:
    """Return the best learning rates by width and by depth, and their drift."""
    return [_transfer_table(sweep, axis, each) for axis, each in found.items()]


def _transfer_table(sweep: Sweep, axis: Axis, found: Sequence[Transfer]) -> Rows:
    sizes = sizes_of(sweep, axis)
    ends, other = "the narrowest to the widest", f"depth {sweep.depths[-1]}"
    if axis == "depth":
        ends, other = "the shallowest to the deepest", f"width {sweep.widths[-1]}"
    drift = f", and the drift from {ends} in octaves" if len(sizes) > 1 else ""
    caption = f"Best learning rate by {axis}, its 95 % bootstrap interval on the grid{drift}; "
    caption += f"{other}."
    head = [sweep.noun, *(f"{axis} {size}" for size in sizes)]
    head += ["drift (octaves)"] if drift else []
    rows = [
        [scheme_name(sweep, one.scheme), *map(_rate, one.best), *([_drift(one)] if drift else [])]
        for one in found
    ]
    return caption, head, rows


def _rate(best: BestRate) -> str:
    if math.isnan(best.rate):
        return "all diverged"
    edge = ", end of the grid" if best.at_edge else ""
    return _with_ends(best.rate, best.low, best.high, ".3g") + edge


def _drift(one: Transfer) -> str:
    if math.isnan(one.drift):
        return "unknown"
    edge = ", a best rate is at the end of the grid" if one.beyond else ""
    return _with_ends(one.drift, one.low, one.high, "+.3g") + edge


def machine(sweep: Sweep) -> str:
    """Describe the machine, its speed, and the time."""
    facts, hardware = sweep.facts, sweep.facts["hardware"]
    device = hardware.get("accelerator") or (
        f"{hardware.get('cores', '?')} cores of {hardware.get('processor', 'an unknown processor')}"
    )
    versions = hardware.get("versions")
    used = {"python": hardware.get("python", "?")}
    used |= versions if isinstance(versions, dict) else {}
    if "kernels" in facts:
        used["charjax-kernels"] = facts["kernels"]
    return (
        f"{device}; {', '.join(f'{key} {value}' for key, value in used.items())}. "
        f"{facts['seconds']:,.1f} s, {facts['run_steps_per_second']:,.0f} run-steps per second; "
        f"finished {facts['finished']}."
    )
