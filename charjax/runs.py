"""A run's directory: who may write in it, and how it is read back."""

import dataclasses
import errno
import fcntl
import json
import os
import time
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp

from charjax import files, models, parallel
from charjax.config import Config, parse_config
from charjax.data.tokenizers import Tokenizer, tokenizer_from_json
from charjax.errors import UserError
from charjax.models.contract import CharModel
from charjax.training.checkpoint import Checkpoints
from charjax.training.cores import needs_one_heap
from charjax.training.state import (
    ADAM_SCALES,
    InitData,
    TrainState,
    create_state,
    variables_of,
    zero_counters,
)

Tables = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model, read back from its directory.

    Attributes:
      directory: where it was read from.
      config: the resolved configuration.
      tokenizer: of its text.
      model: the module.
      variables: its parameters and other collections.
      step: of the checkpoint.
      dataset_digest: SHA-256 of the text it was trained on.
    """

    directory: Path
    config: Config
    tokenizer: Tokenizer
    model: CharModel
    variables: dict[str, Any]
    step: int
    dataset_digest: str


def load_run(directory: Path, checkpoint: str = "best", *, core_devices: bool = False) -> Run:
    """Read a run's model.

    Args:
      directory: the run's.
      checkpoint: "best", "latest" or a step.
      core_devices: as of `parallel.start_backend`.

    Raises:
      UserError: no run there, no such checkpoint, or none that can be read.
    """
    require_run(directory)
    which: str | int = checkpoint
    if checkpoint not in ("best", "latest"):
        if not checkpoint.isdecimal():
            raise UserError(
                f"--checkpoint: {checkpoint!r} given; allowed: best, latest or a step's number"
            )
        which = int(checkpoint)
    store = Checkpoints(directory / "checkpoints")
    notes = read_notes(store.read_meta(which))
    config, tokenizer = notes.config, notes.tokenizer
    # A model trained on a GPU is read on whatever there is.
    if config.runtime.device == "gpu":
        config = config.model_copy(
            update={"runtime": config.runtime.model_copy(update={"device": "auto"})}
        )
    parallel.start_backend(
        config.runtime, core_devices=core_devices, large_calls=needs_one_heap(config, 1)
    )
    model = build_model(config, tokenizer)
    shapes = state_shapes(model, config, notes.tables)
    state, _, step = store.restore(which, shapes, ones=ADAM_SCALES)
    return Run(directory, config, tokenizer, model, variables_of(state), step, notes.dataset_digest)


def begun_with(directory: Path) -> tuple[Tokenizer, str] | tuple[None, None]:
    """The alphabet of a run and the SHA-256 of its text; None before its first checkpoint.

    Raises:
      UserError: no checkpoint can be read.
    """
    # Whoever restores the checkpoint tells of damaged ones.
    store = Checkpoints(directory / "checkpoints", warn=lambda text: None)
    if not store.steps():
        return None, None
    notes = read_notes(store.read_meta("latest"))
    return notes.tokenizer, notes.dataset_digest


def require_run(directory: Path, flag: str = "workdir") -> None:
    """Raise a UserError, naming the flag that gave it, unless the directory holds a run."""
    if (directory / "config.toml").is_file():
        return
    remedy = "give the directory that `python -m charjax.train` printed"
    what = "holds no run" if directory.is_dir() else "is not a directory"
    if has_checkpoints(directory):
        what, remedy = "holds checkpoints, but no config.toml", "put a copy of that file back"
    raise UserError(f"{flag}: {str(directory)!r} {what}; {remedy}")


def has_checkpoints(directory: Path) -> bool:
    """Whether a run has saved anything in a directory."""
    return bool(Checkpoints(directory / "checkpoints").steps())


def make_directory(directory: Path, flag: str) -> None:
    """Make a directory that a flag names, or raise a UserError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_make(directory, flag, error.strerror) from None


def check_directory(directory: Path, flag: str) -> None:
    """Raise the UserError of `make_directory`, or of one that cannot be written; make nothing."""
    try:
        there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        is_directory = there.is_dir()
    except OSError as error:
        raise _cannot_make(directory, flag, error.strerror) from None
    if not is_directory:
        reason = errno.EEXIST if there == directory else errno.ENOTDIR
        raise _cannot_make(directory, flag, os.strerror(reason))
    if not os.access(there, os.W_OK | os.X_OK):
        if there == directory:
            raise _cannot_write(directory, os.strerror(errno.EACCES))
        raise _cannot_make(directory, flag, os.strerror(errno.EACCES))


def _cannot_make(directory: Path, flag: str, reason: str | None) -> UserError:
    return UserError(f"{flag}: {str(directory)!r} cannot be made: {reason}; give another one")


def _cannot_write(directory: Path, reason: str | None) -> UserError:
    return UserError(
        f"workdir: {str(directory)!r} cannot be written: {reason}; give another --workdir"
    )


def build_model(config: Config, tokenizer: Tokenizer) -> CharModel:
    """The module that a config and an alphabet describe."""
    return models.build(config.model, tokenizer.vocab_size, jnp.dtype(config.runtime.dtype))


