"""The notes saved with each checkpoint: all that is needed to read it back."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from charjax import hardware, parallel
from charjax.config import (
    Config,
    describe_conflicts,
    differences,
    parse_config,
    resume_conflicts,
)
from charjax.config.reads import why_unread
from charjax.config.values import format_value
from charjax.data.text_files import TextFile
from charjax.data.tokenizers import Tokenizer, tokenizer_from_json
from charjax.errors import UserError
from charjax.extensions import versions_of
from charjax.ops.kernels import kernels_in_words
from charjax.training.cpu_plan import has_compiled_products
from charjax.training.program import generator
from charjax.training.session import Session
from charjax.training.state import Tables

_XLA_ALONE = "XLA alone"


@dataclasses.dataclass(frozen=True)
class Notes:
    """The notes of a checkpoint, read back.

    Attributes:
      config: the resolved configuration.
      tokenizer: the alphabet.
      dataset_digest: SHA-256 of the text.
      environment: facts of the machine and versions on which the bits depend.
      progress: `Progress.to_json` of the run.
      tables: shapes of the tables of counts, of a fitted family or beside a network; else empty.
    """

    config: Config
    tokenizer: Tokenizer
    dataset_digest: str
    environment: dict[str, Any]
    progress: dict[str, Any]
    tables: Tables


def read_notes(meta: dict[str, Any]) -> Notes:
    """Invert `checkpoint_meta`.

    Raises:
      UserError: charjax did not write them: they are another program's, or crafted.
    """
    try:
        tokenizer = tokenizer_from_json(meta["tokenizer"])
        tokenizer.encode("")
        # Early checkpoints have no such digest.
        if meta.get("tokenizer_digest", tokenizer.digest()) != tokenizer.digest():
            raise ValueError("the alphabet is not the one of tokenizer_digest")
        return Notes(
            config=parse_config(
                {name: dict(tree) for name, tree in meta["config"].items()}, saved=True
            ),
            tokenizer=tokenizer,
            dataset_digest=str(meta["dataset_digest"]),
            # Early checkpoints are of runs with that generator and XLA's kernels, and name neither.
            environment={
                "prng": "threefry",
                "fsdp": 1,
                "kernels": _XLA_ALONE,
                **meta["environment"],
            },
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


def environment(session: Session) -> dict[str, Any]:
    """Return the facts of the machine, versions and settings on which a run's bits depend."""
    machine = hardware.environment(session.devices, session.mesh)
    code = versions_of(session.config.model_dump())
    settled = {
        "prng": generator(session.config, session.mesh),
        "fsdp": parallel.fsdp_size(session.mesh),
        "kernels": _kernels(session),
    }
    return {**machine, **settled, **code}


def _kernels(session: Session) -> str:
    """Return the compiled kernels that compute a run's products, in words."""
    used = kernels_in_words()
    with parallel.target(session.mesh):
        is_used = has_compiled_products(session.config, session.mesh.size)
    return used if used and is_used else _XLA_ALONE


def checkpoint_meta(
    config: Config,
    tokenizer: Tokenizer,
    dataset_digest: str,
    environment: dict[str, Any],
    progress: dict[str, Any],
    files: tuple[TextFile, ...] = (),
) -> dict[str, Any]:
    """Return the notes to save with a checkpoint; `files` are those of the user's text."""
    return {
        "config": config.model_dump(mode="json"),
        "config_digest": config.digest(),
        "tokenizer": tokenizer.to_json(),
        "tokenizer_digest": tokenizer.digest(),
        "dataset_digest": dataset_digest,
        "environment": environment,
        "progress": progress,
        **({"files": [dataclasses.asdict(file) for file in files]} if files else {}),
    }


def check_resumed(notes: Notes, session: Session, completed: int) -> None:
    """Raise a UserError unless a checkpoint has the session's config, alphabet and text.

    The config is compared because config.toml may have been edited. `completed` is the number of
    steps that the run has done.
    """
    if resume_conflicts(notes.config, session.config, completed):
        conflicts = describe_conflicts(
            notes.config, session.config, "put config.toml back as it was", completed
        )
        raise UserError(f"--resume: the checkpoint is of another configuration: {conflicts}")
    dataset = session.dataset
    for part, then, now in (
        ("text", notes.dataset_digest, dataset.digest),
        ("alphabet", notes.tokenizer.digest(), dataset.tokenizer.digest()),
    ):
        if then != now:
            raise UserError(
                f"--resume: the checkpoint is of another {part} (SHA-256 {then[:12]}..., here "
                f"{now[:12]}...); put the old text back, or start a new run with --init-from"
            )


def changed_measure(old: Config, new: Config) -> str | None:
    """Return a note if validation losses are measured otherwise than so far; else None."""
    parts = [
        f"{name} was {format_value(was)} and is {format_value(now)}"
        for name, was, now in differences(old, new)
        if name in _MEASURE and not (why_unread(old, name) and why_unread(new, name))
    ]
    if not parts:
        return None
    return (
        f"{', '.join(parts)}: validation losses so far were measured otherwise, and the best "
        "checkpoint is that of the lowest of all"
    )


_MEASURE = ("eval.protocol", "eval.max_targets", "eval.streams", "eval.warmup")
