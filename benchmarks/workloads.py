"""Workloads of the benchmarks: training runs on random texts.

Nothing is downloaded: the texts are drawn at random, with as many symbols and characters as Tiny
Shakespeare (65, a million) and the names (26 and a boundary, 32,000 lines).
"""

import functools
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from charjax.config import Config, load_config
from charjax.data.datasets import Dataset, load_dataset
from charjax.performance import workload
from charjax.performance.workload import Training
from charjax.training.session import Session, make_session

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


def make_config(*overrides: str) -> Config:
    """Load a configuration; `{stream}` and `{lines}` stand for the paths of the random texts."""
    return load_config(None, filled(overrides))


def filled(overrides: Iterable[str]) -> list[str]:
    """Return the overrides with the paths of the texts filled in."""
    paths = {"stream": _texts()[0], "lines": _texts()[1]}
    return [word.format(**paths) if word.startswith("data.path=") else word for word in overrides]


def prepare(config: Config) -> Training:
    """Draw the parameters, and compile the chunk as the real loop does.

    Raises:
      LeftOut: it needs more memory than is available.
    """
    return workload.prepare(open_quietly(config))


def open_quietly(config: Config) -> Session:
    """Open a session on the device that has been started."""
    return make_session(config, _dataset(config.data), jax.local_devices())


@functools.lru_cache(maxsize=4)
def _dataset(data: Any) -> Dataset:
    return load_dataset(data)


@functools.lru_cache(maxsize=1)
def _texts() -> tuple[str, str]:
    """Write the two texts; return their paths. The folder is removed when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="charjax-benchmark-")
    _FOLDERS.append(folder)
    rng = np.random.default_rng(0)
    stream, lines = Path(folder.name) / "stream.txt", Path(folder.name) / "lines.txt"
    letters = np.array(list(_ALPHABET))
    stream.write_text("".join(letters[rng.integers(0, 65, _CHARACTERS)]), encoding="ascii")
    lengths = rng.integers(2, 12, _LINES)
    words = "".join(np.array(list("abcdefghijklmnopqrstuvwxyz"))[rng.integers(0, 26, 12 * _LINES)])
    text = "\n".join(words[12 * i : 12 * i + n] for i, n in enumerate(lengths))
    lines.write_text(text + "\n", encoding="ascii")
    return str(stream), str(lines)


_FOLDERS: list[Any] = []
