"""Settings that no run of a sweep reads: refused or noted before anything is loaded."""

from collections.abc import Callable, Sequence
from typing import Any

from charjax.config import Config
from charjax.config.errors import fields_of
from charjax.config.reads import Unread, why_unread
from charjax.config.values import format_value, value_text
from charjax.errors import UserError
from charjax.initlab.sizes import size_of
from charjax.initlab.sweeps.axes import Axes

# A sweep measures at steps and on windows of its own, and keeps no checkpoints of its runs.
_OWN_SECTIONS = ("eval", "checkpoint", "log")
_OWN = ("train.log_every", "train.sample_every", "train.max_skipped", "train.patience")


def why_no_run_reads(axes: Axes) -> Callable[[Config, str], Unread | None]:
    """Return the reason why a setting is read by no run, where schemes are those of the axes.

    The numbers of [init] belong to schemes; every other setting is read as in a single run.
    """

    def unread(config: Config, name: str) -> Unread | None:
        if name == "train.epochs":
            return Unread(("--steps",), "a sweep reads --steps or train.steps instead")
        if not name.startswith("init.") or name == "init.scheme":
            return why_unread(config, name)
        for scheme in axes.schemes:
            init = config.init.model_copy(update={"scheme": scheme})
            if why_unread(config.model_copy(update={"init": init}), name) is None:
                return None
        listed = ",".join(axes.schemes)
        return Unread(("--scheme",), f"none of --scheme {listed} reads it")

    return unread


def check_axes(
    base: Config, axes: Axes, overrides: Sequence[str], note: Callable[[str], None]
) -> None:
    """Compare the settings that an axis varies, and those of single runs, with the sweep's own.

    Args:
      base: the settings that all runs share.
      axes: the values that are varied.
      overrides: the `section.key=value` words of the command line.
      note: called with a line for the user.

    Raises:
      UserError: the command line gives a value that is not one of its axis.
    """
    named = [word.partition("=")[0].strip() for word in overrides]
    for name, flag, values in _varied(base, axes):
        section, _, key = name.partition(".")
        value = getattr(getattr(base, section), key)
        default = fields_of(section, base.model.kind)[key].default
        if value in values or value == default:
            continue
        listed = ",".join(map(value_text, values))
        if name in named:
            raise UserError(
                f"{name}: {format_value(value)} given; no run reads it, as {flag} {listed} is "
                f"varied: add it to {flag}, or leave {name} out"
            )
        note(f"no run reads {name} = {format_value(value)}, as {flag} {listed} is varied")
    unused = [n for n in named if n in _OWN or n.partition(".")[0] in _OWN_SECTIONS]
    unused += _sizes(base, axes, named)
    if unused:
        note(f"no run of a sweep reads {', '.join(dict.fromkeys(unused))}")


def _varied(base: Config, axes: Axes) -> list[tuple[str, str, tuple[Any, ...]]]:
    """Return the settings that axes replace, other than sizes: (section.key, flag, values)."""
    varied: list[tuple[str, str, tuple[Any, ...]]] = [("init.scheme", "--scheme", axes.schemes)]
    if axes.gains != (None,):
        varied.append(("init.gain", "--gain", axes.gains))
    if axes.rates:
        varied.append(("optim.learning_rate", "--lr", axes.rates))
    return varied


def _sizes(base: Config, axes: Axes, named: list[str]) -> list[str]:
    """Return the named sizes that --depth and --width replace in every run."""
    depth, width = size_of(base)
    depths, widths = axes.depths or (depth,), axes.widths or (width,)
    deep, wide = base.model.depth_field, base.model.width_field
    is_depth_read, is_width_read = depth in depths, width in widths
    if deep == wide:
        # One list holds both: with one axis alone, the other size is still read from it.
        is_depth_read = is_width_read = is_depth_read or is_width_read
    if base.model.head_width is not None:
        # Heads keep their width, which the model's width determines.
        is_width_read = True
    replaced = {deep} if not is_depth_read else set()
    replaced |= {wide} if not is_width_read else set()
    return [f"model.{key}" for key in replaced if f"model.{key}" in named]
