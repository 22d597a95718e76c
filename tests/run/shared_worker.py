"""`python -m tests.run.shared_worker INDEX COUNT PORT DEVICES DIRECTORY JOBS`: saves and restores.

One of COUNT processes with DEVICES devices each; with a COUNT of 1 it is alone. JOBS is a JSON list
of methods of `Jobs`, each with its arguments. It prints a JSON line for each.
"""

import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from charjax import parallel, processes
from charjax.errors import UserError
from charjax.run import checkpoint_files, checkpoint_together
from charjax.run.checkpoint import Checkpoints, SaveError, state_digest

# Kinds of leaves: divided over one axis of the mesh, over both, or over none.
LAYOUTS = {
    "params/kernel": P(None, "fsdp"),
    "params/bias": P("fsdp"),
    "params/whole": P(),
    "opt/mu": P(("fsdp", "data")),
    "opt/nu": P("data", "fsdp"),
    "opt/count": P(),
    "carry": P("data"),
    "key": P(),
    "empty": P("data"),
    "scale": P(),
}


def arrays(seed: int) -> dict[str, np.ndarray]:
    """Return the state of a seed, in NumPy arrays; one leaf stays one."""
    rng = np.random.default_rng(seed)
    return {
        "params/kernel": rng.normal(size=(8, 16)).astype(np.float32),
        "params/bias": rng.normal(size=16).astype(ml_dtypes.bfloat16),
        "params/whole": rng.normal(size=3).astype(np.float32),
        "opt/mu": rng.normal(size=(8, 16)).astype(np.float32),
        "opt/nu": np.full((8, 16), np.nan, np.float32),
        "opt/count": np.int32(seed),
        "carry": rng.normal(size=(8, 4)).astype(np.float32),
        "key": rng.integers(2**32, size=2, dtype=np.uint32),
        "empty": np.zeros((0, 4), np.float32),
        "scale": np.float32(0.1),
        "host": np.array([2**40 + seed]),
    }


def shardings() -> dict[str, NamedSharding]:
    """Return the layouts over all devices: of two processes, each is a part of the axis `data`."""
    devices = np.asarray(jax.devices())
    mesh = Mesh(devices.reshape(min(2, len(devices)), -1), ("data", "fsdp"))
    return {name: NamedSharding(mesh, layout) for name, layout in LAYOUTS.items()}


def state(seed: int) -> dict[str, Any]:
    """Return the state of a seed, divided over all devices."""
    places, leaves = shardings(), arrays(seed)
    return {n: parallel.place(x, places[n]) if n in places else x for n, x in leaves.items()}


def like() -> dict[str, Any]:
    """Return the structure of the state, with its layouts."""
    places = shardings()
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[name])
        if name in places
        else leaf
        for name, leaf in arrays(0).items()
    }


