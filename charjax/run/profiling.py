"""A trace of some steps of a run, by JAX's profiler, for XProf, TensorBoard and Perfetto."""

from pathlib import Path

import jax

from charjax.errors import one_line
from charjax.run.display import Display


class Profile:
    """The trace of `steps` steps, after one that is left out: the first call of a program is slow.

    Evaluations and checkpoints that fall between these steps are in the trace, too. If it cannot
    be written, the run goes on without it.
    """

    def __init__(self, directory: Path, steps: int, display: Display):
        self._directory, self._steps, self._display = directory, steps, display
        self._begin: int | None = None
        self._is_tracing = self._is_over = False

    def next_stop(self, step: int, goal: int) -> int:
        """Start the trace if it is due; return the step, at most `goal`, to be called again at.

        Args:
          step: steps done; the device is idle.
          goal: the step to which the run would go without a profile.
        """
        if self._is_over:
            return goal
        if self._begin is None:
            self._begin = step + 1
        if step < self._begin:
            return min(goal, self._begin)
        if not self._is_tracing:
            self._start()
        return goal if self._is_over else min(goal, self._begin + self._steps)

    def reached(self, step: int, *, is_last: bool = False) -> None:
        """End the trace if its steps are done, or no more follow."""
        if self._begin is not None and (is_last or step >= self._begin + self._steps):
            self._stop(step)

    def _start(self) -> None:
        try:
            options = jax.profiler.ProfileOptions()
            # Python's own calls, thousands where a program is traced, hide the operations.
            options.python_tracer_level = 0
            jax.profiler.start_trace(
                self._directory, create_perfetto_trace=True, profiler_options=options
            )
            self._is_tracing = True
        # Another trace that is running, or the disk.
        except Exception as error:
            self._fail(error)

    def _stop(self, step: int) -> None:
        if self._is_over:
            return
        self._is_over = True
        if not self._is_tracing:
            self._display.say("note: --profile: no step followed the first, so there is no trace")
            return
        try:
            jax.profiler.stop_trace()
        except Exception as error:
            self._fail(error)
            return
        assert self._begin is not None
        self._display.say(
            f"profile of steps {self._begin + 1} to {step}: xprof --logdir {self._directory}, or "
            f"{self._perfetto()} in https://ui.perfetto.dev"
        )

    def _perfetto(self) -> Path:
        """Return the newest trace for Perfetto."""
        found = sorted(self._directory.glob("plugins/profile/*/perfetto_trace.json.gz"))
        return found[-1] if found else self._directory

    def _fail(self, error: Exception) -> None:
        self._is_over = True
        self._display.say(f"warning: --profile has failed ({one_line(error)}); the run goes on")
