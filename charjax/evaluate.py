"""`python -m charjax.evaluate`: the exact loss of a run on any split or any file.

python -m charjax.evaluate WORKDIR [data.path=FILE] [--split train|val|test] [--text FILE]
                           [--context N] [--stride N] [--unseen error|skip]
                           [--max-targets N] [--streams N] [--warmup N]
                           [--checkpoint best|latest|STEP] [--json]
                           [--per-line | --per-character] [--format jsonl|csv]

A FILE is read as the run's text was. The exit status is 1 if the loss is not finite.
"""

import argparse
import json
import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charjax import cli
from charjax.config import EvalConfig
from charjax.config.families import families_where
from charjax.config.settings import parse_paths
from charjax.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from jax.sharding import Mesh

    from charjax.data.datasets import OtherText
    from charjax.data.splits import Split
    from charjax.models.contract import CharModel
    from charjax.run.load import Run


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    args = evaluate_arguments(argv)
    from charjax.signals import Interrupted, Signals

    with Signals() as signals:
        try:
            return _evaluate(args, signals.poll)
        except Interrupted as stop:
            return stop.status


def _evaluate(args: Namespace, poll: Any) -> int:
    from charjax import parallel
    from charjax.run.load import find_run, load_run, load_split, require_run
    from charjax.run.scores import explain_loss, show, show_experts, to_json
    from charjax.training.evaluation import exact_loss, exact_losses, scored_size

    if args.unseen == "skip" and args.text is None:
        raise UserError(
            "--unseen: skip given without --text; a run knows every symbol of its own text: leave "
            "it out"
        )
    if args.text is not None and args.moved:
        raise UserError(
            f"data.{next(iter(args.moved))}: given with --text, which is evaluated instead of the "
            "run's own text: leave one out"
        )
    workdir = Path(args.workdir)
    require_run(workdir)
    saved = find_run(workdir, args.checkpoint)
    # The cores of a CPU each read streams of their own.
    devices = saved.start_backend(core_devices=args.streams is not None)
    run = load_run(saved, args.weights)
    # Importing JAX has taken seconds.
    poll()
    other = _other_text(run, args) if args.text is not None else None
    split = other.split if other else load_split(run, args.split, args.moved)
    length = run.config.model.context_length
    assert length is not None
    mesh = parallel.make_mesh(devices, len(devices))
    names = ("context", "stride", "streams", "warmup")
    requested = {name: getattr(args, name) for name in names}
    sizes: dict[str, Any] = {
        "context_length": length,
        "batch_size": run.config.eval.batch_size,
        "context": args.context,
        "stride": args.stride,
        **stream_sizes(run.model, run.config.model.kind, **requested),
        "device_bytes": run.config.data.device_bytes,
    }
    if args.per_line or args.per_character:
        losses_N = exact_losses(run.model, run.variables, split, mesh, poll=poll, **sizes)
        return _print_rows(args, run, split, losses_N)
    sizes["max_targets"] = args.max_targets
    score = exact_loss(run.model, run.variables, split, mesh, poll=poll, **sizes)
    size = scored_size(run.model, split, mesh, run.tokenizer, **sizes)
    finite = math.isfinite(score.loss)
    # Spread by windows of their own, the targets of the experts would be others.
    is_whole = finite and not args.max_targets
    experts = _experts(run, split, mesh, sizes, poll) if is_whole else {}
    if args.json:
        result = to_json(args, run, score, size, other) | experts
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    elif finite:
        show(args, run, score, size, other)
        show_experts(experts)
    if not finite:
        sys.stdout.flush()
        cli.complain(explain_loss(args, run, score))
    return 0 if finite else 1


def _experts(
    run: "Run", split: "Split", mesh: "Mesh", sizes: dict[str, Any], poll: Any
) -> dict[str, Any]:
    """Return what a mixture's experts lose each alone, and the bytes of each; {} of any other."""
    from charjax.models.mixture import Mixture
    from charjax.training.evaluation import exact_loss
    from charjax.training.state import model_bytes

    if not isinstance(run.model, Mixture):
        return {}
    losses = {}
    for name, (model, variables) in run.model.experts(run.variables).items():
        read = {
            key: value
            for key, value in sizes.items()
            if model.memory == "carried" or key not in ("streams", "warmup")
        }
        score = exact_loss(model, variables, split, mesh, poll=poll, **read)
        losses[name] = score.loss if math.isfinite(score.loss) else None
    return {"experts": losses, "model_bytes": model_bytes(run.variables)}


def stream_sizes(
    model: "CharModel",
    kind: str,
    *,
    streams: int | None,
    warmup: int | None,
    context: int | None,
    stride: int | None,
) -> dict[str, int]:
    """Return `streams` and `warmup` of `exact_loss`; {} for a family that carries no state.

    Args:
      model: the model.
      kind: its family, for messages.
      streams: as requested, or None.
      warmup: likewise.
      context: of windows, or None.
      stride: likewise.

    Raises:
      UserError: nothing would read what is requested.
    """
    flag = "--streams" if streams else "--warmup"
    requested = streams is not None or warmup is not None
    if model.memory != "carried":
        if requested:
            raise UserError(
                f"{flag}: given for a run of {kind}; only families that carry a state read it "
                f"({', '.join(families_where(carries=True))}): leave it out"
            )
        return {}
    if requested and (context or stride):
        raise UserError(
            f"{flag}: given with {'--context' if context else '--stride'}, whose windows do not "
            "carry a state: leave one of the two out"
        )
    return {
        "streams": streams or 1,
        "warmup": EvalConfig().warmup if warmup is None else warmup,
    }


