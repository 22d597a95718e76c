"""Fitting a family that counts: one pass over the text, then its losses."""

import math
import time
from collections.abc import Callable

from charjax.run.display import Display
from charjax.run.metrics import MetricsFile, loss_fields
from charjax.run.progress import Progress
from charjax.training.session import Session, place
from charjax.training.state import TrainState, fitted_state, variables_of
from charjax.training.validation import evaluated_size, score_split


def count(
    session: Session, display: Display, poll: Callable[[], None]
) -> tuple[TrainState, Progress]:
    """Fit the model to the training split.

    Args:
      session: of a family whose `fitted` is true.
      display: shows what is being done.
      poll: called between parts of the work; raises to stop.
    """
    split = session.dataset.splits["train"]
    began = time.perf_counter()
    with display.doing("counting"):
        params = session.model.fit(split, poll)["params"]
    seconds = time.perf_counter() - began
    progress = Progress(seconds=seconds, targets=float(split.num_targets), events_done=1)
    return place(session, fitted_state(params)), progress


def score(
    session: Session,
    state: TrainState,
    progress: Progress,
    metrics: MetricsFile,
    display: Display,
    poll: Callable[[], None],
) -> None:
    """Measure the losses of the training and validation splits, into `progress` and `metrics`."""
    display.say(f"counted {int(progress.targets):,} targets in {progress.seconds:.2f} s; scoring")
    for name in ("train", "val"):
        if (split := session.dataset.splits.get(name)) is None:
            continue
        with display.doing(f"scoring {name}"):
            result = score_split(session, split, variables_of(state), poll)
        size = evaluated_size(session, name)
        progress.scoring_seconds += result.seconds
        progress.scored += result.targets
        metrics.write(
            1,
            name,
            **loss_fields(result.loss, size),
            learning_rate=None,
            grad_norm=None,
            tokens_per_second=progress.tokens_per_second if name == "train" else None,
            **result.coverage(),
        )
        if name == "val":
            progress.val_loss, best = result.loss, math.isfinite(result.loss)
            if best:
                progress.best_val_loss, progress.best_step = result.loss, 1
            display.evaluated(1, result.loss, best, size.bpc(result.loss))
    display.say(f"scored {int(progress.scored):,} targets in {progress.scoring_seconds:.2f} s")
