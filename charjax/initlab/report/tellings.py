"""What the page says in words and tables; plain text, escaped where it is put on the page."""

import math
from collections.abc import Sequence

import numpy as np

from charjax.initlab.report.losses import Transfer
from charjax.initlab.report.tables import Sweep
from charjax.initlab.report.verdicts import (
    Arm,
    Cell,
    basis_lines,
    difference_in_words,
    gain_names,
    loss_in_words,
    name,
)
from charjax.initlab.statistics import BestRate

Rows = tuple[str, list[str], list[list[str]]]


def summary(sweep: Sweep) -> str:
    """What was run, in a sentence or two."""
    facts = sweep.facts
    kinds = ("scheme", "gain", "depth", "width", "learning rate", "seed")
    grid = ", ".join(
        f"{n} {kind}{'s' if n > 1 else ''}" for n, kind in zip(sweep.shape, kinds, strict=True)
    )
    runs = len(sweep.runs)
    return (
        f"{runs:,} run{'s' if runs > 1 else ''} of {facts['steps']:,} steps: {grid}. Losses are in "
        f"nats a character, of the validation text, after the last step; {facts['vocabulary']} "
        f"symbols, whose unigram entropy is {facts['unigram_entropy']:.4f}. Seed k sees the same "
        "batches in every scheme."
    )


def notes(sweep: Sweep, cells: list[Cell]) -> list[str]:
    """How the verdicts were reached, as far as it applies."""
    notes: list[str] = []
    n = len(sweep.seeds)
    if any(cell.pairs for cell in cells):
        many = sum(len(cell.pairs) for cell in cells) > 1
        notes += [f"{line[0].upper()}{line[1:]}." for line in basis_lines(sweep, cells)]
        notes.append(
            f"Better or worse is said only where both agree: the 95 % bootstrap interval of the "
            f"difference, paired by seed (n = {n}), excludes 0, and the permutation test, which "
            "swaps a seed's two losses, "
            + ("adjusted for all comparisons of this report (step-down maximum) " if many else "")
            + "gives p < 0.05. The interval is a percentile bootstrap widened to Student's size, "
            "since plain percentiles are too narrow for few seeds. A run that diverged counts as "
            "worse than any loss; where there is one, signed ranks stand for the differences. "
            "Skewed is said of differences that are more so than 99 % of normal samples; a verdict "
            "rests on a seed where leaving that one out brings 0 into Student's 95 % interval."
        )
    if len(sweep.gains) * len(sweep.rates) > 1 and n > 1:
        notes.append(
            "Each scheme is judged at its best gain and learning rate. These are chosen leaving "
            "one out: a seed's loss is taken at the setting that is best over the other seeds, so "
            "that no run is judged by a choice it had a part in, and trying more settings brings "
            "no advantage. The permutation test swaps a seed's whole tables of settings and "
            "chooses anew, and the interval of a difference is widened by as much as that widens "
            "its null distribution: where settings are nearly tied, the choice alone makes alike "
            "schemes differ. The interval of a scheme's own loss leaves that out. The tables give "
            "the setting that is best over all seeds."
        )
    elif len(sweep.gains) * len(sweep.rates) > 1:
        notes.append(
            "Each scheme is shown at its best gain and learning rate, chosen on the same single "
            "seed: these losses are too good, the more so the more settings were tried."
        )
    return notes


def ranking_table(sweep: Sweep, cell: Cell) -> Rows:
    """The schemes of a cell by their loss."""
    count = sweep.cube("parameters")[0, 0, cell.depth, cell.width, 0, 0]
    caption = f"Depth {sweep.depths[cell.depth]}, width {sweep.widths[cell.width]}"
    caption += f", {count:,.0f} parameters" if count > 0 else ""
    caption += f"; mean over n = {len(sweep.seeds)} seed{'s' if len(sweep.seeds) > 1 else ''}"
    caption += " and its 95 % interval." if len(sweep.seeds) > 1 else "."
    if not all(arm.same for arm in cell.arms):
        caption += (
            " A star: leaving out one seed changes which setting is best, and the loss's interval "
            "is too narrow."
        )
    head = ["", "scheme", "validation loss"]
    varies = {"gain": len(sweep.gains) > 1, "learning rate": len(sweep.rates) > 1}
    head += [f"best {kind}" for kind, is_varied in varies.items() if is_varied]
    head += ["diverged"]
    rows = [
        [
            str(rank),
            name(sweep, arm.scheme),
            loss_in_words(arm.loss),
            *_setting(sweep, arm, varies),
            f"{arm.diverged} of {arm.runs}",
        ]
        for rank, arm in enumerate(cell.arms, start=1)
    ]
    return caption, head, rows


