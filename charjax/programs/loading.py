"""Loading stored programs, in a thread while the command does other things."""

import dataclasses
import math
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import serialize_executable

from charjax.programs import entries

# The largest arguments of a program that is run once as soon as it is loaded, in bytes.
_MOST_BYTES = 100_000_000
# Words of a typed key, and JAX's name of its generator.
_KEYS = {"key<fry>": (2, "threefry2x32"), "key<rbg>": (4, "rbg")}


@dataclasses.dataclass(frozen=True)
class Stored:
    """A stored program.

    Attributes:
      program: its key.
      devices: the numbers of those that it runs on, in order.
      arguments: number of arrays among its arguments.
      results: number of arrays that it returns.
      prepares: it prepares at its first run what a later one uses; its last argument is a number of
        steps.
    """

    program: str
    devices: list[int]
    arguments: int
    results: int
    prepares: bool

    def load(self, folder: Path) -> jax.stages.Compiled | None:
        """Return the program, with its arguments and results as flat lists; None if absent.

        Raises:
          DamagedError: the file is not what was written.
          Exception: of JAX or XLA, if they cannot read it.
        """
        data = entries.read(folder / f"{self.program}.program")
        if data is None:
            return None
        numbered = {device.id: device for device in jax.local_devices()}
        inputs = jax.tree.structure((tuple(range(self.arguments)), {}))
        outputs = jax.tree.structure(list(range(self.results)))
        devices = [numbered[number] for number in self.devices]
        return serialize_executable.deserialize_and_load(
            data, inputs, outputs, execution_devices=devices
        )


def with_structures(
    program: jax.stages.Compiled, in_tree: Any, out_tree: Any
) -> jax.stages.Compiled:
    """Return a program of flat arguments and results as one of these structures."""
    arguments = in_tree.unflatten(jax.tree.leaves(program.args_info))
    return jax.stages.Compiled(
        program._executable, [], arguments, out_tree, no_kwargs=program._no_kwargs
    )


class Loading:
    """A program that a thread loads, and runs once if that prepares it.

    XLA loads, and at the first run prepares, one product after another, on one core.
    """

    def __init__(self, stored: Stored, folder: Path):
        """Describe what is to be loaded; `run` does it."""
        self._stored, self._folder = stored, folder
        self._is_wanted, self._is_done = threading.Event(), threading.Event()
        self._program: jax.stages.Compiled | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        """Load the program."""
        try:
            self._program = self._stored.load(self._folder)
            # The one who waits for it is about to run it.
            if self._program is not None and self._stored.prepares and not self._is_wanted.is_set():
                _run_once(self._program)
        except Exception as error:
            self._error = error
        finally:
            self._is_done.set()

    def result(self) -> jax.stages.Compiled | None:
        """Wait for the program and return it; None if it is absent.

        Raises:
          Exception: the one that loading it raised.
        """
        self._is_wanted.set()
        self._is_done.wait()
        if self._error is not None:
            raise self._error
        return self._program


def load_all(loadings: Iterable[Loading]) -> None:
    """Load programs in a thread, one after the other."""

    def run() -> None:
        for loading in loadings:
            loading.run()

    threading.Thread(target=run, name="charjax-programs").start()


def _run_once(program: jax.stages.Compiled) -> None:
    """Run a program of small arguments for one step, on zeros."""
    infos = jax.tree.leaves(program.args_info)
    if sum(_bytes(info) for info in infos) > _MOST_BYTES:
        return
    zeros = [_zeros(info) for info in infos[:-1]]
    steps = np.ones(infos[-1].shape, infos[-1].dtype)
    # Arguments that are not read have no sharding.
    shardings = jax.tree.leaves(program.input_shardings[0], is_leaf=lambda leaf: leaf is None)
    everywhere = next(sharding for sharding in shardings if sharding is not None)
    places = [sharding or everywhere for sharding in shardings]
    jax.block_until_ready(program(*jax.device_put([*zeros, steps], places)))


def _bytes(info: Any) -> int:
    words = _KEYS[str(info.dtype)][0] if str(info.dtype) in _KEYS else 1
    return math.prod(info.shape) * words * (4 if words > 1 else info.dtype.itemsize)


def _zeros(info: Any) -> Any:
    if (name := str(info.dtype)) in _KEYS:
        words, generator = _KEYS[name]
        data = jnp.asarray(np.zeros((*info.shape, words), np.uint32))
        return jax.random.wrap_key_data(data, impl=generator)
    return np.zeros(info.shape, info.dtype)
