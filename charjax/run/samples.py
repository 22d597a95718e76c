"""samples.txt: texts that the model writes during a run."""

from collections.abc import Callable
from pathlib import Path

from charjax import files
from charjax.generation.generate import Sampling, generate
from charjax.training.session import Session
from charjax.training.state import TrainState, variables_of

_COUNT = 4
_LENGTH = 300
# Each text follows a line "--- step 500 ---".
_HEAD, _TAIL = "--- step ", " ---"


def write_samples(
    path: Path, session: Session, step: int, state: TrainState, poll: Callable[[], None]
) -> str:
    """Append the samples of a step, and return the first.

    Args:
      path: the file; created if it is missing.
      session: the run's.
      step: steps done.
      state: the state after them.
      poll: called between the calls of the decoder; raises to stop.
    """
    texts = generate(
        session.model,
        variables_of(state, "averaged"),
        session.dataset.tokenizer,
        "",
        num_samples=_COUNT,
        max_new_tokens=_LENGTH,
        settings=Sampling(),
        seed=session.config.train.seed,
        poll=poll,
    )
    files.append(path, "".join(f"{_HEAD}{step}{_TAIL}\n{text}\n" for text in texts))
    return texts[0]


def cut_samples(path: Path, step: int) -> None:
    """Drop the samples of later steps, which a resumed run will write again."""
    if not path.exists():
        return
    lines, keep = [], True
    # Bytes: a sample may hold any kind of line end, and a crash may cut a character in two.
    for line in path.read_bytes().split(b"\n")[:-1]:
        if line.startswith(_HEAD.encode()) and line.endswith(_TAIL.encode()):
            number = line.removeprefix(_HEAD.encode()).removesuffix(_TAIL.encode())
            keep = not number.isdigit() or int(number) <= step
        if keep:
            lines.append(line + b"\n")
    files.replace(path, b"".join(lines))
