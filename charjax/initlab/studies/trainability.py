"""Study 1: the greatest depth at which networks train, against the depth scale of correlations.

Schoenholz et al. 2017 (arXiv:1611.01232): the correlation of two inputs approaches its fixed point
over ξ_c layers, and networks train only where information gets through them, to about 6 ξ_c. A map
of networks by σ_w² and depth is trained here, each with weights of its own, all on the same
examples, by gradient descent on all of them: inputs that look alike to it a network cannot fit.

ReLU with σ_b² > 0 has q* = σ_b² / (1 - σ_w²/2) below σ_w² = 2, where the derivative of the length
map, that of the correlation map at c* = 1 and χ₁ are all σ_w²/2: its three depth scales are one,
ξ_c = -1 / log(σ_w²/2). With σ_b² = 0, q* would be 0 and the correlation approach 1 by a power law
at any σ_w², so that ξ_c would not depend on σ_w²: the map has the σ_b² of tanh's.

The networks are `tower.Tower`, equal to the library's MLP: that compiles every depth anew.
"""

import itertools
import math

import numpy as np

from charjax.initlab.report import drawing
from charjax.initlab.report.drawing import Picture
from charjax.initlab.studies import trainability_boundary as edges
from charjax.initlab.studies.pieces import Arrays, Pieces
from charjax.initlab.studies.study import Conclusion, Data, Table
from charjax.initlab.studies.trainability_boundary import Estimate, Found
from charjax.initlab.studies.trainability_settings import SETTINGS, Grid, Settings
from charjax.reproduction.checks import Check, Mean, Poll, Progress, near, part_of, stated

__all__ = ["SETTINGS", "conclude", "draw", "measure", "rules"]

# ξ_c up to which columns of the table are put together.
_BANDS = (3.0, 6.0, 12.0, math.inf)


def rules(settings: Settings) -> list[str]:
    """Return what is fixed before a run."""
    maps = "; ".join(
        f"{grid.activation}: {grid.columns} σ_w² from {grid.low:g} to {grid.high:g}, "
        f"{len(grid.depths())} depths from {grid.shallowest} to {grid.depths()[-1]}, "
        f"{grid.cells:,} networks"
        for grid in settings.grids
    )
    return [
        f"Networks: the MLP of names, {settings.context} characters of context, embeddings of "
        f"width {settings.embed}, hidden layers of width {settings.width}; scheme critical, "
        f"σ_b² = {settings.bias_variance:g}. {maps}.",
        f"Text: all examples of the first {settings.lines} names, the whole batch at every step; "
        "networks share these examples and nothing else: each has weights of its own.",
        f"Training: gradient descent without momentum or clipping, rate {settings.rate:g} at every "
        f"depth, {settings.steps} steps.",
        f"Trained: a loss below {settings.level:g} nats per character at the last step.",
        "Boundary of a σ_w²: the depth of the step, trained before it and not after, that "
        "misjudges the fewest networks.",
        f"Columns that count: {settings.factor:g} ξ_c between twice the shallowest and the deepest "
        "network; a boundary outside of the map stands at its edge.",
        f"Distance: the median of boundary / ξ_c; its 95 % interval from {settings.resamples:,} "
        f"bootstrap resamples of columns. Within {settings.percent:g} % of {settings.factor:g}, "
        f"and an exponent of the boundary against ξ_c within {settings.exponent_within:g} of 1, "
        "count as predicted.",
        "Text, rate, steps and level were chosen by pilots with seeds from 1000 on, which no "
        "network of the map has: about 880 networks of tanh, at most 16 σ_w² and 5 depths in "
        "each pilot. 20 of ReLU and 100 of tanh, of 91 layers and more, were seen after the "
        "predictions.",
    ]


def measure(settings: Settings, pieces: Pieces, progress: Progress, poll: Poll) -> Data:
    """Train every cell; return the losses (D, W) by activation, and that of the unigram."""
    from charjax.data.splits import target_counts
    from charjax.initlab.studies.trainability_runs import first_lines, train_depths

    dataset = first_lines(settings)
    train = dataset.splits["train"]
    counts_V = target_counts(train, dataset.tokenizer.vocab_size)
    share_V = counts_V[counts_V > 0] / counts_V.sum()
    total, done = sum(grid.cells for grid in settings.grids), 0
    losses = {}
    for grid in settings.grids:
        rows = []
        for depths in grid.buckets(settings.bucket):
            reported = part_of(progress, done, total)

            def make(grid: Grid = grid, depths: tuple[int, ...] = depths) -> Arrays:
                arguments = settings, grid, depths, dataset, reported, poll  # noqa: B023
                return {"losses": train_depths(*arguments)}

            rows.append(pieces.get(f"{grid.activation}-{depths[0]}", make)["losses"])
            done += rows[-1].size
            progress(done, total)
            poll()
        losses[grid.activation] = np.concatenate(rows)
    unigram = float(-np.sum(share_V * np.log(share_V)))
    return {"losses": losses, "unigram": unigram, "examples": train.num_targets}


