"""The study of the edge of stability: thresholds, the full batch, fates of runs, conclusions."""

import collections
import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.config import load_config
from charjax.initlab.report import drawing
from charjax.initlab.studies import edge_of_stability as study
from charjax.initlab.studies.edge_fates import fates_of, scheme_p, scheme_values
from charjax.initlab.studies.edge_result import settled_by_seed
from charjax.initlab.studies.edge_runs import SchemePrograms, loss_floor, open_sessions
from charjax.initlab.studies.edge_settings import OPTIMISERS, SETTINGS
from charjax.initlab.studies.study import as_json
from charjax.training.optimizer import make_optimizer

# 10 measured steps, the last 4 of them in the tail; 3 schemes, 2 rates, 4 seeds.
AT = (0, *range(20, 200, 20))
SETTINGS_3 = dataclasses.replace(
    SETTINGS["trial"],
    schemes=("default", "naive", "zero_readout"),
    optimisers=(("gradient descent", (0.1, 0.2)), ("Adam", (0.01, 0.02))),
    seeds=4,
    permutations=999,
)
SHAPE = (3, 2, 4)


def runs(ratio, *, loss=1.0, diverged=-1):
    """Return the numbers of runs under one optimiser; arguments broadcast to SHAPE."""
    ratio = np.broadcast_to(ratio, (*SHAPE, len(AT)))
    loss = np.broadcast_to(np.asarray(loss)[..., None], (*SHAPE, len(AT)))
    return {
        "ratio": ratio,
        "loss": loss,
        "diverged": np.broadcast_to(diverged, SHAPE),
        "dropped": 0,
    }


def data_of(descent, adam):
    """Return data as results.json has them."""
    data = {
        "at": AT,
        "targets": 100,
        "floor": 0.5,
        "uniform": math.log(27),
        "runs": {"gradient descent": descent, "Adam": adam},
    }
    return json.loads(json.dumps(as_json(data)))


def rising(to, start=0.1):
    """Return ratios that go to a value and stay there, with what `to` has as leading axes."""
    to = np.asarray(to, float)[..., None]
    return start + (to - start) * np.minimum(np.arange(len(AT)) / 5, 1.0)


def noisy(scale=0.01, seed=0):
    return scale * np.random.default_rng(seed).standard_normal(SHAPE)


@pytest.mark.parametrize(
    ("name", "at_one"), [("gradient descent", 2), ("momentum", 3.8), ("Adam", 38)]
)
def test_thresholds_are_those_of_the_issue(name, at_one):
    assert OPTIMISERS[name].threshold_at(1.0) == pytest.approx(at_one)
    assert OPTIMISERS[name].threshold_at(0.1) == pytest.approx(10 * at_one)
    assert OPTIMISERS[name].threshold == f"{at_one:g} / rate"


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_quadratic_is_stable_below_the_threshold_and_unstable_above_it(name):
    # Adam's preconditioner is its epsilon where the gradients are tiny beside it.
    rate, words = 0.1, [*OPTIMISERS[name].words]
    words += ["optim.eps=1.0"] if name == "Adam" else []
    optimiser = make_optimizer(load_config(None, [*words, "optim.grad_clip=0.0"]).optim)
    threshold = OPTIMISERS[name].threshold_at(rate)

    @jax.jit
    def grown(curvature):
        def step(loop, _):
            x, state = loop
            updates, state = optimiser.update(
                curvature * x,
                state,
                x,
                learning_rate=jnp.float32(rate),
                scale=jnp.float32(1.0),
                finite=jnp.array(True),
            )
            return (x + updates, state), abs(x)

        start = jnp.float32(1e-30)
        _, sizes = jax.lax.scan(step, (start, optimiser.init(start)), None, 100)
        # Oscillations: the largest of a few steps.
        return jnp.max(sizes[90:]) / jnp.max(sizes[30:40])

    assert float(grown(jnp.float32(0.98 * threshold))) < 0.2
    assert float(grown(jnp.float32(1.02 * threshold))) > 5


@pytest.fixture(scope="module")
def sessions(data_dir):
    return open_sessions(SETTINGS["trial"], OPTIMISERS["gradient descent"])


draw = jax.jit(lambda source, step: source.draw(step))


def rows(session, step):
    batch = draw(session.source, jnp.int32(step))
    assert np.all(np.asarray(batch.weights) == 1)
    return [(*x, *y) for x, y in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)]


def test_every_step_has_every_context_of_the_first_names_once(sessions):
    first, later = (rows(sessions[0], step) for step in (0, 7))
    assert first != later
    assert sorted(first) == sorted(later)
    split = sessions[0].dataset.splits["train"]
    text = split.tokens.tolist()
    assert [row[-1] for row in sorted(first)] == [row[-1] for row in sorted(later)]
    assert collections.Counter(row[-1] for row in first) == collections.Counter(text[1:])
    assert 50 < len(first) == split.num_targets <= 64


