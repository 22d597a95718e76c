"""Reproductions 9 and 10 at toy sizes; the best rate and its drift on synthetic losses."""

import dataclasses

import numpy as np
import pytest

from charjax.initlab.reproductions import transfer, transformer

RATES = np.arange(-9.0, -2.0)


def ignore(*_):
    pass


def losses_with_best_at(places_W, noise=0.0, seeds=3):
    """Return losses (W, L, S) that are parabolas of the log rate."""
    rng = np.random.default_rng(0)
    clean_WL = 2 + 0.1 * (RATES[None, :] - np.array(places_W)[:, None]) ** 2
    return clean_WL[..., None] + noise * rng.standard_normal((*clean_WL.shape, seeds))


@pytest.mark.parametrize("place", [-6.0, -5.3, -4.5])
def test_the_best_rate_is_the_parabolas(place):
    (losses_LS,) = losses_with_best_at([place])
    assert transfer.best_rate(RATES, losses_LS.mean(-1)) == pytest.approx(place, abs=1e-6)


def test_the_best_rate_at_an_edge_or_beside_a_divergence_is_the_grids():
    rising = np.arange(7.0)
    assert transfer.best_rate(RATES, rising) == -9
    assert transfer.best_rate(RATES, -rising) == -3
    diverged = np.array([3.0, 2.0, 1.9, np.inf, np.inf, np.inf, np.inf])
    assert transfer.best_rate(RATES, diverged) == -7


def test_the_drift_and_its_error():
    drift, best_W = transfer.drift_of(RATES, losses_with_best_at([-4.0, -5.0, -7.0], 0.01))
    np.testing.assert_allclose(best_W, [-4, -5, -7], atol=0.2)
    assert drift.value == pytest.approx(-3, abs=0.3)
    assert 0 < drift.standard_error < 0.3
    noisy, _ = transfer.drift_of(RATES, losses_with_best_at([-4.0, -5.0, -7.0], 0.1))
    assert noisy.standard_error > 2 * drift.standard_error
    still, _ = transfer.drift_of(RATES, losses_with_best_at([-5.0, -5.0]))
    assert (still.value, still.standard_error) == (0, 0)


def test_checks_of_rates_that_drift_and_of_such_that_do_not():
    size = dataclasses.replace(transfer.SIZES["cpu"], rates=tuple(RATES), widths=(32, 256))
    for name, places, verdict in (
        ("standard", (-4, -6.5), "reproduced"),
        ("standard", (-4, -5.5), "out of tolerance"),
        ("standard", (-6.5, -4), "out of tolerance"),
        ("muP", (-5, -5.6), "reproduced"),
        ("muP", (-5, -6.4), "out of tolerance"),
        ("muP", (-6.4, -5), "out of tolerance"),
    ):
        check = transfer._checks(name, size, losses_with_best_at(places))[-1]
        assert check.verdict == verdict, (name, places)


@pytest.mark.slow
def test_a_run_among_many_is_the_run_of_its_rate_and_seed(data_dir):
    """Report an infinite loss for a rate at which training diverges."""
    words = ("train.batch_size=4", "model.context_length=8", "train.max_skipped=1")
    size = dataclasses.replace(transfer.SIZES["cpu"], steps=10, words=words, widths=(16, 32))
    config = transfer.config_of(size, "zero_readout", 16)
    steps = []
    both = transfer.train_rates(config, np.array([1e-3, 1e-2]), 2, steps.append, ignore)
    alone = transfer.train_rates(config, np.array([1e-2]), 1, ignore, ignore)
    assert both.shape == (2, 2)
    assert sum(steps) == 40
    assert both[1, 0] == pytest.approx(alone[0, 0], rel=1e-4)
    assert len(np.unique(both)) == 4


@pytest.mark.slow
def test_what_blocks_add_with_and_without_the_scaling(data_dir):
    size = transformer.Size(
        depths=(2, 8),
        width=32,
        nets=4,
        widths=(),
        seeds=(),
        words=("train.batch_size=4", "model.context_length=16"),
    )
    scaled, unscaled = (
        transformer._stream(scheme, size, ignore, ignore) for scheme in ("gpt2", "normal")
    )
    assert scaled.measured == pytest.approx(0, abs=0.1)
    assert unscaled.measured == pytest.approx(1, abs=0.15)
    assert scaled.n == 4
