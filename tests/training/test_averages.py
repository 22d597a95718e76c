"""Averaged parameters: a moving average and schedule-free AdamW's, and where they are used."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import charjax
from charjax.run.load import find_run, load_run
from charjax.training.state import average_of, create_state, variables_of
from tests.commands import run
from tests.training.test_step import make_batch, setup, step

SCHEDULE_FREE = {"kind": "schedule_free_adamw", "learning_rate": 0.02, "weight_decay": 0.1}


def words(folder: Path, *others: str) -> list[str]:
    text = folder / "text.txt"
    text.write_text("to be or not to be, that is the question\n" * 40)
    small = ["model.kind=bigram", "model.context_length=8", "train.batch_size=4", "train.steps=20"]
    every = ["eval.every=10", "checkpoint.every=0", "train.log_every=5"]
    return [f"data.path={text}", *small, *every, "optim.learning_rate=0.1", *others]


def lines(workdir: Path, split: str) -> dict[int, float]:
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in found if line["split"] == split}


def test_the_moving_average_by_hand():
    """Its decay is min(ema, (1 + t) / (10 + t)); a step that is skipped leaves it."""
    config, model, state = setup("mlp", optim={"ema": 0.3, "learning_rate": 0.05})
    expected = jax.tree.map(np.asarray, state.params)
    for number in range(6):
        batch = make_batch(model, 4, seed=number)
        if number == 2:
            batch = batch._replace(weights=jnp.full_like(batch.weights, jnp.inf))
        state, _ = step(config, model, state, batch)
        decay = min(0.3, (1 + number) / (10 + number))
        if number != 2:
            expected = jax.tree.map(
                lambda a, p, d=decay: d * a + (1 - d) * np.asarray(p), expected, state.params
            )
    assert int(state.counters.skipped) == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-7), state.average, expected)
    averaged, trained = variables_of(state, "averaged"), variables_of(state)
    assert averaged["params"] is state.average
    assert trained["params"] is state.params


def test_no_average_is_kept_by_default():
    _, _, state = setup("mlp")
    assert average_of(state) is None
    assert state.average == ()
    assert variables_of(state, "averaged")["params"] is state.params


def test_schedule_free_adamw_is_optaxs_in_the_step():
    """With a warm-up, whose weights in the average are smaller, and decay of matrices only."""
    config, model, state = setup(
        "bigram", optim=SCHEDULE_FREE | {"warmup_steps": 3, "grad_clip": 0}
    )
    params, rates = state.params, [0.02 * min(1.0, (t + 1) / 4) for t in range(8)]
    # optax counts its steps from 1.
    plain = optax.contrib.schedule_free_adamw(
        lambda count: jnp.asarray(rates, jnp.float32)[count - 1], weight_decay=0.1
    )
    # Its inner rate counts from 0.
    inner = optax.chain(
        optax.scale_by_rms(0.999, 1e-8, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(lambda count: jnp.asarray(rates, jnp.float32)[count]),
    )
    schedule = lambda count: jnp.asarray(rates, jnp.float32)[count - 1]  # noqa: E731
    plain = optax.contrib.schedule_free(inner, schedule, 0.9)
    plain_state = plain.init(params)
    for number in range(8):
        batch = make_batch(model, 4, seed=number)
        state, metrics = step(config, model, state, batch)
        assert float(metrics.learning_rate) == pytest.approx(rates[number])

        def loss(params, batch=batch):
            logits, _ = model.apply({"params": params}, batch.inputs)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
            return jnp.sum(losses * batch.weights) / jnp.sum(batch.weights)

        with jax.numpy_dtype_promotion("standard"):
            updates, plain_state = plain.update(jax.grad(loss)(params), plain_state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(state.params["logits"], params["logits"], rtol=2e-4, atol=2e-6)
    expected = optax.contrib.schedule_free_eval_params(plain_state, params)
    average = variables_of(state, "averaged")["params"]
    np.testing.assert_allclose(average["logits"], expected["logits"], rtol=2e-4, atol=5e-6)
    assert float(jnp.abs(average["logits"] - state.params["logits"]).max()) > 1e-4


@pytest.mark.slow
def test_a_run_is_evaluated_at_both(tmp_path: Path):
    workdir = tmp_path / "run"
    done = run("train", *words(tmp_path, "optim.ema=0.9"), "--workdir", workdir)
    assert done.status == 0, done.err
    averaged, trained = lines(workdir, "val"), lines(workdir, "val_trained")
    assert averaged.keys() == trained.keys() == {10, 20}
    assert averaged[20] != trained[20]
    # The commands read the average, unless they are asked for the trained parameters.
    for flags, expected in (
        ([], averaged),
        (["--weights", "averaged"], averaged),
        (["--weights", "trained"], trained),
    ):
        found = run("evaluate", workdir, "--checkpoint", "latest", "--json", *flags)
        assert json.loads(found.out)["loss"] == pytest.approx(expected[20], rel=1e-6)
    sampled = [
        run("sample", workdir, "--weights", weights, "--max-new-tokens", "200", "--json").out
        for weights in ("averaged", "trained")
    ]
    first, second = (json.loads(text)["samples"] for text in sampled)
    assert first != second
    default, trained_run = (
        charjax.load(workdir, "latest", weights) for weights in (None, "trained")
    )
    assert not np.array_equal(default.params["logits"], trained_run.params["logits"])


def test_the_best_checkpoint_of_a_schedule_free_run_is_of_its_average(tmp_path: Path):
    workdir = tmp_path / "run"
    kind = "optim.kind=schedule_free_adamw"
    assert run("train", *words(tmp_path, kind), "--workdir", workdir).status == 0
    found = json.loads(run("evaluate", workdir, "--json").out)
    assert found["loss"] == pytest.approx(min(lines(workdir, "val").values()), rel=1e-6)
    trained = json.loads(run("evaluate", workdir, "--weights", "trained", "--json").out)
    assert trained["loss"] != found["loss"]


@pytest.mark.parametrize("average", ["optim.ema=0.9", "optim.kind=schedule_free_adamw"])
@pytest.mark.quick("optim.kind=schedule_free_adamw")
def test_a_run_that_begins_from_another_averages_its_parameters(average: str, tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("train", *words(tmp_path), "--workdir", first).status == 0
    arguments = [
        *words(tmp_path, average, "train.steps=1"),
        "--init-from",
        first,
        "--workdir",
        second,
    ]
    done = run("train", *arguments)
    assert done.status == 0, done.err
    params = [
        load_run(find_run(folder, "latest")).variables["params"] for folder in (first, second)
    ]
    # One step from there: an average that began at a fresh draw would be far away.
    gap = jnp.abs(params[0]["logits"] - params[1]["logits"]).max()
    assert float(gap) < 0.2


def test_no_average_to_choose(tmp_path: Path):
    workdir = tmp_path / "run"
    assert run("train", *words(tmp_path, "train.steps=1"), "--workdir", workdir).status == 0
    for command in ("evaluate", "sample"):
        done = run(command, workdir, "--weights", "averaged")
        assert done.status == 2
        assert done.err == (
            f"error: --weights: averaged given, but {str(workdir)!r} keeps no average of its "
            "parameters (optim.ema or optim.kind=schedule_free_adamw do): leave it out\n"
        )
        assert run(command, workdir, "--weights", "trained").status == 0
    done = run("evaluate", workdir, "--weights", "mean")
    assert done.status == 2
    assert "--weights" in done.err


def test_states_of_several_runs_have_their_own_averages():
    config, model, _ = setup("bigram", optim=SCHEDULE_FREE)
    states = [create_state(model, config, jax.random.key(seed)) for seed in range(2)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    stacked = jax.vmap(lambda state: variables_of(state, "averaged"))(together)
    for index, state in enumerate(states):
        alone = variables_of(state, "averaged")["params"]["logits"]
        np.testing.assert_array_equal(stacked["params"]["logits"][index], alone)
