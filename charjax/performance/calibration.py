"""Measurements of a machine by `charjax benchmark --calibrate`, and step times from them.

A calibration is a JSON, by default in the user's cache, one for each kind of device and processor:

    {"format": 1, "device": "cpu", "device_kind": "cpu", "hardware": {...}, "command": "...",
     "date": "2026-11-29T02:00:00+00:00", "complete": true,
     "rates": {"products": {"float32": {"64": FLOP/s by edge, ...}, "bfloat16": {...}},
               "copy": B/s, "dispatch": launches/s},
     "points": [{"kind": "gru", "dtype": "float32", "settings": ["model.d_hidden=64", ...],
                 "work": {...}, "seconds": {"median", "q1", "q3", "repeats"}}, ...]}

`work` is a `Work`: what a step of that configuration does, by formulas alone. Step times of other
configurations are predicted from the points of their family and dtype (`Calibration.predict`).
"""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from charjax import files
from charjax.errors import UserError

FORMAT = 1
# Activations beyond this many bytes are not in a processor's caches any more.
_CACHED_BYTES = 2.0**24
# Fewer points than this say nothing about a family.
_LEAST_POINTS = 2


@dataclasses.dataclass(frozen=True)
class Work:
    """Work of a training step, by formulas.

    Attributes:
      flops: of matrix products that are computed, forward and backward, of all devices together.
      saved_bytes: activations that are saved for the backward pass, and the logits, of all devices
        together.
      parameter_bytes: of the parameters in float32, once for each device in use.
      sequence: operations that follow one another: time steps times layers of a recurrent network,
        layers of another.
      devices: that share the batch.
    """

    flops: float
    saved_bytes: float
    parameter_bytes: float
    sequence: int
    devices: int

    def features(self) -> list[float]:
        """Return what its duration is a sum of, each times a number of seconds >= 0."""
        uncached = max(0.0, self.saved_bytes - _CACHED_BYTES)
        sizes = [self.flops, self.saved_bytes, uncached, self.parameter_bytes]
        return [*sizes, float(self.sequence), 1.0]


class Prediction(NamedTuple):
    """Seconds of a step: the middle, and a range as wide as the fit's errors on the points."""

    low: float
    middle: float
    high: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The measurements of one device.

    Attributes:
      tree: the JSON, as above.
      path: its file.
    """

    tree: dict[str, Any]
    path: Path

    def rate(self, dtype: str) -> float:
        """Return the best rate of matrix products in FLOP/s."""
        return float(max(self.tree["rates"]["products"][dtype].values()))

    @property
    def copy_rate(self) -> float:
        """Bytes per second that a copy reads and writes."""
        return float(self.tree["rates"]["copy"])

    def points(self, kind: str, dtype: str) -> list[tuple[Work, float]]:
        """Return the work and the seconds of each measured step of a family.

        The fastest repeat counts: what else runs on the machine can only add to it.
        """
        return [
            (Work(**point["work"]), float(min(point["seconds"]["repeats"])))
            for point in self.tree["points"]
            if (point["kind"], point["dtype"]) == (kind, dtype)
        ]

    def efficiency(self, kind: str, dtype: str) -> tuple[float, float] | None:
        """Return the least and greatest share of the best rate that a family's steps reach."""
        rate = self.rate(dtype)
        shares = [work.flops / seconds / rate for work, seconds in self.points(kind, dtype)]
        return (min(shares), max(shares)) if shares else None

    def predict(self, kind: str, dtype: str, work: Work) -> Prediction | None:
        """Predict the seconds of a step; None for a family that was not measured in this dtype."""
        points = self.points(kind, dtype)
        if len(points) < _LEAST_POINTS:
            return None
        weights = fit(points)
        middle = float(weights @ work.features())
        errors = [math.log(float(weights @ each.features()) / s) for each, s in points]
        # No narrower than the machine repeats itself.
        spread = math.exp(max(0.1, *map(abs, errors)))
        return Prediction(middle / spread, middle, middle * spread)


def fit(points: list[tuple[Work, float]]) -> np.ndarray:
    """Return the seconds per unit of each feature, none negative, with the least relative error."""
    rows_NF = np.array([work.features() for work, _ in points])
    seconds_N = np.array([seconds for _, seconds in points])
    # Relative errors, and features of about one: what a small step takes counts as much.
    scale_F = np.maximum(rows_NF.max(axis=0), 1e-300)
    weights_F, _ = optimize.nnls(rows_NF / scale_F / seconds_N[:, None], np.ones(len(points)))
    found: np.ndarray = weights_F / scale_F
    return found


def default_path(device: str, device_kind: str, processor: str) -> Path:
    """Return where the calibration of a device is kept.

    Raises:
      UserError: there is no home directory.
    """
    cache = files.user_cache()
    if cache is None:
        raise UserError("--calibrate: there is no home directory; give --out FILE.json")
    name = hashlib.sha256(f"{device_kind}\n{processor}".encode()).hexdigest()[:12]
    return cache / "calibration" / f"{device}-{name}.json"


def load(device: str, device_kind: str, processor: str) -> Calibration | None:
    """Return the calibration of a device from the user's cache; None if there is none.

    Args:
      device: cpu, gpu or tpu.
      device_kind: jax.Device.device_kind; "cpu" of a CPU.
      processor: `charjax.hardware.processor()`.
    """
    if files.user_cache() is None:
        return None
    path = default_path(device, device_kind, processor)
    return read(path) if path.exists() else None


def read(path: Path) -> Calibration:
    """Read a calibration.

    Raises:
      UserError: it is not one, or of another format.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        known = isinstance(tree, dict) and tree.get("format") == FORMAT and "points" in tree
    except (OSError, ValueError):
        known = False
    if not known:
        raise UserError(
            f"calibration: {str(path)!r} is not one that this version reads; make it again by "
            "`charjax benchmark --calibrate`"
        )
    return Calibration(tree, path)
