"""A plan in words: rows of (name, figure, remark)."""

from charjax.config.values import format_value
from charjax.performance.activations import formula
from charjax.performance.memory import predict
from charjax.performance.planning import Plan
from charjax.performance.show import quantity

Row = tuple[str, str, str]
_BINARY = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_TIMES = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def plan_rows(plan: Plan, price: float | None) -> list[Row]:
    """Return the rows of a plan's table; an empty one ends a section.

    Args:
      plan: the plan.
      price: of one device and hour, or None.
    """
    empty = ("", "", "")
    parts = (_run(plan), _memory(plan), _step(plan), _whole(plan, price))
    return [row for part in parts for row in (*part, empty)][:-1]


def gib(size: float) -> str:
    """Return `15.8 GiB`, or in a smaller unit."""
    factor, unit = next((pair for pair in _BINARY if size >= pair[0]), (1, "B"))
    return f"{_digits(size / factor)} {unit}"


def duration(seconds: float) -> str:
    """Return `4.2 ms`, or in another unit."""
    factor, unit = next((pair for pair in _TIMES if seconds >= pair[0]), _TIMES[-1])
    return f"{_digits(seconds / factor)} {unit}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _run(plan: Plan) -> list[Row]:
    config, device = plan.session.config, plan.target.device
    source = plan.session.source
    assert source is not None
    rows = config.train.batch_size // plan.used
    each = f"{rows:,} rows of {source.window:,} on each of {plan.used}"
    if config.optim.accumulate_steps > 1:
        each += f", {config.optim.accumulate_steps} times per step"
    return [
        ("device", f"{plan.target.count} x {device.name}", device.device_kind),
        ("model", config.model.kind, f"{config.runtime.dtype}, {_count(plan)} parameters"),
        ("targets per step", f"{plan.work.targets:,}", each),
    ]


def _count(plan: Plan) -> str:
    return f"{plan.memory.all_parameters // 4:,}"


def _memory(plan: Plan) -> list[Row]:
    found, device = plan.memory, plan.target.device
    rows = [
        ("memory per device", "", ""),
        ("  parameters", gib(found.parameters), f"float32{_divided(plan)}"),
        ("  gradients", gib(min(found.gradients, found.temporary)), ""),
        (
            "  moments",
            gib(found.moments),
            f"optim.kind={plan.session.config.optim.kind}{_divided(plan)}",
        ),
        ("  activations", gib(found.activations), _basis(plan)),
        ("  text and metrics", gib(found.text + found.metrics), ""),
    ]
    if found.tables:
        counts = format_value(plan.session.model.orders)  # type: ignore[attr-defined]
        rows += [
            ("  tables of counts", gib(found.tables), f"model.counts={counts}"),
            ("  their predictions", gib(found.predictions), "in place of each training token"),
        ]
    if found.other > 1024:
        rows.append(
            ("  other state", gib(found.other), "statistics, carried state, factors, average")
        )
    if plan.fsdp > 1:
        whole = predict(plan.session, devices=plan.used, platform=device.platform).arguments
        share = f"{found.arguments / whole:.2f} x those without runtime.mesh.fsdp"
        rows.append(("  arguments of a step", gib(found.arguments), f"state and text: {share}"))
    fits = "fits" if plan.fits else "does not fit"
    usable = f"of {gib(device.usable)}: {fits}"
    rows.append(("  in all", gib(found.total), usable))
    largest = f"{plan.largest:,}" if plan.largest else "none"
    return [
        *rows,
        ("largest train.batch_size", largest, "that fits"),
        ("a checkpoint", gib(found.checkpoint), _saved(plan)),
    ]


def _saved(plan: Plan) -> str:
    tables = ", tables of counts" if plan.memory.tables else ""
    keep = plan.session.config.checkpoint.keep
    return f"on disk at most: parameters, moments, other state{tables}; up to {keep + 1} are kept"


def _divided(plan: Plan) -> str:
    return f", divided over {plan.fsdp}" if plan.fsdp > 1 else ""


def _basis(plan: Plan) -> str:
    if plan.memory.source == "compiler":
        return "and temporary arrays, as compiled"
    config, platform = plan.session.config, plan.target.device.platform
    found = formula(config.model.kind, platform, config.runtime.dtype)
    if found is None:
        return "by a rough formula: nothing was compiled for this device"
    if not plan.session.model.is_plain:
        return "by a rough formula: none was fitted to a model with such options"
    bound = "" if found.dtype == config.runtime.dtype else f", that of {found.dtype}: at most"
    if found.platform != platform:
        return f"by the formula of a GPU with a TPU's padding, not checked{bound}"
    if getattr(config.model, "remat", "none") != "none":
        return f"by formula, without what is computed again: not checked{bound}"
    return f"by formula (within {found.worst:.0%} of the compiler's){bound}"


def _step(plan: Plan) -> list[Row]:
    work, time, device = plan.work, plan.time, plan.target.device
    if time is None:
        dtype = plan.session.config.runtime.dtype
        return [("a step", "n/a", f"the rate of {device.name} in {dtype} is not known")]
    none = ("products", "none", "")
    if plan.session.model.forward_flops is None:
        none = ("products", "n/a", "not in the time below: the family gives no forward_flops")
    products = quantity(work.flops, "FLOP")
    rows = [
        ("products", products, f"{duration(time.compute)} at the peak rate")
        if work.flops
        else none,
        ("memory traffic", gib(work.traffic), f"{duration(time.traffic)} at full bandwidth"),
    ]
    if work.devices > 1 and time.network is not None:
        rows.append(("all-reduce", gib(work.collectives), duration(time.network)))
    kind = "a guess: by what was reached on" if time.guess else "as measured by"
    both = f"{duration(time.low)} to {duration(time.high)}"
    return [*rows, ("a step", both, f"{kind} {time.basis}")]


def _whole(plan: Plan, price: float | None) -> list[Row]:
    steps = plan.session.config.train.steps
    if plan.hours is None:
        return [("all steps", f"{steps:,}", "")]
    low, high = (3600 * each for each in plan.hours)
    devices = [each * plan.target.count for each in plan.hours]
    rows = [
        (f"{steps:,} steps", f"{duration(low)} to {duration(high)}", ""),
        ("device-hours", f"{_small(devices[0])} to {_small(devices[1])}", ""),
    ]
    if price is not None:
        cost = [price * each for each in devices]
        at = f"at {price:g} per device and hour"
        rows.append(("cost", f"{_small(cost[0])} to {_small(cost[1])}", at))
    return rows


def _small(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
