"""Every micro-batch of every step has a separate dropout mask."""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import parallel
from charjax.config import parse_config
from charjax.data.batches import Batch
from charjax.training.program import make_advance
from charjax.training.state import TrainState, initial_state

PLACES = 2**16


class KeyReader:
    """A model whose gradient shows its dropout keys: each sets one of many positions."""

    memory = "windowed"
    roles = ()
    auxiliary_weight = 0.0

    def apply(self, variables: Any, inputs_BT: Any, cache: Any, *, rngs: Any, **_: Any) -> Any:
        place = jax.random.randint(rngs["dropout"], (), 0, PLACES)
        logit = variables["params"][place]
        return (jnp.stack([logit, -logit]) * jnp.ones((*inputs_BT.shape, 1)), None), {}


def places_after(steps: int, pieces: int, seed: int = 0) -> set[int]:
    """Return the positions set by a number of steps on identical micro-batches."""
    optim = {"kind": "sgd", "learning_rate": 1.0, "grad_clip": 0.0, "accumulate_steps": pieces}
    config = parse_config({"optim": optim})
    zeros = jnp.zeros((2 * pieces, 3), jnp.int32)
    batch = Batch(zeros, zeros, jnp.ones(zeros.shape), jnp.array(True))
    source = types.SimpleNamespace(draw=lambda step, share: batch)
    mesh = parallel.make_mesh(jax.devices()[:1], 1)
    model: Any = KeyReader()
    advance = make_advance(model, config, mesh)

    @jax.jit
    def run(state: TrainState, key: jax.Array) -> TrainState:
        one = lambda _, state: advance(state, source, key)[0]  # type: ignore[arg-type]  # noqa: E731
        return jax.lax.fori_loop(0, steps, one, state)

    state = initial_state(model, config, jnp.zeros(PLACES), {})
    return set(np.flatnonzero(run(state, jax.random.key(seed)).params).tolist())


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.slow
def test_no_two_micro_batches_have_the_same_dropout(pieces: int):
    first, both = places_after(1, pieces), places_after(2, pieces)
    assert len(first) == pieces
    assert len(both) == 2 * pieces
    # The second step draws after the first, and draws anew.
    assert first < both
    assert not places_after(1, pieces, seed=1) & both
