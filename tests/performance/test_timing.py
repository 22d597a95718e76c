"""Timing with a fake clock."""

import pytest

from charjax.performance.timing import Slice, paired_ratio, summary, take_turns


class Clock:
    """A fake clock that advances only by work."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds_a_step: float):
        def run(count: int) -> None:
            self.now += count * seconds_a_step

        return run


def test_a_slice_lasts_about_as_long_as_asked_and_tells_seconds_a_step():
    clock = Clock()
    work = Slice(clock.work(0.002), 0.4, now=clock)
    assert 100 <= work.count <= 400
    before = clock.now
    assert work() == pytest.approx(0.002)
    assert clock.now - before == pytest.approx(work.count * 0.002)


def test_a_slice_of_one_long_step_is_one_step():
    clock = Clock()
    assert Slice(clock.work(3.0), 0.4, now=clock).count == 1


def test_a_slow_first_step_is_not_what_a_slice_is_sized_by():
    clock, calls = Clock(), []

    def run(count: int) -> None:
        calls.append(count)
        clock.now += 60.0 if len(calls) == 1 else 0.001 * count

    assert Slice(run, 0.1, now=clock).count > 20


def test_a_slice_keeps_to_the_most_steps_and_survives_a_clock_that_stands():
    clock = Clock()
    assert Slice(clock.work(0.0), 0.4, most=50, now=clock).count == 50


def test_contestants_take_turns():
    order = []

    def contestant(name: str, seconds: float):
        def run() -> float:
            order.append(name)
            return seconds

        return run

    found = take_turns({"a": contestant("a", 1.0), "b": contestant("b", 2.0)}, 3)
    assert order == ["a", "b"] * 3
    assert found == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_a_round_is_never_cut_short_and_one_is_always_made():
    found = take_turns({"a": lambda: 1.0, "b": lambda: 2.0}, 5, late=lambda: True)
    assert found == {"a": [1.0], "b": [2.0]}


def test_a_drift_of_the_machine_leaves_the_ratio_of_turns_alone():
    speeds = iter([1.0, 1.0, 2.0, 2.0, 4.0, 4.0])
    found = take_turns({"a": lambda: 3.0 * next(speeds), "b": lambda: 6.0 * next(speeds)}, 3)
    result = paired_ratio(found["a"], found["b"])
    assert (result["q1"], result["median"], result["q3"]) == (2.0, 2.0, 2.0)


def test_summary_keeps_every_repeat_and_tells_median_and_quartiles():
    result = summary([5.0, 1.0, 4.0, 2.0, 3.0])
    assert result == {"repeats": [5.0, 1.0, 4.0, 2.0, 3.0], "median": 3.0, "q1": 2.0, "q3": 4.0}
