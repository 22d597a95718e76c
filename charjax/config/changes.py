"""Differences between two configurations, and those that conflict with resuming a run."""

from collections.abc import Iterator
from typing import Any

from charjax.config.fields import Section
from charjax.config.notes import learning_rate_at
from charjax.config.optim import OptimConfig
from charjax.config.reads import why_unread
from charjax.config.sections import Config
from charjax.config.values import format_value, toml_text


def differences(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """Return the fields that differ: (section.key, old value, new value)."""
    before, after = (dict(flat_settings(config)) for config in (old, new))
    keys = list(dict.fromkeys([*before, *after]))
    return [
        (key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    ]


def resume_conflicts(
    old: Config, new: Config, completed: int | None = None
) -> list[tuple[str, Any, Any]]:
    """Return the differences that would change the completed steps of a run.

    A different train.steps or train.epochs is no conflict: a schedule depends on it only through
    optim.decay_steps. A setting that neither configuration reads is no conflict, nor is another
    data.path or data.val_path: the text's digest is checked when it is loaded. Settings of the
    schedule are none where the learning rates of the `completed` steps are the same, as before the
    fall of a warm-up-stable-decay schedule.

    Args:
      old: the run's configuration.
      new: the one that it would go on with.
      completed: its steps so far; None: not known, or none are saved.
    """
    free = set(_FREE_TO_CHANGE)
    if completed is not None and _same_rates(old.optim, new.optim, completed):
        free.update(_OF_SCHEDULE)
    if new.runtime.dtype == "auto":
        # A run that is resumed keeps what was chosen.
        free.add("runtime.dtype")
    for key in ("path", "val_path"):
        if getattr(old.data, key) is not None and getattr(new.data, key) is not None:
            free.add(f"data.{key}")
    if old.model.kind != new.model.kind:
        # Two families have few settings in common: only their names are reported.
        free.update(
            f"model.{key}" for key in {**dict(old.model), **dict(new.model)} if key != "kind"
        )
    return [
        entry
        for entry in differences(old, new)
        if entry[0] not in free
        and entry[0].partition(".")[0] not in _FREE_SECTIONS
        and not (why_unread(old, entry[0]) and why_unread(new, entry[0]))
    ]


def _same_rates(old: OptimConfig, new: OptimConfig, completed: int) -> bool:
    """Return true if two schedules have the same learning rates in the first steps."""
    if None in (old.decay_steps, new.decay_steps):
        # It follows train.epochs, whose steps are known once the text is loaded.
        return False
    changed = any(
        getattr(old, name.partition(".")[2]) != getattr(new, name.partition(".")[2])
        for name in _OF_SCHEDULE
    )
    return changed and all(
        learning_rate_at(old, step) == learning_rate_at(new, step) for step in range(completed)
    )


# Settings of the model with which a run may start from the parameters of another. A context length
# may change parameters, which their shapes show.
CHANGEABLE = ("model.dropout", "model.context_length", "model.counts", "model.count_words")
# How the same parameters are trained.
_SAME_PARAMETERS = (
    "model.remat",
    "model.scan_layers",
    "model.count_folds",
    "model.count_auxiliary",
    "model.count_temperature",
)


def model_conflicts(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """Return the differences for which a run cannot start from the parameters of another."""
    return [
        entry
        for entry in differences(old, old.model_copy(update={"model": new.model}))
        if entry[0] not in (*CHANGEABLE, *_SAME_PARAMETERS)
    ]


def describe_conflicts(
    old: Config, new: Config, remedy: str = "leave it as it was", completed: int | None = None
) -> str:
    """Return the conflicts and the remedies, as a part of an error message.

    If the user changed train.steps or train.epochs, and optim.decay_steps follows it, the remedy is
    the optim.decay_steps that keeps the schedule.
    """
    conflicts = resume_conflicts(old, new, completed)
    follows_steps = new.optim.decay_steps in (None, new.train.steps)
    follows_steps = follows_steps and old.optim.decay_steps == old.train.steps
    parts = [
        f"optim.decay_steps follows {_length_of(new)} where it was {format_value(was)}, which "
        f"would change the {old.optim.schedule} schedule of the completed steps"
        if follows_steps and name == "optim.decay_steps"
        else f"{name} was {format_value(was)} and is {format_value(now)}"
        for name, was, now in conflicts
    ]
    remedies = [remedy] if not follows_steps or len(conflicts) > 1 else []
    if follows_steps and "optim.decay_steps" in [name for name, _, _ in conflicts]:
        remedies.append(
            f"add optim.decay_steps={old.optim.decay_steps} to keep the schedule as it was"
        )
    begins = "--init-from takes over the parameters"
    if model_conflicts(old, new):
        begins = "without --init-from, as it is another model"
    return (
        f"{', '.join(parts)}; {' and '.join(remedies or [remedy])}, or start a new run ({begins})"
    )


def _length_of(config: Config) -> str:
    """Describe the length that optim.decay_steps follows: of train.epochs, not known in steps."""
    if config.optim.decay_steps is None:
        return f"train.epochs = {config.train.epochs:g}"
    return f"train.steps and is {config.optim.decay_steps!r}"


_OF_SCHEDULE = (
    "optim.schedule",
    "optim.decay_steps",
    "optim.decay_fraction",
    "optim.tail",
    "optim.min_learning_rate",
    "optim.boundaries",
    "optim.factor",
    "optim.staircase",
)
_FREE_SECTIONS = ("eval", "checkpoint", "log")
_FREE_TO_CHANGE = (
    # The batches are the same wherever the text is.
    "data.device_bytes",
    "train.steps",
    "train.epochs",
    "train.log_every",
    "train.sample_every",
    "train.patience",
    "train.max_skipped",
    "runtime.device",
    # A checkpoint is restored onto any devices.
    "runtime.mesh",
    # The parameters are the same; losses agree to rounding.
    "model.remat",
    "model.scan_layers",
)


def flat_settings(config: Config) -> Iterator[tuple[str, Any]]:
    """Yield (section.key, value) for every setting; runtime.mesh as text."""
    for name in Config.model_fields:
        section = getattr(config, name)
        for key, value in section.model_dump().items():
            part = getattr(section, key)
            yield f"{name}.{key}", toml_text(part) if isinstance(part, Section) else value
