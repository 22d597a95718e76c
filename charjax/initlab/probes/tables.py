"""A probe's results as tables on the terminal."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from charjax.errors import printable
from charjax.initlab.probes.coordinates import MOST_SEEDS
from charjax.initlab.probes.network import LOSS_TARGETS, RANK_VECTORS

_NONE = "-"


def show(console: Console, tree: dict[str, Any]) -> None:
    """Print everything, the initial loss first, the coordinate check last if there was one."""
    seeds, loss, layers = tree["seeds"], tree["initial_loss"], tree["layers"]
    theory = "no theory" if loss["theory"] is None else f"{loss['theory']:.3f} by theory"
    parts: list[Table | str] = [
        f"[bold]{escape(printable(str(tree['text'])))}, {tree['family']}[/bold] of "
        f"{tree['parameters']:,} parameters, init.scheme = {tree['scheme']}, "
        f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]}): mean ± standard deviation over seeds",
        "",
        f"initial loss  [bold]{_text(loss, '.3f')}[/bold]  against {loss['uniform']:.3f} = "
        f"ln {tree['vocabulary']}, and {theory}  (nats, over {LOSS_TARGETS:,} targets or more)",
        _table(
            "Outputs by layer",
            (
                *("layer", "after", "mean", "std", "theory"),
                *("before: rms", "theory", "saturated", "theory", "dead"),
            ),
            map(_outputs, layers),
        ),
        _table(
            "Gradients of the loss",
            ("layer", "output: std", "kernel: norm", "kernel: std", "weights: std", "grad:data"),
            map(_gradients, layers),
        ),
        _table(
            "Correlation between inputs and between positions, by layer",
            ("layer", "correlation", "theory", "token cosine", f"rank of {RANK_VECTORS} vectors"),
            map(_correlations, layers),
        ),
        _attention(tree["attention"]),
        _jacobian(tree["jacobian"]),
        _hessian(tree["hessian"]),
    ]
    for part in parts:
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    for name in ("coordinates", "depth_coordinates"):
        if tree[name] is not None:
            console.print(coordinates_table(tree[name]))


def _outputs(layer: dict[str, Any]) -> list[str]:
    theory, is_linear = layer["theory"], layer["activation"] == "linear"
    before = [_text(layer["preactivation_std"]), _short(theory["preactivation_std"])]
    return [
        layer["name"],
        "" if is_linear else layer["activation"],
        _text(layer["mean"]),
        _text(layer["std"]),
        _short(theory["std"]),
        *(["", ""] if is_linear else before),
        _percent(layer["saturated"]),
        "" if theory["saturated"] is None else f"{100 * theory['saturated']:.1f} %",
        _percent(layer["dead"]),
    ]


def _gradients(layer: dict[str, Any]) -> list[str]:
    names = ("kernel_gradient_norm", "kernel_gradient_std", "weight_std", "gradient_to_data")
    of_kernel = [_text(layer[name]) if layer["kernel"] else "" for name in names]
    return [layer["name"], _text(layer["gradient_std"]), *of_kernel]


def _correlations(layer: dict[str, Any]) -> list[str]:
    return [
        layer["name"],
        _text(layer["correlation"]),
        _short(layer["theory"]["correlation"]),
        _text(layer["token_cosine"]),
        _text(layer["effective_rank"], ".1f"),
    ]


def _attention(attention: dict[str, Any] | None) -> Table | str:
    if attention is None:
        return "attention: not applicable to this family"
    rows = [
        [
            str(place),
            _text(block["entropy"], ".3f"),
            _short(block["theory"], ".3f"),
            "  ".join(_short(head["mean"], ".3f") for head in block["heads"]),
        ]
        for place, block in enumerate(attention["blocks"])
    ]
    title = f"Entropy of attention, in nats; {attention['uniform']:.3f} with equal weights"
    return _table(title, ("block", "mean", "theory", "by head"), rows)


def _jacobian(jacobian: dict[str, Any] | None) -> str:
    if jacobian is None:
        return "Jacobian: not applicable to this family (no layer between embedding and logits)"
    condition = jacobian["condition"]
    end = (
        f"rank {_short(jacobian['rank']['mean'])}"
        if condition["mean"] is None
        else f"condition {_text(condition)}"
    )
    return (
        "Jacobian of the readout's input with respect to the context's embeddings\n"
        f"  singular values {_text(jacobian['mean'])}, their std {_text(jacobian['std'])}, largest "
        f"{_text(jacobian['largest'])}, {end}\n"
        f"  their squares: mean {_text(jacobian['squared_mean'])}"
        f"{_in_theory(jacobian['theory']['squared_mean'])}, variance / mean² "
        f"{_text(jacobian['squared_relative_variance'])}"
        f"{_in_theory(jacobian['theory']['squared_relative_variance'])}"
    )


def _in_theory(value: float | None) -> str:
    return "" if value is None else f" ({value:.3g} by theory)"


def _hessian(hessian: dict[str, Any]) -> str:
    return (
        "Hessian of the loss on the first batch\n"
        f"  largest eigenvalue {_text(hessian['largest'])}, smallest {_text(hessian['smallest'])}\n"
        "  plain SGD is stable up to a learning rate of 2 / largest = "
        f"{_text(hessian['stable_rate'])}"
    )


def coordinates_table(check: dict[str, Any]) -> Table:
    """Tabulate by layer the distance moved at each width, and its slope.

    Args:
      check: the result of `check_coordinates`.
    """
    limit, moving = check["limit"], check["moving_layers"]
    table = _table(
        f"Coordinate check of {escape(check['scheme'])} at learning rate "
        f"{check['learning_rate']:g}: {verdict_in_words(check)}. Mean |change| after "
        f"{check['steps']} steps, and its slope against {check['axis']} (log-log, "
        f"{len(check['seeds'])} seeds); pass: the 95 % interval lies within {limit} of 0; fail: it "
        f"lies beyond even when corrected for {moving} layers",
        ("layer", *map(str, check["places"]), "slope", "95 % interval", "verdict"),
    )
    for layer in check["layers"]:
        change = layer["change"]
        sizes = [f"{steps[-1]:.3g}" for steps in change["sizes"]]
        slope = _NONE if change["slope"] is None else f"{change['slope']:+.3f}"
        ends = "{:+.3f} to {:+.3f}".format(*change["interval"]) if change["interval"] else _NONE
        colour = {"fail": "red", "unclear": "yellow"}.get(change["verdict"], "")
        table.add_row(layer["layer"], *sizes, slope, ends, change["verdict"], style=colour)
    return table


def verdict_in_words(check: dict[str, Any]) -> str:
    """Return `passed`, `failed`, or `cannot tell` with the seeds or widths that would decide."""
    if check["verdict"] != "cannot tell":
        return str(check["verdict"])
    ways = []
    if check["seeds_needed"] is not None:
        ways.append(f"about {check['seeds_needed']} seeds")
    if check["places_needed"] is not None:
        ways.append(f"{check['axis']}s {', '.join(map(str, check['places_needed']))}")
    if not ways:
        ways.append(f"more than {MOST_SEEDS:,} seeds")
    return f"cannot tell ({' or '.join(ways)} would decide, if {check['needed_if']})"


def _table(title: str, columns: tuple[str, ...], rows: Iterable[list[str]] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    return table


def _text(number: dict[str, float | None], form: str = ".3g") -> str:
    """Return `0.132 ± 0.0041`."""
    if number["mean"] is None:
        return _NONE
    return f"{number['mean']:{form}} ± {number['std']:.2g}"


def _short(value: float | None, form: str = ".3g") -> str:
    return _NONE if value is None else f"{value:{form}}"


def _percent(number: dict[str, float | None] | None) -> str:
    return "" if number is None or number["mean"] is None else f"{100 * number['mean']:.1f} %"
