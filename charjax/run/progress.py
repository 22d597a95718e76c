"""The host's side of a run's state."""

import dataclasses
from typing import Any

import pydantic

from charjax.config import Config
from charjax.errors import UserError
from charjax.run.metrics import Interval

# Larger than any number in the notes of a run.
_MOST = 1e100


@dataclasses.dataclass
class Progress:
    """The host's side of a run's state, saved with each checkpoint.

    Attributes:
      interval: sums for the next metrics line.
      events_done: the last step whose evaluation and samples are complete.
      val_loss: the latest validation loss, nats per token.
      best_val_loss: the lowest validation loss.
      best_step: the step of the lowest validation loss.
      stalled: evaluations since then.
      seconds: time in training steps alone.
      targets: targets trained on in that time.
      wall_seconds: total time, earlier sessions included.
      compile_seconds: time to compile the step, earlier sessions included.
      scored: targets whose loss was measured after a fit.
      scoring_seconds: time for that.
    """

    interval: Interval = dataclasses.field(default_factory=Interval)
    events_done: int = 0
    val_loss: float | None = None
    best_val_loss: float | None = None
    best_step: int | None = None
    stalled: int = 0
    seconds: float = 0.0
    targets: float = 0.0
    wall_seconds: float = 0.0
    compile_seconds: float = 0.0
    scored: float = 0.0
    scoring_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Targets trained per second, without compilation, evaluation and saving."""
        return self.targets / self.seconds if self.seconds else 0.0

    @property
    def scoring_tokens_per_second(self) -> float:
        """Targets scored per second, without compilation."""
        return self.scored / self.scoring_seconds if self.scoring_seconds else 0.0

    def is_over(self, step: int, config: Config) -> bool:
        """Return true if no step follows this one, and its evaluation and samples are done."""
        is_last = step >= config.train.steps or 0 < config.train.patience <= self.stalled
        return is_last and self.events_done >= step

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers; JSON keeps every bit of the floats."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "Progress":
        """Invert `to_json`.

        Raises:
          UserError: fields or types are wrong, or a number is larger than in any run.
        """
        try:
            progress = pydantic.TypeAdapter(Progress).validate_python(tree)
        except pydantic.ValidationError as error:
            raise _not_ours(".".join(map(str, error.errors()[0]["loc"]))) from None
        fields = dataclasses.asdict(progress)
        sums = [name for name in fields if "seconds" in name or name in ("targets", "scored")]
        numbers = {name: fields[name] for name in sums} | fields["interval"]
        for name, value in numbers.items():
            # Adding to a larger one could overflow.
            if not abs(value) < _MOST:
                raise _not_ours(name)
        return progress


def _not_ours(where: str) -> UserError:
    return UserError(
        f"checkpoint: its notes are not as charjax writes them (progress.{where}); use another "
        "checkpoint"
    )
