"""The study of schemes under Muon: statistics of rankings, the conclusion, and its runs."""

import dataclasses
import functools
import math

import numpy as np
import pytest
from scipy import stats

from charjax.config import load_config
from charjax.init import scheme_for
from charjax.initlab.report import drawing
from charjax.initlab.reproductions import transfer
from charjax.initlab.studies import muon, muon_ranks
from charjax.initlab.studies.muon_ranking import Agreement, rankings_of
from charjax.initlab.studies.muon_runs import SchemeTraining
from charjax.initlab.studies.muon_settings import OPTIMISERS, words_of
from charjax.initlab.studies.study import as_json

FULL = muon.SETTINGS["cpu"]
# One network and six schemes, resampled less often.
MLP = dataclasses.replace(FULL.networks[0], schemes=FULL.networks[0].schemes[:6])
SMALL = dataclasses.replace(FULL, networks=(MLP,), resamples=300)
UNIFORM = math.log(27)
STEPS = np.arange(6) * 0.05
LEVEL = np.zeros(6)


def ignore():
    pass


def losses_of(offsets_C, noise=0.003, best=2, seed=0):
    """Return losses (6, 5, 8), lowest at one rate, with noise of a seed and of a run."""
    rng = np.random.default_rng(seed)
    by_rate_L = 0.2 * (np.arange(5) - best) ** 2
    clean = 2.2 + np.asarray(offsets_C)[:, None, None] + by_rate_L[:, None]
    return clean + 0.05 * rng.standard_normal(8) + noise * rng.standard_normal((6, 5, 8))


def data_of(adamw, muons, sgd):
    losses = {"AdamW": adamw, "Muon": muons, "SGD": sgd}
    return as_json({"uniform": {"MLP": UNIFORM}, "losses": {"MLP": losses}})


def concluded(adamw, muons, sgd):
    return muon.conclude(SMALL, data_of(adamw, muons, sgd))


def check_of(found, words):
    (check,) = (check for check in found.checks if words in check.what)
    return check


# Rankings


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_kendalls_tau_is_scipys(decimals):
    rng = np.random.default_rng(decimals)
    x_BC, y_BC = (rng.standard_normal((2, 50, 7)) * 1.5).round(decimals)
    expected = [stats.kendalltau(x, y).statistic for x, y in zip(x_BC, y_BC, strict=True)]
    np.testing.assert_allclose(muon_ranks.tau_b(x_BC, y_BC), expected, atol=1e-12)


def test_a_ranking_that_is_one_tie_has_no_tau():
    assert np.isnan(muon_ranks.tau_b(np.ones((1, 4)), np.arange(4.0)[None])).all()


@pytest.mark.parametrize(("seeds", "count"), [(1, 0), (2, 1), (3, 3), (4, 3), (8, 35)])
def test_the_seeds_are_divided_in_every_way_once(seeds, count):
    first_BS, second_BS = muon_ranks.halves(seeds)
    assert first_BS.shape == second_BS.shape == (count, seeds)
    assert (first_BS * second_BS == 0).all()
    np.testing.assert_allclose([first_BS.sum(1), second_BS.sum(1)], 1)
    both = {
        frozenset([tuple(a > 0), tuple(b > 0)]) for a, b in zip(first_BS, second_BS, strict=True)
    }
    assert len(both) == count


def test_the_best_rate_is_chosen_anew_for_every_weighting():
    losses_CLS = np.array([[[1.0, 9.0], [4.0, 4.0]]])
    weights_BS = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    np.testing.assert_array_equal(muon_ranks.tuned(losses_CLS, weights_BS), [[1], [4], [4]])


def test_a_ranking_of_equal_schemes_is_not_reliable_and_one_of_different_schemes_is():
    equal = losses_of(LEVEL, seed=5)
    assert abs(muon_ranks.reliability(equal, equal)) < 0.3
    clear = losses_of(STEPS)
    assert muon_ranks.reliability(clear, clear) > 0.99
    assert muon_ranks.reliability(clear, losses_of(-STEPS, seed=1)) < -0.99
    assert math.isnan(muon_ranks.reliability(clear[..., :1], clear[..., :1]))


