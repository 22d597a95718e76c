"""The directory of a run: a new one, or one that is locked and checked before it is written."""

import contextlib
import datetime
import os
from collections.abc import Iterator
from pathlib import Path

from charjax import processes, signals
from charjax.config import Config
from charjax.errors import UserError
from charjax.files import check_directory, make_directory
from charjax.run.checkpoint import Checkpoints
from charjax.run.load import has_checkpoints, require_run
from charjax.run.lock import Lock
from charjax.run.notes import check_resumed, read_notes
from charjax.run.tokenizer_file import check_tokenizer
from charjax.training.session import Session

# Beside config.toml, which is the first.
_WRITTEN = ("metrics.jsonl", "samples.txt", "curves.png", "summary.json")


@contextlib.contextmanager
def run_directory(workdir: Path | None, config: Config) -> Iterator[Path]:
    """Yield the run's directory; make a new one if none is named, and remove it if left empty."""
    if workdir is not None:
        yield workdir
        return
    if not processes.is_first():
        yield Path(processes.from_first(""))
        return

    # Of a path that ends with a slash, or is a dot, the name of that folder.
    named = os.path.abspath(config.data.title) if config.data.path else config.data.name
    corpus = Path(named).stem or "text"
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{corpus}-{config.model.kind}-{stamp}"
    made_parent = not base.parent.exists()
    make_directory(base.parent, "--workdir")
    path, count = base, 1
    while True:
        try:
            # Without exist_ok: another run may start within the same second.
            path.mkdir()
            break
        except FileExistsError:
            count += 1
            path = base.with_name(f"{base.name}-{count}")
        except OSError as error:
            raise UserError(
                f"--workdir: {str(path)!r} cannot be made: {error.strerror}; name another directory"
            ) from None

    def remove_empty() -> None:
        with contextlib.suppress(OSError):
            path.rmdir()
            if made_parent:
                base.parent.rmdir()

    processes.from_first(str(path.absolute()))
    with signals.cleaning_up(remove_empty):
        yield path


def lock_directory(directory: Path, lock: Lock, session: Session, *, resume: bool) -> None:
    """Make a run's directory if need be, take its lock, and check what is there."""
    if resume:
        require_run(directory)
    make_directory(directory, "--workdir")
    lock.acquire()
    # Only with the lock: another process may have started a run there, and even ended it.
    try:
        if resume:
            check_tokenizer(directory, session.dataset.tokenizer)
        else:
            _refuse_existing_run(directory)
    except UserError:
        lock.release()
        raise


def check_can_start(directory: Path, session: Session, *, resume: bool) -> None:
    """Raise what a run in a directory would raise before its first step, and write nothing.

    Another process that writes there is not noticed: only a lock would show it.

    Raises:
      UserError: the directory holds a run, or files of the names that a run writes, and `resume` is
        false, a checkpoint there is of another run, or it cannot be made or written.
    """
    if not resume:
        _refuse_existing_run(directory)
        check_directory(directory, "--workdir")
        return
    check_tokenizer(directory, session.dataset.tokenizer)
    if has_checkpoints(directory):
        store = Checkpoints(directory / "checkpoints")
        check_resumed(read_notes(store.read_meta("latest")), session, store.steps()[-1])


def _refuse_existing_run(directory: Path) -> None:
    # Checkpoints are those of a run, even if its config.toml was lost.
    if (directory / "config.toml").exists() or has_checkpoints(directory):
        raise UserError(
            f"--workdir: {str(directory)!r} already holds a run; continue it with --resume, or "
            "give another directory"
        )
    foreign = [name for name in _WRITTEN if (directory / name).exists()]
    if foreign:
        raise UserError(
            f"--workdir: {str(directory)!r} holds no run, but {', '.join(foreign)}, which a run "
            "writes: give another directory"
        )
