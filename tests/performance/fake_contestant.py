"""A contestant that is no network: its steps last as long as its batch says, in a fake device."""

import os
import time
from typing import Any

from charjax.errors import UserError
from charjax.performance.failures import LeftOut

FACTS = {
    "text": "digest",
    "devices": 1,
    "context": 8,
    "parameters": 10,
    "vocab_size": 5,
    "tokens_per_step": 100.0,
    "flops_formula": "2 V",
    "flops_per_token": 1e4,
    "compile_seconds": 0.5,
    "bytes_predicted": 2048,
    "bytes_measured": 2000,
    "peak_measured": 1e9,
    "peak_nominal": None,
    "loss": 2.0,
}


class Fake:
    """A contestant whose step takes `seconds`."""

    def __init__(self, facts: dict[str, Any], seconds: float):
        self.facts, self._seconds = facts, seconds

    def run(self, threads: int, count: int) -> None:
        if self.facts.get("batch") == 13:
            raise MemoryError
        if self.facts.get("batch") == 66:
            time.sleep(60)
        time.sleep(self._seconds * count / threads)

    def generate(self, texts: int, repeats: int) -> dict[str, Any]:
        return {"tokens": 4, "seconds": [0.5] * repeats}

    def energy(self, step_seconds: float, seconds: float) -> dict[str, Any] | None:
        on_gpu = self.facts["hardware"]["device_kind"] == "GPU"
        return {"joules_per_step": 2.0, "source": "a meter"} if on_gpu else None

    def finish(self) -> dict[str, Any]:
        return {"drifted": False}


def build(
    words: list[str],
    config: str | None = None,
    label: str | None = None,
    device: str | None = None,
    exact: bool = False,
    rates: dict[str, float] | None = None,
) -> Fake:
    """Build charjax's contestant, or PyTorch's if there is a label."""
    settings = dict(word.split("=", 1) for word in words)
    print("libraries print to stdout")
    if label is not None:
        loss = 2.0 if settings.get("optim.eps") is None else 2.1
        return Fake({"text": "digest", "parameters": 10, "loss": loss}, 0.002)
    device = settings["runtime.device"]
    batch = int(settings["train.batch_size"])
    if device == "tpu":
        raise LeftOut('runtime.device: "tpu" given, but JAX finds only cpu')
    if batch == 7:
        raise UserError("data.path: 'nowhere.txt' does not exist")
    if batch == 8:
        os._exit(9)
    roofline = rates or {"float32": 1e9}
    hardware = {
        "device_kind": "GPU" if device == "gpu" else "cpu",
        "processor": "a processor",
        "cores": 2,
        "accelerator": None,
        "python": "3",
        "versions": {"jax": "0"},
        "date": "2026-01-01",
    }
    facts = {**FACTS, "batch": batch, "roofline": roofline, "hardware": hardware}
    return Fake(facts, 0.0005 if device == "gpu" else 0.001)
