"""The networks of the trainability study: their draws, and one step beside the library's MLP."""

import dataclasses

import jax
import numpy as np
import pytest

from charjax.config import load_config
from charjax.initlab.studies import trainability_runs as runs
from charjax.initlab.studies.tower import mlp_parameters
from charjax.initlab.studies.trainability_settings import SETTINGS
from charjax.models import build_model
from charjax.training.state import initial_state
from charjax.training.step import make_train_step

SMALL = dataclasses.replace(SETTINGS["trial"], width=48, together=2, steps=3)


@pytest.mark.slow
def test_networks_are_drawn_by_their_scheme_and_trained_as_the_mlp():
    dataset = runs.first_lines(SMALL)
    assert dataset.splits["train"].num_targets == 32
    networks = runs.Networks(SMALL, "tanh", 12, dataset)
    seeds, variances, depths = np.array([7, 8], np.uint32), np.array([1.0, 3.0]), np.array([4, 12])
    state, _ = networks.start(seeds, variances, depths)
    params = jax.tree.map(np.asarray, state.states.params)
    for run, variance in enumerate(variances):
        kernel = params["layers"]["kernel"][run]
        assert kernel.var() * SMALL.width == pytest.approx(variance, rel=0.03)
        first = params["first"]["kernel"][run]
        assert first.var() * first.shape[0] == pytest.approx(variance, rel=0.15)
        assert params["layers"]["bias"][run].var() == pytest.approx(0.05, rel=0.25)
    assert not np.allclose(params["layers"]["kernel"][0] * 3**0.5, params["layers"]["kernel"][1])
    # The same runs, as MLPs with a step that is not vmapped.
    found = networks.losses(seeds, variances, depths, lambda *_: None, lambda: None)
    config = networks.session.config
    for run, depth in enumerate(depths):
        words = {"hidden": (SMALL.width,) * int(depth)}
        deep = config.model_copy(update={"model": config.model.model_copy(update=words)})
        model = build_model(deep, dataset.tokenizer)
        drawn = jax.tree.map(lambda leaf, run=run: leaf[run], params)
        train_step = jax.jit(make_train_step(model, deep))
        mlp_state = initial_state(model, deep, mlp_parameters(drawn, int(depth)), {}, (), ())
        for step in range(SMALL.steps):
            batch = networks.session.source.draw(jax.numpy.int32(step))
            mlp_state, metrics = train_step(mlp_state, batch, jax.random.key(0))
        assert found[run] == pytest.approx(float(metrics.loss), rel=1e-4)


@pytest.mark.slow
def test_a_cell_does_not_depend_on_its_neighbours():
    dataset = runs.first_lines(SMALL)
    networks = runs.Networks(SMALL, "relu", 3, dataset)
    cells = np.array([1, 2, 3], np.uint32), np.array([1.0, 1.5, 1.9]), np.array([2, 3, 1])
    silent = lambda *_: None  # noqa: E731
    together = networks.losses(*cells, silent, lambda: None)
    alone = networks.losses(*(x[2:] for x in cells), silent, lambda: None)
    assert together[2] == alone[0]


def test_settings_are_those_of_the_library():
    config = runs._config(SMALL, "relu", 32)
    assert load_config(None, ["data.name=names"]).optim.grad_clip != 0
    assert config.optim.grad_clip == 0
    assert config.init.sigma_b == pytest.approx(0.05**0.5)
