"""The processes of one sweep: a stop that all obey, and places where they wait for each other.

Runs are independent, so the processes exchange nothing while they train. They meet in JAX's
coordination service, and leave their records in the directory that all of them see.
"""

import json
import time
from pathlib import Path
from typing import Any

import jax

from charjax import processes
from charjax.processes import PeerError
from charjax.run.agreement import require_equal
from charjax.signals import Interrupted, Signals

_FOLDER = "charjax/sweep"
# Seconds between two questions whether another process was stopped.
_ASK_SECONDS = 0.5


class Meeting:
    """This process among those of a sweep; alone, it waits for nobody."""

    def __init__(self, signals: Signals):
        self._signals = signals
        self._asked = 0.0

    def poll(self) -> None:
        """Raise Interrupted if a signal has come, to this process or another."""
        if processes.count() == 1:
            self._signals.poll()
            return
        if self._signals.received is not None:
            _publish("stop", self._signals.received)
            self._signals.poll()
        if time.monotonic() - self._asked > _ASK_SECONDS:
            self._asked = time.monotonic()
            for number in _published("stop"):
                raise Interrupted(number)

    def wait_for_all(self, place: str, value: Any = None) -> list[Any]:
        """Wait until all processes have come here, and return the value of each.

        Raises:
          Interrupted: a signal has come.
          PeerError: the coordinator cannot be reached.
        """
        if processes.count() == 1:
            return [value]
        _publish(place, value)
        while len(found := _published(place)) < processes.count():
            self.poll()
            time.sleep(0.05)
        return found

    def check_equal(self, plan: dict[str, Any], out: Path, flags: dict[str, Any]) -> None:
        """Raise a UserError unless all processes have the same grid, text, versions and flags."""
        config = {
            f"{section}.{name}": value
            for section, fields in plan["config"].items()
            for name, value in fields.items()
            # Where the text is may differ from machine to machine.
            if (section, name) != ("data", "path")
        }
        others = {f"{name} (grid)": value for name, value in plan["axes"].items()}
        require_equal(plan["versions"], "install the same versions everywhere")
        require_equal(
            {"--out": str(out), "--part": plan["part"], **flags, **config, **others},
            "start every process with the same settings and flags",
        )
        require_equal({"text (SHA-256)": plan["text"][:12]}, "give every process the same text")


def _publish(place: str, value: Any) -> None:
    try:
        processes.publish(f"{_FOLDER}/{place}/{processes.index():06}", json.dumps(value))
    except jax.errors.JaxRuntimeError as error:
        raise _lost(error) from error


def _published(place: str) -> list[Any]:
    try:
        found = processes.published(f"{_FOLDER}/{place}")
    except jax.errors.JaxRuntimeError as error:
        raise _lost(error) from error
    return [json.loads(found[name]) for name in sorted(found)]


def _lost(error: Exception) -> PeerError:
    return PeerError(
        f"process {processes.index()} of {processes.count()} has lost the coordinator; finished "
        "runs are saved: continue with --resume"
    )
