"""One row of `make aot`: a program compiled for absent devices, and what is wrong in it."""

import dataclasses
import math
import os
import re
import resource
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.aot_workloads import Workload, words_of

# Custom calls that the compilers make or take, by platform: hints to the compiler, libraries'
# products and sorts, kernels of the backend.
KNOWN_CALLS = {
    "tpu": re.compile(
        r"Assume\w+|AllocateBuffer|ConcatBitcast|Sharding|TopK|ResizeBilinear|tpu_custom_call|\w*[Cc]ustom_?[Ff]usion"
    ),
    "gpu": re.compile(
        r"__cublas\$\w+|__cudnn\$\w+|__cub\$\w+|__triton\w*|__custom_kernel\$\w+|xla\.gpu\.\w+"
    ),
}
_CALLBACK = re.compile(r"\b(\w+_callback|debug_print|infeed|outfeed)\[")
_LAYOUT = re.compile(r"entry_computation_layout=\{\((.*?)\)->")
_SHAPE = re.compile(r"(pred|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([\d,]*)(?::T\(([\d,]+)\))?[^}]*\})?")


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to compile for, as on the command line: v5e:4."""

    device: str
    count: int

    def __str__(self) -> str:
        return f"{self.device}:{self.count}"


def compile_row(workload: Workload, target: Target) -> dict[str, Any]:
    """Compile a training loop and return its row; to be called before JAX has started."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dump = folder / "dump"
        # The thunks of a GPU's program are in XLA's dump alone.
        if target.device[0] != "v":
            flags = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{flags} --xla_dump_to={dump}".strip()
        return _compile(workload, target, folder, dump)


def _compile(workload: Workload, target: Target, folder: Path, dump: Path) -> dict[str, Any]:
    from charjax import backend
    from charjax.config import RuntimeConfig
    from charjax.performance import compiled_text, programs, topology

    backend.start_backend(RuntimeConfig(device="cpu"))
    mesh = topology.compile_mesh(target.device, target.count)
    session = workload.open(folder, target.count)
    program = programs.training(session, mesh)
    if calls := callbacks(program):
        why = f"every step calls the host: {', '.join(calls)}"
        return {**words_of(workload), "target": str(target), "faults": [why]}
    found = topology.compiled(program)
    text = found.text()
    # The second is not written where XLA's passes have changed nothing.
    thunks = [
        path
        for name in ("thunk_sequence", "thunk_sequence_after_thunk_passes")
        for path in dump.glob(f"*run_chunk.{name}.txt")
    ]
    used = resource.getrusage(resource.RUSAGE_SELF)
    row = {
        **words_of(workload),
        "target": str(target),
        "batch": session.config.train.batch_size,
        "seconds": found.seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "argument": found.argument,
        "output": found.output,
        "alias": found.alias,
        "temporary": found.temporary,
        "peak": found.peak,
        "total": found.total,
        "flops": found.flops,
        "state": argument_bytes(program.arguments),
        "key": argument_bytes(program.arguments[2]),
        "padded": padded_bytes(text),
        "collectives": [each._asdict() for each in compiled_text.collectives(text)],
        "custom_calls": sorted(compiled_text.custom_calls(text)),
        "host_calls": compiled_text.host_calls(text),
        "host_waits": compiled_text.host_waits(thunks[-1].read_text("utf-8")) if thunks else [],
        "has_thunks": bool(thunks),
        "batch_statistics": has_batch_statistics(program.arguments[0]),
    }
    platform = mesh.devices.flat[0].platform
    return {**row, "faults": faults(row, platform, mesh.size)}


def callbacks(program: Any) -> list[str]:
    """Return the callbacks to Python in a program, as JAX traced it.

    They are looked for before it is lowered, which fails for a GPU that is not there.
    """
    from charjax import parallel

    with parallel.target(program.mesh):
        traced = program.function.trace(*program.arguments)
    return sorted(set(_CALLBACK.findall(str(traced.jaxpr))))


def faults(row: dict[str, Any], platform: str, devices: int) -> list[str]:
    """Return what is wrong in a compiled program, one line each."""
    found = []
    in_loop = [each for each in row["collectives"] if each["loops"]]
    kinds = [each["kind"] for each in in_loop]
    expected = [] if devices == 1 else ["all-reduce"]
    # Statistics over the rows of all devices are added up where they are needed.
    several = row["batch_statistics"] and set(kinds) <= {"all-reduce", "all-gather"}
    if kinds != expected and not (several and devices > 1):
        found.append(f"collectives per step: {kinds}; expected {expected}")
    if any(each["loops"] > 1 for each in in_loop):
        found.append("a collective in a loop of the step")
    # Without dropout the program has no argument for its key.
    exact = {row["state"], row["state"] - row["key"]}
    is_exact = row["padded"] in exact if platform == "gpu" else row["padded"] >= min(exact)
    if row["argument"] != row["padded"] or not is_exact:
        found.append(
            f"arguments: {row['argument']} bytes, {row['padded']} as laid out; state, text and key "
            f"are {row['state']}"
        )
    known = KNOWN_CALLS[platform]
    unknown = [name for name in row["custom_calls"] if not known.fullmatch(name)]
    if unknown:
        found.append(f"custom calls that {platform} is not known to have: {', '.join(unknown)}")
    found += [f"the host takes part in every step: {each}" for each in row["host_calls"]]
    if platform == "gpu":
        # The training loop around collectives (charjax.backend).
        allowed = 0 if devices == 1 else 1
        waits = row["host_waits"]
        if not row["has_thunks"]:
            found.append("no thunks in XLA's dump: waits for the host cannot be seen")
        if len([each for each in waits if each.startswith("While")]) > allowed:
            found.append(f"the GPU waits for the host: {waits}")
        found += [f"the host takes part: {each}" for each in waits if not each.startswith("While")]
    return found


def argument_bytes(arguments: Any) -> int:
    """Return the bytes of a program's arguments on each device, without padding."""
    import jax

    total = 0
    for leaf in jax.tree.leaves(arguments):
        shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # As uint32 in the program.
            key = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), leaf.dtype))
            total += math.prod(shape) * key.size * key.dtype.itemsize
        else:
            total += math.prod(shape) * leaf.dtype.itemsize
    return total


def padded_bytes(text: str) -> int:
    """Return the bytes of the arguments in the layouts of the compiled program.

    A TPU's arrays are of whole tiles.
    """
    layout = _LAYOUT.search(text)
    if layout is None:
        return 0
    total = 0
    for dtype, dims, order, tile in _SHAPE.findall(layout[1]):
        # From the axis whose elements are neighbours to the outermost, as XLA lists them.
        shape = [_numbers(dims)[axis] for axis in _numbers(order)]
        sides = _numbers(tile)[::-1]
        shape += [1] * (len(sides) - len(shape))
        for axis, side in enumerate(sides):
            shape[axis] = -(-shape[axis] // side) * side
        bits = re.search(r"\d+", dtype)
        total += math.prod(shape) * (int(bits[0]) // 8 if bits else 1)
    return total


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def has_batch_statistics(state: Any) -> bool:
    """Return true for a model whose statistics are over the rows of the batch."""
    import jax

    return bool(jax.tree.leaves(state.model_state))
