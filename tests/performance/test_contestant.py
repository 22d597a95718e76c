"""charjax's contestant: what it times is the run's own, and what it reports is right."""

from pathlib import Path

import jax
import numpy as np
import pytest

from charjax.config import load_config
from charjax.performance import contest, resident, same_work, workload
from charjax.performance.contestant import Contestant
from charjax.performance.failures import LeftOut
from charjax.training.session import open_session
from tests.commands import tiny

RATES = {"float32": 1e12, "bfloat16": 1e12, "copy": 1e12, "dispatch": 1e5}


@pytest.fixture
def contestant(tmp_path: Path) -> Contestant:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat.\n" * 40)
    words = [*tiny("transformer"), f"data.path={text}", "runtime.device=cpu"]
    return Contestant(load_config(None, words), exact=True, rates=RATES)


@pytest.mark.slow
def test_the_steps_are_those_of_the_run(contestant: Contestant) -> None:
    facts = contestant.facts
    assert facts["tokens_per_step"] == 4 * 8
    assert facts["loss"] == pytest.approx(np.log(facts["vocab_size"]), rel=0.3)
    assert facts["peak_measured"] == 1e12
    assert facts["peak_nominal"] is None
    assert facts["compile_seconds"] > 0
    before = int(contestant._training.state.counters.step)
    contestant.run(threads=1, count=3)
    assert int(contestant._training.state.counters.step) == before + 3


@pytest.mark.slow
def test_generation_has_as_many_tokens_as_it_says(contestant: Contestant) -> None:
    found = contestant.generate(texts=2, repeats=2)
    assert found["tokens"] >= 8
    assert len(found["seconds"]) == 2
    assert all(seconds > 0 for seconds in found["seconds"])


def test_padding_is_no_token(tmp_path: Path) -> None:
    text = tmp_path / "names.txt"
    text.write_text("ann\nbarbara\n" * 40)
    words = ["model.kind=bigram", "data.layout=lines", f"data.path={text}", "train.batch_size=8"]
    session = open_session(load_config(None, words))
    # Three letters or seven, and the boundary.
    assert 8 * 4 < workload.targets_per_step(session) < 8 * 8


def test_the_rise_of_the_memory_is_measured() -> None:
    held = [np.zeros(0)]

    def work() -> None:
        held[0] = np.ones(2**23)
        held[0] = np.zeros(0)

    state = jax.device_put(np.zeros(2**22, np.float32))
    found = resident.peak_bytes(work, lambda: [state], jax.local_devices())
    if found is None:
        pytest.skip("the system does not report it")
    assert found == pytest.approx(8 * 2**23 + 4 * 2**22, rel=0.1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"text": "other"}, "reads another text"),
        ({"parameters": 11}, "11 parameters, charjax 10"),
        ({"loss": 2.0001}, "not the same work"),
        ({"loss": float("nan")}, "not the same work"),
    ],
)
def test_other_work_is_not_compared(change: dict[str, object], why: str) -> None:
    ours = {"text": "a", "parameters": 10, "loss": 2.0}
    contest.check_same_work("torch eager", {**ours, "loss": 2.000001}, ours)
    with pytest.raises(LeftOut, match=why):
        contest.check_same_work("torch eager", {**ours, **change}, ours)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], None),
        (["model.kind=mlp", "data.layout=pairs", "model.hidden=[8]"], None),
        (["model.kind=mlp", "data.layout=pairs", "model.hidden=[8,8]"], "one hidden layer"),
        (["model.kind=mlp"], "data.layout"),
        (["model.kind=bow"], "model.kind=bow has no PyTorch original"),
        (["data.sampling=contiguous"], "random windows"),
        (["optim.kind=sgd"], "AdamW"),
        (["optim.accumulate_steps=2"], "AdamW"),
    ],
)
def test_configurations_with_a_counterpart_in_pytorch(words: list[str], why: str | None) -> None:
    found = same_work.why_not(load_config(None, words))
    assert found is None if why is None else why in (found or "")