def test_the_schemes_have_the_same_batch_and_the_settings_of_the_sources(sessions):
    assert sorted(rows(sessions[0], 0)) == sorted(rows(sessions[1], 3))
    for session in sessions:
        optim = session.config.optim
        assert (optim.schedule, optim.warmup_steps) == ("constant", 0)
        assert (optim.grad_clip, optim.weight_decay, optim.l2) == (0, 0, 0)


def test_the_floor_of_the_loss_is_the_entropy_of_the_target_given_the_context(sessions):
    counts = collections.Counter(rows(sessions[0], 0))
    contexts = collections.Counter()
    for row, n in counts.items():
        contexts[row[:-1]] += n
    total = sum(counts.values())
    expected = -sum(n / total * math.log(n / contexts[row[:-1]]) for row, n in counts.items())
    assert loss_floor(sessions[0]) == pytest.approx(expected)
    assert 0 < expected < math.log(27)


@pytest.mark.slow
def test_the_runs_of_a_scheme_train_and_are_measured(sessions):
    programs = SchemePrograms(sessions, "sharpness", (1e-6, 0.5), 2)
    found = programs.train(0, (0, 1, 50, 100), lambda: None)
    assert found["value"].shape == found["residual"].shape == (4, 4)
    # Rate by rate: the same parameters at both, and the lower one moves nothing.
    np.testing.assert_allclose(found["value"][:2, 0], found["value"][2:, 0], rtol=1e-5)
    np.testing.assert_allclose(found["value"][:2], found["value"][:2, :1] * np.ones(4), rtol=1e-2)
    assert np.all(found["residual"] < 0.01 * found["value"])
    assert np.all(found["loss"][2:, -1] < found["loss"][2:, 0] - 0.3)
    # The first loss is near that of a uniform guess; both seeds differ.
    np.testing.assert_allclose(found["loss"][:, 0], math.log(27), rtol=0.1)
    assert found["value"][0, 0] != found["value"][1, 0]
    assert np.all(found["diverged"] == -1)


def test_fates():
    to = np.array([1.1, 0.6, 3.0])[:, None, None] + np.zeros(SHAPE)
    ratio = np.array(rising(to))
    # Left: above in the middle, below at the end.
    ratio[1, 1] = [0.1, 0.5, 1.0, 1.2, 1.0, 0.8, 0.6, 0.5, 0.4, 0.4]
    # Early, before steps count, is not reached.
    ratio[1, 0, 0] = [9.0, *[0.3] * 9]
    loss = np.ones(SHAPE)
    loss[2, 0] = 4.0
    diverged = np.full(SHAPE, -1)
    diverged[2, 1] = 30
    found = fates_of(
        SETTINGS_3,
        data_of(runs(ratio, loss=loss, diverged=diverged), runs(ratio)),
        "gradient descent",
    )
    assert np.all(found.fate[0] == "at the edge")
    assert np.all(found.fate[1, 0] == "below")
    assert np.all(found.fate[1, 1] == "left")
    assert np.all(found.fate[2] == "untrained")
    np.testing.assert_allclose(found.settled[0], 1.1)
    assert np.isnan(found.settled[1:]).all()
    np.testing.assert_allclose(found.start[1, 0, 0], 9.0)
    np.testing.assert_allclose(settled_by_seed(found), [1.1] * 4)


def test_a_value_that_was_left_out_changes_nothing():
    ratio = np.array(rising(np.full(SHAPE, 1.1)))
    whole = fates_of(SETTINGS_3, data_of(runs(ratio), runs(ratio)), "Adam")
    ratio[..., -2] = np.nan
    found = fates_of(SETTINGS_3, data_of(runs(ratio), runs(ratio)), "Adam")
    np.testing.assert_array_equal(found.fate, whole.fate)
    np.testing.assert_allclose(found.settled, whole.settled)


def test_a_rate_in_common_is_no_difference_of_schemes():
    scheme, rate, seed = np.ogrid[:3, :2, :4]
    values_CS = scheme_values(1.0 + 0.1 * scheme + 5.0 * rate + 0.0 * seed)
    np.testing.assert_allclose(
        values_CS, np.array([[-0.1], [0.0], [0.1]]) + np.zeros((3, 4)), atol=1e-12
    )
    # With the runs of a rate missing, the others count.
    settled = np.array(1.0 + 0.1 * scheme + 5.0 * rate + 0.0 * seed)
    settled[:, 1] = np.nan
    np.testing.assert_allclose(scheme_values(settled), values_CS, atol=1e-12)


