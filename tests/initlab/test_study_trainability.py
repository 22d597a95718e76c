"""The trainability study: where training ends, how that is compared with ξ_c, and its networks."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charjax import theory
from charjax.initlab.report import drawing
from charjax.initlab.studies import trainability
from charjax.initlab.studies import trainability_boundary as edges
from charjax.initlab.studies.study import as_json
from charjax.initlab.studies.tower import Tower, mlp_parameters
from charjax.initlab.studies.trainability_settings import Grid
from charjax.models.mlp import MLP

TRIAL = trainability.SETTINGS["trial"]
GRIDS = (
    Grid("tanh", 0.5, 4.0, 60, 1, 100, 1, 0),
    Grid("relu", 0.8, 1.98, 40, 2, 98, 3, 10_000),
)
SETTINGS = dataclasses.replace(TRIAL, grids=GRIDS, resamples=400)


def losses(grid, factor, power=1.0):
    """Return losses of networks that train up to factor ξ_c^power layers."""
    scale_W = edges.scale_at(grid, SETTINGS.bias_variance, grid.variances())
    depths_D = np.asarray(grid.depths())[:, None]
    return np.where(depths_D <= factor * scale_W**power, 0.5, 2.4)


def conclude(losses_by_map, settings=SETTINGS):
    data = {"losses": losses_by_map, "unigram": 2.3, "examples": 32}
    return trainability.conclude(settings, json.loads(json.dumps(as_json(data))))


@pytest.mark.parametrize(
    ("trained", "expected", "outside"),
    [
        ((1, 1, 0, 0), 5.0, 0),
        ((0, 0, 0, 0), 1.0, -1),
        ((1, 1, 1, 1), 9.0, 1),
        # One that is out of order moves nothing.
        ((1, 0, 1, 1), 9.0, 1),
        ((0, 1, 1, 0), 7.0, 0),
        # Steps after the first and after the third network misjudge one each.
        ((1, 0, 1, 0), 5.0, 0),
    ],
)
def test_the_boundary_misjudges_the_fewest_networks(trained, expected, outside):
    assert edges.boundary((2, 4, 6, 8), trained) == (expected, outside)


@given(st.lists(st.booleans(), min_size=2, max_size=12))
def test_no_step_misjudges_fewer_networks_than_the_boundary(trained):
    depths = np.arange(len(trained))
    wrong = [sum(trained[k:]) + k - sum(trained[:k]) for k in range(len(trained) + 1)]
    best = [k - 0.5 for k, count in enumerate(wrong) if count == min(wrong)]
    found, outside = edges.boundary(depths, trained)
    assert found == (best[0] + best[-1]) / 2
    assert (outside == -1) == (best[-1] == -0.5)


@pytest.mark.parametrize("factor", [3.0, 6.0])
def test_a_boundary_at_a_multiple_of_the_depth_scale_is_found(factor):
    for grid in GRIDS:
        for each in edges.find(SETTINGS, grid, losses(grid, factor)):
            assert each.ratio.value == pytest.approx(factor, rel=0.06)
            assert each.ratio.low <= each.ratio.value <= each.ratio.high
            assert each.exponent.value == pytest.approx(1, abs=0.08)


def test_the_exponent_is_that_of_a_power_law():
    grid = GRIDS[0]
    ordered, chaotic = edges.find(SETTINGS, grid, losses(grid, 12.0, 0.5))
    assert (ordered.side, chaotic.side) == ("ordered", "chaotic")
    for each in (ordered, chaotic):
        assert each.exponent.value == pytest.approx(0.5, abs=0.06)


def test_columns_count_by_theory_alone():
    for grid in GRIDS:
        least, most = (edges.find(SETTINGS, grid, losses(grid, f)) for f in (1.0, 6.0))
        for a, b in zip(least, most, strict=True):
            np.testing.assert_array_equal(a.scales_C, b.scales_C)
            reach = SETTINGS.factor * a.scales_C
            assert reach.min() >= 2 * grid.shallowest
            assert reach.max() <= grid.deepest


def test_the_interval_covers_the_median_of_independent_columns():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        found = edges.median(rng.lognormal(1.5, 0.3, 31), 400)
        hits += found.low <= math.exp(1.5) <= found.high
    assert 180 <= hits <= 199


def test_all_depth_scales_of_relu_with_biases_are_one():
    for weight_variance in (0.8, 1.5, 1.9):
        relu = theory.find_activation("relu")
        field = theory.mean_field(relu, weight_variance, 0.05)
        expected = -1 / math.log(weight_variance / 2)
        assert field.variance == pytest.approx(0.05 / (1 - weight_variance / 2), rel=1e-6)
        for scale in (field.length_depth, field.correlation_depth, field.gradient_depth):
            assert scale == pytest.approx(expected, rel=1e-6)


def test_the_answer_is_computed():
    six = conclude({grid.activation: losses(grid, 6.0) for grid in GRIDS})
    assert "hold 6." in six.answer[0]
    assert {check.verdict for check in six.checks} == {"reproduced"}
    assert not any("no fixed multiple" in sentence for sentence in six.answer)
    half = conclude({grid.activation: losses(grid, 12.0, 0.5) for grid in GRIDS})
    assert sum("no fixed multiple" in sentence for sentence in half.answer) == 3
    three = conclude({grid.activation: losses(grid, 3.0) for grid in GRIDS})
    assert "No interval holds 6" in three.answer[0]
    assert any("% below 6" in sentence for sentence in three.answer)
    ratios = [check for check in three.checks if "over" in check.what]
    assert {check.verdict for check in ratios} == {"out of tolerance"}


@pytest.mark.parametrize("value", [math.nan, 2.4, 0.1])
def test_a_map_without_a_boundary_says_so(value):
    found = conclude({g.activation: np.full((len(g.depths()), g.columns), value) for g in GRIDS})
    assert found.answer[0].startswith("No boundary was measured")
    assert {check.verdict for check in found.checks} == {"stated"}
    assert ("no network was trained" in " ".join(found.answer)) == (value != 0.1)


def test_a_map_none_of_whose_columns_counts_says_so():
    grids = (Grid("tanh", 1.7, 1.8, 3, 1, 20, 1, 0),)
    settings = dataclasses.replace(SETTINGS, grids=grids)
    found = conclude({"tanh": losses(grids[0], 6.0)}, settings)
    assert found.answer[0].startswith("No column")


@pytest.mark.parametrize("value", [None, math.nan])
@pytest.mark.slow
def test_the_pictures_survive_diverged_runs(value):
    made = {g.activation: losses(g, 4.0) for g in GRIDS}
    if value is not None:
        made = {name: np.full_like(array, value) for name, array in made.items()}
    data = json.loads(json.dumps(as_json({"losses": made, "unigram": 2.3, "examples": 32})))
    with drawing.styled():
        pictures = trainability.draw(SETTINGS, data)
    assert all(picture.png.startswith(b"\x89PNG") for picture in pictures)


def test_seeds_of_cells_do_not_meet():
    for settings in trainability.SETTINGS.values():
        seeds = [
            grid.first_seed + depth * grid.columns + column
            for grid in settings.grids
            for depth in grid.depths()
            for column in range(grid.columns)
        ]
        assert len(set(seeds)) == len(seeds)
        assert min(seeds) > 10**6


def test_the_map_has_ten_thousand_cells():
    tanh, relu = trainability.SETTINGS["cpu"].grids
    assert (tanh.columns, len(tanh.depths()), tanh.cells) == (100, 100, 10_000)
    critical = theory.critical_point(theory.find_activation("tanh"), 0.05).weight_variance
    assert tanh.low < critical < tanh.high
    assert relu.high < 2


@functools.cache
def tower():
    model = Tower(
        vocab_size=27, dtype=jnp.float32, context_length=3, d_embed=4, width=8, most=5,
        activation="tanh",
    )  # fmt: skip
    tokens = jax.random.randint(jax.random.key(0), (6, 3), 0, 27)
    shapes = model.init(jax.random.key(1), tokens)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    drawn = [0.6 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return model, jax.tree.unflatten(tree, drawn), tokens


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_a_tower_and_its_gradients_are_those_of_the_mlp(depth):
    model, params, tokens = tower()
    mlp = MLP(
        vocab_size=27, dtype=jnp.float32, context_length=3, d_embed=4, hidden=(8,) * depth,
        norm="none", blank=False, activation="tanh",
    )  # fmt: skip

    def of_tower(params):
        variables = {"params": params, "tower": {"depth": jnp.int32(depth)}}
        return jnp.sum(jnp.sin(model.apply(variables, tokens, num_outputs=1)[0]))

    def of_mlp(params):
        return jnp.sum(jnp.sin(mlp.apply({"params": params}, tokens, num_outputs=1)[0]))

    value, gradients = jax.value_and_grad(of_tower)(params)
    expected, mlp_gradients = jax.value_and_grad(of_mlp)(mlp_parameters(params, depth))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    of_layers = mlp_parameters(gradients, depth)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        of_layers,
        mlp_gradients,
    )
    # Layers after the end have no part in it.
    assert not np.any(gradients["layers"]["kernel"][depth - 1 :])