def _setting(sweep: Sweep, arm: Arm, varies: dict[str, bool]) -> list[str]:
    """The best gain and rate; a star where leaving out one seed changes them."""
    words = {"gain": gain_names(sweep)[arm.gain], "learning rate": f"{sweep.rates[arm.rate]:.4g}"}
    axes = (("gain", sweep.gains, arm.gain), ("learning rate", sweep.rates, arm.rate))
    for kind, grid, place in axes:
        given = grid[np.isfinite(grid)]
        if given.size > 1 and grid[place] in (given[0], given[-1]):
            words[kind] += " (end of the grid)"
    unsure = "" if arm.same else " *"
    return [words[kind] + unsure for kind, is_varied in varies.items() if is_varied]


def pair_table(sweep: Sweep, cell: Cell) -> Rows:
    """Every pair of a cell."""
    caption = f"Depth {sweep.depths[cell.depth]}, width {sweep.widths[cell.width]}."
    head = ["scheme", "against", "verdict", "difference (95 % interval)", "p", "p (adjusted)"]
    head += ["caution"] if any(pair.cautions for pair in cell.pairs) else []
    rows = [
        [
            name(sweep, cell.arms[pair.first].scheme),
            name(sweep, cell.arms[pair.second].scheme),
            pair.found.verdict,
            difference_in_words(pair.found),
            f"{pair.found.p:.3g}",
            f"{pair.found.adjusted_p:.3g}",
            *(["; ".join(pair.cautions)] if len(head) > 6 else []),
        ]
        for pair in cell.pairs
    ]
    return caption, head, rows


def transfer_table(sweep: Sweep, found: Sequence[Transfer]) -> Rows:
    """Best rates by width, and the drift."""
    caption = (
        "Best learning rate by width, its 95 % bootstrap interval on the grid, and the drift from "
        f"the narrowest to the widest in octaves; depth {sweep.depths[-1]}."
    )
    head = ["scheme", *(f"width {width}" for width in sweep.widths), "drift (octaves)"]
    rows = [[name(sweep, one.scheme), *map(_rate, one.best), _drift(one)] for one in found]
    return caption, head, rows


def _rate(best: BestRate) -> str:
    if math.isnan(best.rate):
        return "all diverged"
    ends = "" if math.isnan(best.low) else f" ({best.low:.3g} to {best.high:.3g})"
    return f"{best.rate:.3g}{ends}{', end of the grid' if best.at_edge else ''}"


def _drift(one: Transfer) -> str:
    if math.isnan(one.drift):
        return "unknown"
    ends = "" if math.isnan(one.low) else f" ({one.low:+.3g} to {one.high:+.3g})"
    return (
        f"{one.drift:+.3g}{ends}{', a best rate is at the end of the grid' if one.beyond else ''}"
    )


def machine(sweep: Sweep) -> str:
    """Where it ran and how fast."""
    facts, hardware = sweep.facts, sweep.facts["hardware"]
    where = hardware.get("accelerator") or (
        f"{hardware.get('cores', '?')} cores of {hardware.get('processor', 'an unknown processor')}"
    )
    versions = hardware.get("versions")
    used = {"python": hardware.get("python", "?")}
    used |= versions if isinstance(versions, dict) else {}
    return (
        f"{where}; {', '.join(f'{key} {value}' for key, value in used.items())}. "
        f"{facts['seconds']:,.1f} s, {facts['run_steps_per_second']:,.0f} run-steps a second; "
        f"finished {facts['finished']}."
    )
