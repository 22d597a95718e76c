"""A plan of a run on a device that need not be here: memory, what fits, time, cost."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from charjax import parallel
from charjax.errors import UserError
from charjax.performance import estimate, memory, programs, topology
from charjax.performance.calibrate import work_of
from charjax.performance.calibration import Calibration
from charjax.performance.devices import DEVICES, Device
from charjax.performance.memory import Memory
from charjax.training.devices import mesh_sizes
from charjax.training.session import Session

_MOST_DEVICES = 256
# Of accumulation, that are tried.
_MOST_STEPS = 2**20
Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Target:
    """The devices that a run is planned for.

    Attributes:
      device: one of them.
      count: devices that are paid for.
      calibration: what was measured there, if anything.
    """

    device: Device
    count: int
    calibration: Calibration | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan.

    Attributes:
      session: the run.
      target: what it is planned for.
      used: devices that share the batch.
      fsdp: devices that divide parameters and moments.
      memory: per device.
      largest: greatest train.batch_size that fits; 0 for none.
      work: of a step.
      time: of a step; None if a peak of the device is not known.
      would_fit: settings and flags with which it would fit, empty if it fits.
      notes: what is assumed or left out, one line each.
    """

    session: Session
    target: Target
    used: int
    fsdp: int
    memory: Memory
    largest: int
    work: estimate.Work
    time: estimate.StepTime | None
    would_fit: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """True if the memory of each device is enough."""
        return self.memory.total <= self.target.device.usable

    @property
    def hours(self) -> tuple[float, float] | None:
        """Shortest and longest hours of all steps; None if a step's time is not known."""
        if self.time is None:
            return None
        steps = self.session.config.train.steps
        return estimate.hours(self.time.low, steps), estimate.hours(self.time.high, steps)