def conclude(settings: Settings, data: Data) -> Conclusion:
    """Compare the boundaries with 6 ξ_c."""
    found, answer, checks = [], [], []
    tables: list[Table] = []
    for grid in settings.grids:
        losses_DW = edges.losses_of(data, grid)
        here = edges.find(settings, grid, losses_DW)
        found += here
        answer += [_in_words(settings, each) for each in here]
        answer.append(_deepest(settings, grid, losses_DW))
    for each in found:
        checks += _checks(settings, each)
    tables.append(_sides(found))
    tables.append(_bands(found))
    return Conclusion([_answer(settings, found, data), *answer], checks, tables)


def _answer(settings: Settings, found: list[Found], data: Data) -> str:
    if not found:
        return "No column of the maps counts: the boundary cannot be compared with ξ_c."
    usable = [each for each in found if _is_measured(each)]
    if not usable:
        return (
            "No boundary was measured: on every side it lies outside of the map in half of the "
            "columns or more."
        )
    factor = settings.factor
    hold = [each.name for each in usable if each.ratio.low <= factor <= each.ratio.high]
    ratios = "; ".join(f"{each.name}: {each.ratio}" for each in usable)
    verdict = "No interval holds"
    if hold:
        plural = len(hold) > 1
        names = ", and of ".join(hold)
        verdict = f"The interval{'s' * plural} of {names} hold{'s' * (not plural)}"
    return (
        f"Networks of width {settings.width} train, within {settings.steps} steps, to a depth of "
        f"this many ξ_c: {ratios}. {verdict} {factor:g}. The unigram distribution of the "
        f"{data['examples']} examples has a loss of {data['unigram']:.2f} nats."
    )


def _in_words(settings: Settings, each: Found) -> str:
    outside = int(np.sum(each.outside_C != 0))
    if not _is_measured(each):
        return (
            f"{each.name}: not measured; the boundary lies outside of the map in {outside} of "
            f"{len(each.scales_C)} columns."
        )
    distance = each.ratio.value / settings.factor
    way = "below" if distance < 1 else "above"
    growth = ""
    if not each.exponent.low <= 1 <= each.exponent.high:
        growth = ", so that it is no fixed multiple of ξ_c"
    if math.isnan(each.exponent.value):
        growth = ", for which there are too few columns"
    return (
        f"{each.name}: the boundary is {abs(100 * (distance - 1)):.0f} % {way} {settings.factor:g} "
        f"ξ_c, the median of {len(each.scales_C)} columns, of which {outside} have it outside of "
        f"the map; it grows as ξ_c to the power {each.exponent}{growth}."
    )


def _deepest(settings: Settings, grid: Grid, losses_DW: np.ndarray) -> str:
    trained_DW = losses_DW < settings.level
    if not trained_DW.any():
        return f"{grid.activation}: no network was trained."
    boundary_W, _ = edges.boundaries(settings, grid, losses_DW)
    best, share = int(np.argmax(boundary_W)), 100 * float(trained_DW.mean())
    return (
        f"{grid.activation}: {share:.0f} % of {losses_DW.size:,} networks were trained, "
        f"{int(np.isnan(losses_DW).sum()):,} diverged; the boundary is deepest at σ_w² = "
        f"{grid.variances()[best]:.2f}, {boundary_W[best]:.0f} layers."
    )


def _is_measured(each: Found) -> bool:
    return bool(2 * np.sum(each.outside_C != 0) < len(each.outside_C))


def _checks(settings: Settings, each: Found) -> list[Check]:
    of = f"median of {len(each.scales_C)} columns"
    name = f"{each.name}: boundary over ξ_c"
    ratio = _mean(each.ratio, len(each.scales_C))
    if not _is_measured(each):
        note = "the boundary is outside of the map in half of the columns or more"
        return [stated(name, ratio, note, of=of)]
    checks = [
        near(
            name,
            ratio,
            settings.factor,
            percent=settings.percent,
            of=of,
            note=f"95 % interval {each.ratio.low:.2f} to {each.ratio.high:.2f}",
        )
    ]
    exponent = _mean(each.exponent, int(np.sum(each.outside_C == 0)))
    checks.append(
        near(
            f"{each.name}: exponent of the boundary against ξ_c",
            exponent,
            1.0,
            within=settings.exponent_within,
            of="least squares of logarithms",
            note=f"95 % interval {each.exponent.low:.2f} to {each.exponent.high:.2f}",
        )
    )
    return checks


def _mean(estimate: Estimate, count: int) -> Mean:
    error = (estimate.high - estimate.low) / (2 * 1.96)
    return Mean(estimate.value, count, error if math.isfinite(error) else None)


