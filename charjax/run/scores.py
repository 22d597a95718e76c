"""The lines and the JSON object of an evaluated text."""

import math
import sys
from argparse import Namespace
from typing import Any

from charjax.data.datasets import OtherText
from charjax.errors import printable
from charjax.run.display import shown_loss
from charjax.run.load import Run
from charjax.run.metrics import loss_fields
from charjax.training.evaluation import Score
from charjax.units import TextSize, perplexity, shown_bytes


def to_json(
    args: Namespace, run: Run, score: Score, size: TextSize, other: OtherText | None
) -> dict[str, Any]:
    """Return the object to print; a loss that is not finite is null."""
    length = run.config.model.context_length
    window = length if run.model.memory == "windowed" else None
    result = {
        "split": None if other else args.split,
        **loss_fields(score.loss, size),
        "perplexity": perplexity(score.loss) if math.isfinite(score.loss) else None,
        "tokens": score.targets,
        "characters": size.characters,
        "bytes": size.bytes,
        "context": args.context or window,
        "stride": args.stride or args.context or window,
        # Windows of some targets are read in batches, not in streams.
        **({"of": score.of} if score.of else {"streams": args.streams} if args.streams else {}),
        "checkpoint": args.checkpoint,
        "step": run.step,
    }
    if other:
        result |= {"text": args.text, "unseen": other.unseen, "notes": list(other.notes)}
    return result


def show(args: Namespace, run: Run, score: Score, size: TextSize, other: OtherText | None) -> None:
    """Print one line on stdout; on stderr, notes on how another text was read."""
    for note in other.notes if other else ():
        sys.stderr.write(f"note: {printable(note)}\n")
    if score.loss > (uniform := math.log(run.tokenizer.vocab_size)):
        sys.stderr.write(
            f"note: the loss is above ln V ({uniform:.4f}), that of a uniform guess over the "
            f"{run.tokenizer.vocab_size:,} symbols\n"
        )
    left_out = f", {other.unseen:,} unseen characters left out" if other and other.unseen else ""
    loss, unit = score.loss, run.tokenizer.unit
    per_character, bpc, bpb = size.per_character(loss), size.bpc(loss), size.bpb(loss)
    in_bits = f"{shown_loss(bpb)} bits per byte"
    if size.characters:
        in_bits = f"{shown_loss(bpc)} bpc, {in_bits}"
    in_nats = f"{shown_loss(loss)} nats per {unit}"
    over = f"{size.tokens:,} targets"
    if score.of:
        over = f"{score.targets:,} of {score.of:,} targets, in windows spread evenly"
    elif args.streams:
        over += f", in {args.streams:,} streams"
    if unit != "character":
        # A text within one character has none that begins in it.
        in_nats += f", {shown_loss(per_character)} nats per character" if size.characters else ""
        over += f" ({size.characters:,} characters, {size.bytes:,} bytes)"
    per_unit = "" if unit == "character" else f" per {unit}"
    sys.stdout.write(
        f"{_where(args)}: loss {in_nats}, {in_bits}, "
        f"perplexity {shown_loss(perplexity(loss))}{per_unit}, over {over}"
        f"{left_out} (checkpoint of step {run.step})\n"
    )


def explain_loss(args: Namespace, run: Run, score: Score) -> str:
    """Return the message for a loss that is not finite."""
    return (
        f"the loss of {_where(args)} is not finite ({score.loss}) over {score.targets:,} targets "
        f"(checkpoint of step {run.step}): the model gives a probability of 0 or none at all; "
        "evaluate another --checkpoint, or train again with a lower rate"
    )


def _where(args: Namespace) -> str:
    """Name the text that was evaluated, escaped for a terminal."""
    return printable(args.text) if args.text is not None else f"the {args.split} split"


def show_experts(experts: dict[str, Any]) -> None:
    """Print a mixture's experts on a line of their own."""
    if not experts:
        return
    losses = [
        f"the {name} alone {'not finite' if loss is None else shown_loss(loss)}"
        for name, loss in experts["experts"].items()
    ]
    sizes = [f"{shown_bytes(size)} of {name}" for name, size in experts["model_bytes"].items()]
    sys.stdout.write(f"experts: {', '.join(losses)}; {' and '.join(sizes)}\n")