def make_plan(session: Session, target: Target, *, compiles: bool, say: Note) -> Plan:
    """Plan a run.

    Args:
      session: the run, opened on this machine's CPU.
      target: what it is planned for.
      compiles: ask the device's compiler for the temporary arrays, where it is installed.
      say: called with a line before the compiler starts.

    Raises:
      UserError: there is no such number of devices, or runtime.mesh does not suit it.
    """
    config, device = session.config, target.device
    check_count(target)
    notes: list[str] = []
    batch = config.train.batch_size
    used, fsdp = _used(session, target)
    if used < target.count:
        notes.append(
            f"{used} devices is the largest number up to {target.count} that divides "
            f"train.batch_size ({batch}); the others idle"
        )
    found = _memory(session, target, (used, fsdp), compiles=compiles, say=say, notes=notes)
    grows = _growth(session, found, batch // used, device, fsdp)
    largest = used * memory.largest_batch(lambda rows: found.fixed + grows(rows), device.usable)
    work = estimate.work_of(session, found, used, fsdp)
    time = _time(session, work, target)
    if device.platform == "cpu":
        notes.append(
            "Python and JAX themselves are not counted; freed memory is kept, which took up to "
            f"{estimate.memory_growth():g} times the gradients and activations (docs/plan.md)"
        )
    if device.platform == "cuda":
        notes.append(
            f"JAX gives programs {device.usable / device.memory:.0%} of a GPU's memory at first "
            "(XLA_PYTHON_CLIENT_MEM_FRACTION)"
        )
    if used > 1 and device.interconnect is None and device.platform != "cpu":
        notes.append(f"the interconnect of {device.name} is not known: the all-reduce is left out")
    notes.append("time is that of the training steps: compilation and evaluation are left out")
    plan = Plan(session, target, used, fsdp, found, largest, work, time, (), tuple(notes))
    return plan if plan.fits else dataclasses.replace(plan, would_fit=remedies(plan))


def least_count(device: Device) -> int:
    """Return the smallest number of devices that there is."""
    return min(topology.TPUS.get(device.name, [1]))


def check_count(target: Target) -> None:
    """Raise a UserError for a number of devices that is not sold together."""
    name, count = target.device.name, target.count
    slices = topology.TPUS.get(name)
    if slices is not None and count not in slices:
        raise UserError(
            f"--count: {count} given; {name} comes in slices of {', '.join(map(str, slices))}"
        )


def _used(session: Session, target: Target) -> tuple[int, int]:
    """Return the devices that share the batch, and those that divide the parameters."""
    if target.device.platform == "cpu":
        return session.mesh.size, parallel.fsdp_size(session.mesh)
    data, fsdp = mesh_sizes(session.config, target.count)
    return data * fsdp, fsdp


def _memory(
    session: Session,
    target: Target,
    sizes: tuple[int, int],
    *,
    compiles: bool,
    say: Note,
    notes: list[str],
) -> Memory:
    """Return the memory by the compiler if it may be asked, else by formula."""
    device, (used, fsdp) = target.device, sizes
    formula = memory.predict(session, devices=used, platform=device.platform, fsdp=fsdp)
    if compiles and formula.fixed <= device.usable:
        try:
            temporary = _compiled(session, target, sizes, say)
            return memory.with_temporary(
                session, devices=used, temporary=temporary, source="compiler", fsdp=fsdp
            )
        except UserError as error:
            notes.append(f"activations are by formula: {error}")
    elif compiles:
        notes.append("activations are by formula: the state alone does not fit")
    return formula


def _compiled(session: Session, target: Target, sizes: tuple[int, int], say: Note) -> int:
    """Return the temporary bytes per device, as the compiler gives them.

    Raises:
      UserError: the compiler is not installed, or knows no such device.
    """
    device, (used, fsdp) = target.device, sizes
    if device.platform == "cpu":
        mesh = session.mesh
    else:
        if device.name not in topology.DEVICES:
            raise UserError(f"{device.name} is not among those that can be compiled for here")
        every = topology.compile_mesh(device.name, target.count)
        mesh = parallel.make_mesh(list(every.devices.flat)[:used], used, fsdp)
    say(f"compiling for {used} x {device.name}; --no-compile uses a formula instead")
    try:
        found = topology.compiled(programs.training(session, mesh))
    except topology.DoesNotFitError as error:
        state = memory.with_temporary(
            session, devices=used, temporary=0, source="compiler", fsdp=fsdp
        )
        return error.needed - state.fixed
    return memory.compiled_bytes(session, found) if device.platform == "cpu" else found.temporary


def _growth(
    session: Session, found: Memory, rows: int, device: Device, fsdp: int
) -> Callable[[int], float]:
    """Return the function from windows on a device to bytes of temporary arrays.

    What was compiled for `rows` windows grows by the formula, or in proportion where there is none:
    a small program's arrays say little of a large one's.
    """
    formula = memory.temporary(session, device.platform, fsdp)
    if found.source == "formula":
        return formula
    constant = min(found.gradients, found.temporary)
    if not memory.has_formula(session, device.platform):
        return lambda each: constant + (found.temporary - constant) * each / rows
    return lambda each: max(constant, found.temporary + formula(each) - formula(rows))


def _time(session: Session, work: estimate.Work, target: Target) -> estimate.StepTime | None:
    config = session.config
    kind, dtype = config.model.kind, config.runtime.dtype
    roofline = estimate.step_time(work, target.device, kind, dtype)
    measured = target.calibration
    if measured is None or roofline is None:
        return roofline
    each, network = work_of(session), 0.0
    if target.device.platform != "cpu":
        each = dataclasses.replace(
            each, flops=each.flops / work.devices, saved_bytes=each.saved_bytes / work.devices
        )
        network = roofline.network or 0.0
    predicted = measured.predict(kind, dtype, each)
    if predicted is None:
        return roofline
    low, middle, high = (seconds + network for seconds in predicted)
    basis = "charjax benchmark --calibrate"
    return dataclasses.replace(
        roofline, low=low, middle=middle, high=high, basis=basis, guess=False
    )


def remedies(plan: Plan) -> tuple[str, ...]:
    """Return settings and flags, each of which would make a run fit."""
    config, target, found = plan.session.config, plan.target, plan.memory
    rows, device = config.train.batch_size // plan.used, target.device
    grows = _growth(plan.session, found, rows, device, plan.fsdp)
    ways = []
    in_parts = None if device.platform == "cpu" else _more_parts(plan)
    if plan.largest:
        ways.append(smaller_batch(config.train.batch_size, config.optim.accumulate_steps, plan))
        if device.platform != "cpu" and (count := _more_devices(plan, grows)):
            ways.append(f"--count {count}")
    elif in_parts is not None:
        ways.append(in_parts)
    if getattr(plan.session.model, "remat", "") == "none":
        again = dataclasses.replace(plan.session, model=plan.session.model.clone(remat="block"))
        less = memory.predict(again, devices=plan.used, platform=device.platform, fsdp=plan.fsdp)
        if less.total <= device.usable:
            ways.append("model.remat=block (blocks are computed again in the backward pass)")
    if config.runtime.dtype == "float32" and device.bfloat16:
        half = found.gradients + found.activations / 2
        if plan.largest and found.fixed + half <= device.usable:
            ways.append("runtime.dtype=bfloat16 (about half the activations)")
    others = [each for each in DEVICES.values() if each.usable >= found.total]
    if others:
        best = min(others, key=lambda each: each.usable)
        ways.append(f"--device {best.name}")
    if not ways:
        ways.append(
            "a smaller model (every device holds all parameters and moments)"
            if not plan.largest and plan.fsdp == 1
            else "a smaller model or context"
        )
    return tuple(ways)


def smaller_batch(batch: int, accumulate: int, plan: Plan) -> str:
    """Return settings of a batch that fits, with as many targets per step if that can be."""
    whole = batch * accumulate
    # Gradients are summed in an array of their own.
    sums = plan.memory.parameters if accumulate == 1 else 0
    usable = plan.target.device.usable - sums
    rows, device = batch // plan.used, plan.target.device
    grows = _growth(plan.session, plan.memory, rows, device, plan.fsdp)
    fitting = plan.used * memory.largest_batch(lambda n: plan.memory.fixed + grows(n), usable)
    least = -(-whole // fitting) if fitting else whole + 1
    for steps in range(least, min(whole // plan.used, _MOST_STEPS) + 1):
        size, rest = divmod(whole, steps)
        if not rest and size % plan.used == 0:
            return (
                f"train.batch_size={size} optim.accumulate_steps={steps} (as many targets per step)"
            )
    return f"train.batch_size={plan.largest}"


def _more_devices(plan: Plan, grows: Callable[[int], float]) -> int | None:
    """Return the least number of devices, a power of two, with which the batch would fit."""
    batch, target = plan.session.config.train.batch_size, plan.target
    sizes = topology.TPUS.get(target.device.name) or [2**n for n in range(1, 9)]
    for count in sorted(sizes):
        fits = batch % count == 0 and plan.memory.fixed + grows(batch // count) <= (
            target.device.usable
        )
        if target.count < count <= _MOST_DEVICES and fits:
            return count
    return None


def _more_parts(plan: Plan) -> str | None:
    """Return settings that divide the parameters over the least devices with which it would fit."""
    batch, target, session = plan.session.config.train.batch_size, plan.target, plan.session
    sizes = topology.TPUS.get(target.device.name) or [2**n for n in range(1, 9)]
    for fsdp in sorted(size for size in sizes if size > plan.fsdp):
        count = max(fsdp, target.count)
        if count % fsdp or batch % count or count > _MOST_DEVICES:
            continue
        platform = target.device.platform
        found = memory.predict(session, devices=count, platform=platform, fsdp=fsdp)
        if found.total <= target.device.usable:
            further = f" --count {count}" if count > target.count else ""
            return f"runtime.mesh.fsdp={fsdp}{further}"
    return None


def to_json(plan: Plan, price: float | None) -> dict[str, Any]:
    """Return the plan as an object of numbers; bytes are per device."""
    session, found, device = plan.session, plan.memory, plan.target.device
    config, hours = session.config, plan.hours
    time = None if plan.time is None else dataclasses.asdict(plan.time)
    device_hours = None if hours is None else [each * plan.target.count for each in hours]
    return {
        "device": dataclasses.asdict(device),
        "count": plan.target.count,
        "devices_used": plan.used,
        "fsdp": plan.fsdp,
        "model": config.model.kind,
        "dtype": config.runtime.dtype,
        "parameters": found.all_parameters // 4,
        "batch_size": config.train.batch_size,
        "accumulate_steps": config.optim.accumulate_steps,
        "targets_per_step": plan.work.targets,
        "bytes": {
            "parameters": found.parameters,
            "moments": found.moments,
            "other": found.other,
            "gradients": min(found.gradients, found.temporary),
            "activations": found.activations,
            "tables": found.tables,
            "predictions": found.predictions,
            "text": found.text,
            "metrics": found.metrics,
            "arguments": found.arguments,
            "total": found.total,
            "checkpoint": found.checkpoint,
            "usable": math.floor(device.usable),
            "source": found.source,
        },
        "fits": plan.fits,
        "largest_batch_size": plan.largest,
        "would_fit": list(plan.would_fit),
        "step": dataclasses.asdict(plan.work),
        "seconds": time,
        "steps": config.train.steps,
        "hours": None if hours is None else list(hours),
        "device_hours": device_hours,
        "price_per_hour": price,
        "cost": None if price is None or not device_hours else [price * h for h in device_hours],
        "notes": list(plan.notes),
    }
