"""Schemes by which layers hand on their inputs: identities, IDInit, delta-orthogonal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import models
from charjax.config import parse_config
from charjax.errors import UserError
from charjax.init.identity import padded_identity
from charjax.training.state import create_state, variables_of
from tests.commands import run

V = 11


def made(scheme, **section):
    config = parse_config({"model": section, "init": {"scheme": scheme}})
    model = models.build(config.model, V, jnp.float32)
    return model, create_state(model, config, jax.random.key(0))


def test_padding_repeats_the_identity_over_the_outputs():
    np.testing.assert_array_equal(padded_identity(2, 5), [[1, 0, 1, 0, 1], [0, 1, 0, 1, 0]])
    np.testing.assert_array_equal(padded_identity(3, 2), [[1, 0], [0, 1], [0, 0]])


def test_relu_layers_of_identities_are_an_identity():
    """Positive units pass any number of square layers as they are."""
    sizes = {"kind": "mlp", "d_embed": 6, "context_length": 1, "activation": "relu"}
    model, state = made("identity", hidden=(6, 6, 6), **sizes)
    table = jnp.abs(state.params["token_embedding"]["embedding"])
    params = state.params | {"token_embedding": {"embedding": table}}
    logits, _ = model.apply({"params": params}, np.arange(V)[None])
    expected = table @ params["readout"]["kernel"]
    np.testing.assert_allclose(logits[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_idinit_keeps_the_stream_and_passes_gradients_to_every_branch():
    """A block's output is its input to 1e-5, and yet no kernel of a branch is dead."""
    sizes = {"kind": "transformer", "context_length": 6, "n_layer": 2, "n_head": 2, "d_model": 8}
    model, state = made("idinit", **sizes)
    tokens = np.random.default_rng(0).integers(0, V, (4, 6))

    def score(params):
        logits, _ = model.apply({"params": params}, tokens)
        return jnp.sum(jnp.square(logits)), logits

    (_, logits), gradients = jax.jit(jax.value_and_grad(score, has_aux=True))(state.params)
    silent = jax.tree_util.tree_map_with_path(
        lambda path, x: 0 * x if path[-2].key in ("out", "down") else x, state.params
    )
    np.testing.assert_allclose(logits, score(silent)[1], atol=1e-4)
    for layer in ("qkv", "out"):
        assert np.abs(gradients["block_0"]["attention"][layer]["kernel"]).max() > 0
    for layer in ("up", "down"):
        assert np.abs(gradients["block_0"]["mlp"][layer]["kernel"]).max() > 0


def test_idinit_has_no_rule_for_a_state():
    with pytest.raises(UserError, match=r"no rule for 'cell_0/hidden_kernel' \(role: recurrent\)"):
        made("idinit", kind="rnn", d_embed=4, d_hidden=4)


@pytest.mark.parametrize("kind", ["mlp", "wavenet"])
@pytest.mark.quick("mlp")
def test_delta_orthogonal_keeps_the_length_of_the_last_vector(kind):
    """Each kernel's product has the length of its last position's vector, whatever the others."""
    sizes = {"mlp": {"hidden": (24,)}, "wavenet": {"d_hidden": 24}}[kind]
    model, state = made("delta_orthogonal", kind=kind, d_embed=6, context_length=4, **sizes)
    first, places = ("hidden_0", 4) if kind == "mlp" else ("level_0", 2)
    rng = np.random.default_rng(0)
    for name, n in ((first, 6), *([("level_1", 24)] if kind == "wavenet" else [])):
        count = places if name == first else 2
        x = rng.normal(size=(20, count * n)).astype(np.float32)
        product = x @ variables_of(state)["params"][name]["kernel"]
        lengths = np.linalg.norm(x[:, -n:], axis=1)
        np.testing.assert_allclose(np.linalg.norm(product, axis=1), lengths, rtol=1e-5)
    assert model.apply(variables_of(state), np.arange(4)[None])[0].shape[-1] == V


def test_delta_orthogonal_needs_as_many_outputs_as_a_position_has_inputs(tmp_path):
    """Refuse it before a run is begun."""
    (tmp_path / "text.txt").write_text("the world is all that is the case. " * 60)
    words = [f"data.path={tmp_path / 'text.txt'}", "model.kind=mlp", "model.d_embed=6"]
    words += ["model.hidden=[5]", "init.scheme=delta_orthogonal", "train.steps=1"]
    done = run("train", *words, "--workdir", tmp_path / "run")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "'hidden_0/kernel' has 5 outputs for a position's 6 inputs" in done.err
    assert not (tmp_path / "run").exists()
