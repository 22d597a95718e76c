"""Settings that no run of a sweep reads: refused or noted before anything is loaded."""

from collections.abc import Callable, Sequence
from typing import Any

from charjax.config import Config
from charjax.config.errors import fields_of, format_value
from charjax.config.reads import Unread, why_unread
from charjax.errors import UserError
from charjax.initlab.sizes import size_fields, size_of
from charjax.initlab.sweeps.axes import Axes

# A sweep measures at steps and on windows of its own, and keeps no checkpoints of its runs.
_OWN_SECTIONS = ("eval", "checkpoint")
_OWN = ("train.log_every", "train.sample_every", "train.max_skipped")


def why_no_run_reads(axes: Axes) -> Callable[[Config, str], Unread | None]:
    """Return the reason why a setting is read by no run, where schemes are those of the axes.

    The numbers of [init] belong to schemes; every other setting is read as in a single run.
    """

    def unread(config: Config, name: str) -> Unread | None:
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
    given = [word.partition("=")[0].strip() for word in overrides]
    for name, flag, values in _varied(base, axes):
        section, _, key = name.partition(".")
        value = getattr(getattr(base, section), key)
        default = fields_of(section, base.model.kind)[key].default
        if value in values or value == default:
            continue
        listed = ",".join(str(value) for value in values)
        if name in given:
            raise UserError(
                f"{name}: {format_value(value)} given; no run reads it, as {flag} {listed} is "
                f"varied: add it to {flag}, or leave {name} out"
            )
        note(f"no run reads {name} = {format_value(value)}, as {flag} {listed} is varied")
    own = [n for n in given if n in _OWN or n.partition(".")[0] in _OWN_SECTIONS]
    own += _sizes(base, axes, given)
    if own:
        note(f"no run of a sweep reads {', '.join(dict.fromkeys(own))}")


def _varied(base: Config, axes: Axes) -> list[tuple[str, str, tuple[Any, ...]]]:
    """The settings that axes replace, other than sizes: (section.key, flag, values)."""
    varied: list[tuple[str, str, tuple[Any, ...]]] = [("init.scheme", "--scheme", axes.schemes)]
    if axes.gains != (None,):
        varied.append(("init.gain", "--gain", axes.gains))
    if axes.rates:
        varied.append(("optim.learning_rate", "--lr", axes.rates))
    return varied


def _sizes(base: Config, axes: Axes, given: list[str]) -> list[str]:
    """The sizes that were given and that --depth and --width replace in every run."""
    depth, width = size_of(base)
    depths, widths = axes.depths or (depth,), axes.widths or (width,)
    if base.model.kind == "mlp":
        # One list holds both; with one axis alone the other size is still its.
        replaced = {"hidden"} if depth not in depths and width not in widths else set()
    else:
        deep, wide = (str(field) for field in size_fields(base.model.kind))
        # Heads keep their width, which d_model gives.
        is_read = width in widths or base.model.kind == "transformer"
        replaced = {deep} if depth not in depths else set()
        replaced |= set() if is_read else {wide}
    return [f"model.{key}" for key in replaced if f"model.{key}" in given]
