"""The time of a training step by the roofline of a device, and what a run costs.

A step on one device takes no less than its products at the peak rate, no less than the traffic of
its memory, and then the all-reduce of the gradients, which begins when they are all there
(Williams et al. 2009, doi:10.1145/1498765.1498785). What share of that is reached is measured.
"""

import dataclasses
import functools
import json
import math
from importlib import resources
from typing import Any

from charjax.performance.calibration import Calibration
from charjax.performance.devices import Device
from charjax.performance.flops import train_flops
from charjax.performance.memory import Memory
from charjax.training.optimizers.muon import newton_schulz_flops
from charjax.training.session import Session
from charjax.training.state import state_shapes

_SECONDS_PER_HOUR = 3600.0
# Seconds of one kernel in a loop of small ones, on an accelerator; not measured here.
LAUNCH = (2e-6, 10e-6)
# Kernels that follow one another, forward and backward together: of a layer at one time in a scan,
# and of a layer that computes all times at once.
_SCANNED, _PARALLEL = 4, 40
# The processor's shares are carried over to other devices with as much room below.
_DOUBT = 3.0
# Share of the roofline where nothing comparable was measured.
_UNKNOWN = (0.1, 0.7)


@dataclasses.dataclass(frozen=True)
class Work:
    """The operations and the traffic of one training step.

    Attributes:
      flops: of all devices together: three forward passes' (`charjax.performance.flops`), and
        Muon's orthogonalisations.
      traffic: bytes that each device reads and writes at least: everything it holds, twice.
      collectives: bytes that each device sends to add up the gradients, 2 (n - 1) / n of them.
      sequence: kernels that can only follow one another.
      targets: predicted characters.
      devices: that share them.
    """

    flops: float
    traffic: float
    collectives: float
    sequence: int
    targets: int
    devices: int


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of a step.

    Attributes:
      low: the shortest that is expected.
      middle: the most likely.
      high: the longest.
      compute: at the peak rate of products.
      traffic: at the memory's bandwidth.
      network: of the all-reduce; None if the interconnect is not known.
      launches: of kernels that follow one another, at least.
      basis: where the share of the roofline is from.
      guess: it was not measured on this kind of device.
    """

    low: float
    middle: float
    high: float
    compute: float
    traffic: float
    network: float | None
    launches: float
    basis: str
    guess: bool


def work_of(session: Session, memory: Memory, devices: int, fsdp: int = 1) -> Work:
    """Return the work of a step; the families that count have none.

    Args:
      session: the run.
      memory: per device.
      devices: that share the batch.
      fsdp: devices that divide the parameters.
    """
    config, model, source = session.config, session.model, session.source
    assert source is not None
    targets = source.batch_size * source.window
    per_target = train_flops(config.model, model.vocab_size) or 0.0
    repeats = config.optim.accumulate_steps
    # All that is temporary is written and read again with every micro-batch.
    held = memory.state + repeats * memory.temporary
    # Gathered and scattered within a group of devices, added up over the groups.
    groups, whole = devices // fsdp, memory.all_parameters
    within = 2.0 * repeats * (fsdp - 1) / fsdp * whole
    is_scanned = model.memory == "carried" and model.matrix_weights and not _is_parallel(model)
    layers = getattr(model, "n_layer", 1)
    kernels = _SCANNED * source.window if is_scanned else _PARALLEL
    per_step = 0.0
    if config.optim.kind == "muon":
        params = state_shapes(model, config).params
        # Every device orthogonalises all of them.
        per_step = devices * newton_schulz_flops(params, model.roles)
    return Work(
        flops=per_target * targets + per_step,
        traffic=2.0 * held,
        collectives=within + 2.0 * (groups - 1) / groups * memory.parameters,
        sequence=kernels * layers * repeats,
        targets=targets,
        devices=devices,
    )


def _is_parallel(model: Any) -> bool:
    """Return true if all times of a carried state are computed together."""
    return not hasattr(model, "gates")


def step_time(work: Work, device: Device, kind: str, dtype: str) -> StepTime | None:
    """Return the range of a step's seconds by the roofline; None if a peak is not known.

    Args:
      work: of the step.
      device: the device.
      kind: the family.
      dtype: of the products.
    """
    peak = device.of(dtype)
    if peak is None:
        return None
    compute, traffic = work.flops / work.devices / peak, work.traffic / device.bandwidth
    network = work.collectives / device.interconnect if device.interconnect else None
    launches = [seconds * work.sequence for seconds in LAUNCH]
    low_share, high_share, basis = efficiency(kind, dtype)
    if device.platform == "cpu":
        launches = [0.0, 0.0]
    else:
        low_share /= _DOUBT
    bound = max(compute, traffic)
    low = max(bound / high_share, launches[0]) + (network or 0.0)
    high = max(bound / low_share, launches[1]) + 2 * (network or 0.0)
    return StepTime(
        low=low,
        middle=math.sqrt(low * high),
        high=high,
        compute=compute,
        traffic=traffic,
        network=network if work.devices > 1 else 0.0,
        launches=launches[0],
        basis=basis,
        guess=True,
    )


def efficiency(kind: str, dtype: str) -> tuple[float, float, str]:
    """Return the least and greatest share of the roofline that a family reached, and where."""
    table = _table()
    found = table["families"].get(kind, {}).get(dtype)
    if found is None:
        return (*_UNKNOWN, "nothing comparable was measured")
    return found["low"], found["high"], str(table["where"])


def where() -> str:
    """Return the machine whose rates and shares are in the package."""
    return str(_table()["where"])


def memory_growth() -> float:
    """Return how many times its first rise a process's memory grew in eight calls on a CPU."""
    return float(_table()["growth"])


def processor_rates(measured: Calibration | None) -> dict[str, float]:
    """Return a processor's FLOP/s by dtype and its "copy" in bytes/s: its own, or another's."""
    if measured is None:
        return dict(_table()["rates"])
    return {dtype: measured.rate(dtype) for dtype in ("float32", "bfloat16")} | {
        "copy": measured.copy_rate
    }


def hours(seconds_per_step: float, steps: int) -> float:
    """Return the hours of so many steps."""
    return seconds_per_step * steps / _SECONDS_PER_HOUR


@functools.cache
def _table() -> Any:
    """Return the shares by family and dtype, which `make results` writes from the benchmarks."""
    text = resources.files(__package__).joinpath("efficiency.json").read_text(encoding="utf-8")
    return json.loads(text)
