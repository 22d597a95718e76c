"""Several processes of one run: their number, and what they say to each other.

The only file that calls `jax.distributed`. All that is here goes through JAX's coordination service
(a store of keys and values, and barriers), never through a device: it works before a device is
started, while one computes, and from another thread. In one process nothing is started or sent.
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

import jax

# No public function gives the service's client; orbax gets it here, too.
from jax._src import distributed

from charjax.errors import UserError, one_line, printable
from charjax.signals import Interrupted

T = TypeVar("T")

# A blocking request is made again and again, so that Python answers signals in between.
_POLL_MS = 500
_FOLDER = "charjax"

# Each process makes the same calls in the same order, so a call's number is its name.
_rounds = itertools.count()
_barriers: dict[str, Callable[[], int]] = defaultdict(lambda: itertools.count().__next__)
_visits: dict[str, Callable[[], int]] = defaultdict(lambda: itertools.count().__next__)


class PeerError(OSError):
    """Another process of the run has ended, failed or cannot be reached; exit status 1."""


def count() -> int:
    """Return the number of processes of this run; callable before JAX starts."""
    return int(distributed.global_state.num_processes) if _client() else 1


def index() -> int:
    """Return the number of this process, from 0; callable before JAX starts."""
    return int(distributed.global_state.process_id) if _client() else 0


def is_first() -> bool:
    """Return true in process 0, which writes the run's files."""
    return index() == 0


def check_count() -> None:
    """Raise a UserError unless all were started as processes of the same number.

    Each would wait for ever for those that it alone expects. Called once, before anything else.
    """
    client, number, folder = _client(), count(), f"{_FOLDER}/count"
    publish(f"{folder}/{index():06}", str(number))
    # Those of another number than the first find that at once: they do not wait for the others.
    for other in range(number):
        while not _has_value(client, f"{folder}/{other:06}"):
            pass
        if (found := int(published(folder)[f"{folder}/{other:06}"])) != number:
            raise UserError(
                f"--processes: {number} given to process {index()} and {found} to process {other}; "
                "start every process with the same number"
            )


def gather(text: str) -> list[str]:
    """Return the text of every process, in the order of their numbers.

    All processes call it, from their main threads, in the same order. It waits for the slowest.

    Raises:
      PeerError: the coordinator cannot be reached.
    """
    if (client := _client()) is None:
        return [text]
    here = next(_rounds)
    folder = f"{_FOLDER}/gather/{here}"
    try:
        client.key_value_set(f"{folder}/text/{index():06}", json.dumps(text))
        # The last one to arrive lets the others go on: four requests, however many processes.
        if client.key_value_increment(f"{folder}/arrived", 1) == count():
            client.key_value_set(f"{folder}/complete", "yes")
        while not _has_value(client, f"{folder}/complete"):
            pass
        found = sorted(client.key_value_dir_get(f"{folder}/text/"))
        if is_first() and here > 1:
            # All of them have read these texts: they have sent those of the next round.
            client.key_value_delete(f"{_FOLDER}/gather/{here - 2}/")
    except jax.errors.JaxRuntimeError as error:
        if "ALREADY_EXISTS" in str(error):
            raise UserError(
                f"--process: {index()} given to two processes; start each number once"
            ) from None
        raise _unreachable(error) from None
    return [json.loads(value) for _, value in found]


def from_first(text: str) -> str:
    """Return the text of the first process; called as `gather` is."""
    return gather(text)[0]


def agreed_max(values: list[int]) -> list[int]:
    """Return the largest of each number over all processes; called as `gather` is."""
    if count() == 1:
        return values
    rows = [json.loads(text) for text in gather(json.dumps(values))]
    return [max(column) for column in zip(*rows, strict=True)]


def together(function: Callable[[], T]) -> T:
    """Call a function that may fail in one process alone; if it does, all of them raise.

    All processes call it, from their main threads, in the same order.

    Raises:
      UserError: the function's, or that of the first process where it raised one.
      Interrupted: a signal stopped this or another process.
      PeerError: another process failed otherwise.
    """
    if count() == 1:
        return function()
    try:
        result = function()
    except BaseException as error:
        gather(json.dumps(_describe(error)))
        raise
    failures = [json.loads(text) for text in gather("null")]
    for process, failure in enumerate(failures):
        if failure is not None:
            raise _failure_of(process, failure)
    return result


def barrier(name: str, seconds: float) -> None:
    """Wait until every process has come here, at most so long; for any thread.

    Args:
      name: of the place; each process comes there equally often.
      seconds: the longest to wait.

    Raises:
      PeerError: a process has not come in time, or has ended.
    """
    if (client := _client()) is None:
        return
    visit = f"{_FOLDER}/{name}/{_barriers[name]()}"
    try:
        client.wait_at_barrier(visit, timeout_in_ms=int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        raise PeerError(
            f"process {index()} of {count()} waited for the others ({name}), and not all came "
            f"within {seconds:g} s: {one_line(error)}"
        ) from None


def exchange(name: str, text: str, seconds: float) -> list[str]:
    """Return the text of every process, in the order of their numbers; for any thread.

    Args:
      name: of the place; each process comes there equally often.
      text: this process's.
      seconds: the longest to wait for the others.

    Raises:
      PeerError: a process has not come in time, or has ended.
    """
    if (client := _client()) is None:
        return [text]
    visit = _visits[name]()
    folder = f"{_FOLDER}/exchange/{name}"
    try:
        client.key_value_set(f"{folder}/{visit}/{index():06}", json.dumps(text))
        barrier(f"exchange/{name}", seconds)
        found = sorted(client.key_value_dir_get(f"{folder}/{visit}/"))
        if is_first() and visit:
            # All of them have read these texts: they have come here again.
            client.key_value_delete(f"{folder}/{visit - 1}/")
    except jax.errors.JaxRuntimeError as error:
        raise _unreachable(error) from None
    return [json.loads(value) for _, value in found]


def publish(name: str, value: str) -> None:
    """Show a value to all processes under a name; it replaces an earlier one. For any thread.

    Raises:
      jax.errors.JaxRuntimeError: the coordinator cannot be reached.
    """
    _client().key_value_set(name, value, allow_overwrite=True)


def published(folder: str) -> dict[str, str]:
    """Return the values that were published under names `FOLDER/...`; errors as of `publish`."""
    return dict(_client().key_value_dir_get(f"{folder}/"))


def _client() -> Any:
    """Return the client of JAX's coordination service, or None where nothing was connected."""
    return distributed.global_state.client


def _has_value(client: Any, key: str) -> bool:
    """Wait for a value for a moment; return whether it has come."""
    try:
        client.blocking_key_value_get(key, _POLL_MS)
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        return False
    return True


def _unreachable(error: Exception) -> PeerError:
    return PeerError(
        f"process {index()} of {count()} has lost the coordinator: {one_line(error)}; the run can "
        "be continued with --resume"
    )


def _describe(error: BaseException) -> dict[str, Any]:
    """Return what the other processes have to know of an error."""
    if isinstance(error, UserError):
        return {"mistake": str(error)}
    if isinstance(error, Interrupted):
        return {"signal": error.status - 128}
    return {"failure": str(error) if isinstance(error, OSError) else one_line(error)}


def _failure_of(process: int, failure: dict[str, Any]) -> Exception:
    """Return the error to raise here for one of another process."""
    if "mistake" in failure:
        return UserError(f"process {process}: {failure['mistake']}")
    if "signal" in failure:
        return Interrupted(int(failure["signal"]))
    return PeerError(f"process {process} failed: {printable(failure['failure'])}")
