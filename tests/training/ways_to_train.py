"""`python -m tests.training.ways_to_train`: the same training in several ways, in one process.

It reads a JSON list of [words of a configuration, dtype, pieces, devices] from its input, and
writes one list for each: the losses of 21 steps. The last is the loss after 20 steps. Two more
numbers may follow: devices that divide the parameters, and steps.
"""

import dataclasses
import functools
import json
import sys

import jax

from charjax import backend, parallel
from charjax.config import RuntimeConfig, load_config
from charjax.random_streams import purpose_key
from charjax.training.program import compile_chunks
from charjax.training.session import Session, first_state, open_session
from charjax.training.state import TrainState

STEPS, ROWS = 21, 8


def losses(
    words: list[str], dtype: str, pieces: int, devices: int, fsdp: int = 1, steps: int = STEPS
) -> list[float]:
    """Train on the same rows, divided over any number of pieces and devices."""
    rows = [f"train.batch_size={ROWS // pieces}", f"optim.accumulate_steps={pieces}"]
    session = on_devices(_open((*words, *rows, f"runtime.dtype={dtype}")), devices, fsdp)
    key = purpose_key(0, "dropout")
    state = first_state(session)
    program = compile_chunks(
        session.model, session.config, session.source, state, session.mesh, key
    )
    state, metrics, done = program.run(state, steps)
    assert int(done) == steps
    _check_divided(state, fsdp)
    return [float(loss) for loss in metrics[:steps, 0]]


def _check_divided(state: TrainState, count: int) -> None:
    """Check that each device has its part of every parameter, average and moment that has parts."""
    for leaf in jax.tree.leaves((state.params, state.opt_state, state.average)):
        is_divided = any(size % count == 0 for size in leaf.shape if size)
        parts = count if is_divided else 1
        assert leaf.addressable_data(0).size * parts == leaf.size, (leaf.shape, leaf.sharding)


def on_devices(session: Session, count: int, fsdp: int = 1) -> Session:
    """Return the session on a number of its devices."""
    devices = session.devices[:count]
    mesh = parallel.make_mesh(devices, session.config.train.batch_size, fsdp)
    assert mesh.size == count
    source = parallel.place(session.source, parallel.replicated(mesh))
    return dataclasses.replace(session, mesh=mesh, source=source)


@functools.cache
def _open(words: tuple[str, ...]) -> Session:
    return open_session(load_config(None, list(words)))


if __name__ == "__main__":
    backend.start_backend(RuntimeConfig())
    json.dump([losses(*case) for case in json.load(sys.stdin)], sys.stdout)