def test_the_interval_of_a_mean_is_students():
    values_S = np.random.default_rng(2).standard_normal(8)
    samples_B = (muon_ranks.resamples(8, 20_000) * values_S).sum(-1)
    found = muon_ranks.estimate(float(values_S.mean()), samples_B, 8)
    low, high = stats.t.interval(0.95, 7, values_S.mean(), stats.sem(values_S))
    assert found.low == pytest.approx(low, abs=0.12 * (high - low))
    assert found.high == pytest.approx(high, abs=0.12 * (high - low))
    assert found.error == pytest.approx(stats.sem(values_S), rel=0.03)


def test_an_interval_holds_its_value_and_stays_within_the_limit():
    samples_B = np.linspace(0.2, 0.6, 100)
    found = muon_ranks.estimate(0.9, samples_B, 8, limit=1.0)
    assert found.low < 0.6
    assert found.high == 0.9
    assert muon_ranks.estimate(0.5, samples_B * 4, 8, limit=1.0).high == 1
    assert math.isnan(muon_ranks.estimate(0.5, np.full(9, np.nan), 8).low)
    assert math.isnan(muon_ranks.estimate(math.nan, samples_B, 8).low)


def test_a_lost_run_counts_as_a_uniform_guess():
    raw = [1.0, np.nan, np.inf, 5.0]
    np.testing.assert_array_equal(muon_ranks.capped(raw, 3.0), [1, 3, 3, 3])


# The conclusion


def test_the_schemes_that_matter_are_those_beyond_the_bound():
    offsets = LEVEL.copy()
    offsets[[3, 5]] = 0.07, 0.4
    offsets[4] = 0.03
    found = concluded(losses_of(LEVEL), losses_of(offsets), losses_of(LEVEL))
    first = found.answer[0]
    assert first.startswith("MLP: under Muon 2 of 5 schemes are worse than the best")
    worst, other = first.split("nats: ")[1].split("; ")
    assert worst.startswith(f"{MLP.schemes[5]} by 0.40 (0.")
    assert other.startswith(f"{MLP.schemes[3]} by 0.07 (0.")
    ranking = rankings_of(SMALL, data_of(*[losses_of(offsets)] * 3), MLP)["Muon"]
    assert {3, 4, 5} <= set(ranking.worse)
    assert ranking.mattering == [5, 3]


def test_equal_schemes_are_not_told_apart():
    found = concluded(*[losses_of(LEVEL, noise=0.02, seed=seed) for seed in range(3)])
    assert "under Muon 0 of 5 schemes are worse" in found.answer[0]
    assert found.answer[0].endswith("nats.")
    assert check_of(found, "two halves").verdict == "out of tolerance"
    assert "the rankings: unclear" in check_of(found, "AdamW and Muon").note


@pytest.mark.parametrize(
    ("adamw", "muons", "words", "verdict"),
    [
        (STEPS, 0.3 * STEPS, "it does", "reproduced"),
        (0.3 * STEPS, STEPS, "it makes it matter more", "out of tolerance"),
        (STEPS, STEPS, "unclear", "out of tolerance"),
    ],
)
def test_the_claim_is_judged_by_the_interval_of_the_spreads(adamw, muons, words, verdict):
    found = concluded(losses_of(adamw), losses_of(muons, seed=1), losses_of(STEPS, seed=2))
    (claim,) = (sentence for sentence in found.answer if "Muon makes" in sentence)
    assert claim.count(words) == 2
    assert check_of(found, "worst less best").verdict == verdict
    assert check_of(found, "median less best").verdict == verdict


def test_rankings_agree_differ_or_are_reversed():
    same, other = losses_of(STEPS), losses_of(STEPS, seed=1)
    backwards = losses_of(-STEPS, seed=2)
    found = concluded(same, other, backwards)
    agreeing, differing = check_of(found, "AdamW and Muon"), check_of(found, "Muon and SGD")
    assert agreeing.measured == 1
    assert "no more than noise explains" in agreeing.note
    assert differing.measured == -1
    assert differing.note.endswith("the rankings: differ")
    assert check_of(found, "two halves").verdict == "reproduced"


