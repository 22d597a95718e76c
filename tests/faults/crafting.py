"""Checkpoints made by an attacker or another program, with valid digests."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (so that numpy knows bfloat16 by its name)
import numpy as np
import orbax.checkpoint as orbax


def newest(workdir: Path) -> Path:
    """Return the directory of a run's latest step."""
    steps = [path for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()]
    return max(steps, key=lambda path: int(path.name))


def read_record(step: Path) -> dict[str, Any]:
    """Read meta.json."""
    return json.loads((step / "meta.json").read_bytes())


def craft(step: Path, change: Callable[[dict[str, Any]], None] = lambda record: None) -> None:
    """Change a record, and renew all digests, so that nothing looks altered."""
    record = read_record(step)
    record["files"] = {
        path.relative_to(step).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(step.rglob("*"))
        if path.is_file() and path.name != "meta.json"
    }
    del record["sha256"]
    change(record)
    signed = json.dumps(record, indent=1).encode()
    record["sha256"] = hashlib.sha256(signed).hexdigest()
    (step / "meta.json").write_bytes(json.dumps(record, indent=1).encode())


def make_older(step: Path, form: int) -> None:
    """Write the arrays of a step again as older versions did.

    Args:
      step: of a small model.
      form: 1: every array separately, in one database; 2: all of one dtype as one.
    """
    data = (step / "state" / "bytes-0" / "0").read_bytes()
    arrays, begin = {}, 0
    for name, leaf in sorted(read_record(step)["leaves"].items()):
        dtype, size = np.dtype(leaf["dtype"]), math.prod(leaf["shape"])
        arrays[name] = np.frombuffer(data, dtype, size, begin).reshape(leaf["shape"])
        begin += arrays[name].nbytes
    held = {name: array for name, array in arrays.items() if array.size}
    if form == 2:
        flat: dict[str, list[np.ndarray]] = {}
        for array in held.values():
            flat.setdefault(array.dtype.name, []).append(array.reshape(-1))
        held = {dtype: np.concatenate(parts) for dtype, parts in flat.items()}
    shutil.rmtree(step / "state")
    handler = orbax.PyTreeCheckpointHandler(use_compression=False, use_ocdbt=form == 1)
    with orbax.Checkpointer(handler) as writer:
        writer.save(step / "state", args=orbax.args.PyTreeSave(held))
    craft(step, lambda record: record.update(format=form))


def spoil_arrays(step: Path) -> None:
    """Damage the arrays so that they cannot be read, with an intact record."""
    for path in (step / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"nothing that could be an array")
    craft(step)


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file of a run except the lock that every writer takes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
