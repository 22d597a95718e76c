"""The GRU benchmark's variants and kernel compute one function; a refusal of XLA is reported."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import graphs, gru, gru_kernel
from benchmarks.gru_variants import VARIANTS, Weights, plain
from benchmarks.section import LeftOut

# What jax 0.12 says when the kernel is lowered.
_DEPRECATED = "ignore:The Pallas Triton backend is deprecated:DeprecationWarning"


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape) * 0.4, jnp.float32)


def weights_of(D, H):
    return Weights(draw(D, 3 * H), draw(H, 3 * H), draw(3 * H), 0.5 * draw(3 * H))


def assert_one_function(layers, x_TBD, weights):
    T, B, _ = x_TBD.shape
    slope = draw(T, B, len(weights.hidden_kernel))

    def both(layer):
        loss = lambda x, w: jnp.sum(layer(x, w) * slope)  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, (0, 1)))(x_TBD, weights)

    value, gradients = both(plain)
    for layer in layers:
        other, others = both(layer)
        np.testing.assert_allclose(other, value, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), others, gradients)


def test_the_variants_are_one_function():
    assert_one_function(VARIANTS.values(), draw(5, 2, 3), weights_of(3, 4))


def kernel(x_TBD, weights, interpret=True):
    x_TBG = x_TBD @ weights.input_kernel + weights.input_bias
    h_BH = jnp.zeros((x_TBD.shape[1], len(weights.hidden_kernel)), jnp.float32)
    return gru_kernel.scan(interpret, x_TBG, weights.hidden_kernel, weights.hidden_bias, h_BH)


def test_the_kernel_is_the_same_function():
    """Cover two programs along the batch, two along the state, and two sums."""
    assert_one_function([kernel], draw(3, 64, 3), weights_of(3, 128))


@pytest.mark.filterwarnings(_DEPRECATED)
@pytest.mark.parametrize(("batch", "width"), [(256, 512), (128, 256)])
def test_the_kernel_can_be_lowered_for_a_gpu(batch, width):
    loss = lambda x, w: jnp.sum(kernel(x, w, interpret=False))  # noqa: E731
    shapes = jax.eval_shape(lambda: (draw(4, batch, 8), weights_of(8, width)))
    with _an_h200():
        traced = jax.jit(jax.grad(loss, (0, 1))).trace(*shapes)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # Forward and backward.
    assert len(re.findall(r"custom_call @__gpu\$xla.gpu.triton", text)) == 2


def _an_h200():
    """Return a context with an abstract H200; Pallas requires one since jax 0.12."""
    if jax.__version_info__ < (0, 12):
        return contextlib.nullcontext()
    from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

    device = AbstractDevice(device_kind="NVIDIA H200", num_cores=None, platform="gpu")
    mesh = AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)
    return use_abstract_mesh(mesh)


def test_what_the_kernel_does_not_take_is_left_out():
    with pytest.raises(LeftOut, match="B8 H64 given"):
        kernel(draw(2, 8, 3), weights_of(3, 64))


@pytest.mark.parametrize("words", graphs.OPTIONS)
def test_xla_knows_the_options_that_it_is_asked_for(words):
    program = gru.Program(lambda w: w * w, jnp.float32(3.0), graphs.OPTIONS[words])
    assert program.exact() == (9.0, 6.0)


@pytest.mark.parametrize(
    ("options", "why"),
    [({"xla_gpu_no_such": 1}, "No such"), ({"xla_gpu_enable_command_buffer": "LOOPS"}, "LOOPS")],
)
def test_an_option_that_xla_refuses_is_left_out(options, why):
    with pytest.raises(LeftOut, match=why):
        gru.Program(lambda w: w * w, jnp.float32(3.0), options)


def test_a_contestant_that_computes_something_else_is_refused():
    expected = (2.0, {"w": np.array([1.0, 10.0])})
    assert gru.agreed("same", expected, expected)["gradient_difference"] == 0.0
    with pytest.raises(ValueError, match="gradients by"):
        gru.agreed("other", (2.0, {"w": np.array([1.002, 10.0])}), expected)
