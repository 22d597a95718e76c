"""`python -m charjax.evaluate`: the exact loss of a run on any split or any file.

python -m charjax.evaluate WORKDIR [--split train|val|test] [--text FILE] [--context N]
                           [--stride N] [--checkpoint best|latest|STEP] [--json]
"""

import json
import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charjax import cli
from charjax.errors import UserError, printable

if TYPE_CHECKING:
    from charjax.data.datasets import Split
    from charjax.runs import Run


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    args = cli.evaluate_arguments(argv)
    from charjax.signals import Interrupted, Signals

    with Signals() as signals:
        try:
            return _evaluate(args, signals.poll)
        except Interrupted as stop:
            return stop.status


def _evaluate(args: Namespace, poll: Any) -> int:
    import jax

    from charjax import parallel
    from charjax.runs import load_run, require_run
    from charjax.training.evaluation import exact_loss
    from charjax.training.metrics import loss_fields

    workdir = Path(args.workdir)
    require_run(workdir)
    run = load_run(workdir, args.checkpoint)
    # JAX has been imported meanwhile, which takes seconds.
    poll()
    devices = jax.local_devices()
    split = _text(run, Path(args.text)) if args.text else _split(run, args.split)
    length = run.config.model.context_length
    assert length is not None
    score = exact_loss(
        run.model,
        run.variables,
        split,
        parallel.make_mesh(devices, len(devices)),
        context_length=length,
        batch_size=run.config.eval.batch_size,
        context=args.context,
        stride=args.stride,
        poll=poll,
    )
    told = {
        "split": None if args.text else args.split,
        **loss_fields(score.loss),
        "tokens": score.targets,
        "context": args.context or (length if run.model.memory == "windowed" else None),
        "stride": args.stride
        or args.context
        or (length if run.model.memory == "windowed" else None),
        "checkpoint": args.checkpoint,
        "step": run.step,
    }
    if args.text:
        told["text"] = args.text
    if args.json:
        sys.stdout.write(json.dumps(told, allow_nan=False) + "\n")
    else:
        where = args.text or f"the {args.split} split"
        sys.stdout.write(
            f"{printable(where)}: loss {score.loss:.4f} nats a character, "
            f"{score.loss / math.log(2):.4f} bpc, over "
            f"{score.targets:,} targets (checkpoint of step {run.step})\n"
        )
    return 0


def _split(run: "Run", name: str) -> "Split":
    """A split of the text that the run was trained on."""
    from charjax.data.datasets import load_dataset

    dataset = load_dataset(run.config.data, run.tokenizer, run.dataset_digest)
    if name not in dataset.splits:
        raise UserError(
            f"--split: {name!r} given; this run's text has: {', '.join(dataset.splits)}"
        )
    return dataset.splits[name]


def _text(run: "Run", path: Path) -> "Split":
    """Another text, whole, in the run's alphabet."""
    from charjax.data.datasets import load_dataset

    split = "shuffled_lines" if run.tokenizer.boundary else "tail"
    changes = {"path": str(path), "split": split, "val_fraction": 0.0}
    data = run.config.data.model_copy(update=changes)
    return load_dataset(data, run.tokenizer).splits["train"]


if __name__ == "__main__":
    cli.run(main)
