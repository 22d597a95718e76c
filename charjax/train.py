"""`python -m charjax.train`: train a model on a text, or go on with a run.

    python -m charjax.train [CONFIG.toml] [section.key=value ...] [--workdir DIR] [--resume]
                            [--init-from RUN] [--print-config]

This file reads top to bottom: what was asked for, then the parts of the run, then the run.
"""

import datetime
import sys
import time
from argparse import Namespace
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
    return _train(args, config, workdir)


def _what_was_asked(args: Namespace) -> tuple[Config, Path]:
    """The configuration and the directory; a resumed run keeps its own configuration."""
    if args.workdir is not None and not args.workdir.strip():
        raise UserError(
            f"--workdir: {args.workdir!r} given; name a directory, or leave the flag out for a new "
            "one in runs/"
        )
    if not args.resume:
        config = load_config(args.config, args.overrides)
        return config, Path(args.workdir) if args.workdir else _new_directory(config)
    if args.workdir is None:
        raise UserError("--resume: no --workdir given; name the directory of the run to go on with")
    if args.init_from is not None:
        raise UserError("--init-from: given with --resume; a run begins only once: leave one out")
    workdir = Path(args.workdir)
    from charjax.runs import require_run

    require_run(workdir)
    saved = workdir / "config.toml"
    old = load_config(saved, saved=True)
    if args.config is not None:
        settings = read_settings(args.config, args.overrides)
        # A run without this setting may be older than what its scheme implies of it.
        is_older = not getattr(old.model, "scale_embeddings", True)
        new = _with_context(parse_config(settings, saved=is_older), old)
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


def _new_directory(config: Config) -> Path:
    corpus = Path(config.data.path).stem if config.data.path else config.data.name
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{corpus}-{config.model.kind}-{stamp}"
    path, count = base, 1
    while path.exists():
        count += 1
        path = base.with_name(f"{base.name}-{count}")
    return path


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
    source_run = _source_run(args)
    if source_run is not None:
        config = _adopt_model(config, source_run, args)
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


def _source_run(args: Namespace) -> "Run | None":
    if args.init_from is None:
        return None
    from charjax.runs import load_run

    return load_run(Path(args.init_from), "best")


def _adopt_model(config: Config, source: "Run", args: Namespace) -> Config:
    """Fine-tuning takes over the other run's model; asking for another one is a mistake."""
    asked = args.config is not None or any(w.startswith("model.") for w in args.overrides)
    adopted = config.model_copy(update={"model": source.config.model})
    changed = [entry for entry in differences(config, adopted) if entry[0].startswith("model.")]
    if asked and changed:
        told = ", ".join(
            f"{name} is {there!r} there, {here!r} here" for name, here, there in changed
        )
        raise UserError(f"--init-from: another model: {told}; give the same model, or none")
    return adopted


if __name__ == "__main__":
    cli.run(main)
