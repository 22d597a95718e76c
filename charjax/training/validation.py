"""The losses of a run over its splits, by its configuration."""

from collections.abc import Callable
from typing import Any

from charjax import parallel
from charjax.data.splits import Split
from charjax.training.evaluation import Score, exact_loss, random_loss, scored_size
from charjax.training.session import Session
from charjax.training.state import TrainState, Weights, variables_of
from charjax.units import TextSize


def evaluator(
    session: Session, poll: Callable[[], None], weights: Weights = "averaged"
) -> Callable[[int, TrainState], Score] | None:
    """Return (step, state) -> validation score by the config's protocol; None without a split."""
    split = session.dataset.splits.get("val")
    if split is None:
        return None
    config, model, mesh = session.config, session.model, session.mesh
    source, count = session.val_source, config.eval.batches
    if source is None:
        return lambda step, state: score_split(session, split, variables_of(state, weights), poll)

    before = 0 if config.data.layout == "pairs" else model.window_lookback

    def evaluate(step: int, state: TrainState) -> Score:
        # Fresh batches at each evaluation, as nanoGPT draws them.
        first = (step * count) % (2**31 - 1 - count)
        variables = parallel.whole(variables_of(state, weights), mesh)
        how: Any = {"batches": count, "first": first, "before": before, "poll": poll}
        return random_loss(model, variables, source, mesh, **how)

    return evaluate


def score_split(
    session: Session,
    split: Split,
    variables: Any,
    poll: Callable[[], None],
    context: int | None = None,
    stride: int | None = None,
) -> Score:
    """Return the loss over a split by the configuration; arguments as of `exact_loss`.

    Each device has all parameters for as long as it takes, and no moments; a step needs more.
    """
    return exact_loss(
        session.model,
        parallel.whole(variables, session.mesh),
        split,
        session.mesh,
        context=context,
        stride=stride,
        poll=poll,
        **_settings(session),
    )


def evaluated_size(session: Session, name: str) -> TextSize:
    """Return the size of what a run's evaluation of a split scores; of the whole, if at random."""
    split = session.dataset.splits[name]
    if name == "val" and session.val_source is not None:
        return split.size
    tokenizer = session.dataset.tokenizer
    return scored_size(session.model, split, session.mesh, tokenizer, **_settings(session))


def _settings(session: Session) -> dict[str, Any]:
    """Return arguments of `exact_loss`."""
    length, config = session.config.model.context_length, session.config.eval
    assert length is not None
    return {
        "context_length": length,
        "batch_size": config.batch_size,
        "max_targets": config.max_targets,
        "streams": config.streams,
        "warmup": config.warmup,
        "device_bytes": session.config.data.device_bytes,
    }
