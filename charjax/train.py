"""`python -m charjax.train`: train a model on a text, or go on with a run.

    python -m charjax.train [CONFIG.toml] [section.key=value ...] [--workdir DIR] [--resume]
                            [--init-from RUN [--checkpoint best|latest|STEP]] [--print-config]

This file reads top to bottom: what was asked for, then the parts of the run, then the run.
"""

import contextlib
import datetime
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from charjax import cli
from charjax.config import (
    Config,
    differences,
    load_config,
    parse_config,
    read_settings,
    resume_conflicts,
)
from charjax.errors import UserError

if TYPE_CHECKING:
    from charjax.runs import Run


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    args = cli.train_arguments(argv)
    config, workdir = _what_was_asked(args)
    if args.print_config:
        sys.stdout.write(config.to_toml(comments=True))
        return 0
    with contextlib.ExitStack() as stack:
        if workdir is None:
            workdir = stack.enter_context(_new_directory(config))
        return _train(args, config, workdir)


def _what_was_asked(args: Namespace) -> tuple[Config, Path | None]:
    """The configuration, and the directory if one is named.

    A resumed run keeps its own configuration, and a fine-tuned one the other run's model.
    """
    if args.workdir is not None and not args.workdir.strip():
        raise UserError(
            f"--workdir: {args.workdir!r} given; name a directory, or leave the flag out for a new "
            "one in runs/"
        )
    if args.checkpoint is not None and args.init_from is None:
        raise UserError(
            "--checkpoint: given without --init-from; it names the saved step of that run to start "
            "from (--resume always goes on from the latest)"
        )
    if not args.resume:
        workdir = Path(args.workdir) if args.workdir else None
        if args.init_from is not None:
            return _fine_tuning_config(args), workdir
        return load_config(args.config, args.overrides), workdir
    if args.workdir is None:
        raise UserError("--resume: no --workdir given; name the directory of the run to go on with")
    if args.init_from is not None:
        raise UserError("--init-from: given with --resume; a run begins only once: leave one out")
    workdir = Path(args.workdir)
    from charjax.runs import require_run

    require_run(workdir)
    saved = workdir / "config.toml"
    old = load_config(saved)
    if args.config is not None:
        new = _with_context(load_config(args.config, args.overrides), old)
    else:
        new = load_config(saved, args.overrides, saved=True)
    conflicts = resume_conflicts(old, new)
    if conflicts:
        told = ", ".join(f"{name} was {was!r} and is {now!r}" for name, was, now in conflicts)
        raise UserError(
            f"--resume: the configuration has changed: {told}; leave it as it was, or start a new "
            "run (--init-from takes over the parameters)"
        )
    return new, workdir


def _with_context(config: Config, old: Config) -> Config:
    """A context length left to the text is the one that the run found."""
    if config.model.context_length is None and config.model.kind == old.model.kind:
        length = {"context_length": old.model.context_length}
        return config.model_copy(update={"model": config.model.model_copy(update=length)})
    return config


def _fine_tuning_config(args: Namespace) -> Config:
    """The configuration as asked for, with the other run's model.

    Raises:
      UserError: there is no such run, it is a counted one, or a setting of the model is given that
        would make it another model.
    """
    from charjax.runs import require_run

    source = Path(args.init_from)
    require_run(source)
    old = load_config(source / "config.toml", saved=True)
    if old.model.kind == "ngram":
        raise UserError(
            f"--init-from: {str(source)!r} holds counts (model.kind=ngram), and there are no "
            "parameters to train further; give the run of another family"
        )
    # Settings are meant for the other run's family, unless another one is named.
    named = [word for word in args.overrides if word.startswith("model.kind=")]
    kind = read_settings(args.config, named).get("model", {}).get("kind", old.model.kind)
    tree = read_settings(args.config, [f"model.kind={kind}", *args.overrides])
    if kind == old.model.kind:
        tree["model"] = old.model.model_dump(exclude_none=True) | tree["model"]
    config = parse_config(tree)
    _check_same_model(old, config)
    return config