class Jobs:
    """The jobs, and the store that they use."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.warnings: list[str] = []
        self.store = Checkpoints(directory, keep=40, warn=self.warnings.append, shared=True)

    def save(self, *steps: int) -> list[int]:
        """Save steps, the second of them as the best; the state is donated meanwhile."""
        double = jax.jit(lambda tree: jax.tree.map(lambda x: x + x, tree), donate_argnums=0)
        for step in steps:
            tree = state(step)
            self.store.save(step, tree, {"step": step}, best=step == steps[1 % len(steps)])
            double({name: tree[name] for name in LAYOUTS})
            if len(steps) > 1:
                self.store.check()
        self.store.wait()
        return self.store.steps()

    def restore(self, which: str | int) -> list[Any]:
        """Restore a step; return its number, digest and warnings."""
        tree, meta, step = self.store.restore(which, like())
        assert meta == {"step": step} == self.store.read_meta(step)
        expected, places = arrays(step), shardings()
        for name, leaf in tree.items():
            assert leaf.dtype == expected[name].dtype, name
            if name not in places:
                assert isinstance(leaf, np.ndarray)
                assert np.array_equal(leaf, expected[name])
                continue
            assert leaf.sharding == places[name], name
            for shard in leaf.addressable_shards:
                assert np.asarray(shard.data).tobytes() == expected[name][shard.index].tobytes()
        warnings, self.warnings[:] = list(self.warnings), []
        return [step, state_digest(tree), warnings]

    def meta(self, which: str | int) -> Any:
        """Return the notes of a step."""
        return self.store.read_meta(which)

    def harm(self, name: str, how: str, process: int = 0) -> None:
        """Damage a file of the store, from one process; for all of them to see."""
        if processes.index() == process:
            path = self.directory / name
            data = path.read_bytes()
            if how == "remove":
                path.unlink()
            elif how == "cut":
                path.write_bytes(data[: len(data) // 2])
            else:
                path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        processes.barrier("harm", 30)

    def fail(self, process: int, how: str) -> None:
        """Let the next save fail in one process: at its beginning, or in the midst of writing."""
        if processes.index() != process:
            return
        if how == "full":
            usage = shutil.disk_usage(self.directory)._replace(free=10)
            replace_once(shutil, "disk_usage", lambda path: usage)
        else:
            replace_once(checkpoint_together, "digest", break_disk)

    def die(self, process: int, moment: str) -> None:
        """Let one process be killed at a moment of its next save."""
        checkpoint_together._SECONDS = 4.0
        modules = (checkpoint_together, checkpoint_files)
        owner = next(module for module in modules if hasattr(module, moment))
        if processes.index() == process:
            replace_once(owner, moment, lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))

    def leave(self) -> None:
        """Exit without waiting for the others."""
        os._exit(0)

    def save_whole(self, step: int) -> None:
        """Save a state of which every process has all, beside the store."""
        store = Checkpoints(self.directory.with_name("whole"), keep=1, shared=True)
        tree = {
            name: parallel.place(x, whole())
            for name, x in arrays(step).items()
            if x.ndim and name != "host"
        }
        store.save(step, tree, {})
        store.close()

    def save_alone(self) -> str:
        """Save and restore in a directory of this process's, which knows nothing of the others."""
        tree = {name: jnp.asarray(leaf) for name, leaf in arrays(1).items() if name != "host"}
        tree["index"] = np.array([processes.index()])
        place = self.directory.with_name(f"alone-{processes.index()}")
        store = Checkpoints(place, keep=1)
        store.save(1, tree, {})
        store.close()
        found, _, _ = Checkpoints(place).restore("latest", tree)
        assert state_digest(found) == state_digest(tree)
        return state_digest(found)


def whole() -> NamedSharding:
    """Return the layout of a copy on every device."""
    return NamedSharding(Mesh(np.asarray(jax.devices()), ("data",)), P())


def replace_once(owner: Any, name: str, function: Any) -> None:
    """Replace a function for one call."""
    original = getattr(owner, name)

    def replaced(*arguments: Any) -> Any:
        setattr(owner, name, original)
        return function(*arguments)

    setattr(owner, name, replaced)


def break_disk(*arguments: Any) -> Any:
    """Fail as a disk does."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def main(index: int, count: int, port: str, devices: int, directory: str, jobs: str) -> None:
    """Run the jobs, and print what they return or raise."""
    jax.config.update("jax_num_cpu_devices", devices)
    if count > 1:
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(f"127.0.0.1:{port}", count, index, initialization_timeout=60)
    try:
        everything = Jobs(Path(directory.format(index=index)))
    except UserError as error:
        print("JOB", json.dumps(str(error)))
        return
    for name, *arguments in json.loads(jobs):
        try:
            found = getattr(everything, name)(*arguments)
        except (UserError, SaveError) as error:
            found = {type(error).__name__: str(error)}
        print("JOB", json.dumps(found), flush=True)
    # The coordinator is the last to leave.
    processes.barrier("end", 60)


if __name__ == "__main__":
    first, second, where, third, folder, work = sys.argv[1:]
    main(int(first), int(second), where, int(third), folder, work)
