"""Windows, shared heads and capped scores of attention, against a loop over queries in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.ops import attention, choice

B, T, H, K = 2, 70, 4, 8


def loop(q, k, v, window, softcap):
    """Attend from one position and head after another, to a list of the keys that it sees."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    shared = q.shape[2] // k.shape[2]
    for b, t, h in np.ndindex(*q.shape[:3]):
        seen = range(max(0, t + 1 - (window or t + 1)), t + 1)
        scores = np.array([q[b, t, h] @ k[b, s, h // shared] for s in seen]) / np.sqrt(K)
        if softcap:
            scores = softcap * np.tanh(scores / softcap)
        weights = np.exp(scores - scores.max())
        out[b, t, h] = weights / weights.sum() @ v[b, list(seen), h // shared]
    return out


@pytest.mark.parametrize(
    ("heads", "window", "softcap"), [(4, 5, 0.0), (2, None, 0.0), (1, 66, 0.7), (4, None, 2.0)]
)
@pytest.mark.parametrize("version", ["blocks", "plain"])
def test_equals_the_loop(heads, window, softcap, version, monkeypatch):
    monkeypatch.setattr(choice, "on_cpu", lambda: version == "blocks")
    monkeypatch.setattr(
        attention, "attention_version", lambda *_: version if not softcap else "plain"
    )
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(0, 2, (B, T, n, K)), jnp.float32) for n in (H, heads, heads))
    found = attention.causal_attention(q, k, v, window=window, softcap=softcap)
    np.testing.assert_allclose(found, loop(q, k, v, window, softcap), atol=2e-5)


@pytest.mark.parametrize("window", [1, 64, 65, 130])
def test_keys_outside_of_the_window_have_no_gradient(window):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 200, 1, K)), jnp.float32) for _ in range(3))
    at = 150
    output = lambda k, v: jnp.sum(attention.causal_attention(q, k, v, window=window)[:, at] ** 2)  # noqa: E731
    for gradient in jax.jit(jax.grad(output, argnums=(0, 1)))(k, v):
        touched = np.flatnonzero(np.abs(gradient[0, :, 0]).max(axis=-1))
        # Of one key alone the weight is 1, whatever the key.
        expected = range(at - window + 1, at + 1)
        assert touched.tolist() in ([*expected], [] if window == 1 else None)


def test_capped_scores_are_computed_plainly_on_every_device():
    q = jnp.zeros((1, 8, 1, 64), jnp.bfloat16)
    assert choice.attention_version(q, 0.0, 30.0) == "plain"
    assert choice.attention_version(q, 0.0) == "blocks"


def test_a_soft_cap_is_a_bound_and_near_zero_the_identity():
    x = jnp.asarray([-1e30, -3.0, 0.0, 1e-3, 1e30])
    found = attention.soft_capped(x, 5.0)
    np.testing.assert_allclose(found, [-5.0, -5 * np.tanh(0.6), 0.0, 1e-3, 5.0], rtol=1e-5)
