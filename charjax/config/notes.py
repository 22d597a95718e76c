"""Notes on a valid configuration: schedules longer or shorter than the run.

Steps are numbered as in the messages of a run: step n is the n-th, with the learning rate after
n - 1 completed steps.
"""

import math

from charjax.config.optim import OptimConfig
from charjax.config.sections import Config


def schedule_notes(config: Config) -> list[str]:
    """Return a line for each part of the schedule that does not fit the number of steps."""
    if config.model.fitted:
        return []
    optim, steps = config.optim, config.train.steps
    notes = []
    if optim.warmup_steps >= steps:
        reached = learning_rate_at(optim, steps - 1)
        notes.append(
            f"the warm-up (optim.warmup_steps = {optim.warmup_steps}) does not end within "
            f"train.steps = {steps}: the learning rate reaches {reached:.3g} of "
            f"{optim.learning_rate:g}"
        )
    if optim.schedule == "cosine":
        notes += _cosine_notes(optim, steps)
    elif optim.schedule == "wsd":
        notes += _wsd_notes(optim, steps)
    elif optim.schedule == "step":
        late = [step for step in optim.boundaries if step >= steps]
        if late:
            listed = ", ".join(map(str, late))
            notes.append(
                f"optim.boundaries = {listed}: not within train.steps = {steps}, so the learning "
                "rate is not multiplied there"
            )
    elif optim.schedule == "exponential":
        notes += _exponential_notes(optim, steps)
    return notes


def _cosine_notes(optim: OptimConfig, steps: int) -> list[str]:
    end = _cosine_end(optim)
    summary = f"the cosine schedule ends at step {end} (optim.decay_steps = {optim.decay_steps})"
    if end < steps:
        rest = f"step {steps}" if end + 1 == steps else f"steps {end + 1} to {steps}"
        idle = ", at which no parameter moves" if optim.min_learning_rate == 0 else ""
        return [
            f"{summary}: {rest} of train.steps = {steps} train at optim.min_learning_rate = "
            f"{optim.min_learning_rate:g}{idle}"
        ]
    if end > steps > optim.warmup_steps:
        last = learning_rate_at(optim, steps - 1)
        return [f"{summary}, beyond train.steps = {steps}: the last learning rate is {last:.3g}"]
    return []


def _cosine_end(optim: OptimConfig) -> int:
    return optim.warmup_steps + max(1, (optim.decay_steps or 1) - optim.warmup_steps)


def wsd_span(optim: OptimConfig) -> tuple[int, int]:
    """Return the steps at which a warm-up-stable-decay schedule begins to fall and ends."""
    end = _cosine_end(optim)
    length = max(1, round(optim.decay_fraction * (optim.decay_steps or 1)))
    return max(optim.warmup_steps, end - length), end


def wsd_tail(optim: OptimConfig, done: float) -> float:
    """Return the part of the rate above its floor that is left, at a part of its fall (0 to 1)."""
    if optim.tail == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - (math.sqrt(done) if optim.tail == "1-sqrt" else done)


def _wsd_notes(optim: OptimConfig, steps: int) -> list[str]:
    begin, end = wsd_span(optim)
    if begin >= steps > optim.warmup_steps:
        return [
            f"the wsd schedule falls from step {begin + 1} (optim.decay_fraction = "
            f"{optim.decay_fraction:g} of optim.decay_steps = {optim.decay_steps}), not within "
            f"train.steps = {steps}: the learning rate does not fall"
        ]
    if end > steps > begin:
        last = learning_rate_at(optim, steps - 1)
        return [
            f"the wsd schedule ends at step {end} (optim.decay_steps = {optim.decay_steps}), "
            f"beyond train.steps = {steps}: the last learning rate is {last:.3g}"
        ]
    if end < steps:
        return [
            f"the wsd schedule ends at step {end} (optim.decay_steps = {optim.decay_steps}): the "
            f"steps to {steps} train at optim.min_learning_rate = {optim.min_learning_rate:g}"
        ]
    return []


def _exponential_notes(optim: OptimConfig, steps: int) -> list[str]:
    begin = optim.boundaries[0] if optim.boundaries else 0
    period = optim.decay_steps or 1
    if begin >= steps:
        return [
            f"the exponential decay begins at step {begin} (optim.boundaries), not within "
            f"train.steps = {steps}: the learning rate does not decay"
        ]
    if optim.staircase and begin + period >= steps:
        return [
            f"the exponential schedule first multiplies the learning rate after step "
            f"{begin + period} (optim.decay_steps = {period}), not within train.steps = {steps}"
        ]
    low, high = optim.min_learning_rate, optim.learning_rate
    if low > 0 and optim.factor < 1 and learning_rate_at(optim, steps - 1) == low:
        periods = math.log(low / high) / math.log(optim.factor)
        floor = begin + math.ceil((math.ceil(periods) if optim.staircase else periods) * period)
        return [
            f"the exponential schedule reaches optim.min_learning_rate = {low:g} at step {floor} "
            f"of train.steps = {steps}, and stays there"
        ]
    return []


def learning_rate_at(optim: OptimConfig, step: int) -> float:
    """Return the learning rate after `step` completed steps.

    Float64 counterpart of `charjax.training.optimizer.make_schedule`, without JAX.
    """
    low, high = optim.min_learning_rate, optim.learning_rate
    if step < optim.warmup_steps:
        return high * (step + 1) / (optim.warmup_steps + 1)
    if optim.schedule == "cosine":
        length = _cosine_end(optim) - optim.warmup_steps
        done = min((step - optim.warmup_steps) / length, 1.0)
        return low + 0.5 * (1 + math.cos(math.pi * done)) * (high - low)
    if optim.schedule == "wsd":
        begin, end = wsd_span(optim)
        done = min(max(step - begin, 0) / max(1, end - begin), 1.0)
        return low + wsd_tail(optim, done) * (high - low)
    if optim.schedule == "step":
        return float(high * optim.factor ** sum(step >= boundary for boundary in optim.boundaries))
    if optim.schedule == "exponential":
        begin = optim.boundaries[0] if optim.boundaries else 0
        power = max(step - begin, 0) / (optim.decay_steps or 1)
        return max(high * optim.factor ** (math.floor(power) if optim.staircase else power), low)
    return high
