"""Several runs as one program: how many fit, and how diverged runs are treated."""

import dataclasses
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.config import parse_config
from charjax.data.batches import Batch
from charjax.training.ensemble import (
    EnsembleState,
    EnsembleTraining,
    RunHyperparameters,
    _block,
    as_many_as_fit,
    initial_ensemble,
    make_run_advance,
)
from charjax.training.seeds import _Group
from charjax.training.state import initial_state


@dataclasses.dataclass
class Sized:
    """Fake program that takes ten bytes per run, plus five."""

    count: int

    @property
    def memory(self) -> int:
        return 10 * self.count + 5


@pytest.mark.parametrize(
    ("count", "budget", "built"),
    [
        (8, 85, [8]),
        (8, 84, [8, 4]),
        (7, 45, [7, 4]),
        # While they take more than twice what there is, in twice as many rounds at once.
        (9, 27, [9, 5, 3, 2]),
        # One is trained whatever it takes.
        (3, 1, [3, 2, 1]),
        (1, 1, [1]),
    ],
)
def test_fewer_and_fewer_runs_until_they_fit(count: int, budget: float, built: list[int]):
    tried: list[int] = []

    def build(runs: int) -> Sized:
        tried.append(runs)
        return Sized(runs)

    assert as_many_as_fit(build, count, budget).count == built[-1]
    assert tried == built


def test_as_many_runs_side_by_side_as_a_cache_holds():
    def block(kilobytes: int, count: int) -> int:
        params = jax.ShapeDtypeStruct((count, kilobytes, 256), jnp.float32)
        return _block(Held(params), count, count)

    # 2 MiB, and a run's parameters are read and written, as a part of the state and by themselves.
    assert block(32, 64) == 16
    assert block(1, 64) == 64
    assert block(4096, 64) == 1
    # In blocks of one size, where there is one near.
    assert block(32, 18) == 9
    assert block(32, 17) == 16


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=[])
@dataclasses.dataclass
class Held:
    """State of parameters alone."""

    params: Any


class Coin:
    """Model of one parameter: the logit of symbol 0 against symbol 1."""

    memory = "windowed"
    roles = ()
    auxiliary_weight = 0.0

    def apply(self, variables: Any, inputs_BT: Any, cache: Any, **_: Any) -> Any:
        logit = variables["params"]
        ones_BT1 = jnp.ones((*inputs_BT.shape, 1))
        return (jnp.stack([logit, jnp.zeros(())]) * ones_BT1, None), {}


