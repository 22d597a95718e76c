"""Steps at which events are due."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charjax.config import Config, parse_config
from charjax.run.events import Due, EventSchedule


def make_config(steps: int, evaluate: int, sample: int, save: int) -> Config:
    train = {"steps": steps, "sample_every": sample}
    return parse_config(
        {"train": train, "eval": {"every": evaluate}, "checkpoint": {"every": save}}
    )


@pytest.mark.parametrize(
    ("step", "due"),
    [
        (1, Due(False, False, False)),
        (4, Due(evaluation=True, samples=False, checkpoint=False)),
        (5, Due(evaluation=False, samples=True, checkpoint=False)),
        (6, Due(evaluation=False, samples=False, checkpoint=True)),
        (12, Due(evaluation=True, samples=False, checkpoint=True)),
        (19, Due(evaluation=True, samples=True, checkpoint=True)),
    ],
)
def test_what_is_due_at_a_step(step: int, due: Due):
    assert EventSchedule(make_config(19, evaluate=4, sample=5, save=6)).due(step) == due


def test_a_period_of_zero_leaves_the_last_step():
    schedule = EventSchedule(make_config(7, evaluate=0, sample=0, save=0))
    assert [any(schedule.due(step)) for step in range(8)] == [False] * 7 + [True]
    assert schedule.next_after(0) == 7


periods = st.integers(0, 30)


@given(steps=st.integers(1, 60), evaluate=periods, sample=periods, save=periods)
def test_the_next_step_is_the_first_at_which_anything_is_due(
    steps: int, evaluate: int, sample: int, save: int
):
    schedule = EventSchedule(make_config(steps, evaluate, sample, save))
    for step in range(steps):
        later = range(step + 1, steps + 1)
        assert schedule.next_after(step) == next(each for each in later if any(schedule.due(each)))