def test_the_schemes_p():
    alike, distinct = np.ones((5, 4)), np.arange(5.0)[:, None] + noisy()[0, 0]
    assert scheme_p(alike, 999) == 1.0
    assert scheme_p(distinct, 999) == pytest.approx(1 / 1000)
    # A seed's own level changes nothing, nor does a scheme without values.
    assert scheme_p(distinct + np.array([0.0, 50.0, -7.0, 3.0]), 999) == pytest.approx(1 / 1000)
    assert scheme_p(np.vstack([distinct, np.full((1, 4), np.nan)]), 999) == pytest.approx(1 / 1000)
    assert scheme_p(distinct[:1], 999) is None
    assert scheme_p(distinct[:, :1], 999) is None


def test_p_of_equal_schemes_is_uniform():
    rng = np.random.default_rng(5)
    p = [scheme_p(rng.standard_normal((4, 4)), 199) for _ in range(300)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)


def test_conclusion_where_all_settle_in_one_place():
    data = data_of(runs(rising(1.05 + noisy())), runs(rising(0.97 + noisy(seed=1), start=9.0)))
    found = study.conclude(SETTINGS_3, data)
    assert found.answer[0].startswith("Under gradient descent the sharpness settles at 1.0")
    assert (
        "times 2 / rate; under Adam the preconditioned sharpness settles at 0.9" in found.answer[0]
    )
    assert "Gradient descent: no dependence is shown" in found.answer[1]
    assert "24 of 24 runs end at the edge (6 of 6 pairs" in found.answer[3]
    assert found.answer[5].endswith("0 of 24 runs begin above it.")
    assert "24 of 24 runs begin above it (all schemes): 24 of them come down" in found.answer[6]
    verdicts = [check.verdict for check in found.checks]
    assert set(verdicts) == {"reproduced", "not run", "stated"}
    assert found.checks[0].theory == 1.0
    assert found.checks[0].standard_error is not None


def test_conclusion_where_schemes_differ_and_settle_elsewhere():
    by_scheme = np.array([1.2, 1.5, 1.9])[:, None, None]
    data = data_of(
        runs(rising(by_scheme + noisy())),
        runs(rising(np.broadcast_to(0.5, SHAPE)), loss=0.52),
    )
    found = study.conclude(SETTINGS_3, data)
    assert "Gradient descent: the place depends on the scheme" in found.answer[1]
    assert "from default to zero_readout" in found.answer[1]
    assert "under Adam no run is at the edge at its end" in found.answer[0]
    assert "cannot be tested" in found.answer[2]
    assert "24 stay below it (24 of these have fitted the batch)" in found.answer[4]
    assert [check.verdict for check in found.checks[:2]] == ["out of tolerance", "reproduced"]
    adam = [check for check in found.checks if check.what.startswith("Adam")]
    assert [check.verdict for check in adam] == ["not run", "out of tolerance", "not run"]


def test_conclusion_and_pictures_where_everything_diverged():
    nothing = runs(np.full((*SHAPE, len(AT)), np.nan), loss=np.full(SHAPE, np.nan), diverged=3)
    some = runs(rising(1.05 + noisy()))
    data = data_of(nothing, some)
    found = study.conclude(SETTINGS_3, data)
    assert found.answer[0].startswith("Under gradient descent no run is at the edge")
    assert "untrained: 24." in found.answer[3]
    assert "nothing was measured at step 0" in found.answer[5]
    with drawing.styled():
        pictures = study.draw(SETTINGS_3, data)
    assert [picture.png[:4] for picture in pictures] == [b"\x89PNG"] * 2
    assert all(picture.alt and picture.caption for picture in pictures)


def test_runs_that_begin_above_and_do_not_come_down():
    ratio = np.full((*SHAPE, len(AT)), 2.0)
    data = data_of(runs(ratio), runs(ratio, diverged=5))
    found = study.conclude(SETTINGS_3, data)
    assert (
        "0 of them come down to at most 1.25 times the threshold; untrained: 0" in found.answer[5]
    )
    assert (
        "0 of them come down to at most 1.25 times the threshold; untrained: 24" in found.answer[6]
    )


def test_the_settings_are_those_of_the_issue():
    settings = SETTINGS["cpu"]
    assert [name for name, _ in settings.optimisers] == list(OPTIMISERS)
    assert len(settings.schemes) >= 10
    assert settings.seeds >= 3
    assert all(len(rates) >= 2 and sorted(rates) == [*rates] for _, rates in settings.optimisers)
    assert len(settings.at) >= 38
    assert settings.at[0] == 0
    assert settings.at[-1] == settings.steps
    text = " ".join(study.rules(settings))
    for words in ("no warm-up", "Polyak's", "38 / rate", "seeds from 1000 on", "median"):
        assert words in text
