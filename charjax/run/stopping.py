"""The signal that stops a run, which its processes agree on."""

from charjax import processes
from charjax.signals import Interrupted, Signals

# Batches between two agreements of an evaluation: each costs a few messages.
_POLLS = 8


class Stop:
    """A signal for this process, or for another of the run.

    In one process it is known at once. Several know of it after an agreement, all at the same
    place of the program, so that none waits for the others in a sum over devices.
    """

    def __init__(self, signals: Signals):
        self._signals = signals
        self._agreed: int | None = None
        self._polls = 0

    @property
    def received(self) -> int | None:
        """The signal's number, or None."""
        return self._signals.received if processes.count() == 1 else self._agreed

    def poll(self) -> None:
        """Raise Interrupted if a signal has come, and was agreed on."""
        if self.received is not None:
            raise Interrupted(self.received)

    def poll_together(self) -> None:
        """Raise Interrupted if a signal has come to any process; all call this equally often."""
        if processes.count() > 1:
            self._polls += 1
            if self._polls % _POLLS == 0:
                self.agree(0)
        self.poll()

    def agree(self, steps: int) -> int:
        """Agree with the other processes on the signal, and on the smallest number of steps.

        All call this in the same order. In one process it returns `steps`.
        """
        if processes.count() == 1:
            return steps
        signal, fewest = processes.agreed_max([self._signals.received or 0, -steps])
        self._agreed = signal or None
        return -fewest