def test_best_rates_at_an_end_of_the_grid_are_named():
    found = concluded(losses_of(STEPS), losses_of(STEPS, best=4), losses_of(STEPS, best=0))
    assert "under Muon default (0.5), pytorch (0.5)" in found.answer[-1]
    check = check_of(found, "at an end of their grid")
    assert (check.measured, check.verdict) == (12, "out of tolerance")
    inside = concluded(*[losses_of(STEPS)] * 3)
    assert check_of(inside, "at an end of their grid").measured == 0
    assert not any("end of its grid" in sentence for sentence in inside.answer)


def test_runs_that_diverge_are_worthless():
    lost = losses_of(STEPS)
    lost[1, :, :3] = np.nan
    lost[4] = np.nan
    found = concluded(lost, lost, lost)
    table = {row[0]: row for row in found.tables[0][2]}
    assert ", 3 worthless" in table[MLP.schemes[1]][1]
    assert table[MLP.schemes[4]][1] == f"{UNIFORM:.3f}, 8 worthless"
    assert table[MLP.schemes[0]][3] == "best"
    assert MLP.schemes[4] in found.answer[0]


@pytest.mark.parametrize("value", [np.nan, 2.0])
def test_nothing_is_claimed_of_losses_that_are_all_equal(value):
    flat = np.full((6, 5, 8), value)
    data = data_of(flat, flat, flat)
    found = muon.conclude(SMALL, data)
    assert "under Muon 0 of 5 schemes" in found.answer[0]
    assert "Kendall's tau of the rankings is not available" in " ".join(found.answer)
    assert check_of(found, "two halves").verdict == "not finite"
    assert "unclear" in check_of(found, "AdamW and Muon").note


def test_what_is_drawn_needs_no_run_that_trained():
    data = data_of(losses_of(STEPS), np.full((6, 5, 8), np.nan), losses_of(LEVEL))
    with drawing.styled():
        pictures = muon.draw(SMALL, data)
    assert len(pictures) == 3
    assert all(picture.png.startswith(b"\x89PNG") for picture in pictures)


def test_a_tau_below_the_reliability_is_no_noise():
    mixed = STEPS[[1, 0, 3, 2, 5, 4]]
    rankings = rankings_of(
        SMALL, data_of(losses_of(STEPS), losses_of(mixed), losses_of(STEPS)), MLP
    )
    pair = Agreement(rankings["AdamW"], rankings["Muon"])
    assert pair.tau.value == pytest.approx(1 - 2 * 3 / 15)
    assert pair.verdict(0.5) == "differ"
    assert pair.verdict(1.1) == "unclear"


# Settings and runs


def test_the_experiment_is_the_issues():
    for network in FULL.networks:
        assert len(set(network.schemes)) == 12
        assert [name for name, _ in network.rates] == list(OPTIMISERS)
        assert all(set(np.diff(exponents)) == {2} for _, exponents in network.rates)
        assert all(len(exponents) == 5 for _, exponents in network.rates)
    assert FULL.seeds == 8


@pytest.mark.parametrize("network", FULL.networks, ids=lambda network: network.name)
def test_schemes_differ_in_the_parameters_they_draw_alone(network):
    shapes = set()
    for optimiser in OPTIMISERS:
        for scheme in network.schemes:
            config = load_config(None, words_of(FULL, network, optimiser, scheme))
            assert not scheme_for(config).scaled
            assert not scheme_for(config).scales_adam
            shapes.add(config.model.model_dump_json())
    assert len(shapes) == 1


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["AdamW", "Muon", "SGD"])
def test_runs_are_those_of_training(optimiser):
    (network,) = muon.SETTINGS["trial"].networks
    settings = dataclasses.replace(muon.SETTINGS["trial"], seeds=2)
    exponent = dict(network.rates)[optimiser][0]
    network = dataclasses.replace(network, rates=((optimiser, (exponent, exponent + 2)),))
    found = SchemeTraining(settings, network).train(optimiser, "naive", ignore)["losses"]
    train = functools.partial(transfer.train_rates, progress=lambda steps: None, poll=ignore)
    for row, rate in zip(found, 2.0 ** np.array([exponent, exponent + 2]), strict=True):
        words = words_of(settings, network, optimiser, "naive")
        words = [word for word in words if "adam_learning_rate" not in word]
        if optimiser == "Muon":
            words.append(f"optim.adam_learning_rate={settings.adam_ratio * rate}")
        expected = train(load_config(None, words), np.array([rate]), 2)
        np.testing.assert_allclose(row, expected[0], rtol=1e-5)
