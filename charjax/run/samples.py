"""samples.txt: texts that the model writes during a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from charjax import files
from charjax.generation.generate import Sampling, generate
from charjax.training.session import Session

_COUNT = 4
_LENGTH = 300
# Each text follows a line "--- step 500 ---".
_HEAD, _TAIL = "--- step ", " ---"
# Digits.
_LONGEST_STEP = 11


def write_samples(
    path: Path, session: Session, step: int, variables: Any, poll: Callable[[], None]
) -> list[str]:
    """Append the samples of a step, and return them.

    Args:
      path: the file; created if it is missing.
      session: the run's.
      step: steps done.
      variables: of the model after them, on devices of this process.
      poll: called between the calls of the decoder; raises to stop.
    """
    texts = generate(
        session.model,
        variables,
        session.dataset.tokenizer,
        "",
        num_samples=_COUNT,
        max_new_tokens=_LENGTH,
        settings=Sampling(),
        seed=session.config.train.seed,
        poll=poll,
    )
    files.append(path, "".join(f"{_HEAD}{step}{_TAIL}\n{text}\n" for text in texts))
    return texts


def read_samples(path: Path) -> list[tuple[int, list[str]]]:
    """Return the samples of each step: what stands between the lines with the steps."""
    found: dict[int, list[list[str]]] = {}
    texts: list[list[str]] = []
    # Split at "\n" alone: a sample may hold any kind of line end.
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        if (step := _head(line)) is not None:
            texts = found.setdefault(step, [])
            texts.append([])
        elif texts:
            texts[-1].append(line.decode(errors="replace"))
    return [(step, ["\n".join(lines) for lines in texts]) for step, texts in found.items()]


def cut_samples(path: Path, step: int) -> None:
    """Drop the samples of later steps, which a resumed run will write again."""
    if not path.exists():
        return
    lines, keep = [], True
    # Bytes: a sample may hold any kind of line end, and a crash may cut a character in two.
    for line in path.read_bytes().split(b"\n")[:-1]:
        if (number := _head(line)) is not None:
            keep = number <= step
        if keep:
            lines.append(line + b"\n")
    files.replace(path, b"".join(lines))


def _head(line: bytes) -> int | None:
    """Return the step of a line that stands before a sample; None for another line."""
    if not (line.startswith(_HEAD.encode()) and line.endswith(_TAIL.encode())):
        return None
    number = line.removeprefix(_HEAD.encode()).removesuffix(_TAIL.encode())
    return int(number) if number.isdigit() and len(number) < _LONGEST_STEP else None
