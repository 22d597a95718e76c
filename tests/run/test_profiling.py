"""`train --profile`: a trace of so many steps that changes nothing of the run."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from charjax.run.display import Display
from charjax.run.profiling import Profile
from tests.commands import run, tiny


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the calls of JAX's profiler instead of making them."""
    calls: list[str] = []
    profiler = "charjax.run.profiling.jax.profiler"
    monkeypatch.setattr(f"{profiler}.start_trace", lambda *_, **__: calls.append("start"))
    monkeypatch.setattr(f"{profiler}.stop_trace", lambda: calls.append("stop"))
    return calls


def make(steps: int) -> tuple[Profile, io.StringIO]:
    out = io.StringIO()
    return Profile(Path("/run/profile"), steps, Display(Console(file=out, width=200))), out


def advance(profile: Profile, step: int, goals: list[int], calls: list[str]) -> list[Any]:
    """Go from a step to each goal, as the loop does; return steps and calls in their order."""
    seen: list[Any] = []
    for goal in goals:
        while step < goal:
            calls.clear()
            profile.reached(step)
            stop = profile.next_stop(step, goal)
            seen += [*calls, stop]
            step = stop
    calls.clear()
    profile.reached(step, is_last=True)
    return seen + calls


def test_the_trace_is_of_so_many_steps_after_the_first(calls: list[str]) -> None:
    profile, out = make(5)
    assert advance(profile, 0, [20], calls) == [1, "start", 6, "stop", 20]
    assert "profile of steps 2 to 6: xprof --logdir /run/profile" in out.getvalue()


def test_events_may_fall_into_it(calls: list[str]) -> None:
    profile, _ = make(5)
    assert advance(profile, 10, [11, 13, 30], calls) == [11, "start", 13, 16, "stop", 30]


def test_it_ends_with_the_run(calls: list[str]) -> None:
    profile, out = make(50)
    assert advance(profile, 0, [8], calls) == [1, "start", 8, "stop"]
    assert "profile of steps 2 to 8" in out.getvalue()


def test_one_step_is_too_few(calls: list[str]) -> None:
    profile, out = make(5)
    assert advance(profile, 0, [1], calls) == [1]
    assert "note: --profile: no step followed the first" in out.getvalue()


@pytest.mark.parametrize("method", ["start_trace", "stop_trace"])
def test_a_profiler_that_fails_does_not_end_the_run(
    method: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Only one profile may be run at a time.\nSecond line")

    monkeypatch.setattr(f"charjax.run.profiling.jax.profiler.{method}", fail)
    profile, out = make(5)
    advance(profile, 0, [20], calls)
    assert out.getvalue() == (
        "warning: --profile has failed (RuntimeError: Only one profile may be run at a time.); "
        "the run goes on\n"
    )


def test_a_run_is_traced_and_its_bits_are_as_without(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("what is the case is what is. " * 80)
    words = [f"data.path={tmp_path / 'text.txt'}", *tiny("bigram"), "train.steps=30"]
    done = run("train", *words, "--profile", "12", "--workdir", tmp_path / "a")
    assert (done.status, done.err) == (0, "")
    assert "profile of steps 2 to 13" in done.out
    assert run("train", *words, "--workdir", tmp_path / "b").status == 0
    digests, lines = [], []
    for name in "ab":
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        digests.append(summary["state_digest"])
        metrics = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        lines.append([json.loads(line) | {"tokens_per_second": None} for line in metrics])
    assert digests[0] == digests[1]
    assert lines[0] == lines[1]
    (trace,) = (tmp_path / "a" / "profile").glob("plugins/profile/*/perfetto_trace.json.gz")
    assert str(trace) in done.out
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    # The update of the metrics' buffer is in every turn of the loop.
    spans = [event["name"] for event in events if event.get("ph") == "X"]
    assert any(spans.count(name) == 12 for name in set(spans))
    assert list(trace.parent.glob("*.xplane.pb"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--profile", "0"], "'0' given; must be a whole number from 1 to 1000"),
        (["--profile", "x"], "'x' given; must be a whole number from 1 to 1000"),
        (["--profile", "1001"], "from 1 to 1000"),
        (["model.kind=ngram", "--profile", "3"], "--profile: 3 given, but model.kind=ngram counts"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str) -> None:
    done = run("train", *words)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
