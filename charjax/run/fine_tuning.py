"""Fine-tuning: a run that starts from the parameters of another."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from charjax.config import (
    CHANGEABLE,
    Config,
    load_config,
    model_conflicts,
    parse_config,
    read_settings,
    refuse_unread,
)
from charjax.config.values import format_value
from charjax.errors import UserError
from charjax.extensions import refuse_unnamed
from charjax.models.mixture import without_weights
from charjax.run.display import shown_loss
from charjax.run.load import Run, find_run, load_run, parameter_shapes, require_run
from charjax.run.metrics import MetricsFile


def fine_tuning_config(
    source: Path, file: str | None, overrides: Sequence[str], note: Callable[[str], None]
) -> Config:
    """Return the configuration requested, with the other run's model.

    Args:
      source: directory of the other run.
      file: the configuration, if any.
      overrides: `section.key=value` words; settings of [model] are those of the other run's family
        unless model.kind is among them.
      note: called with a line for the user.

    Raises:
      UserError: there is no such run, its model was fitted by counting, or a setting would make it
        another model.
    """
    require_run(source, "--init-from")
    old = load_config(source / "config.toml", saved=True)
    if old.model.fitted:
        raise UserError(
            f"--init-from: {str(source)!r} holds counts (model.kind=ngram), and there are no "
            "parameters to train further; give the run of another family"
        )
    # Below, it is a word as the user's are, and those name files.
    refuse_unnamed("model.kind", old.model.kind)
    named = [word for word in overrides if word.startswith("model.kind=")]
    kind = read_settings(file, named).get("model", {}).get("kind", old.model.kind)
    requested = read_settings(file, [f"model.kind={kind}", *overrides])["model"]
    others = [word for word in overrides if not word.startswith("model.")]
    config = load_config(file, [f"model.kind={kind}", *others], note=note)
    if kind == old.model.kind:
        model = old.model.model_dump(exclude_none=True) | requested
        if not model.get("counts"):
            beside = ("count_folds", "count_auxiliary")
            model = {key: x for key, x in model.items() if key in requested or key not in beside}
        tree = config.model_dump(exclude_none=True) | {"model": model}
        config = parse_config(tree)
        refuse_unread(config, tree, overrides)
    _check_same_model(old, config)
    return config


def load_source(directory: Path, checkpoint: str, config: Config) -> Run:
    """Read the run to start from.

    Args:
      directory: of the other run.
      checkpoint: "best", "latest" or a step.
      config: the new run's.

    Raises:
      UserError: there is no such checkpoint, or its parameters do not fit the new run's model.
    """
    source = load_run(find_run(directory, checkpoint))
    _check_same_model(source.config, config)
    shapes = (parameter_shapes(each, source) for each in (source.config, config))
    before, after = (_common(each, source.config, config) for each in shapes)
    if before != after:
        theirs, ours = source.config.model.context_length, config.model.context_length
        raise UserError(
            f"model.context_length: {ours} given with --init-from, but that run's parameters are "
            f"of {theirs} positions (learned ones, or a window of its own); leave the setting out"
        )
    return source


def initial_parameters(source: Run, config: Config) -> dict[str, Any]:
    """Return the parameters that a run starts from.

    Of a network beside counts where it had none, or others, they are the network's alone: the
    weights of the experts are drawn anew, as their number is another.
    """
    return _common(source.variables["params"], source.config, config)


def _common(params: dict[str, Any], old: Config, new: Config) -> dict[str, Any]:
    return without_weights(params) if _counts(old) != _counts(new) else params


def _counts(config: Config) -> tuple[int, ...]:
    return getattr(config.model, "counts", ())


def _check_same_model(old: Config, new: Config) -> None:
    changed = [
        f"{name} is {format_value(before)} there, {format_value(after)} here"
        for name, before, after in model_conflicts(old, new)
    ]
    if changed:
        # Two families have few settings in common: only their names are reported.
        kinds = [text for text in changed if text.startswith("model.kind ")]
        raise UserError(
            f"--init-from: another model: {', '.join(kinds or changed)}; give the same model, or "
            f"none (only {', '.join(CHANGEABLE[:-1])} and {CHANGEABLE[-1]} may be changed)"
        )


def describe_source(source: Run, config: Config) -> str:
    """Return a line with the source's step and its validation loss, for a new run."""
    lines = MetricsFile(source.directory / "metrics.jsonl").read_thinned()
    losses = [
        line["loss"] for line in lines if line["split"] == "val" and line["step"] == source.step
    ]
    measured = "validation loss not measured there"
    if losses:
        loss = "not finite" if losses[-1] is None else shown_loss(losses[-1])
        measured = f"validation loss {loss}"
    there, here = _counts(source.config), _counts(config)
    others = (
        ""
        if there == here
        else (
            f"; its network alone, as model.counts is {format_value(there)} there and "
            f"{format_value(here)} here"
        )
    )
    step = f"checkpoint of step {source.step}"
    return f"starting from {source.directory}: {step}, {measured}{others}"
