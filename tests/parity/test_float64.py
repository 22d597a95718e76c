"""Twenty steps in float32 against PyTorch's float64, from the same parameters and batches."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from charjax.models import build
from charjax.training.state import initial_state
from tests.parity.cases import (
    CASES,
    FUNCTIONAL,
    LARGE,
    OPTIMIZERS,
    Ours,
    V,
    draw_tokens,
    make_config,
    train,
)

pytest.importorskip("torch", reason="the extra torch is not installed: make parity has it")

# The last loss is the one after twenty steps.
STEPS = 21
# float32 rounds to 6e-8; a step's rounding is a part of what the next one goes on from.
TOLERANCE = 1e-5


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", [*CASES, *FUNCTIONAL])
def test_the_loss_of_twenty_steps(name: str, optimizer: str):
    from tests.parity.torch_side import losses_in_float64

    start, expected = losses_in_float64(name, LARGE, optimizer, STEPS)
    config, tokens = make_config(name, LARGE, optimizer), draw_tokens(STEPS)
    if name in FUNCTIONAL:
        model = build(config.model, V, jnp.float32)
        state = initial_state(model, config, _nested(start), {})
        _, actual = train(model, config, state, tokens)
    else:
        _, actual = Ours(config, start).after(tokens)
    assert abs(expected[-1] / expected[0] - 1) > 1e-3
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE)


def _nested(state: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the parameters of a functional model, by the parts of their paths."""
    tree: dict[str, Any] = {}
    for key, array in state.items():
        module, leaf = key.removeprefix("of.").split("/")
        tree.setdefault(module, {})[leaf] = jnp.asarray(array)
    return tree
