"""The validation loss of a row's seeds by step, as a picture."""

from pathlib import Path

from charjax.files import replacing
from charjax.reproduction.measure import Result


def draw_row(result: Result, path: Path) -> None:
    """Draw every seed's curve, and the published figure as a line; a PNG, replaced in one move."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for run in result["runs"]:
        steps, train, val, _ = zip(*run["curve"], strict=True)
        lines = axes.plot(steps, val, "o-", markersize=3, linewidth=1, label=f"seed {run['seed']}")
        axes.plot(steps, train, ":", linewidth=1, color=lines[0].get_color())
    published = result["figures"][0]
    if published["value"] is not None and published["quantity"] in ("val", "final"):
        axes.axhline(published["value"], color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel="step", ylabel="loss (nats per character)")
    axes.set_title(
        f"{result['title']}\nvalidation; dotted: training; dashed: published",
        parse_math=False,
        fontsize=9,
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
