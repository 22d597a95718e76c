"""Changes made to a process of charjax before its command starts.

Each of these is called in the child that will be the command (tests/faults/processes.py): what it
changes is that process's alone.
"""

import contextlib
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from charjax.data import corpora, reading
from charjax.generation import generate
from charjax.run import load, recorder
from charjax.training import evaluation
from charjax.training.evaluation import Score
from tests.faults import series
from tests.faults.poison import poison_steps as poison_steps


def publish_names(url: str, digest: str, size: int) -> None:
    """Publish the names at this address, and allow http."""

    @contextlib.contextmanager
    def open_here(url: str) -> Iterator[Any]:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(url, timeout=10) as response:
            yield response

    corpora.open_https = open_here
    names = corpora._Published(url, digest, size, reading.UTF_8, ("names.txt",))
    corpora._PUBLISHED["names"] = names


def script_scores(scores: Sequence[tuple[int, float]]) -> None:
    """Set the validation loss at each step."""
    losses = dict(scores)
    recorder.evaluator = lambda session, poll: lambda step, state: Score(losses[step], 1.0)


def serve_series(requests: str, answers: str, out: str, err: str) -> None:
    """Run commands one after the other, without heavy computation, until no more are requested."""
    _leave_out_what_is_heavy()
    series.serve(requests, answers, out, err)


def _leave_out_what_is_heavy() -> None:
    """Make training, counting, generating and scoring do nothing, and read a model once."""
    loaded: dict[tuple[Path, str | int, str | None], Any] = {}
    load_run = load.load_run

    def load_once(saved: load.SavedRun, weights: Any = None) -> Any:
        key = (saved.directory, saved.checkpoint, weights)
        if key not in loaded:
            loaded[key] = load_run(saved, weights)
        return loaded[key]

    class Idle:
        lock = property(lambda self: self)
        release = close = train = fit = lambda self, *arguments: 0

    load.load_run = load_once
    recorder.Recorder.open = lambda *arguments, **keywords: Idle()  # type: ignore[method-assign,assignment,return-value]
    generate.stream = lambda *arguments, **keywords: iter(())  # type: ignore[assignment]
    evaluation.exact_loss = lambda *arguments, **keywords: Score(1.0, 1)
