"""The lines printed before the first step: model, parameters, text and devices."""

import jax
from rich.table import Table

from charjax import backend, hardware, parallel
from charjax.config.mesh import REST
from charjax.run.display import Display
from charjax.training.session import Session
from charjax.training.state import TrainState, parameter_count, state_shapes


def show_plan(display: Display, session: Session) -> None:
    """Print the header of a run, and its length, without a state."""
    if session.model.fitted:
        display.say(f"model: {session.config.model.kind}, counted in one pass over the text")
        return
    show_header(display, session, state_shapes(session.model, session.config))
    config, source = session.config, session.source
    assert source is not None
    rows = config.train.batch_size * config.optim.accumulate_steps
    targets = config.train.steps * rows * source.window
    display.say(
        f"run: {config.train.steps:,} steps of {rows:,} windows, at most {targets:,} targets "
        f"({config.train.steps / session.steps_per_epoch:.2f} epochs)"
    )


def show_header(display: Display, session: Session, state: TrainState) -> None:
    """Print a table of the parameters, and a line each for the text, the model and the devices.

    Args:
      display: of the run.
      session: text, model, devices.
      state: the state, or its shapes.
    """
    config, tokenizer = session.config, session.dataset.tokenizer
    display.table(_parameter_table(state))
    for note in session.dataset.notes:
        display.say(f"note: {note}")
    splits = session.dataset.splits.items()
    sizes = ", ".join(f"{name} {split.num_targets:,}" for name, split in splits)
    display.say(f"text: {session.dataset.name}, {tokenizer.vocab_size} symbols; targets: {sizes}")
    display.say(
        f"model: {config.model.kind}, {parameter_count(state.params):,} parameters, "
        f"{config.runtime.dtype}"
    )
    for line in _evaluation_lines(session):
        display.say(f"evaluation: {line}")
    display.say(f"device: {hardware.describe(session.devices)}, {_describe_use(session)}")
    is_free = REST in config.runtime.mesh.model_dump().values()
    if 1 < session.mesh.size < len(session.devices) and is_free:
        display.say(
            f"note: {session.mesh.size} devices is the largest number that divides "
            f"train.batch_size ({config.train.batch_size})"
        )


def _evaluation_lines(session: Session) -> list[str]:
    """Describe how the losses differ from those of every target, read in order."""
    config, lines = session.config.eval, []
    most, streams, before = config.max_targets, config.streams, ""
    if session.config.model.carries and config.protocol == "exact":
        before = f", each after {config.warmup:,} characters that are not scored"
    is_fitted, splits = session.model.fitted, session.dataset.splits.items()
    sizes = {name: split.num_targets for name, split in splits if is_fitted or name != "train"}
    cut = [name for name, size in sizes.items() if most is not None and most < size]
    if cut:
        of = ", ".join(f"{name} {sizes[name]:,}" for name in cut)
        lines.append(f"at most {most:,} targets in windows spread evenly ({of}){before}")
    if streams > 1 and len(cut) < len(sizes):
        lines.append(f"in {streams:,} parallel streams{before}")
    return lines


def _parameter_table(state: TrainState) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("parameter", "shape", "number"):
        table.add_column(title, justify="left" if title == "parameter" else "right")
    for path, leaf in jax.tree_util.tree_flatten_with_path(state.params)[0]:
        name = "/".join(str(part.key) for part in path)
        table.add_row(name, " x ".join(map(str, leaf.shape)), f"{leaf.size:,}")
    return table


def _describe_use(session: Session) -> str:
    """Describe how a batch, and the parameters, are divided over the devices."""
    count = parallel.fsdp_size(session.mesh)
    divided = f", parameters and moments divided over {count}" if count > 1 else ""
    return f"{_describe_rows(session)}{divided}"


def _describe_rows(session: Session) -> str:
    used, available = session.mesh.size, len(session.devices)
    are_cores = session.devices[0].platform == "cpu" and not backend.devices_are_given()
    if are_cores and available > 1:
        return "each batch shared by the cores" if used > 1 else "each operation shared by them"
    return f"{used} of {available} used"
