"""The end of a run: summary.json, the last lines printed, the exit status."""

import dataclasses
import math
from typing import Any

from charjax.models.mixture import COUNTS
from charjax.run.checkpoint import state_digest
from charjax.run.display import loss_warning, shown_loss
from charjax.run.metrics import loss_fields
from charjax.run.notes import environment
from charjax.run.progress import Progress
from charjax.training.session import Session
from charjax.training.state import TrainState, model_bytes, parameter_count
from charjax.training.validation import evaluated_size
from charjax.units import TextSize


@dataclasses.dataclass(frozen=True)
class Summary:
    """The result of a run.

    Attributes:
      session: the run's.
      step: its last step.
      state: the state there.
      progress: the host's side of it.
      test_loss: nats per token, at the best checkpoint; None without a test split.
    """

    session: Session
    step: int
    state: TrainState
    progress: Progress
    test_loss: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the fields of summary.json."""
        progress, session = self.progress, self.session
        return {
            "steps": self.step,
            "epochs": self._epochs(),
            "params": parameter_count(self.state.params),
            "model_bytes": self._model_bytes(),
            **self._fields("val", progress.val_loss),
            "best_val_loss": progress.best_val_loss,
            "best_val_bpc": self._fields("val", progress.best_val_loss)["val_bpc"],
            "best_step": progress.best_step,
            **self._fields("test", self.test_loss),
            **self._coverage(),
            "skipped": self._skipped(),
            "seconds": progress.wall_seconds,
            "compile_seconds": progress.compile_seconds,
            "tokens_per_second": progress.tokens_per_second,
            **self._fitting_speeds(),
            **_files(session),
            "config_digest": session.config.digest(),
            "state_digest": state_digest(self.state),
            **environment(session),
        }

    def _model_bytes(self) -> dict[str, int]:
        """Return the bytes by kind; of shapes, as one process may not compute with all parts."""
        state = self.state
        tables = {COUNTS: state.tables} if state.tables != () else {}
        return model_bytes({"params": state.params, **state.model_state, **tables})

    def _epochs(self) -> float:
        return round(self.step / self.session.steps_per_epoch, 6)

    def _fields(self, name: str, loss: float | None) -> dict[str, float | None]:
        """Return a split's loss per token, character and byte; None where it has none."""
        is_held_out = name in self.session.dataset.splits
        size = evaluated_size(self.session, name) if is_held_out else TextSize(0, 0, 0)
        fields = loss_fields(math.nan if loss is None else loss, size)
        return {f"{name}_{key}": value for key, value in fields.items()}

    def _coverage(self) -> dict[str, int]:
        """Return eval.max_targets where a held-out split has more; else {}."""
        most, splits = self.session.config.eval.max_targets, self.session.dataset.splits
        held_out = [split.num_targets for name, split in splits.items() if name != "train"]
        return {"max_targets": most} if most is not None and most < max(held_out, default=0) else {}

    def _skipped(self) -> int:
        return int(self.state.counters.skipped)

    def _fitting_speeds(self) -> dict[str, float | None]:
        """Return the speeds of the two parts of fitting a family; {} for one that is trained.

        None: not known, of a run that was fitted before scoring was timed.
        """
        if not self.session.model.fitted:
            return {}
        return {
            "counting_tokens_per_second": self.progress.tokens_per_second,
            "scoring_tokens_per_second": self.progress.scoring_tokens_per_second or None,
        }

    def describe(self) -> str:
        """Return the line printed at the end."""
        progress, parts = self.progress, [f"steps {self.step}"]
        if skipped := self._skipped():
            parts.append(f"{skipped:,} of them skipped (loss or gradient not finite)")
        if not self.session.model.fitted:
            parts.append(f"epochs {self._epochs():.2f}")
        if progress.best_val_loss is not None:
            best_loss = shown_loss(progress.best_val_loss)
            parts.append(f"best val {best_loss} at step {progress.best_step}")
        if self.test_loss is not None:
            parts.append(f"test {shown_loss(self.test_loss)}")
        if speeds := self._fitting_speeds():
            named = {name.split("_")[0]: rate for name, rate in speeds.items() if rate}
            parts += [f"{name} {rate:,.0f} tokens/s" for name, rate in named.items()]
        else:
            parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
        return "done: " + ", ".join(parts)

    def warning(self) -> str | None:
        """Return the warning for a final loss worse than a uniform guess, if there is one."""
        size = self.session.dataset.tokenizer.vocab_size
        warnings = [loss_warning(split, loss, size) for split, loss in self._losses().items()]
        return next(filter(None, warnings), None)

    def exit_status(self) -> int:
        """Return 1 if a final loss is not finite, else 0."""
        losses = self._losses().values()
        return int(any(loss is not None and not math.isfinite(loss) for loss in losses))

    def _losses(self) -> dict[str, float | None]:
        return {"validation": self.progress.val_loss, "test": self.test_loss}


def _files(session: Session) -> dict[str, Any]:
    """Return the user's files that the text consists of; {} for a corpus by name."""
    files = session.dataset.files
    return {"files": [dataclasses.asdict(file) for file in files]} if files else {}
