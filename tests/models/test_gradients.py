"""Gradients against finite differences in float64, of every trainable family.

In float64 a central difference is good to about eight digits, so that a wrong term anywhere in a
derivative, the hand-written ones of charjax.ops among them, shows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.training.step import cross_entropy
from tests.models.families import TRAINED, V, make_model

# With more tokens than symbols a recurrent model projects symbols, with fewer tokens.
MANY, FEW = (3, 12), (2, 5)
_STEP = 1e-6


@pytest.fixture(autouse=True)
def wide():
    """64-bit numbers, here alone; arange and the like are int64 then, and meet int32 tokens."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


# Their gradients are JAX's own, or those of a form of the same family.
OTHERS = ("bigram", "bow", "wavenet", "mlp-batch_norm", "rnn", "transformer-other")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(
            pytest.param(name, MANY, marks=[pytest.mark.slow] if name in OTHERS else [])
            for name in TRAINED
        ),
        ("gru", FEW),
    ],
    ids=str,
)
@pytest.mark.quick("gru-(*12)", "lstm-(*", "transformer-gated-*")
def test_gradient_equals_finite_differences(name, shape):
    """Compare for every parameter, along two random directions."""
    model = make_model(name, jnp.float64)
    rng = np.random.default_rng(0)
    tokens_BT = rng.integers(0, V, shape).astype(np.int32)
    targets_BT = jnp.asarray(rng.integers(0, V, shape).astype(np.int32))
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.0, 0.7, leaf.shape)),
        jax.eval_shape(make_model(name).init, jax.random.key(0), tokens_BT),
    )
    params, others = variables["params"], {k: v for k, v in variables.items() if k != "params"}

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        # The same key at every point: dropout is then a fixed function.
        (logits_BTV, _), _ = model.apply(
            {"params": params, **others},
            tokens_BT,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            mutable=list(others),
        )
        assert logits_BTV.dtype == jnp.float64
        return jnp.mean(cross_entropy(logits_BTV, targets_BT))

    _, gradients = loss(params)
    leaves, tree = jax.tree.flatten(params)
    for i, (path, gradient) in enumerate(jax.tree_util.tree_leaves_with_path(gradients)):
        assert gradient.dtype == jnp.float64
        for _ in range(2):
            direction = rng.normal(size=gradient.shape)

            def moved(distance, i=i, direction=direction):
                new = [*leaves[:i], leaves[i] + distance * direction, *leaves[i + 1 :]]
                return float(loss(jax.tree.unflatten(tree, new))[0])

            expected = (moved(_STEP) - moved(-_STEP)) / (2 * _STEP)
            actual = float(np.vdot(gradient, direction))
            scale = float(np.linalg.norm(gradient))
            assert abs(actual - expected) <= 1e-6 * scale + 1e-9, jax.tree_util.keystr(path)
