"""The watch over the other processes, with fakes of their signs of life."""

import json
import os
import time
from collections.abc import Callable

import pytest

from charjax import processes
from charjax.cluster import peers
from charjax.cluster.peers import Ending, Peers


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], str]], Peers]:
    """Return a watch over one other process, whose sign is a function of the turn."""
    turns = [0]
    sent: dict[str, str] = {}

    def start(sign: Callable[[int], str]) -> Peers:
        def published(folder: str) -> dict[str, str]:
            turns[0] += 1
            return {f"{folder}/000000": "1", f"{folder}/000001": sign(turns[0])}

        monkeypatch.setattr(processes, "count", lambda: 2)
        monkeypatch.setattr(processes, "index", lambda: 0)
        monkeypatch.setattr(processes, "publish", sent.__setitem__)
        monkeypatch.setattr(processes, "published", published)
        monkeypatch.setattr(peers, "_PERIOD", 0.02)
        monkeypatch.setattr(peers, "_GRACE", 0.05)
        monkeypatch.setattr(os, "_exit", lambda status: ended.append(status))
        observer = Peers()
        observer.start()
        return observer

    ended: list[int] = []
    start.ended = ended  # type: ignore[attr-defined]
    return start  # type: ignore[return-value]


def wait_for(ended: list[int]) -> None:
    limit = time.monotonic() + 20
    while not ended and time.monotonic() < limit:
        time.sleep(0.005)


def test_a_silent_process_ends_this_one(watch, capsys) -> None:
    observer = watch(lambda turn: "5")
    wait_for(watch.ended)
    assert watch.ended == [1]
    assert observer.ending.process == 1
    assert capsys.readouterr().err.startswith("error: process 1: it has given no sign of life")


def test_an_announcement_ends_this_one_with_its_status(watch, capsys) -> None:
    watch(lambda turn: str(turn) if turn < 5 else json.dumps([2, "data.path: 'x' not found"]))
    wait_for(watch.ended)
    assert watch.ended == [2]
    assert capsys.readouterr().err == "error: process 1: data.path: 'x' not found\n"


def test_signs_of_life_and_an_orderly_end_are_no_reason(watch) -> None:
    observer = watch(lambda turn: str(turn) if turn < 10 else "done")
    time.sleep(0.5)
    observer.stop()
    assert (observer.ending, watch.ended) == (None, [])


def test_a_failed_sum_is_explained_by_a_shorter_silence(watch) -> None:
    observer = watch(lambda turn: str(min(turn, 3)))
    found = observer.explain_failure()
    assert found is not None
    assert (found.process, found.status) == (1, 1)
    observer.announce(1, found.reason)
    assert isinstance(found, Ending)