def _print_rows(args: Namespace, run: "Run", split: "Split", losses_N: "np.ndarray") -> int:
    """Print the loss of each line or character; return 1 if one is not finite, else 0."""
    import numpy as np

    from charjax.run import loss_rows

    # Nothing stands before the first token of a document; any other NaN is the model's.
    undefined = np.isnan(losses_N).sum() > len(losses_N) - split.num_targets
    tokens = split.tokens
    if run.tokenizer.boundary:
        # The boundary before the first line is no character of the text.
        tokens, losses_N = tokens[1:], losses_N[1:]
    found = loss_rows.characters(run.tokenizer, tokens, losses_N)
    rows = (loss_rows.by_line if args.per_line else loss_rows.by_character)(found)
    loss_rows.write(rows, sys.stdout, args.format)
    return int(undefined or np.isinf(losses_N).any())


def _other_text(run: "Run", args: Namespace) -> "OtherText":
    """Load another text whole, by the run's rules and in its alphabet."""
    from charjax.data.datasets import load_other_text

    return load_other_text(
        args.text, run.config.data, run.tokenizer, field="--text", unseen=args.unseen
    )


def evaluate_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments; `text`, `context` and `stride` are None unless given."""
    parser = cli.Parser(
        prog="charjax evaluate",
        usage="%(prog)s WORKDIR [data.path=FILE] [options]",
        description="Measure the exact loss of a trained model on a text.",
    )
    cli.add_run(parser)
    text = parser.add_mutually_exclusive_group()
    text.add_argument(
        "--split", choices=("train", "val", "test"), default="val", help="of the run's text (val)"
    )
    text.add_argument("--text", metavar="FILE", help="another text, read as the run's text was")
    parser.add_argument(
        "--unseen",
        choices=("error", "skip"),
        default="error",
        help="characters of --text that the run does not know: refused (error), or left out, "
        "counted and reported (skip)",
    )
    parser.add_argument(
        "--context",
        metavar="N",
        type=cli.whole_number(1),
        help="tokens per window (the model's)",
    )
    parser.add_argument(
        "--stride", metavar="N", type=cli.whole_number(1), help="between windows (their length)"
    )
    parser.add_argument(
        "--max-targets",
        metavar="N",
        type=cli.whole_number(1),
        help="targets to score at most, in windows spread evenly over the text (every one)",
    )
    parser.add_argument(
        "--streams",
        metavar="N",
        type=cli.whole_number(1, 65_536),
        help="of a family that carries a state: parts of the text to read in parallel (1)",
    )
    parser.add_argument(
        "--warmup",
        metavar="N",
        type=cli.whole_number(0),
        help="characters read before each of these parts (or windows of --max-targets) without "
        "being scored (256)",
    )
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument(
        "--per-line",
        action="store_true",
        help="print a row for each line: its mean and total loss, its bpc, perplexity and text",
    )
    rows.add_argument(
        "--per-character", action="store_true", help="print a row for each character: its loss"
    )
    parser.add_argument(
        "--format",
        metavar="jsonl|csv",
        choices=("jsonl", "csv"),
        help="of these rows: JSON lines, or CSV with a header (jsonl)",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="data.path=FILE",
        help="current path of the run's text, if it was moved (known by its SHA-256)",
    )
    args = parser.parse_intermixed_args(argv)
    if args.format and not (args.per_line or args.per_character):
        raise UserError(
            f"--format: {args.format} given without --per-line or --per-character, whose rows it "
            "is the format of: add one, or leave it out"
        )
    if args.json and (args.per_line or args.per_character):
        raise UserError(
            "--json: given with --per-line or --per-character, which print rows (JSON lines by "
            "default): leave one out"
        )
    if args.max_targets and (args.per_line or args.per_character):
        raise UserError(
            "--max-targets: given with --per-line or --per-character, which print every one: leave "
            "one out"
        )
    if args.warmup is not None and not (args.streams or args.max_targets):
        raise UserError(
            f"--warmup: {args.warmup} given without --streams or --max-targets, whose parts begin "
            "within the text: add one, or leave it out"
        )
    args.format = args.format or "jsonl"
    args.moved = _moved_text(args.words)
    del args.words
    return args


def _moved_text(words: list[str]) -> dict[str, Any]:
    """Return the paths of `data.path=FILE` and `data.val_path=FILE` words, by their keys."""
    moved: dict[str, Any] = {}
    for word in words:
        name, _, path = word.partition("=")
        if name not in ("data.path", "data.val_path") or not path:
            raise UserError(
                f"{word!r} given after the run; only data.path=FILE (and data.val_path=FILE) may "
                "stand there, with the file that the run was trained on: another one is given by "
                "--text"
            )
        paths = parse_paths(path, name)
        moved[name.removeprefix("data.")] = tuple(paths) if isinstance(paths, list) else paths
    return moved


if __name__ == "__main__":
    cli.run(main)