def state_shapes(model: CharModel, config: Config, tables: Tables | None = None) -> Any:
    """The shapes and dtypes of a run's state.

    A fitted family's tables are as long as its text has contexts, so theirs are given, from the
    notes of the checkpoint.
    """
    if model.fitted:
        return fitted_state(tables or {})
    nothing = InitData(
        jnp.zeros(model.vocab_size), jnp.zeros((1, model.lookback + 1), jnp.int32), 1
    )
    return jax.eval_shape(lambda key: create_state(model, config, key, nothing), jax.random.key(0))


def parameter_shapes(config: Config, source: Run) -> Any:
    """Shapes and dtypes of the parameters that a config's model has in a run's alphabet."""
    model = build_model(config, source.tokenizer)
    tokens_BT = jnp.zeros((1, model.lookback + 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]


@dataclasses.dataclass(frozen=True)
class Notes:
    """What is noted with a checkpoint of a run, read back.

    Attributes:
      config: the resolved configuration.
      tokenizer: the alphabet.
      dataset_digest: SHA-256 of the text.
      environment: what the bits depend on.
      progress: the host's side of the state, as plain values.
      tables: shapes of a fitted family's parameters; none of the others.
    """

    config: Config
    tokenizer: Tokenizer
    dataset_digest: str
    environment: dict[str, Any]
    progress: dict[str, Any]
    tables: Tables


def read_notes(meta: dict[str, Any]) -> Notes:
    """The inverse of `checkpoint_meta`.

    Raises:
      UserError: they are not what charjax writes: of another program, or crafted.
    """
    try:
        tokenizer = tokenizer_from_json(meta["tokenizer"])
        tokenizer.encode("")
        # Checkpoints older than this digest have none.
        if meta.get("tokenizer_digest", tokenizer.digest()) != tokenizer.digest():
            raise ValueError("the alphabet is not the one of tokenizer_digest")
        return Notes(
            config=parse_config(
                {name: dict(tree) for name, tree in meta["config"].items()}, saved=True
            ),
            tokenizer=tokenizer,
            dataset_digest=str(meta["dataset_digest"]),
            environment=dict(meta["environment"]),
            progress=dict(meta["progress"]),
            tables={
                str(name): jax.ShapeDtypeStruct(tuple(map(int, shape)), jnp.dtype(dtype))
                for name, (shape, dtype) in meta.get("tables", {}).items()
            },
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"checkpoint: its notes are not as charjax writes them ({type(error).__name__}: "
            f"{error}); use another checkpoint, or another run"
        ) from None


def checkpoint_meta(
    config: Config,
    tokenizer: Tokenizer,
    dataset_digest: str,
    environment: dict[str, Any],
    progress: dict[str, Any],
) -> dict[str, Any]:
    """What is noted with every checkpoint: all that is needed to read it back."""
    return {
        "config": config.model_dump(mode="json"),
        "config_digest": config.digest(),
        "tokenizer": tokenizer.to_json(),
        "tokenizer_digest": tokenizer.digest(),
        "dataset_digest": dataset_digest,
        "environment": environment,
        "progress": progress,
    }


def fitted_state(params: dict[str, Any]) -> TrainState:
    """The state of a family that is fitted in one step."""
    counters = zero_counters()._replace(step=jnp.ones((), jnp.int32))
    return TrainState(params, (), {}, (), counters)


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Replace a JSON file in one move."""
    files.replace(path, json.dumps(tree, indent=2, allow_nan=False) + "\n")


# How often, and how many seconds apart, to look who holds a lock.
_HOLDER_TRIES = 20
_HOLDER_SECONDS = 0.05


class Lock:
    """One writer a directory; the kernel lets go when the process ends, however it ends."""

    def __init__(self, directory: Path):
        self._path = directory / ".lock"
        self._file: IO[bytes] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
          UserError: another process holds it, which is named; or nothing can be written there.
        """
        try:
            # Unbuffered: what a full disk refuses would be tried again when the file is closed.
            self._file = self._path.open("a+b", buffering=0)
            if _take(self._file):
                self._file.truncate(0)
                self._file.write(str(os.getpid()).encode())
                return
            holder = _holder(self._file)
        except OSError as error:
            self.release()
            raise _cannot_write(self._path.parent, error.strerror) from None
        self.release()
        raise UserError(
            f"workdir: {str(self._path.parent)!r} is being written by process {holder}; wait "
            "for it, stop it, or give another --workdir"
        )

    def release(self) -> None:
        """Let go of it."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _take(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[bytes]) -> str:
    """The process that holds a lock.

    It writes its number after it has the lock, so for a moment an earlier one's may stand there.
    """
    for _ in range(_HOLDER_TRIES):
        file.seek(0)
        number = file.read().decode("ascii", "replace").strip()
        if number.isdecimal() and _is_alive(int(number)):
            return number
        time.sleep(_HOLDER_SECONDS)
    return "unknown"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True  # somebody else's
    except (ProcessLookupError, OverflowError):
        return False
    return True
