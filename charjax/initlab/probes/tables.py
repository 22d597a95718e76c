"""A probe's tree as tables on the terminal."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from charjax.errors import printable
from charjax.initlab.probes.network import LOSS_TARGETS, RANK_VECTORS

_NONE = "-"
_NO_THEORY = "no theory"


def show(console: Console, tree: dict[str, Any]) -> None:
    """Print everything, the initial loss first."""
    say = lambda text: console.print(text, highlight=False, soft_wrap=True)  # noqa: E731
    seeds = tree["seeds"]
    say(
        f"[bold]{escape(printable(str(tree['text'])))}, {tree['family']}[/bold] of "
        f"{tree['parameters']:,} parameters, init.scheme = {tree['scheme']}, "
        f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]}): mean ± standard deviation over seeds"
    )
    say("")
    say(_loss(tree["initial_loss"], tree["vocabulary"]))
    for table in (_outputs(tree), _gradients(tree), _depth(tree)):
        console.print(table)
    if tree["attention"]:
        console.print(_attention(tree["attention"]))
    else:
        say("attention: not for this family")
    say(_jacobian(tree["jacobian"]))
    say(_hessian(tree["hessian"]))


def _loss(loss: dict[str, Any], vocabulary: int) -> str:
    theory = _NO_THEORY if loss["theory"] is None else f"{loss['theory']:.3f} by theory"
    return (
        f"initial loss  [bold]{_text(loss, '.3f')}[/bold]  against {loss['uniform']:.3f} = "
        f"ln {vocabulary}, and {theory}  (nats, over {LOSS_TARGETS:,} targets or more)"
    )


def _outputs(tree: dict[str, Any]) -> Table:
    table = _table(
        "What each layer gives out",
        ("layer", "after", "mean", "std", "theory", "before: rms", "theory", "saturated", "dead"),
    )
    for layer in tree["layers"]:
        theory = layer["theory"]
        activation = "" if layer["activation"] == "linear" else layer["activation"]
        table.add_row(
            layer["name"],
            activation,
            _text(layer["mean"]),
            _text(layer["std"]),
            _short(theory["std"]),
            _text(layer["preactivation_std"]) if activation else "",
            _short(theory["preactivation_std"]) if activation else "",
            _percent(layer["saturated"]),
            _percent(layer["dead"]),
        )
    return table


def _gradients(tree: dict[str, Any]) -> Table:
    table = _table(
        "Gradients of the loss",
        ("layer", "output: std", "kernel: norm", "kernel: std", "weights: std", "grad:data"),
    )
    for layer in tree["layers"]:
        names = ("kernel_gradient_norm", "kernel_gradient_std", "weight_std", "gradient_to_data")
        cells = [_text(layer[name]) if layer["kernel"] else "" for name in names]
        table.add_row(layer["name"], _text(layer["gradient_std"]), *cells)
    return table


def _depth(tree: dict[str, Any]) -> Table:
    table = _table(
        "Two inputs, and the positions of one, by depth",
        ("layer", "correlation", "theory", "token cosine", f"rank of {RANK_VECTORS} vectors"),
    )
    for layer in tree["layers"]:
        table.add_row(
            layer["name"],
            _text(layer["correlation"]),
            _short(layer["theory"]["correlation"]),
            _text(layer["token_cosine"]),
            _text(layer["effective_rank"], ".1f"),
        )
    return table


def _attention(attention: dict[str, Any]) -> Table:
    title = f"Entropy of attention, in nats; {attention['uniform']:.3f} with equal weights"
    table = _table(title, ("block", "mean", "theory", "by head"))
    for i, block in enumerate(attention["blocks"]):
        heads = "  ".join(_short(head["mean"], ".3f") for head in block["heads"])
        table.add_row(str(i), _text(block["entropy"], ".3f"), _short(block["theory"], ".3f"), heads)
    return table


def _jacobian(jacobian: dict[str, Any] | None) -> str:
    if jacobian is None:
        return "Jacobian: not for this family (no layer between embedding and logits)"
    condition = jacobian["condition"]
    told = (
        f"rank {_short(jacobian['rank']['mean'])}"
        if condition["mean"] is None
        else f"condition {_text(condition)}"
    )
    return (
        "Jacobian from the context's embeddings to what the readout reads\n"
        f"  singular values {_text(jacobian['mean'])}, their std {_text(jacobian['std'])}, largest "
        f"{_text(jacobian['largest'])}, {told}\n"
        f"  their squares: mean {_text(jacobian['squared_mean'])}, variance / mean² "
        f"{_text(jacobian['squared_relative_variance'])}"
    )


def _hessian(hessian: dict[str, Any]) -> str:
    return (
        "Hessian of the first batch's loss\n"
        f"  largest eigenvalue {_text(hessian['largest'])}, smallest {_text(hessian['smallest'])}\n"
        f"  so plain SGD is stable up to a rate of 2 / largest = {_text(hessian['stable_rate'])}"
    )


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=i == 0)
    return table


def _text(number: dict[str, float | None], form: str = ".3g") -> str:
    """`0.132 ± 0.0041`."""
    if number["mean"] is None:
        return _NONE
    return f"{number['mean']:{form}} ± {number['std']:.2g}"


def _short(value: float | None, form: str = ".3g") -> str:
    return _NONE if value is None else f"{value:{form}}"


def _percent(number: dict[str, float | None] | None) -> str:
    return "" if number is None or number["mean"] is None else f"{100 * number['mean']:.1f} %"
