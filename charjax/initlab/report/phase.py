"""The phase map: training loss by depth and by the variance of the weights.

Networks deeper than about 6 ξ_c do not train (Schoenholz et al. 2017, arXiv:1611.01232).
Letters: G gains, D depths, X weight variances.
"""

import functools
import math
from typing import Any

import numpy as np

from charjax import theory
from charjax.config import FAMILIES
from charjax.initlab.report import drawing
from charjax.initlab.report.at_init import short_name
from charjax.initlab.report.drawing import Picture
from charjax.initlab.report.losses import best_over_rates
from charjax.initlab.report.tables import Array, Sweep, select
from charjax.initlab.report.verdicts import Cell, ranked_schemes

_MOST_SCHEMES = 6
# Points of the contours, for all panels: theory takes 40 ms per point.
_POINTS = 48


def draw_phases(sweep: Sweep, cells: list[Cell]) -> Picture | None:
    """Draw training loss by σ_w² and depth, with ξ_c and 6 ξ_c; None below 3 gains or 2 depths."""
    if len(sweep.depths) < 2:
        return None
    shown = [
        (scheme, *measured_map(sweep, scheme))
        for scheme in ranked_schemes(sweep, cells, _MOST_SCHEMES)
    ]
    shown = [one for one in shown if len(one[1]) >= 3]
    if not shown:
        return None
    panels = drawing.panels(len(shown), size=(4.2, 3.4))
    weight_X = _theory_grid([weight_G for _, weight_G, _ in shown])
    limits = _limits([loss_DG for *_, loss_DG in shown], math.log(sweep.facts["vocabulary"]))
    contours: set[str] = set()
    image: Any = None
    for (scheme, weight_G, loss_DG), axes in zip(shown, panels.main, strict=True):
        image = _draw_map(axes, sweep, weight_G, loss_DG, limits)
        contours.add(_draw_contours(axes, sweep, scheme, weight_X))
        axes.set(title=short_name(sweep, scheme), xlabel="σ²w (measured)")
    panels.label_rows("depth (layers)")
    bar = panels.figure.colorbar(image, ax=panels.main, extend="max")
    bar.set_label(f"training loss (nats), step {sweep.facts['steps']}")
    rates = " at each point's best learning rate," if len(sweep.rates) > 1 else ""
    return panels.picture(
        "phase-map",
        alt="Training loss as a colour over weight variance and depth"
        + (", with the contours of the correlation depth." if "inside" in contours else "."),
        caption=f"Training loss by weight variance and depth,{rates} width {sweep.widths[-1]}; "
        f"mean over n = {len(sweep.seeds)} seeds; grey: a run diverged; the colour scale ends at "
        f"ln {sweep.facts['vocabulary']}, a uniform guess. {_contours_in_words(contours)}",
    )


def _contours_in_words(contours: set[str]) -> str:
    """Describe the contours for the caption."""
    depths = (
        "depth = ξc (solid) and 6 ξc (dashed) of mean-field theory at the σ²b of the runs, beyond "
        "which no signal propagates (Schoenholz et al. 2017)"
    )
    if "inside" in contours:
        return f"Lines: {depths}."
    if "outside" in contours:
        return f"The lines of {depths} lie outside these depths."
    return "No mean-field theory applies to these networks."


def measured_map(sweep: Sweep, scheme: int) -> tuple[Array, Array]:
    """Return measured σ_w² (G,), ascending, and training losses (D, G), inf where a run diverged.

    Gains whose variance was not measured are left out; equal variances are merged.
    """
    measured_G = sweep.cube("sigma_w2")[scheme, :, :, -1].reshape(len(sweep.gains), -1)
    known_G = np.isfinite(measured_G).all(1) & (measured_G > 0).all(1)
    weight_G = np.where(known_G, np.where(known_G[:, None], measured_G, 1.0).mean(1), math.nan)
    order = np.argsort(weight_G, kind="stable")[: known_G.sum()]
    order = order[np.diff(weight_G[order], prepend=-1.0) > 1e-3 * weight_G[order]]
    train = np.where(sweep.diverged, math.inf, sweep.cube("train_loss"))[scheme, :, :, -1]
    if not order.size:
        return weight_G[order], np.zeros((len(sweep.depths), 0))
    depths = range(len(sweep.depths))
    return weight_G[order], np.stack([best_over_rates(train[order, d]).mean(1) for d in depths])


