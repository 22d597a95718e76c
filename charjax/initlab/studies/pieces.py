"""Finished pieces of a study, kept so that a study that is stopped goes on where it was."""

import hashlib
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charjax.files import replacing

Arrays = dict[str, NDArray[Any]]
# Seconds by the clock and of the processor, beside the arrays of a piece.
_TIMES = "__seconds"


class Pieces:
    """The pieces of one study.

    Attributes:
      seconds_before: by the clock, in which the pieces were made that an earlier run kept.
      cpu_seconds_before: of the processor, of all threads.
    """

    def __init__(self, directory: Path | None, basis: Any = None):
        """Begin with the pieces in a directory.

        Args:
          directory: of the pieces; None: nothing is kept.
          basis: what the pieces depend on, such as settings and versions, as JSON; pieces of
            another basis are not read.
        """
        digest = hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]
        self._directory = None if directory is None else directory / digest
        self.seconds_before = self.cpu_seconds_before = 0.0

    def get(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Return a piece that was kept, or make and keep it.

        Args:
          name: of its file, without .npz.
          make: returns the arrays by name.
        """
        path = None if self._directory is None else self._directory / f"{name}.npz"
        stored = None if path is None else _read(path)
        if stored is not None:
            seconds, cpu_seconds = stored.pop(_TIMES)
            self.seconds_before += float(seconds)
            self.cpu_seconds_before += float(cpu_seconds)
            return stored
        began, cpu_began = time.perf_counter(), time.process_time()
        made = {key: np.asarray(value) for key, value in make().items()}
        spent = np.array([time.perf_counter() - began, time.process_time() - cpu_began])
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **made, **{_TIMES: spent})  # type: ignore[arg-type]
        return made


def _read(path: Path) -> Arrays | None:
    """Return the arrays of a piece; None if there is none that can be read."""
    try:
        # numpy.load leaves a damaged file open that it has opened itself.
        with path.open("rb") as file, np.load(file) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return arrays if _TIMES in arrays else None
