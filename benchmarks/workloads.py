"""The work that benchmarks time: a text of this machine's own making, and real runs over it.

Nothing is downloaded: the texts are drawn at random, with as many symbols and as many characters
as Tiny Shakespeare (65, a million) and the names (26 and a boundary, 32,000 lines) have.
"""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.graphs import compiled
from benchmarks.section import check_memory
from charjax import hardware
from charjax.config import Config, load_config
from charjax.data.datasets import Dataset, load_dataset
from charjax.random_streams import purpose_key
from charjax.training.program import CAPACITY, ChunkProgram, compile_chunks, lower_chunks
from charjax.training.session import Session, first_state, make_session
from charjax.training.state import TrainState

_CHARACTERS = 1_000_000
_LINES = 32_000
# 65 printable characters and the newline among them.
_ALPHABET = "\n" + "".join(chr(c) for c in range(ord("0"), ord("0") + 64))

STREAM = ("data.path={stream}", "data.layout=stream", "eval.every=0", "checkpoint.every=0")
PAIRS = (
    "data.path={lines}",
    "data.layout=pairs",
    "data.split=shuffled_lines",
    "eval.every=0",
    "checkpoint.every=0",
)


@dataclasses.dataclass
class Training:
    """A run that can be trained on, a chunk at a time, as the real loop does it.

    Attributes:
      session: text, model, devices.
      program: the compiled chunk of steps.
      state: where it is; donated to each chunk.
      bytes_needed: what the compiled program says it needs.
    """

    session: Session
    program: ChunkProgram
    state: TrainState
    bytes_needed: int

    def steps(self, count: int) -> None:
        """So many steps in calls as long as the loop's may be, queued; waits for the last."""
        whole, rest = divmod(count, CAPACITY)
        for steps in [CAPACITY] * whole + [rest] * bool(rest):
            self.state, _, done = self.program.run(self.state, steps)
        done.block_until_ready()

    def dispatches(self, steps: int) -> Callable[[int], None]:
        """n chunks of so many steps, one queued behind the other."""

        def run(count: int) -> None:
            for _ in range(count):
                self.state, _, done = self.program.run(self.state, steps)
            done.block_until_ready()

        return run

    @property
    def tokens_a_step(self) -> int:
        """Targets in a batch."""
        source = self.session.source
        assert source is not None
        return source.batch_size * source.window


def make_config(*overrides: str) -> Config:
    """A configuration over the texts made here: `{stream}` and `{lines}` stand for their paths."""
    return load_config(None, filled(overrides))


def filled(overrides: Iterable[str]) -> list[str]:
    """The overrides with the paths of the texts in them."""
    paths = {"stream": _texts()[0], "lines": _texts()[1]}
    return [word.format(**paths) if word.startswith("data.path=") else word for word in overrides]


def prepare(config: Config, options: dict[str, Any] | None = None) -> Training:
    """Draw the parameters and compile the chunk, by the real loop's own options or by others.

    Raises:
      LeftOut: it needs more memory than there is, or XLA does not know the options.
    """
    session = open_quietly(config)
    state = first_state(session)
    key = purpose_key(config.train.seed, "dropout")
    assert session.source is not None
    given = (session.model, config, session.source, state, session.mesh, key)
    if options is None:
        program = compile_chunks(*given)
    else:
        began = time.perf_counter()
        chunk = compiled(lower_chunks(*given), options)
        program = ChunkProgram(chunk, session.source, key, time.perf_counter() - began)
    devices = list(session.mesh.devices.flat)
    needed = check_memory(program.compiled, hardware.available_memory(devices))
    return Training(session, program, state, needed)


def open_quietly(config: Config) -> Session:
    """A session on the device that has been started."""
    return make_session(config, _dataset(config.data), jax.local_devices())


@functools.lru_cache(maxsize=4)
def _dataset(data: Any) -> Dataset:
    return load_dataset(data)


@functools.lru_cache(maxsize=1)
def _texts() -> tuple[str, str]:
    """The paths of the two texts; the folder goes when the process does."""
    folder = tempfile.TemporaryDirectory(prefix="charjax-benchmark-")
    _KEPT.append(folder)
    rng = np.random.default_rng(0)
    stream, lines = Path(folder.name) / "stream.txt", Path(folder.name) / "lines.txt"
    letters = np.array(list(_ALPHABET))
    stream.write_text("".join(letters[rng.integers(0, 65, _CHARACTERS)]), encoding="ascii")
    lengths = rng.integers(2, 12, _LINES)
    words = "".join(np.array(list("abcdefghijklmnopqrstuvwxyz"))[rng.integers(0, 26, 12 * _LINES)])
    text = "\n".join(words[12 * i : 12 * i + n] for i, n in enumerate(lengths))
    lines.write_text(text + "\n", encoding="ascii")
    return str(stream), str(lines)


_KEPT: list[Any] = []


def first_batch(session: Session) -> tuple[np.ndarray, np.ndarray]:
    """The inputs (B, S) and targets (B, T) of step 0."""
    batch = jax.jit(lambda source: source.draw(jnp.int32(0)))(session.source)
    return np.asarray(batch.inputs), np.asarray(batch.targets)
