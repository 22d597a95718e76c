"""Progress of a run beside its state, saved with each checkpoint."""

import dataclasses
from typing import Any

import pydantic

from charjax.errors import UserError
from charjax.run.metrics import Interval

# Beyond any number in a run's notes.
_MOST = 1e100


@dataclasses.dataclass
class Progress:
    """What the host knows of a run beside the state; saved with each checkpoint.

    Attributes:
      interval: the part of a metrics line that is not written yet.
      events_done: the last step whose evaluation and samples are complete.
      val_loss: the newest validation loss.
      best_val_loss: the lowest one.
      best_step: where it was.
      seconds: spent in training steps alone.
      targets: trained on in those seconds.
      wall_seconds: spent in all, in earlier sessions.
      compile_seconds: spent compiling the step, in all sessions.
      scored: targets whose loss a fitted family has looked up.
      scoring_seconds: spent on that.
    """

    interval: Interval = dataclasses.field(default_factory=Interval)
    events_done: int = 0
    val_loss: float | None = None
    best_val_loss: float | None = None
    best_step: int | None = None
    seconds: float = 0.0
    targets: float = 0.0
    wall_seconds: float = 0.0
    compile_seconds: float = 0.0
    scored: float = 0.0
    scoring_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Targets trained a second, compilation, evaluation and saving left out."""
        return self.targets / self.seconds if self.seconds else 0.0

    @property
    def scoring_tokens_per_second(self) -> float:
        """Targets scored per second, compilation left out."""
        return self.scored / self.scoring_seconds if self.scoring_seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain numbers; floats survive the way through JSON to the bit."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "Progress":
        """The inverse of to_json.

        Raises:
          UserError: the fields or their types are others, or a number is beyond all runs.
        """
        try:
            progress = pydantic.TypeAdapter(Progress).validate_python(tree)
        except pydantic.ValidationError as error:
            raise _not_ours(".".join(map(str, error.errors()[0]["loc"]))) from None
        told = dataclasses.asdict(progress)
        sums = {
            name: told[name] for name in told if "seconds" in name or name in ("targets", "scored")
        }
        for name, value in (*sums.items(), *told["interval"].items()):
            # No run gets there; but what is added to it would overflow.
            if not abs(value) < _MOST:
                raise _not_ours(name)
        return progress


def _not_ours(where: str) -> UserError:
    return UserError(
        f"checkpoint: its notes are not as charjax writes them (progress.{where}); use another "
        "checkpoint"
    )
