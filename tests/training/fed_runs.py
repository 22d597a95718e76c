"""`python -m tests.training.fed_runs`: runs whose text is on the device, and on the host.

It reads a JSON list of [words of a configuration, devices] from its input, and writes one pair for
each: what a run of 21 steps came to, with the text on the device and on the host.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from charjax import backend
from charjax.config import RuntimeConfig, load_config
from charjax.data.datasets import load_dataset
from charjax.run.checkpoint import state_digest
from charjax.training.program import compile_chunks, dropout_key
from charjax.training.session import first_state, make_session
from charjax.training.state import variables_of
from charjax.training.validation import evaluator, score_split

STEPS = 21


def results(words: list[str], devices: int, device_bytes: int) -> dict[str, Any]:
    """Train in as few chunks as the feed allows, evaluate, and return digests and losses."""
    config = load_config(None, [*words, f"data.device_bytes={device_bytes}"])
    session = make_session(config, load_dataset(config.data), jax.local_devices()[:devices])
    assert session.mesh.size == devices
    assert session.source is not None
    state, key = first_state(session), dropout_key(config, session.mesh)
    program = compile_chunks(session.model, config, session.source, state, session.mesh, key)
    step, rows = 0, []
    while step < STEPS:
        steps = min(STEPS - step, program.most_steps(step))
        state, metrics, done = program.run(state, steps, step)
        assert int(done) == steps
        rows.append(np.asarray(metrics)[:steps])
        step += steps
    assert (len(rows) > 1) == (device_bytes == 0)
    evaluate = evaluator(session, lambda: None)
    assert evaluate is not None
    test = session.dataset.splits["val"]
    variables = variables_of(state)
    return {
        "metrics": hashlib.sha256(np.concatenate(rows).tobytes()).hexdigest(),
        "state": state_digest(state),
        "val": evaluate(step, state).loss,
        "strided": score_split(session, test, variables, lambda: None, context=4, stride=3).loss,
    }


def pair(words: list[str], devices: int) -> list[dict[str, Any]]:
    """Return the results with the text on the device, and on the host."""
    return [results(words, devices, device_bytes) for device_bytes in (10**8, 0)]


def write_text(folder: Path) -> Path:
    """Write 150 lines of a few letters, and return their path."""
    letters = np.array(list("abcdef gh"))
    rng = np.random.default_rng(0)
    lines = ("".join(rng.choice(letters, size)) + "x" for size in rng.integers(2, 11, 150))
    path = folder / "text.txt"
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    return path


if __name__ == "__main__":
    backend.start_backend(RuntimeConfig())
    json.dump([pair(*case) for case in json.load(sys.stdin)], sys.stdout)
