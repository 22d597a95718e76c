"""Training on a device against a CPU and against itself, before its speed is measured.

    python -m benchmarks.correctness [--devices cpu,gpu] [--quick] [--out FILE.json]

For every family that is trained: "programs": its training loop, evaluation and decoding compile
for the device. "losses": so many steps from the same weights and batches as on one CPU device,
with full float32 products; shown is the largest relative difference of a step's loss. "resume":
half of the steps, saved, restored and continued, end in the bits of a run that was not
interrupted (with XLA's deterministic operations). A row that is out of bounds is left out as
failed, and the exit status is 1.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.harness import Benchmark, start
from benchmarks.section import Section
from benchmarks.workloads import STREAM, make_config
from charjax import hardware
from charjax.config import Config
from charjax.config.families import families_where
from charjax.data.datasets import load_dataset
from charjax.generation.sampling import Sampling
from charjax.performance import programs
from charjax.performance.failures import check_memory
from charjax.performance.show import Column, Row
from charjax.random_streams import purpose_key
from charjax.run.checkpoint import Checkpoints, state_digest
from charjax.training.program import ChunkProgram, compile_chunks
from charjax.training.session import Session, first_state, make_session, place
from charjax.training.state import TrainState

# Rounding differs, and training amplifies it.
TOLERANCE = 1e-3
_STEPS, _QUICK_STEPS = 20, 4
_SMALL = ("train.batch_size=16", "optim.schedule=constant", "runtime.dtype=float32")
_CONTEXT = dict.fromkeys(("bigram", "bow", "mlp", "wavenet"), 8)
KINDS = families_where(fitted=False)
_QUICK_KINDS = ("bigram", "transformer")


def measure(section: Section) -> None:
    """Check every family: first that it compiles, then its losses, then that it resumes."""
    checks: dict[str, Callable[[Section, str, str], None]] = {
        "programs": _compile,
        "losses": _compare_losses,
        "resume": _resume,
    }
    for label, check in checks.items():
        for kind in _QUICK_KINDS if section.quick else KINDS:
            name = f"{label} {kind}"
            if section.wants(name):
                with section.attempt(name):
                    check(section, name, kind)


def _config(section: Section, kind: str) -> Config:
    tiny = ("model.n_layer=1", "model.n_head=2", "model.d_model=32")
    sizes = tiny if section.quick and kind == "transformer" else ()
    context = f"model.context_length={_CONTEXT.get(kind, 16 if section.quick else 64)}"
    return make_config(*STREAM, f"model.kind={kind}", context, *sizes, *_SMALL)


def _steps(section: Section) -> int:
    return _QUICK_STEPS if section.quick else _STEPS


def _open(config: Config, devices: list[jax.Device]) -> Session:
    return make_session(config, load_dataset(config.data), devices)


def _compile(section: Section, name: str, kind: str) -> None:
    session = _open(_config(section, kind), jax.local_devices())
    variables, model, mesh = programs.variable_shapes(session), session.model, session.mesh
    context = session.config.model.context_length
    assert context is not None
    tokens = len(session.dataset.splits["val"].tokens)
    sizes = {"rows": 8 * mesh.size, "window": context, "tokens": tokens}
    found = [
        programs.training(session, mesh),
        programs.evaluation(model, variables, mesh, **sizes),
        programs.decoding(model, variables, mesh, samples=4 * mesh.size, settings=Sampling()),
    ]
    free = hardware.available_memory(list(mesh.devices.flat))
    began, seconds, needed = time.perf_counter(), {}, {}
    for program in found:
        compiled = program.compile()
        needed[program.name] = check_memory(compiled, free)
        seconds[program.name] = time.perf_counter() - began - sum(seconds.values())
    text = ", ".join(f"{label} {each:.1f} s" for label, each in seconds.items())
    section.add(name, kind="programs", outcome=f"compiled: {text}", bytes_needed=needed)


def _compare_losses(section: Section, name: str, kind: str) -> None:
    config, steps = _config(section, kind), _steps(section)
    reference = jax.local_devices(backend="cpu")[:1]
    with jax.default_matmul_precision("highest"):
        with jax.default_device(reference[0]):
            expected_session = _open(config, reference)
            state = first_state(expected_session)
            # A copy, as training donates the state: both devices start from the same one.
            held = jax.tree.map(np.array, state)
            expected = _train(expected_session, state, steps)[1]
        session = _open(config, jax.local_devices())
        losses = _train(session, place(session, held), steps)[1]
    difference = float(np.max(np.abs(losses - expected) / expected))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the losses of {steps} steps differ by {difference:.1e} of a CPU's; {TOLERANCE:.0e} "
            "is allowed"
        )
    section.add(
        name,
        kind="losses",
        outcome=f"within {difference:.1e} of a CPU's in {steps} steps",
        difference=difference,
        tolerance=TOLERANCE,
        losses=losses.tolist(),
        losses_cpu=expected.tolist(),
    )


def _resume(section: Section, name: str, kind: str) -> None:
    half = _steps(section) // 2
    session = _open(_config(section, kind), jax.local_devices())
    program = _compiled(session, first_state(session))
    whole, losses = _run(program, first_state(session), 2 * half)
    state, first = _run(program, first_state(session), half)
    with tempfile.TemporaryDirectory() as folder:
        store = Checkpoints(Path(folder), keep=1)
        store.save(half, state, {})
        store.wait()
        restored, _, _ = store.restore("latest", first_state(session))
        store.close()
    resumed, second = _run(program, restored, half)
    if not np.array_equal(np.concatenate([first, second]), losses):
        raise ValueError("the losses of the resumed run differ from those of one run")
    if state_digest(resumed) != state_digest(whole):
        raise ValueError("the state of the resumed run differs from that of one run")
    section.add(name, kind="resume", outcome=f"{half} and {half} steps: the bits of {2 * half}")


def _train(session: Session, state: TrainState, steps: int) -> tuple[TrainState, np.ndarray]:
    return _run(_compiled(session, state), state, steps)


def _compiled(session: Session, state: TrainState) -> ChunkProgram:
    assert session.source is not None
    key = purpose_key(session.config.train.seed, "dropout")
    return compile_chunks(session.model, session.config, session.source, state, session.mesh, key)


def _run(program: ChunkProgram, state: TrainState, steps: int) -> tuple[TrainState, np.ndarray]:
    """Return the state after so many steps, and the losses of each."""
    state, metrics, done = program.run(state, steps)
    if int(done) != steps:
        raise ValueError(f"{int(done)} of {steps} steps were done: the losses are not finite")
    return state, np.asarray(metrics[:steps, 0], np.float64)


COLUMNS: tuple[Column, ...] = (
    ("", lambda row: row["name"]),
    ("outcome", lambda row: row["outcome"]),
)


def draw(axes: Any, rows: list[Row]) -> None:
    """Draw the losses by step, and a CPU's beside them."""
    for index, row in enumerate(row for row in rows if row["kind"] == "losses"):
        axes.plot(row["losses_cpu"], "-", color=f"C{index % 10}")
        axes.plot(row["losses"], "o", color=f"C{index % 10}", label=row["name"])
    axes.set(xlabel="step", ylabel="loss, nats (line: a CPU)")


BENCHMARK = Benchmark(
    name="correctness",
    title="losses, resumption and compilation",
    doc=__doc__,
    measure=measure,
    columns=COLUMNS,
    draw=draw,
    has_roofline=False,
    environment={
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_FLAGS": "--xla_gpu_deterministic_ops=true",
    },
)

if __name__ == "__main__":
    start(BENCHMARK)