@functools.partial(jax.tree_util.register_dataclass, data_fields=["key"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Zeros:
    """Source of batches of 2 x 3 targets, all symbol 0."""

    key: Any

    def draw(self, step: Any, share: Any) -> Batch:
        zeros = jnp.zeros((2, 3), jnp.int32)
        return Batch(zeros, zeros, jnp.ones((2, 3)), jnp.array(True))


def test_runs_have_rates_of_their_own_and_stop_where_they_diverge():
    optim = {"kind": "sgd", "learning_rate": 123.0, "grad_clip": 0.0}
    config = parse_config({"optim": optim, "train": {"max_skipped": 2}})
    model: Any = Coin()
    advance = make_run_advance(model, config)
    rates, logits = np.array([0.5, 2.0, 0.5, 0.5]), np.array([0.0, 0.0, -9.0, np.nan])
    keys = jax.random.split(jax.random.key(0), 4)
    # The loss of the third is above what it may be.
    bounds = jnp.array([jnp.inf, jnp.inf, 5.0, jnp.inf], jnp.float32)
    numbers = RunHyperparameters(keys, keys, jnp.asarray(rates, jnp.float32), bounds)
    begin = jax.vmap(lambda logit: initial_state(model, config, logit, {}))
    runs = initial_ensemble(begin(jnp.asarray(logits, jnp.float32)))
    source: Any = Zeros(keys[0])
    step = jax.jit(jax.vmap(lambda run, numbers: advance(run, source, numbers)))
    losses = np.zeros(4)
    for _ in range(4):
        chance = 1 / (1 + np.exp(-logits))
        losses[:2] += -6 * np.log(chance)[:2]
        logits[:2] += (rates * (1 - chance))[:2]
        runs = step(runs, numbers)
    np.testing.assert_allclose(runs.states.params, logits, rtol=1e-5)
    # The second step is the one after which nothing more is tried, and is counted from 0.
    assert runs.diverged.tolist() == [-1, -1, 1, 1]
    np.testing.assert_allclose(runs.losses, losses, rtol=1e-5)
    assert runs.targets.tolist() == [24, 24, 0, 0]
    assert runs.states.counters.skipped.tolist() == [0, 0, 4, 4]
    emptied = runs.emptied()
    assert emptied.losses.tolist() == emptied.targets.tolist() == [0, 0, 0, 0]
    assert emptied.diverged.tolist() == [-1, -1, 1, 1]


class Group(_Group):
    """EnsembleState with given losses: {step: loss} of each run."""

    val: tuple[dict[int, float], ...]
    measured: list[tuple[str, int, int]]

    def _variables(self, index: int) -> Any:
        return index, self.training.step

    def _exact(self, name: str, variables: Any) -> float:
        index, step = variables
        self.measured.append((name, index, step))
        return self.val[index][step] if name == "val" else step


class Steps:
    """Fake of the ensemble: each step has 10 targets, and its number as the loss."""

    def __init__(self, count: int):
        self.count, self.chunks = count, []  # type: ignore[var-annotated]

    def start(self, seeds: tuple[int, ...], rates: Any) -> tuple[Any, Any]:
        zeros = np.zeros(self.count)
        counters = types.SimpleNamespace(skipped=np.zeros(self.count, int))
        states: Any = types.SimpleNamespace(counters=counters, done=0)
        return EnsembleState(states, np.full(self.count, -1), zeros, zeros), None  # type: ignore[arg-type]

    def run(self, state: Any, hyperparameters: Any, steps: int) -> Any:
        first = sum(self.chunks)
        self.chunks.append(steps)
        losses = np.arange(first + 1, first + steps + 1).sum()
        return state._replace(
            losses=state.losses + 10.0 * losses, targets=state.targets + 10.0 * steps
        )


def train(
    val: tuple[dict[int, float], ...], wanted: set[str], steps: int = 10, every: int = 4
) -> tuple[list[Any], Group, Steps, list[int]]:
    config = parse_config({"train": {"steps": steps}, "eval": {"every": every}})
    dataset = types.SimpleNamespace(splits={"train": None, "val": None})
    session: Any = types.SimpleNamespace(config=config, dataset=dataset, val_source=None)
    program: Any = Steps(len(val))
    polled: list[int] = []
    group = Group.__new__(Group)
    group.val, group.measured = val, []
    seeds = tuple(range(7, 7 + len(val)))
    done: list[int] = []
    group.__init__(  # type: ignore[misc]
        session, program, seeds, frozenset(wanted), done.append, lambda: polled.append(1)
    )
    outcomes = group.run()
    assert sum(done) == sum(program.chunks) == steps
    # A stop is asked for after every chunk.
    assert len(polled) >= len(program.chunks)
    return outcomes, group, program, done


def test_every_run_is_measured_where_it_is_due():
    val = ({0: 5.0, 4: 4.0, 8: 3.0, 10: 3.5}, {0: 5.0, 4: 2.0, 8: 3.0, 10: 4.0})
    outcomes, group, program, _ = train(val, {"initial", "final", "val", "train"})
    assert [outcome.seed for outcome in outcomes] == [7, 8]
    points = [[(p.step, p.val, p.random) for p in outcome.curve] for outcome in outcomes]
    assert points == [[(step, losses[step], None) for step in (4, 8, 10)] for losses in val]
    # Means over the targets of the steps 1-4, 5-8 and 9-10, however they were cut into chunks.
    assert [p.train for p in outcomes[0].curve] == [2.5, 6.5, 9.5]
    assert {4, 8, 10} <= set(np.cumsum(program.chunks).tolist())
    assert [outcome.best_step for outcome in outcomes] == [8, 4]
    # "train" is measured with the parameters of the best step.
    assert outcomes[0].losses == {"initial": 5.0, "final": 3.5, "val": 3.0, "train": 8}
    assert outcomes[1].losses == {"initial": 5.0, "final": 4.0, "val": 2.0, "train": 4}
    assert group.measured[:2] == [("val", 0, 0), ("val", 1, 0)]


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ((3.0, np.nan, 2.0), 10),
        ((np.nan, 3.0, 4.0), 8),
        ((3.0, 3.0, np.inf), 4),
        ((np.inf, np.nan, 1.0), 10),
        ((np.nan, np.nan, np.nan), 4),
    ],
)
def test_a_loss_that_is_not_a_number_is_never_better(losses: tuple[float, ...], best: int):
    val = dict(zip((4, 8, 10), losses, strict=True))
    (outcome,), *_ = train((val,), {"val", "final", "train"})
    assert outcome.best_step == outcome.losses["train"] == best
    np.testing.assert_equal(outcome.losses["val"], val[best])
    np.testing.assert_equal(outcome.losses["final"], losses[-1])


def test_one_evaluation_at_the_end_where_no_period_is_set():
    (outcome,), *_ = train(({6: 1.0},), {"val"}, steps=6, every=0)
    assert [point.step for point in outcome.curve] == [6]


def test_sums_are_added_up_after_the_same_steps_however_long_a_call_is(monkeypatch):
    """In float64 every 1,000 steps and at the goal, with no stop asked for at the goal."""
    flushed = []
    program: Any = Steps(2)
    emptied = EnsembleState.emptied

    def record(self: EnsembleState) -> EnsembleState:
        flushed.append(sum(program.chunks))
        return emptied(self)

    monkeypatch.setattr(EnsembleState, "emptied", record)
    polled: list[int] = []
    training = EnsembleTraining(
        program, *program.start((0, 1), None), poll=lambda: polled.append(sum(program.chunks))
    )
    training.advance(2500)
    training.advance(2600)
    assert flushed == [1000, 2000, 2500, 2600]
    assert {1000, 2000} <= set(polled)
    assert not {2500, 2600} & set(polled)
    assert training.pop_sums().tolist() == [[10.0 * 2600 * 2601 / 2] * 2, [26000.0] * 2]
    assert training.pop_sums().tolist() == [[0.0] * 2] * 2