def _sides(found: list[Found]) -> Table:
    head = ("side", "columns", "outside", "boundary / ξ_c", "boundary / ξ_∇", "exponent")
    rows = [
        (
            each.name,
            str(len(each.scales_C)),
            str(int(np.sum(each.outside_C != 0))),
            str(each.ratio),
            str(each.gradient_ratio),
            str(each.exponent),
        )
        for each in found
    ]
    return "The boundary on each side of the critical line", head, rows


def _bands(found: list[Found]) -> Table:
    rows = []
    for each in found:
        for low, high in itertools.pairwise((0.0, *_BANDS)):
            chosen = (each.scales_C > low) & (each.scales_C <= high)
            if chosen.any():
                boundary_C, scale_C = each.boundaries_C[chosen], each.scales_C[chosen]
                span = f"{np.min(scale_C):.1f} to {np.max(scale_C):.1f}"
                middle = np.median(boundary_C), np.median(boundary_C / scale_C)
                rows.append(
                    (each.name, span, str(chosen.sum()), f"{middle[0]:.1f}", f"{middle[1]:.2f}")
                )
    head = ("side", "ξ_c", "columns", "boundary, layers", "boundary / ξ_c")
    return "Medians by ξ_c", head, rows


def draw(settings: Settings, data: Data) -> list[Picture]:
    """Draw the maps, and the boundary against ξ_c."""
    return [_draw_maps(settings, data), _draw_scales(settings, data)]


def _draw_maps(settings: Settings, data: Data) -> Picture:
    panels = drawing.panels(len(settings.grids), columns=len(settings.grids), size=(4.6, 4.2))
    uniform = math.log(27)
    image = None
    for axes, grid in zip(panels.main, settings.grids, strict=True):
        losses_DW = edges.losses_of(data, grid)
        variances, depths = grid.variances(), np.asarray(grid.depths())
        axes.set_facecolor("#bbbbbb")
        axes.grid(False)
        limits = {"vmin": 0.0, "vmax": uniform, "shading": "nearest", "rasterized": True}
        image = axes.pcolormesh(variances, depths, losses_DW, cmap=drawing.LOSSES, **limits)
        boundary_W, outside_W = edges.boundaries(settings, grid, losses_DW)
        shown_W = np.where(outside_W == 0, boundary_W, math.nan)
        axes.plot(variances, shown_W, ".", color="#00a5cf", markersize=3.5, label="boundary")
        fine = np.linspace(grid.low, grid.high, 120)
        scale = edges.scale_at(grid, settings.bias_variance, fine)
        drawn = np.minimum(settings.factor * scale, 100.0 * grid.deepest)
        for width, colour, label in ((3.4, "white", None), (1.6, drawing.THEORY, "6 ξ_c")):
            axes.plot(fine, drawn, "--", color=colour, lw=width, label=label)
        axes.set_ylim(depths[0] - grid.spacing / 2, depths[-1] + grid.spacing / 2)
        axes.set_xlim(grid.low, grid.high)
        axes.set_title("ReLU" if grid.activation == "relu" else grid.activation)
        axes.set_xlabel("σ_w²")
    panels.label_rows("hidden layers")
    panels.main[0].legend(loc="upper left", frameon=True, facecolor="white", framealpha=0.9)
    panels.figure.colorbar(image, ax=panels.main, label="loss at the last step, nats")
    return panels.picture(
        "trainability-maps",
        alt="Maps of the training loss by weight variance and depth, for tanh and ReLU, with the "
        "measured boundary of training and 6 ξ_c.",
        caption=f"Loss after {settings.steps} steps of gradient descent, one network a cell; grey: "
        "diverged. Points: the boundary below which networks train; dashed: 6 ξ_c of mean-field "
        f"theory at σ_b² = {settings.bias_variance:g}.",
    )


def _draw_scales(settings: Settings, data: Data) -> Picture:
    panels = drawing.panels(1)
    (axes,) = panels.main
    spans = []
    found: list[Found] = []
    for grid in settings.grids:
        found += edges.find(settings, grid, edges.losses_of(data, grid))
    for place, each in enumerate(found):
        inside = each.outside_C == 0
        colour = drawing.SCHEMES[place]
        axes.plot(
            each.scales_C[inside],
            each.boundaries_C[inside],
            "o",
            color=colour,
            markersize=4,
            alpha=0.7,
            label=each.name,
        )
        spans += [float(np.min(each.scales_C)), float(np.max(each.scales_C))]
    if spans:
        ends = np.array([min(spans), max(spans)])
        axes.plot(ends, settings.factor * ends, "--", color=drawing.THEORY, label="6 ξ_c")
    drawing.plain_log(axes.xaxis)
    drawing.plain_log(axes.yaxis)
    axes.set_xlabel("ξ_c, layers")
    axes.set_ylabel("boundary, layers")
    panels.legend()
    return panels.picture(
        "trainability-scales",
        alt="The boundary of training against the correlation depth, with the line 6 ξ_c.",
        caption="Boundary of each column that counts, where it is inside of the map, against ξ_c; "
        "dashed: 6 ξ_c.",
    )
