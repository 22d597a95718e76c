"""What holds for every family: causal, cached equals uncached, the last n equal the slice."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import CONTEXT, TRAINED, Family, V, make_model, make_variables


def close(actual, expected, atol=2e-5):
    np.testing.assert_allclose(actual, expected, atol=atol, rtol=1e-5)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def test_logits_are_float32_for_every_token(family, tokens_BT):
    logits, _ = family.apply(tokens_BT)
    assert logits.shape == (3, CONTEXT, V)
    assert logits.dtype == jnp.float32
    small, _ = family.apply(tokens_BT.astype(np.uint8))
    np.testing.assert_array_equal(small, logits)


def test_later_tokens_do_not_change_earlier_logits(family, tokens_BT):
    logits, _ = family.apply(tokens_BT)
    for t in (1, CONTEXT // 2, CONTEXT - 1):
        changed = tokens_BT.copy()
        changed[:, t:] = (changed[:, t:] + 5) % V
        other, _ = family.apply(changed)
        np.testing.assert_array_equal(other[:, :t], logits[:, :t])
        assert not np.array_equal(other[:, t], logits[:, t])


@pytest.mark.parametrize("name", TRAINED)
def test_gradient_with_respect_to_later_inputs_is_zero(name):
    """Each token is used once, so that a row of the table is the input of one position."""
    tied = {"tie_embeddings": False} if name.startswith("transformer") else {}
    model = make_model(name, **tied)
    variables = make_variables(model)
    tokens = np.random.default_rng(1).permutation(V)[None, :CONTEXT].astype(np.int32)
    path = ("logits",) if name == "bigram" else ("token_embedding", "embedding")

    def output(table, t):
        params = variables["params"] | (
            {path[0]: table} if len(path) == 1 else {path[0]: {path[1]: table}}
        )
        logits, _ = model.apply(variables | {"params": params}, tokens)
        return jnp.sum(logits[0, t] * jnp.arange(1.0, V + 1))

    table = variables["params"][path[0]]
    table = table if len(path) == 1 else table[path[1]]
    gradient = jax.jit(jax.grad(output))
    for t in (0, CONTEXT // 2):
        rows = np.asarray(gradient(table, t))[tokens[0]]
        assert (rows[t + 1 :] == 0.0).all()
        assert (rows[t] != 0.0).any()


def test_one_token_at_a_time_with_the_cache_as_a_loops_carry(family, tokens_BT):
    expected, _ = family.apply(tokens_BT)

    def step(cache, token_B):
        logits, cache = family.model.apply(family.variables, token_B[:, None], cache)
        return cache, logits[:, 0]

    cache = family.model.init_cache(3)
    _, logits_TBV = jax.jit(lambda c, x: jax.lax.scan(step, c, x))(cache, tokens_BT.T)
    close(logits_TBV.swapaxes(0, 1), expected)


def test_in_pieces_equals_at_once(family, tokens_BT):
    expected, _ = family.apply(tokens_BT)
    cache, parts = family.model.init_cache(3), []
    for begin, end in ((0, 5), (5, 6), (6, CONTEXT)):
        logits, new = family.apply(tokens_BT[:, begin:end], cache)
        assert jax.tree.structure(new) == jax.tree.structure(cache)
        assert shapes(new) == shapes(cache)
        parts.append(logits)
        cache = new
    close(np.concatenate(parts, axis=1), expected)


def test_the_last_outputs_equal_the_slice(family, tokens_BT):
    expected, _ = family.apply(tokens_BT)
    for count in (1, 4):
        logits, _ = family.apply(tokens_BT, num_outputs=count)
        assert logits.shape[1] == count
        close(logits, expected[:, -count:])
    _, cache = family.apply(tokens_BT[:, :4], family.model.init_cache(3), num_outputs=1)
    logits, whole = family.apply(tokens_BT[:, 4:], cache, num_outputs=2)
    close(logits, expected[:, -2:])
    _, same = family.apply(tokens_BT[:, 4:], cache)
    jax.tree.map(close, whole, same)


def test_without_a_cache_only_a_carried_model_returns_one(family, tokens_BT):
    _, cache = family.apply(tokens_BT)
    if family.model.memory != "carried":
        assert cache is None
    else:
        _, expected = family.apply(tokens_BT, family.model.init_cache(3))
        jax.tree.map(close, cache, expected)


def test_rows_of_a_batch_are_independent(family, tokens_BT):
    logits, _ = family.apply(tokens_BT)
    alone, _ = family.apply(tokens_BT[1:2])
    close(alone, logits[1:2])


def test_finite_memory_depends_on_the_lookback_alone(family, tokens_BT):
    model = family.model
    if model.memory != "finite":
        assert model.lookback == 0
        return
    expected, _ = family.apply(tokens_BT, num_outputs=1)
    logits, _ = family.apply(tokens_BT[:, -(model.lookback + 1) :], num_outputs=1)
    close(logits, expected)


def test_before_a_text_stands_token_zero(family, tokens_BT):
    if family.model.memory == "finite":
        zeros = np.zeros((3, family.model.lookback), np.int32)
        padded, _ = family.apply(np.concatenate([zeros, tokens_BT], 1), num_outputs=CONTEXT)
        np.testing.assert_array_equal(padded, family.apply(tokens_BT)[0])


def test_windowed_memory_refuses_more_than_it_can_see(family):
    if family.model.memory == "windowed":
        assert family.model.capacity == CONTEXT
        with pytest.raises(ValueError, match="context_length is 12"):
            family.apply(np.zeros((1, CONTEXT + 1), np.int32))
    else:
        assert family.model.capacity is None
        family.apply(np.zeros((1, 3 * CONTEXT), np.int32))


def test_exactly_one_role_covers_each_parameter(trained):
    for path, _ in jax.tree_util.tree_flatten_with_path(trained.variables["params"])[0]:
        name = "/".join(part.key for part in path)
        matches = [role for pattern, role in trained.model.roles if re.fullmatch(pattern, name)]
        assert len(matches) == 1, (name, matches)


def test_parameters_are_float32_whatever_the_dtype(trained):
    model = make_model(trained.name, jnp.bfloat16)
    tokens = jnp.zeros((1, model.lookback + 1), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    assert shapes(variables) == shapes(trained.variables)


def test_bfloat16_is_close_and_its_logits_float32(family, tokens_BT):
    model = make_model(family.name, jnp.bfloat16)
    expected, _ = family.apply(tokens_BT)
    logits, _ = model.apply(family.variables, tokens_BT)
    assert logits.dtype == jnp.float32
    assert np.abs(logits - expected).max() < 0.05 * max(1.0, np.abs(expected).max())
    cached, new = model.apply(family.variables, tokens_BT, model.init_cache(3))
    assert shapes(new) == shapes(model.init_cache(3))
    close(cached, logits, atol=0.05 * max(1.0, np.abs(expected).max()))


def test_dropout_is_for_training_only(trained, tokens_BT):
    if "dropout" not in {*trained.model.__dataclass_fields__}:
        return
    first, _ = trained.apply(tokens_BT)
    np.testing.assert_array_equal(trained.apply(tokens_BT)[0], first)
    drawn = [
        trained.apply(tokens_BT, train=True, rngs={"dropout": jax.random.key(seed)})[0]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    dropped = trained.model.dropout > 0
    assert dropped != np.array_equal(drawn[0], drawn[2])
    assert dropped != np.allclose(drawn[0], first, atol=1e-5)


def test_a_model_is_a_constant_of_compiled_programs(family: Family):
    again = make_model(family.name)
    assert again == family.model
    assert hash(again) == hash(family.model)
