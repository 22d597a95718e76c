"""Properties of every family: causal, cached equals uncached, last n outputs equal the slice."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.families import CONTEXT, Family, V, make_model, make_variables

# What holds of one family with each kind of memory: `make slow` has every family and form.
one_of_a_kind = pytest.mark.quick("ngram", "bow", "mlp", "gru", "transformer-gated")
# With code of its own.
each_family = pytest.mark.quick(
    *("ngram", "bigram", "bow", "mlp", "wavenet", "rnn", "gru", "lstm", "mingru", "minlstm"),
    "transformer-gated",
)


def close(actual, expected, atol=2e-5):
    np.testing.assert_allclose(actual, expected, atol=atol, rtol=1e-5)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


@one_of_a_kind
def test_logits_are_float32_for_every_token(family, tokens):
    logits, _ = family(tokens)
    assert logits.shape == (3, CONTEXT, V)
    assert logits.dtype == jnp.float32
    small = tokens.astype(np.uint8)
    assert shapes(jax.eval_shape(family.model.apply, family.variables, small)[0]) == shapes(logits)


@each_family
def test_later_tokens_do_not_change_earlier_logits(family, tokens):
    logits, _ = family(tokens)
    for t in (1, CONTEXT // 2, CONTEXT - 1):
        changed = tokens.copy()
        changed[:, t:] = (changed[:, t:] + 5) % V
        other, _ = family(changed)
        np.testing.assert_array_equal(other[:, :t], logits[:, :t])
        assert not np.array_equal(other[:, t], logits[:, t])


@pytest.mark.quick("bow", "mlp", "gru", "transformer-gated")
def test_gradient_with_respect_to_later_inputs_is_zero(trained):
    """Use each token once, so that a row of the table is the input of one position."""
    # A tied table is the readout too, and there it may be used.
    untied = {"tie_embeddings": False} if trained.model.memory == "windowed" else {}
    model = make_model(trained.name, **(untied if "transformer" in trained.name else {}))
    variables = make_variables(model)
    tokens = np.random.default_rng(1).permutation(V)[None, :CONTEXT].astype(np.int32)
    name = "logits" if trained.name == "bigram" else "token_embedding"

    @jax.jit
    @jax.grad
    def gradient(params, t):
        logits, _ = model.apply(variables | {"params": params}, tokens)
        return jnp.sum(logits[0, t] * jnp.arange(1.0, V + 1))

    for t in (0, CONTEXT // 2):
        (table,) = jax.tree.leaves(gradient(variables["params"], t)[name])
        rows = np.asarray(table)[tokens[0]]
        assert (rows[t + 1 :] == 0.0).all()
        assert (rows[t] != 0.0).any()


@each_family
def test_one_token_at_a_time_with_the_cache_as_a_loops_carry(family, tokens):
    expected, _ = family(tokens)

    @functools.partial(jax.jit, donate_argnums=0)
    def read(cache, tokens_TB):
        def step(cache, token_B):
            logits, cache = family.model.apply(family.variables, token_B[:, None], cache)
            return cache, logits[:, 0]

        return jax.lax.scan(step, cache, tokens_TB)

    _, logits_TBV = read(family.model.init_cache(3), tokens.T)
    close(logits_TBV.swapaxes(0, 1), expected)


@one_of_a_kind
def test_in_pieces_equals_at_once(family, tokens):
    expected, _ = family(tokens)
    cache, parts = family.model.init_cache(3), []
    for begin in range(0, CONTEXT, 4):
        logits, new = family(tokens[:, begin : begin + 4], cache)
        assert jax.tree.structure(new) == jax.tree.structure(cache)
        assert shapes(new) == shapes(cache)
        parts.append(logits)
        cache = new
    close(np.concatenate(parts, axis=1), expected)


@one_of_a_kind
def test_the_last_outputs_equal_the_slice(family, tokens):
    expected, _ = family(tokens)
    logits, _ = family(tokens, None, 2)
    close(logits, expected[:, -2:])
    cache = family.model.init_cache(3)
    logits, prefilled = family(tokens[:, :4], cache, 1)
    close(logits, expected[:, 3:4])
    jax.tree.map(close, prefilled, family(tokens[:, :4], cache)[1])


@one_of_a_kind
def test_without_a_cache_only_a_carried_model_returns_one(family, tokens):
    _, cache = family(tokens)
    if family.model.memory != "carried":
        assert cache is None
    else:
        assert shapes(cache) == shapes(family.model.init_cache(3))


@one_of_a_kind
def test_rows_of_a_batch_are_independent(family, tokens):
    logits, _ = family(tokens)
    other, _ = family(np.stack([tokens[1], tokens[1], tokens[0]]))
    close(other, np.stack([logits[1], logits[1], logits[0]]))


@each_family
def test_finite_memory_depends_on_the_lookback_alone(family, tokens):
    model = family.model
    if model.memory == "finite":
        expected, _ = family(tokens)
        logits, _ = family(tokens[:, -(model.lookback + 1) :], None, 1)
        close(logits, expected[:, -1:])
    else:
        assert model.lookback == 0


@each_family
def test_before_a_text_stands_token_zero(family, tokens):
    lookback = family.model.lookback
    padded = tokens.copy()
    padded[:, :lookback] = 0
    expected, _ = family(padded)
    logits, _ = family(padded[:, lookback:])
    if family.model.memory == "finite":
        close(logits, expected[:, lookback:])


def test_windowed_memory_refuses_more_than_it_can_see(family):
    long = jnp.zeros((1, CONTEXT + 1), jnp.int32)
    if family.model.memory == "windowed":
        assert family.model.capacity == CONTEXT
        with pytest.raises(ValueError, match="context_length is 12"):
            jax.eval_shape(family.model.apply, family.variables, long)
    else:
        assert family.model.capacity is None
        jax.eval_shape(family.model.apply, family.variables, long)


def test_exactly_one_role_covers_each_parameter(trained):
    for path, _ in jax.tree_util.tree_flatten_with_path(trained.variables["params"])[0]:
        name = "/".join(part.key for part in path)
        matches = [role for pattern, role in trained.model.roles if re.fullmatch(pattern, name)]
        assert len(matches) == 1, (name, matches)


def test_parameters_are_float32_whatever_the_dtype(trained):
    model = make_model(trained.name, jnp.bfloat16)
    tokens = jnp.zeros((1, model.lookback + 1), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    # The tables of counts are no parameters.
    assert shapes(variables) == shapes({name: trained.variables[name] for name in variables})


@one_of_a_kind
def test_bfloat16_is_close_and_its_logits_float32(family, tokens):
    model = make_model(family.name, jnp.bfloat16)
    expected, _ = family(tokens)
    cache = model.init_cache(3)
    logits, new = Family(family.name, model, family.variables)(tokens, cache)
    assert logits.dtype == jnp.float32
    assert np.abs(logits - expected).max() < 0.03 * np.abs(expected).max()
    assert shapes(new) == shapes(cache)


@pytest.mark.quick("gru", "transformer-other", "mlp")
def test_dropout_is_for_training_only(trained, tokens):
    rate = getattr(trained.model, "dropout", 0.0)
    if "dropout" in {*trained.model.__dataclass_fields__} and rate:
        train = jax.jit(
            lambda key: trained.model.apply(
                trained.variables, tokens, train=True, rngs={"dropout": key}
            )[0]
        )
        drawn = [train(jax.random.key(seed)) for seed in (0, 0, 1)]
        np.testing.assert_array_equal(drawn[0], drawn[1])
        assert not np.allclose(drawn[0], drawn[2], atol=1e-3)
        assert not np.allclose(drawn[0], trained(tokens)[0], atol=1e-3)
    elif "batch_stats" not in trained.variables:
        # Needs no key, and is the same program.
        jax.eval_shape(lambda: trained.model.apply(trained.variables, tokens, train=True))


def test_a_model_is_a_constant_of_compiled_programs(family: Family):
    again = make_model(family.name)
    assert again == family.model
    assert hash(again) == hash(family.model)
