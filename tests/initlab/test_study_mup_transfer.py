"""Study 4, learning-rate transfer: its statistics on synthetic losses, and what it says of them."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from charjax.initlab.report import drawing
from charjax.initlab.studies import mup_transfer, transfer_result
from charjax.initlab.studies.study import as_json
from charjax.initlab.studies.transfer_statistics import drift_of, loss_at, resamples
from charjax.training.session import open_session

RATES = np.arange(-9.0, -2.0)
WIDTHS = (32, 64, 128, 256)
BEND = 0.1


def losses_with_best_at(places_WS):
    """Return losses (W, L, S), a parabola of the log rate for each width and seed."""
    places_WS = np.asarray(places_WS, np.float64)
    return 2 + BEND * (RATES[None, :, None] - places_WS[:, None, :]) ** 2


def seeds_around(places_W, noise=0.1, seeds=5):
    """Return places (W, S) whose means over the seeds are the given ones."""
    noise_WS = noise * np.random.default_rng(3).standard_normal((len(places_W), seeds))
    centred_WS = noise_WS - noise_WS.mean(axis=1, keepdims=True)
    return np.array(places_W)[:, None] + centred_WS


def test_every_resample_is_counted_as_often_as_it_can_be_drawn():
    found = resamples(3)
    drawn = [tuple(sorted(each)) for each in itertools.product(range(3), repeat=3)]
    assert {tuple(each): count for each, count in found} == {d: drawn.count(d) for d in drawn}
    assert sum(count for _, count in resamples(5)) == 5**5


def test_of_parabolas_drift_slope_and_interval_are_those_of_the_means_of_their_places():
    """The mean of parabolas of one bend is a parabola whose place is the mean of theirs."""
    places_WS = seeds_around([-6.0, -6.2, -6.1, -6.4])
    drift = drift_of(RATES, WIDTHS, losses_with_best_at(places_WS))
    np.testing.assert_allclose([best.value for best in drift.best_W], [-6, -6.2, -6.1, -6.4])
    assert drift.octaves.value == pytest.approx(-0.4)
    # Least squares at 0, 1, 2, 3: the sum of (-1.5, -0.5, 0.5, 1.5) times the places, over 5.
    assert drift.slope.value == pytest.approx((1.5 * -0.4 + 0.5 * 0.1) / 5)
    moves_S = places_WS[-1] - places_WS[0]
    assert drift.octaves.error == pytest.approx(moves_S.std(ddof=1) / math.sqrt(5))
    assert drift.octaves.low < -0.4 < drift.octaves.high
    # Student's interval of 5 normal values has 2.776 standard errors on either side.
    half = (drift.octaves.high - drift.octaves.low) / 2
    assert half == pytest.approx(2.776 * drift.octaves.error, rel=0.15)


@pytest.mark.parametrize("shift", [-2.0, -0.3, 0.0, 0.4])
def test_the_loss_lost_is_that_of_the_parabola_or_of_straight_lines(shift):
    drift = drift_of(RATES, (32, 256), losses_with_best_at([[-6.0] * 2, [-6.0 + shift] * 2]))
    assert drift.octaves.value == pytest.approx(shift, abs=1e-9)
    assert drift.lost.value == pytest.approx(BEND * shift**2, abs=1e-9)
    assert drift.octaves.low == pytest.approx(shift, abs=1e-9)


def test_losses_between_rates():
    log_rates_L, losses_L = np.arange(5.0), np.array([3.0, 2.0, 1.0, 2.0, np.inf])
    assert loss_at(log_rates_L, losses_L, 0.25) == pytest.approx(2.75)
    assert loss_at(log_rates_L, losses_L, 1.5) == pytest.approx(1.25)
    assert loss_at(log_rates_L, losses_L, 3.0) == pytest.approx(2.0)
    assert loss_at(log_rates_L, losses_L, 3.5) == math.inf
    assert loss_at(log_rates_L, losses_L, -1.0) == 3.0


def test_a_rate_at_which_one_seed_diverges_is_never_the_best():
    losses_WLS = losses_with_best_at(seeds_around([-6.0, -6.0]))
    losses_WLS[:, 3, 0] = np.nan
    drift = drift_of(RATES, (32, 256), losses_WLS)
    # The rate of the lowest loss beside it, itself.
    assert {best.value for best in drift.best_W} <= {-7.0, -5.0}
    assert all(best.low >= -9 for best in drift.best_W)


def test_a_best_rate_at_an_edge_gives_no_drift():
    drift = drift_of(RATES, (32, 64, 256), losses_with_best_at([[-9.5] * 3, [-6] * 3, [-2.5] * 3]))
    assert drift.places_W == (
        "at the lower edge of the grid",
        "",
        "at the upper edge of the grid",
    )
    assert math.isnan(drift.octaves.value)
    assert math.isnan(drift.slope.value)


@dataclasses.dataclass(frozen=True)
class Case:
    """Best rates at the narrowest and the widest width; the verdicts expected of them."""

    places: tuple[float, float]
    noise: float
    check: str
    words: str


CASES = {
    "stays": Case((-6.0, -6.2), 0.05, "reproduced", "it transfers under"),
    "falls": Case((-5.0, -7.5), 0.05, "out of tolerance", "it does not transfer under"),
    "rises": Case((-7.0, -5.0), 0.05, "out of tolerance", "it does not transfer under"),
    "unclear": Case((-6.0, -6.9), 0.5, "reproduced", "it is undecided under"),
    "edge": Case((-2.0, -2.0), 0.0, "not finite", "it is undecided under"),
}
SETTINGS = dataclasses.replace(
    mup_transfer.SETTINGS["cpu"],
    grids=(("AdamW", "muP", tuple(RATES)), ("AdamW", "standard", tuple(RATES))),
)


def data_of(places_W, noise=0.05):
    steady = losses_with_best_at(seeds_around(places_W, noise))
    falling = losses_with_best_at(seeds_around([-5.0, -6.0, -7.0, -8.0]))
    return as_json({"losses": [steady, falling]})


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_answer_follows_the_losses(case):
    first, last = case.places
    found = mup_transfer.conclude(SETTINGS, data_of(np.linspace(first, last, 4), case.noise))
    assert case.words in found.answer[0]
    assert found.checks[0].verdict == case.check
    assert any("standard" in each and "-3.00" in each for each in found.answer)
    assert ("at the upper edge" in " ".join(found.answer)) == (case.check == "not finite")


def test_where_every_run_diverged_nothing_is_claimed():
    losses = [[[[None] * 5] * len(RATES)] * 4] * 2
    found = mup_transfer.conclude(SETTINGS, {"losses": losses})
    assert "it is undecided under" in found.answer[0]
    assert sum("every rate diverged" in each for each in found.answer) == 8
    assert {check.verdict for check in found.checks} == {"not finite"}
    with drawing.styled():
        assert len(mup_transfer.draw(SETTINGS, {"losses": losses})) == 2


def test_a_diverging_transfer_is_said():
    losses_WLS = losses_with_best_at(seeds_around([-4.0, -5.0, -6.0, -7.0]))
    losses_WLS[-1, 4:] = np.inf
    data = as_json({"losses": [losses_WLS, losses_WLS]})
    found = mup_transfer.conclude(SETTINGS, data)
    assert any("muP): AdamW the run diverges" in each for each in found.answer)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.9, 0.9, "transfers"), (-1.1, 0.5, "undecided"), (1.1, 2, "does not transfer")],
)
def test_the_verdict_is_that_of_the_whole_interval(low, high, verdict):
    estimate = transfer_result.Estimate((low + high) / 2, low, high, 0.1)
    assert transfer_result.verdict(estimate) == verdict


def test_pictures_have_all_grids():
    with drawing.styled():
        losses, rates = mup_transfer.draw(SETTINGS, data_of([-6.0] * 4))
    assert "AdamW" in losses.alt
    assert "standard" in losses.alt
    assert rates.png.startswith(b"\x89PNG")


@pytest.mark.parametrize("tier", ["cpu", "trial"])
def test_every_grid_has_its_optimiser_and_even_octaves(tier):
    settings = mup_transfer.SETTINGS[tier]
    for optimiser, parametrisation, exponents in settings.grids:
        assert set(np.diff(exponents)) == {1.0}
        config = mup_transfer.config_of(settings, optimiser, parametrisation, settings.widths[-1])
        assert config.optim.kind == optimiser.lower()
        assert config.model.d_model == settings.widths[-1]
        assert config.optim.grad_clip == config.optim.weight_decay == 0
        is_mup = parametrisation == "muP"
        assert config.init.scheme == ("mup" if is_mup else "zero_readout")
        assert config.init.base_width == (settings.widths[0] if is_mup else None)


def test_the_issue_s_experiment_is_whole():
    settings = mup_transfer.SETTINGS["cpu"]
    assert settings.times == 8
    assert settings.seeds == 5
    assert {optimiser for optimiser, *_ in settings.grids} == {"AdamW", "Muon", "SGD"}
    assert mup_transfer.rules(settings)


@pytest.mark.slow
def test_every_configuration_of_the_experiment_opens():
    settings = mup_transfer.SETTINGS["cpu"]
    for optimiser, parametrisation, _ in settings.grids:
        open_session(mup_transfer.config_of(settings, optimiser, parametrisation, 256))