def correlation_depths(activation: str, weight_X: Array, bias_variance: float) -> Array:
    """Return ξ_c at each σ_w² (X,), inf at criticality; NaN without a fixed point."""
    return np.array([_correlation_depth(activation, float(w), bias_variance) for w in weight_X])


@functools.lru_cache(maxsize=4096)
def _correlation_depth(activation: str, weight_variance: float, bias_variance: float) -> float:
    try:
        return theory.mean_field(
            theory.find_activation(activation), weight_variance, bias_variance
        ).correlation_depth
    except theory.NoFixedPointError:
        return math.nan


def _limits(losses: list[Array], uniform: float) -> tuple[float, float]:
    """Return the ends of the colour scale: the lowest loss, and at most that of a uniform guess."""
    finite = np.concatenate([loss_DG[np.isfinite(loss_DG)] for loss_DG in losses])
    if not finite.size:
        return 0.0, uniform
    low = float(finite.min())
    return low, max(min(float(finite.max()), uniform), low + 1e-9)


def _draw_map(
    axes: Any, sweep: Sweep, weight_G: Array, loss_DG: Array, limits: tuple[float, float]
) -> Any:
    axes.set_facecolor("#bbbbbb")
    axes.grid(False)
    depths = np.array(sweep.depths, np.float64)
    shown_DG = np.where(np.isfinite(loss_DG), loss_DG, math.nan)
    image = axes.pcolormesh(
        _edges(weight_G),
        _edges(depths),
        shown_DG,
        cmap=drawing.LOSSES,
        vmin=limits[0],
        vmax=limits[1],
    )
    for axis, values in ((axes.xaxis, weight_G), (axes.yaxis, depths)):
        if _is_wide(values):
            drawing.log_axis(axis, values)
        else:
            axis.set_ticks(values[:: math.ceil(len(values) / 7)])
            axis.set_major_formatter(lambda x, _: f"{x:.3g}")
    return image


def _draw_contours(axes: Any, sweep: Sweep, scheme: int, weight_X: Array) -> str:
    """Draw ξ_c and 6 ξ_c; return `inside` or `outside` of the panel, or `none` without a theory."""
    activation = sweep.facts["activation"]
    rows = select(sweep.layers, scheme=scheme)
    has_theory = np.isfinite(rows["theory_preactivation_std"]).any()
    if not (_is_plain_stack(sweep) and activation in theory.ACTIVATIONS and has_theory):
        return "none"
    bias = sweep.cube("sigma_b2")[scheme]
    bias_variance = float(bias[np.isfinite(bias)].mean()) if np.isfinite(bias).any() else 0.0
    depth_X = correlation_depths(activation, weight_X, round(max(bias_variance, 0.0), 6))
    box = axes.get_xlim(), axes.get_ylim()
    drawn = np.minimum(depth_X, 100 * box[1][1])
    for factor, dashes in ((1, "-"), (6, "--")):
        for width, colour in ((3.0, "white"), (1.4, drawing.THEORY)):
            axes.plot(weight_X, factor * drawn, dashes, color=colour, lw=width)
    axes.set(xlim=box[0], ylim=box[1])
    across = (weight_X >= box[0][0]) & (weight_X <= box[0][1])
    is_seen = [(y >= box[1][0]) & (y <= box[1][1]) & across for y in (drawn, 6 * drawn)]
    return "inside" if np.any(is_seen) else "outside"


def _is_plain_stack(sweep: Sweep) -> bool:
    """Return whether layers follow each other as in theory: no residuals, no normalisation."""
    model = sweep.facts["config"].get("model", {})
    return FAMILIES[sweep.facts["arch"]].is_plain_stack and model.get("norm", "none") == "none"


def _theory_grid(weights: list[Array]) -> Array:
    """Return weight variances that span all panels."""
    ends = np.concatenate([_edges(weight_G)[[0, -1]] for weight_G in weights])
    low, high = max(float(np.min(ends)), 1e-3), float(np.max(ends))
    space = np.geomspace if high > 8 * low else np.linspace
    return space(low, high, _POINTS)


def _is_wide(values: Array) -> bool:
    return bool(np.min(values) > 0 and np.max(values) / np.min(values) >= 8)


def _edges(values: Array) -> Array:
    """Return edges half-way between values, in the logarithm where they span decades."""
    if _is_wide(values):
        return np.exp(_halfway(np.log(values)))
    return _halfway(values)


def _halfway(values: Array) -> Array:
    middle = (values[1:] + values[:-1]) / 2
    first, last = values[0] - (middle[0] - values[0]), values[-1] + (values[-1] - middle[-1])
    return np.concatenate([[first], middle, [last]])
