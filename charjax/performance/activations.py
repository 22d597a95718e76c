"""Temporary arrays of a training step by formula, where no compiler of the device can be asked.

A family gives the shapes that dominate (`CharModel.activation_shapes`). How many arrays of each a
device's program holds at once was fitted to the programs that its compiler makes
(benchmarks/activations.py); the coefficients are in activations.json.
"""

import functools
import json
import math
from importlib import resources
from typing import Any, NamedTuple

_FLOAT = 4
# A TPU's tiles: https://docs.jax.dev/en/latest/pallas/tpu/details.html
_TILE = (8, 128)
# Numbers of arrays that no fit is needed for: what remat = "block" saves.
_KNOWN = {"inputs": 1.0}


class Formula(NamedTuple):
    """A family's coefficients on a platform.

    Attributes:
      arrays: number of float32 arrays of each shape that are held at once.
      parameters: number of arrays as large as the parameters.
      worst: the largest relative error on a program by the fit to the others.
      platform: of the programs.
      dtype: of the programs.
    """

    arrays: dict[str, float]
    parameters: float
    worst: float
    platform: str
    dtype: str

    def bytes(
        self, shapes: dict[str, tuple[int, ...]], rows: int, parameters: int, *, tpu: bool
    ) -> int:
        """Return the bytes of temporary arrays.

        Args:
          shapes: of one window.
          rows: windows at once on a device.
          parameters: number of elements.
          tpu: arrays are padded to its tiles.
        """
        found = self.parameters * parameters
        for name, shape in shapes.items():
            found += self.arrays.get(name, _KNOWN.get(name, 0.0)) * rows * elements(shape, tpu=tpu)
        return round(_FLOAT * found)


def elements(shape: tuple[int, ...], *, tpu: bool) -> int:
    """Return the elements of an array, with the padding of a TPU's last two axes."""
    if not tpu:
        return math.prod(shape)
    least = _TILE[-len(shape) :]
    padded = [-(-size // tile) * tile for size, tile in zip(shape[-2:], least, strict=True)]
    return math.prod(shape[:-2]) * math.prod(padded)


def formula(kind: str, platform: str, dtype: str) -> Formula | None:
    """Return the formula of a family.

    That of float32, an upper bound, if a dtype has none; that of a GPU if a TPU has none, whose
    padding counts anyway. None for a family of which nothing was compiled, and for a CPU.
    """
    table = _table()
    for fitted in (platform, "cuda") if platform == "tpu" else (platform,):
        found = table.get(fitted, {}).get(kind, {})
        for name in (dtype, "float32"):
            if name in found:
                entry = found[name]
                return Formula(entry["arrays"], entry["parameters"], entry["worst"], fitted, name)
    return None


@functools.cache
def _table() -> Any:
    text = resources.files(__package__).joinpath("activations.json").read_text(encoding="utf-8")
    return json.loads(text)["formulas"]
