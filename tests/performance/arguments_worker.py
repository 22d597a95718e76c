"""`python -m tests.performance.arguments_worker WORD...`: bytes of a step on two devices.

It prints a JSON list of two objects, for parameters that are whole and divided over both devices:
the bytes per device as the compiler gives them, and as predicted.
"""

import dataclasses
import json
import sys

import jax

from charjax import backend, parallel
from charjax.config import RuntimeConfig, load_config
from charjax.performance import memory, programs, topology
from charjax.training.session import open_session


def main(words: list[str]) -> None:
    """Compile the training loop of a configuration for both meshes."""
    session = open_session(load_config(None, words))
    batch, rows = session.config.train.batch_size, []
    for fsdp in (1, 2):
        mesh = parallel.make_mesh(jax.devices(), batch, fsdp)
        assert mesh.size == 2
        placed = dataclasses.replace(session, mesh=mesh)
        found = topology.compiled(programs.training(placed, mesh))
        predicted = memory.predict(session, devices=2, platform="cpu", fsdp=fsdp)
        rows.append({"compiled": found.argument, "predicted": predicted.arguments})
    print(json.dumps(rows))


if __name__ == "__main__":
    backend.start_backend(RuntimeConfig())
    main(sys.argv[1:])
