"""The devices of several processes that share the batches of one run."""

import jax

from charjax import backend
from charjax.config import Config
from charjax.errors import UserError
from charjax.training.cpu_plan import share_batch


def shared_devices(config: Config, devices: list[jax.Device]) -> list[jax.Device]:
    """Return the devices in use: equally many of each process, which divide the batch.

    Accelerators, and a CPU's devices whose number the user has set, are all in use. Of the cores of
    a CPU as many as it is worth sharing a batch among, else one device with all threads.

    Args:
      config: the run's.
      devices: of all processes, in the same order on each.

    Raises:
      UserError: the batch cannot be divided among them.
    """
    groups: dict[int, list[jax.Device]] = {}
    for device in devices:
        groups.setdefault(device.process_index, []).append(device)
    least, batch = min(map(len, groups.values())), config.train.batch_size
    are_cores = devices[0].platform == "cpu" and not backend.devices_are_given()
    each = least
    if are_cores:
        numbers = (each * len(groups) for each in range(least, 1, -1))
        used = next((n for n in numbers if batch % n == 0 and share_batch(config, n)), len(groups))
        each = used // len(groups)
    elif any(len(group) != least for group in groups.values()):
        numbers_of = ", ".join(str(len(group)) for _, group in sorted(groups.items()))
        raise UserError(
            f"runtime.device: the processes have {numbers_of} devices; start each with equally many"
        )
    if batch % (each * len(groups)):
        raise UserError(
            f"train.batch_size: {batch} given, and there are {each * len(groups)} devices in "
            f"{len(groups)} processes; give a multiple of {each * len(groups)}, or start fewer"
        )
    return [device for _, group in sorted(groups.items()) for device in group[:each]]
