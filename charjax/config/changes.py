"""The differences of two configurations, and those that a resumed run may not have."""

from collections.abc import Iterator
from typing import Any

from charjax.config.reads import why_unread
from charjax.config.sections import Config


def differences(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """The fields that differ: (section.key, old value, new value)."""
    before, after = (dict(_flatten(config.model_dump())) for config in (old, new))
    keys = list(dict.fromkeys([*before, *after]))
    return [
        (key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    ]


def resume_conflicts(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """The differences that would change what a run has already computed.

    More steps are no conflict by themselves: a schedule that depends on their number does so
    through optim.decay_steps. A setting that neither configuration reads is none, nor is a file
    that was moved: that it is the same text is checked by its digest.
    """
    free = set(_FREE_TO_CHANGE)
    if old.data.path is not None and new.data.path is not None:
        free.add("data.path")
    return [
        entry
        for entry in differences(old, new)
        if entry[0] not in free
        and entry[0].partition(".")[0] not in _FREE_SECTIONS
        and not (why_unread(old, entry[0]) and why_unread(new, entry[0]))
    ]


def describe_conflicts(old: Config, new: Config, remedy: str = "leave it as it was") -> str:
    """Return the conflicts and the way out, as a part of an error message.

    The length of a schedule that followed train.steps is not something that the user gave: there
    the way out is the setting that keeps it.
    """
    conflicts = resume_conflicts(old, new)
    stretched = new.optim.decay_steps == new.train.steps
    stretched = stretched and old.optim.decay_steps == old.train.steps
    kept = old.optim.decay_steps
    told = [
        f"optim.decay_steps follows train.steps and is {now!r} where it was {was!r}, which would "
        f"change the {old.optim.schedule} schedule of the steps already taken"
        if stretched and name == "optim.decay_steps"
        else f"{name} was {was!r} and is {now!r}"
        for name, was, now in conflicts
    ]
    ways = [remedy] if not stretched or len(conflicts) > 1 else []
    if stretched and "optim.decay_steps" in [name for name, _, _ in conflicts]:
        ways.append(f"add optim.decay_steps={kept} to keep the schedule as it was")
    return f"{', '.join(told)}; {' and '.join(ways or [remedy])}"


_FREE_SECTIONS = ("eval", "checkpoint")
_FREE_TO_CHANGE = (
    "train.steps",
    "train.log_every",
    "train.sample_every",
    "train.max_skipped",
    "runtime.device",
)


def _flatten(tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, section in tree.items():
        for key, value in section.items():
            yield f"{name}.{key}", value
