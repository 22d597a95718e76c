"""Plans of this CPU against what is measured: memory and time of a training step.

    python -m benchmarks.plan [--only memory|time] [--family NAME] [--out FILE.json]

Memory: in a new process, the resident memory before the first call of the real loop's program, and
its peak after that call (VmHWM, reset before), minus one another; beside it the sum that `charjax
plan` gives for temporary arrays and results. The C library keeps what is freed (`charjax.backend`),
each thread in a heap of its own, so further calls add to it: the peak after eight calls is given
too.

Time: the median of five runs of some steps each, beside the prediction from the calibration that
`charjax benchmark --calibrate` made of this machine; without one, times are left out.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from charjax import cli
from charjax.config.families import families_where
from charjax.files import replace

RESULTS = Path(__file__).parent / "results" / "plan-cpu.json"
_CALLS = 8
_BATCHES = {
    "bigram": ("model.context_length=32", (2048, 4096, 16384)),
    "bow": ("model.context_length=32", (1024, 4096, 16384)),
    "mlp": ("model.context_length=8 model.hidden=[400]", (16384, 65536, 131072)),
    "wavenet": ("model.context_length=16", (1024, 4096, 16384)),
    "rnn": ("model.context_length=64 model.d_hidden=256", (128, 512, 2048)),
    "gru": ("model.context_length=64 model.d_hidden=256", (128, 512, 1024)),
    "lstm": ("model.context_length=64 model.d_hidden=256", (128, 512, 1024)),
    "mingru": ("model.context_length=64 model.d_hidden=256", (128, 512, 1024)),
    "transformer": ("model.context_length=128", (8, 64, 128)),
}


def cases() -> list[list[str]]:
    """Return the settings of every row."""
    missing = set(families_where(fitted=False)) - set(_BATCHES)
    assert not missing, f"no sizes for {missing}"
    return [
        [f"model.kind={kind}", *settings.split(), f"train.batch_size={batch}"]
        for kind, (settings, batches) in _BATCHES.items()
        for batch in batches
    ]


def measure_memory(words: list[str]) -> dict[str, Any]:
    """Return predicted and measured bytes of one program; in a process of its own."""
    import jax

    from charjax.performance import memory, programs, topology
    from charjax.training.session import first_state

    session = _open(words)
    found = topology.compiled(programs.training(session, session.mesh))
    state = jax.block_until_ready(first_state(session))
    chunk = _chunk(session, state)
    temporary = memory.compiled_bytes(session, found)
    plan = memory.with_temporary(
        session, devices=session.mesh.size, temporary=temporary, source="compiler"
    )
    # Free pages that compiling left in the process would be used first.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    peaks = []
    for _ in range(_CALLS):
        state, _, done = chunk.run(state, 1)
        done.block_until_ready()
        peaks.append(_status("VmHWM") - before)
    predicted = session.mesh.size * (plan.temporary + plan.metrics)
    return {
        "devices": session.mesh.size,
        "temporary": found.temporary,
        "predicted": predicted,
        "measured": peaks[0],
        "error": predicted / peaks[0] - 1,
        "after_calls": [_CALLS, peaks[-1]],
    }


def measure_time(words: list[str]) -> dict[str, Any] | None:
    """Return predicted and measured seconds of a step; None without a calibration."""
    from charjax import hardware
    from charjax.performance import calibration
    from charjax.performance.calibrate import work_of
    from charjax.performance.timing import Slice, summary
    from charjax.performance.workload import prepare

    measured = calibration.load("cpu", "cpu", hardware.processor())
    if measured is None:
        return None
    session = _open(words)
    config = session.config
    predicted = measured.predict(config.model.kind, config.runtime.dtype, work_of(session))
    if predicted is None:
        return None
    work = Slice(prepare(session).steps, 0.5)
    found = summary([work() for _ in range(5)])
    middle = predicted.middle
    return {"predicted": middle, **found, "error": middle / found["median"] - 1}


def _open(words: list[str]) -> Any:
    from benchmarks.workloads import PAIRS, STREAM, make_config, open_quietly
    from charjax.training.session import start_for_training

    pairs = any(word in ("model.kind=mlp", "model.kind=wavenet") for word in words)
    config = make_config(*(PAIRS if pairs else STREAM), *words)
    start_for_training(config)
    return open_quietly(config)


def _chunk(session: Any, state: Any) -> Any:
    from charjax.random_streams import purpose_key
    from charjax.training.program import compile_chunks

    key = purpose_key(session.config.train.seed, "dropout")
    return compile_chunks(session.model, session.config, session.source, state, session.mesh, key)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


PARTS = {"memory": measure_memory, "time": measure_time}


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--family", choices=_BATCHES, action="append")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(PARTS[args.one[0]](args.one[1:])))
        return 0
    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    known = {tuple(row["settings"]): row for row in rows}
    for words in cases():
        if args.family and words[0].partition("=")[2] not in args.family:
            continue
        row = known.setdefault(tuple(words), {"settings": words})
        for part in args.only or PARTS:
            row[part] = _in_a_process(part, words) | {"load": os.getloadavg()[0]}
        print(json.dumps(row), flush=True)
        _write(args.out, list(known.values()))
    return 0


def _in_a_process(part: str, words: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.plan", "--one", part, *words]
    done = subprocess.run(command, capture_output=True, check=True, encoding="utf-8")
    found: dict[str, Any] | None = json.loads(done.stdout.splitlines()[-1])
    return found or {}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    from charjax.hardware import machine_facts

    facts = {"command": "python -m benchmarks.plan", "hardware": machine_facts(), "rows": rows}
    replace(path, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