def _check_same_model(old: Config, new: Config) -> None:
    """Raise a UserError if a fine-tuned run's model differs in more than it may."""
    free = [f"model.{name}" for name in _FREE_TO_FINE_TUNE]
    changed = [
        f"{name} is {there!r} there, {here!r} here"
        for name, there, here in differences(old, old.model_copy(update={"model": new.model}))
        if name not in free
    ]
    if changed:
        # Two families have hardly a setting in common: their names say enough.
        kinds = [text for text in changed if text.startswith("model.kind ")]
        raise UserError(
            f"--init-from: another model: {', '.join(kinds or changed)}; give the same model, or "
            f"none (only {' and '.join(free)} may be changed)"
        )


# What changes no parameter; a context length may, which the parameters' shapes show.
_FREE_TO_FINE_TUNE = ("dropout", "context_length")


@contextlib.contextmanager
def _new_directory(config: Config) -> Iterator[Path]:
    """Make a directory for a run that names none; it goes again if nothing was written there."""
    from charjax.runs import make_directory

    corpus = Path(config.data.path).stem if config.data.path else config.data.name
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{corpus}-{config.model.kind}-{stamp}"
    made_parent = not base.parent.exists()
    make_directory(base.parent, "--workdir")
    path, count = base, 1
    while True:
        try:
            # Exclusively: another run may start within the same second.
            path.mkdir()
            break
        except FileExistsError:
            count += 1
            path = base.with_name(f"{base.name}-{count}")
        except OSError as error:
            raise UserError(
                f"--workdir: {str(path)!r} cannot be made: {error.strerror}; name another directory"
            ) from None
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.rmdir()
            if made_parent:
                base.parent.rmdir()


def _train(args: Namespace, config: Config, workdir: Path) -> int:
    # JAX is imported only from here on, so that mistakes in the config are told at once.
    from rich.console import Console

    from charjax.runs import begun_with
    from charjax.signals import Interrupted, Signals
    from charjax.training.display import Display
    from charjax.training.recorder import Recorder
    from charjax.training.session import open_session, start_for_training

    display = Display(Console())
    display.say(f"run: {workdir}")
    # Before anything else starts JAX.
    start_for_training(config)
    source_run = _source_run(args, config)
    if source_run is not None:
        display.say(_starting_from(source_run))
    # A run that was fine-tuned goes on in the alphabet it took over, not in its text's own.
    tokenizer, digest = begun_with(workdir) if args.resume else (None, None)
    session = open_session(config, source_run.tokenizer if source_run else tokenizer, digest)
    began = time.perf_counter()
    # From here on a signal no longer ends the process at once: there is a state to save.
    with Signals() as signals:
        recorder = Recorder.open(workdir, session, display, signals, resume=args.resume)
        try:
            params = source_run.variables["params"] if source_run else None
            status = recorder.fit() if session.model.fitted else recorder.train(params)
        except Interrupted as stop:
            status = stop.status
        finally:
            recorder.lock.release()
    display.say(f"run: {workdir}  ({time.perf_counter() - began:.1f} s)")
    return status


def _source_run(args: Namespace, config: Config) -> "Run | None":
    """The run to start from; a UserError where its parameters are not those of `config.model`."""
    if args.init_from is None:
        return None
    from charjax.runs import load_run, parameter_shapes

    source = load_run(Path(args.init_from), args.checkpoint or "best")
    _check_same_model(source.config, config)
    if parameter_shapes(source.config, source) != parameter_shapes(config, source):
        there, here = source.config.model.context_length, config.model.context_length
        raise UserError(
            f"model.context_length: {here} given with --init-from, but that run's parameters are "
            f"of {there} positions (learned ones, or a window of its own); leave the setting out"
        )
    return source


def _starting_from(source: "Run") -> str:
    """Name the checkpoint whose parameters are taken over, and its validation loss."""
    from charjax.training.display import shown_loss
    from charjax.training.metrics import MetricsFile

    lines = MetricsFile(source.directory / "metrics.jsonl").read()
    losses = [
        line["loss"] for line in lines if line["split"] == "val" and line["step"] == source.step
    ]
    if losses:
        loss = "not finite" if losses[-1] is None else shown_loss(losses[-1])
        measured = f"validation loss {loss}"
    else:
        measured = "validation loss not measured there"
    return f"starting from {source.directory}: checkpoint of step {source.step}, {measured}"


if __name__ == "__main__":
    cli.run(main)
