"""The devices of a run: the mesh of runtime.mesh, and what does not fit them."""

import math

import jax
from jax.sharding import Mesh

from charjax import backend, hardware, parallel
from charjax.config import Config
from charjax.config.mesh import REST, MeshConfig
from charjax.config.values import format_value
from charjax.errors import UserError
from charjax.models.contract import CharModel
from charjax.training.cpu_plan import share_batch
from charjax.training.state import state_shapes

# With fewer symbols, the memory is not checked before the model is created.
_MANY_SYMBOLS = 4096


def make_run_mesh(config: Config, devices: list[jax.Device]) -> Mesh:
    """Return the mesh of a run.

    By default a run in one process uses the largest number of devices that divides the batch, and
    on a CPU all cores or one device of all threads, whichever is faster. A number that is given
    holds, and a run of several processes uses all devices.

    Args:
      config: the run's.
      devices: those of all its processes.

    Raises:
      UserError: runtime.mesh does not divide the devices, or its devices not the batch.
    """
    is_default = config.model.fitted or config.runtime.mesh == MeshConfig()
    if is_default and _in_one_process(devices):
        are_cores = devices[0].platform == "cpu" and not backend.devices_are_given()
        if are_cores and not share_batch(config, len(devices)):
            devices = devices[:1]
        return parallel.make_mesh(devices, config.train.batch_size)
    devices = shared_devices(config, devices)
    data, fsdp = mesh_sizes(config, len(devices), uses_all=not _in_one_process(devices))
    return parallel.make_mesh(devices[: data * fsdp], config.train.batch_size, fsdp)


def shared_devices(config: Config, devices: list[jax.Device]) -> list[jax.Device]:
    """Return the devices of which a run's mesh is made: equally many of each process, in order.

    Accelerators, and a CPU's devices whose number the user has set, are all used. In several
    processes, of the cores of a CPU as many as runtime.mesh and the batch fit; by default as many
    as it is worth sharing a batch among, or else one device with all threads.

    Args:
      config: the run's.
      devices: of all processes, in the same order on each.

    Raises:
      UserError: the processes have different numbers of devices.
    """
    groups: dict[int, list[jax.Device]] = {}
    for device in devices:
        groups.setdefault(device.process_index, []).append(device)
    least = each = min(map(len, groups.values()))
    if len(groups) == 1:
        return devices
    if devices[0].platform == "cpu" and not backend.devices_are_given():
        used = (each * len(groups) for each in range(least, 0, -1))
        each = next((n for n in used if _fits(config, n, len(groups))), len(groups)) // len(groups)
    elif any(len(group) != least for group in groups.values()):
        numbers = ", ".join(str(len(group)) for _, group in sorted(groups.items()))
        raise UserError(
            f"runtime.device: the processes have {numbers} devices; start each with equally many"
        )
    return [device for _, group in sorted(groups.items()) for device in group[:each]]


def _fits(config: Config, used: int, processes: int) -> bool:
    """Return true if a run of several processes should have so many cores as devices."""
    if config.runtime.mesh == MeshConfig():
        return used == processes or share_batch(config, used)
    fixed = [size for size in config.runtime.mesh.model_dump().values() if size != REST]
    known = math.prod(fixed)
    is_whole = used == known if len(fixed) == len(MeshConfig.model_fields) else used % known == 0
    return is_whole and config.train.batch_size % used == 0


def mesh_sizes(config: Config, count: int, *, uses_all: bool = False) -> tuple[int, int]:
    """Return the numbers of groups, and of devices in each, that runtime.mesh means.

    Args:
      config: the run's.
      count: devices that there are.
      uses_all: none may be idle, as in a run of several processes.

    Raises:
      UserError: runtime.mesh does not divide the devices, or its devices not the batch.
    """
    sizes = config.runtime.mesh.model_dump()
    shown = f"runtime.mesh: {format_value(config.runtime.mesh)} given"
    fixed = [name for name, size in sizes.items() if size != REST]
    known, batch = math.prod(sizes[name] for name in fixed), config.train.batch_size
    must_be_all = uses_all and len(fixed) == len(sizes)
    if count % known or (must_be_all and known != count):
        raise UserError(
            f"{shown}; {' x '.join(fixed)} = {known} must {'be' if must_be_all else 'divide'} the "
            f"number of devices, {count}"
        )
    if len(fixed) < len(sizes):
        # As many of the others as have rows, or in several processes all.
        rest = [n for n in range(1, count // known + 1) if batch % (known * n) == 0]
        free = count // known if uses_all else max(rest, default=1)
        sizes = {name: free if size == REST else size for name, size in sizes.items()}
    if batch % (used := math.prod(sizes.values())):
        raise UserError(
            f"train.batch_size: {batch} given; its rows are divided over {used} devices "
            f"({shown}), so it must be a multiple of {used}: change it, or runtime.mesh"
        )
    return sizes["data"], sizes["fsdp"]


def _in_one_process(devices: list[jax.Device]) -> bool:
    return len({device.process_index for device in devices}) == 1


def check_memory(config: Config, model: CharModel, mesh: Mesh) -> None:
    """Refuse a model of very many symbols whose state is larger than the memory.

    Raises:
      UserError: it is.
    """
    if model.vocab_size < _MANY_SYMBOLS:
        return
    devices = list(mesh.local_devices)
    # The devices of a CPU have one memory.
    parts = 1 if devices[0].platform == "cpu" else parallel.fsdp_size(mesh)
    shapes = jax.tree.leaves(state_shapes(model, config))
    needed = sum(parallel.part_bytes(leaf, parts) for leaf in shapes)
    there = hardware.total_memory(devices)
    if needed > there:
        raise UserError(
            f"model.kind: {config.model.kind} of {model.vocab_size:,} symbols needs "
            f"{needed / 1e9:.1f} GB for its parameters and the optimizer's state, and there are "
            f"{there / 1e9:.1f} GB of memory; choose another model.kind (ngram with model.order=2 "
            "counts pairs), a smaller model, data.tokenizer=byte, or with bpe a smaller "
            "data.vocab_size"
        )
