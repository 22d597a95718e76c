"""The signal that stops a run, as its processes agree on it."""

import signal

import pytest

from charjax import processes
from charjax.run.stopping import Stop
from charjax.signals import Interrupted, Signals


def test_one_process_knows_at_once() -> None:
    signals = Signals()
    stop = Stop(signals)
    stop.poll()
    assert stop.agree(7) == 7
    signals.received = signal.SIGTERM
    with pytest.raises(Interrupted):
        stop.poll_together()


def test_several_know_after_an_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [0, -5]
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(
        processes, "agreed_max", lambda values: [max(p) for p in zip(values, others, strict=True)]
    )
    signals = Signals()
    stop = Stop(signals)
    assert stop.agree(7) == 5
    assert stop.agree(3) == 3
    signals.received = signal.SIGTERM
    stop.poll()
    assert stop.received is None
    stop.agree(3)
    assert stop.received == signal.SIGTERM
    with pytest.raises(Interrupted):
        stop.poll()


def test_an_evaluation_agrees_after_some_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def agreed_max(values: list[int]) -> list[int]:
        asked.append(values)
        return [int(signal.SIGINT) if len(asked) == 2 else 0, 0]

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "agreed_max", agreed_max)
    stop = Stop(Signals())
    for _ in range(15):
        stop.poll_together()
    assert len(asked) == 1
    with pytest.raises(Interrupted) as raised:
        stop.poll_together()
    assert raised.value.status == 130
