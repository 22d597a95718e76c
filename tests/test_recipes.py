"""Recipes better than a published figure have its data, protocol and number of parameters."""

import jax
import jax.numpy as jnp
import pytest

from charjax import models
from charjax.config import Config, load_config
from charjax.training.state import create_state

# A name, the alphabet of its text, and the parameters of the published model.
BUDGETS = [
    ("names-beyond-76k", 27, 76_000),
    ("names-beyond-200k", 27, 200_000),
    ("warpeace-gru-beyond", 87, 3 * 128 * (87 + 128 + 2) + (128 + 1) * 87),
    ("shakespeare-beyond", 65, 10_650_000),
]


def parameters(config: Config, vocab_size: int) -> int:
    if config.model.context_length is None:
        length = {"context_length": 16}
        config = config.model_copy(update={"model": config.model.model_copy(update=length)})
    model = models.build(config.model, vocab_size, jnp.dtype(config.runtime.dtype))
    state = jax.eval_shape(lambda key: create_state(model, config, key), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize(("name", "vocab_size", "budget"), BUDGETS)
def test_no_more_parameters_than_the_published_model(name: str, vocab_size: int, budget: int):
    assert 0.9 * budget < parameters(load_config(name), vocab_size) <= budget


@pytest.mark.parametrize("size", ["76k", "200k"])
def test_names_are_cut_and_scored_as_in_the_lectures(size: str):
    config = load_config(f"names-beyond-{size}")
    assert config.data.model_copy(update={"sampling": "random"}) == load_config(
        "names-mlp-kaiming"
    ).data.model_copy(update={"layout": "lines"})
    assert config.eval.protocol == "exact"


def test_war_and_peace_is_read_as_in_the_paper():
    config = load_config("warpeace-gru-beyond")
    assert (config.data.split, config.data.rows, config.data.chunk) == ("interleaved", 100, 100)
    assert (config.data.sampling, config.train.batch_size) == ("contiguous", 100)
    assert (config.model.context_length, config.eval.protocol) == (100, "exact")
    assert config.train.steps <= 50 * 260


def test_shakespeare_is_trained_and_scored_by_the_protocol_of_nanogpt():
    recipe, published = load_config("shakespeare-beyond"), load_config("nanogpt-char")
    assert recipe.data == published.data
    assert recipe.eval == published.eval
    assert recipe.model.context_length == published.model.context_length
    assert (recipe.train.steps, recipe.train.batch_size) == (
        published.train.steps,
        published.train.batch_size,
    )
