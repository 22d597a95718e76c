"""Measure a machine for `charjax.performance.calibration`, in a process that has one device."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from charjax import backend, hardware
from charjax.config import FAMILIES, Config, RuntimeConfig, load_config
from charjax.config.families import families_where
from charjax.data.datasets import Dataset, load_dataset
from charjax.errors import UserError
from charjax.performance import workload
from charjax.performance.calibration import Work
from charjax.performance.failures import LeftOut
from charjax.performance.rates import COPY_BYTES, copying, dispatch, product
from charjax.performance.timing import Slice, summary, take_turns
from charjax.training.session import Session, make_session
from charjax.training.state import state_shapes

_EDGES = {"cpu": (64, 128, 256, 512, 1024), "gpu": (256, 1024, 4096, 8192)}
_EDGES["tpu"] = _EDGES["gpu"]
# Batch, context length, then width and layers where the family has them: small beside large, wide
# beside long. The large ones do not fit into a processor's caches.
_POINTS = {
    "transformer": (
        (8, 64, 64, 2),
        (16, 64, 128, 4),
        (8, 128, 256, 2),
        (32, 32, 64, 1),
        (4, 32, 128, 2),
        (64, 64, 128, 4),
        (48, 128, 128, 2),
        (16, 256, 256, 4),
    ),
    "recurrent": (
        (8, 64, 64, 1),
        (32, 64, 128, 2),
        (16, 32, 256, 1),
        (64, 64, 64, 1),
        (4, 128, 128, 1),
        (192, 64, 256, 1),
        (64, 128, 256, 2),
        (768, 64, 192, 1),
    ),
    "window": (
        (32, 8, 64, 1),
        (256, 8, 128, 1),
        (64, 16, 512, 1),
        (2048, 8, 64, 1),
        (512, 4, 256, 1),
        (4096, 8, 128, 1),
        (65_536, 8, 256, 1),
        (6144, 16, 128, 1),
    ),
}
# On an accelerator those would all take a launch's time.
_LARGER = {"cpu": 1, "gpu": 4, "tpu": 4}
_ALPHABET = "\n" + "".join(chr(c) for c in range(ord("0"), ord("0") + 64))
_CHARACTERS = 200_000
_REPEATS = 5


def work_of(session: Session) -> Work:
    """Return what a training step of a session does; no array is made.

    A family that counts has none.
    """
    config, model = session.config, session.model
    rows = config.train.batch_size * config.optim.accumulate_steps
    context = config.model.context_length
    assert context is not None
    targets = rows * (1 if config.data.layout == "pairs" else context)
    params = jax.tree.leaves(state_shapes(model, config).params)
    size = sum(leaf.size for leaf in params)
    layers = getattr(config.model, "n_layer", 1)
    steps = (
        context
        if model.memory == "carried" and config.model.kind not in ("mingru", "minlstm")
        else 1
    )
    forward = (model.forward_flops or 0.0) - model.tabled_flops
    return Work(
        flops=3.0 * (forward * targets + model.tabled_flops * model.vocab_size),
        saved_bytes=4.0 * (rows * model.saved_values(context) + targets * model.vocab_size),
        parameter_bytes=4.0 * size * session.mesh.size,
        sequence=steps * layers * config.optim.accumulate_steps,
        devices=session.mesh.size,
    )


def settings_of(kind: str, device: str) -> list[list[str]]:
    """Return the overrides of a family's points."""
    fields = FAMILIES[kind].model_fields
    shape = "transformer" if kind == "transformer" else "recurrent"
    shape = shape if "n_layer" in fields else "window"
    found = []
    for batch, context, width, layers in _POINTS[shape]:
        sizes: dict[str, Any] = {
            "n_layer": layers,
            "n_head": 2,
            "d_model": width,
            "d_hidden": width,
        }
        sizes |= {"d_embed": max(16, width // 4), "hidden": [width]}
        words = [f"model.kind={kind}", f"model.context_length={context}"]
        words += [f"model.{name}={size}" for name, size in sizes.items() if name in fields]
        words += ["data.layout=pairs"] if kind in ("mlp", "wavenet") else []
        found.append([*words, f"train.batch_size={batch * _LARGER[device]}"])
    return found


class Calibrator:
    """The measurements of one device, a family at a time.

    Attributes:
      facts: of the device.
    """

    def __init__(self, device: str, slice_seconds: float):
        """Start JAX.

        Raises:
          LeftOut: the device is not available.
        """
        try:
            config = RuntimeConfig(device=device)  # type: ignore[arg-type]
            devices = backend.start_backend(config, core_devices=True)
        except UserError as error:
            raise LeftOut(str(error)) from None
        self._device, self._seconds = device, slice_seconds
        # Removed when the process ends.
        self._temporary = tempfile.TemporaryDirectory(prefix="charjax-calibration-")
        self._text = Path(self._temporary.name) / "text.txt"
        letters = np.array(list(_ALPHABET))[np.random.default_rng(0).integers(0, 65, _CHARACTERS)]
        self._text.write_text("".join(letters), encoding="ascii")
        self._datasets: dict[Any, Dataset] = {}
        self.facts = {
            "device_kind": str(devices[0].device_kind),
            "hardware": hardware.machine_facts(),
            "families": list(families_where(fitted=False)),
        }

    def rates(self) -> dict[str, Any]:
        """Measure products by dtype and edge, copies and launches."""

        def best(run: Callable[[int], Any]) -> float:
            work = Slice(run, self._seconds)
            return min(work() for _ in range(_REPEATS))

        products = {
            dtype: {
                str(edge): 2.0 * edge**3 / best(product(edge, dtype))
                for edge in _EDGES[self._device]
            }
            for dtype in ("float32", "bfloat16")
        }
        size = COPY_BYTES[self._device] // 4
        copy = 2.0 * size / best(copying(size))
        return {"products": products, "copy": copy, "dispatch": 1.0 / best(dispatch(False))}

    def family(self, kind: str, dtype: str) -> list[dict[str, Any]]:
        """Time training steps of a family's points, in turns; each as an object of `points`."""
        sessions, works = {}, {}
        for words in settings_of(kind, self._device):
            session = self._session([*words, f"runtime.dtype={dtype}"])
            training = workload.prepare(session)
            key = " ".join(words)
            sessions[key], works[key] = session, Slice(training.steps, self._seconds)
        found = take_turns(works, _REPEATS)
        return [
            {
                "kind": kind,
                "dtype": dtype,
                "settings": words.split(),
                "work": vars(work_of(sessions[words])),
                "seconds": summary(seconds),
            }
            for words, seconds in found.items()
        ]

    def _session(self, words: list[str]) -> Session:
        path = f"data.path={self._text}"
        config: Config = load_config(None, [path, "eval.every=0", "checkpoint.every=0", *words])
        if config.data not in self._datasets:
            self._datasets[config.data] = load_dataset(config.data)
        return make_session(config, self._datasets[config.data], jax.local_devices())


def build(device: str, slice_seconds: float) -> Calibrator:
    """Build the contestant of a process (see `charjax.performance.workers`)."""
    return Calibrator(device, slice_seconds)
