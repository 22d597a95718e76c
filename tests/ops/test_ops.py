"""Each fast primitive equals the plain version beside it: values, gradients, transformations."""

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import Array

from charjax import backend, parallel, theory
from charjax.models.layers import Linear
from charjax.models.recurrent import gru_update, lstm_update, rnn_update
from charjax.ops import activation, attention, choice, gates, linear, normalization, recurrence


class Case(NamedTuple):
    """A fast function, its plain version, and the shapes of their arguments."""

    fast: Callable[..., Array]
    plain: Callable[..., Array]
    shapes: tuple[tuple[int, ...], ...]


def attention_case(T: int, heads: tuple[int, int] = (2, 2), **options: object) -> Case:
    """Return the case of attention with so many heads of queries, and of keys and values."""
    queries, keys = heads
    return Case(
        lambda *qkv: attention.causal_attention(*qkv, **options),
        lambda *qkv: attention.causal_attention_reference(*qkv, **options),
        ((2, T, queries, 8), *((2, T, keys, 8),) * 2),
    )


def flax_dense(x: Array, kernel: Array, bias: Array) -> Array:
    layer = nn.Dense(kernel.shape[1], dtype=x.dtype)
    return layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)


def own_linear(x: Array, kernel: Array, bias: Array) -> Array:
    layer = Linear(kernel.shape[1], True, x.dtype)
    return layer.apply({"params": {"kernel": kernel, "bias": bias.astype(jnp.float32)}}, x)


def gates_case(
    fast: Callable[..., tuple[Array, ...]],
    plain: Callable[..., tuple[Array, ...]],
    states: int,
    gates: int,
) -> Case:
    """Return the case of a state update: its new states, concatenated."""

    def joined(update: Callable[..., tuple[Array, ...]]) -> Callable[..., Array]:
        return lambda x, a, *state: jnp.concatenate(update(x, a, state), axis=-1)

    return Case(joined(fast), joined(plain), ((3, 5 * gates),) * 2 + ((3, 5),) * states)


def recurrence_case(
    update: recurrence.Update,
    states: int,
    gates: int,
    T: int,
    B: int,
    *,
    V: int = 0,
) -> Case:
    """Return the case of a scan: its outputs and last states, flattened."""
    H, tokens = 4, None
    if V:
        tokens = jnp.asarray(np.random.default_rng(1).integers(0, V, (T, B)), jnp.int32)

    def joined(function: Callable[..., tuple[tuple[Array, ...], Array]]) -> Callable[..., Array]:
        def run(kernel: Array, bias: Array, inputs: Array, *state: Array) -> Array:
            bias, inputs, *state = (x.astype(jnp.float32) for x in (bias, inputs, *state))
            x, table = (inputs, None) if tokens is None else (tokens, inputs)
            last, h = function(
                update,
                kernel.dtype,
                tuple(state),
                x,
                table,
                kernel.astype(jnp.float32),
                bias,
            )
            return jnp.concatenate([x.astype(jnp.float32).ravel() for x in (h, *last)])

        return run

    G = gates * H
    inputs = (V, G) if V else (T, B, G)
    shapes = ((H, G), (G,), inputs, *((B, H),) * states)
    return Case(joined(recurrence.recurrence), joined(recurrence.recurrence_reference), shapes)


CASES = {
    "gates of a GRU": gates_case(gates.gru_gates, gru_update, 1, 3),
    "gates of an LSTM": gates_case(gates.lstm_gates, lstm_update, 2, 4),
    "recurrence of a GRU": recurrence_case(gates.gru_gates, 1, 3, T=5, B=3),
    "recurrence of an LSTM over symbols": recurrence_case(gates.lstm_gates, 2, 4, T=6, B=1, V=3),
    "gelu": Case(activation.gelu, activation.gelu_reference, ((3, 5, 7),)),
    "gelu of a scalar": Case(activation.gelu, activation.gelu_reference, ((),)),
    "gelu_tanh": Case(activation.gelu_tanh, activation.gelu_tanh_reference, ((3, 5, 7),)),
    "layer_norm": Case(
        normalization.layer_norm, normalization.layer_norm_reference, ((3, 5, 16), (16,))
    ),
    "matmul, widening": Case(linear.matmul, linear.matmul_reference, ((3, 5, 4), (4, 6))),
    "matmul, narrowing": Case(linear.matmul, linear.matmul_reference, ((3, 5, 6), (6, 4))),
    "matmul, one row": Case(linear.matmul, linear.matmul_reference, ((6,), (6, 4))),
    "matmul, four axes": Case(linear.matmul, linear.matmul_reference, ((2, 3, 2, 6), (6, 4))),
    "Linear": Case(own_linear, flax_dense, ((3, 5, 6), (6, 4), (4,))),
    # Less than a block of queries, one block, several, and a last one that is shorter.
    "attention 1": attention_case(1),
    "attention 7": attention_case(7),
    "attention 64": attention_case(64),
    "attention 150": attention_case(150),
    "attention, dropout": attention_case(70, dropout_rate=0.4, dropout_key=jax.random.key(3)),
    # Windows that end within a block, at its end, and beyond the text.
    "attention, window": attention_case(
        200, window=70, dropout_rate=0.4, dropout_key=jax.random.key(3)
    ),
    "attention, window of a block": attention_case(200, window=64),
    "attention, window of one": attention_case(70, window=1),
    "attention, window of all": attention_case(70, window=100),
    "attention, shared heads": attention_case(70, (4, 2), window=9),
    "rms_norm": Case(normalization.rms_norm, normalization.rms_norm_reference, ((3, 5, 16), (16,))),
    "silu": Case(activation.silu, activation.silu_reference, ((3, 5, 7),)),
}


# One of each op, for what does not depend on shapes; the others are among the slow tests.
OPS = ("gates of a GRU", "gates of an LSTM", "recurrence of a GRU", "gelu", "gelu_tanh")
OPS += ("layer_norm", "matmul, widening", "attention 150", "attention, dropout", "rms_norm")
of_each_kind = pytest.mark.quick("recurrence of a GRU", "gelu", "matmul, widening", "attention 150")


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def draw(shapes: tuple[tuple[int, ...], ...], dtype: jnp.dtype = jnp.float32) -> list[Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


Program = Callable[..., tuple[Array, tuple[Array, ...]]]


def value_and_gradients(
    function: Callable[..., Array], shapes: tuple[tuple[int, ...], ...]
) -> Program:
    """Return a function's value, and the gradients of a weighted sum of it by each argument."""
    (weights,) = draw((jax.eval_shape(function, *draw(shapes)).shape,))
    loss = lambda *args: jnp.sum(function(*args).astype(jnp.float32) * weights)  # noqa: E731
    gradients = jax.grad(loss, argnums=tuple(range(len(shapes))))
    return lambda *args: (function(*args), gradients(*args))


@functools.cache
def compiled(function: Callable[..., Array], shapes: tuple[tuple[int, ...], ...]) -> Program:
    """Compile a function once for all tests, as compilation dominates their time."""
    return jax.jit(value_and_gradients(function, shapes))


def assert_same(got: object, want: object, tolerance: float) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.quick(
    *OPS,
    *("recurrence of an LSTM over symbols", "matmul, narrowing", "Linear", "silu"),
    *("attention 7", "attention, window", "attention, shared heads"),
)
def test_equals_the_plain_version(case: Case) -> None:
    args = draw(case.shapes)
    (fast, fast_grads), (plain, plain_grads) = (
        compiled(function, case.shapes)(*args) for function in (case.fast, case.plain)
    )
    assert_same(fast, plain, 1e-5)
    assert_same(fast_grads, plain_grads, 1e-4)


@pytest.mark.parametrize(
    "case",
    [
        recurrence_case(gates.gru_gates, 1, 3, T=1, B=2),
        # More symbols than gates: their gradient is a scatter.
        recurrence_case(rnn_update, 1, 1, T=4, B=2, V=7),
    ],
    ids=["one step", "scattered"],
)
def test_recurrence_equals_the_plain_version(case: Case) -> None:
    test_equals_the_plain_version(case)


@of_each_kind
@pytest.mark.slow
def test_equals_the_plain_version_in_bfloat16(case: Case) -> None:
    args = draw(case.shapes, jnp.bfloat16)
    if case.fast in (normalization.layer_norm, normalization.rms_norm):
        args[1] = args[1].astype(jnp.float32)
    programs = [value_and_gradients(f, case.shapes) for f in (case.fast, case.plain)]
    both = jax.jit(lambda *args: [program(*args) for program in programs])
    (fast, fast_grads), (plain, plain_grads) = both(*args)
    assert_same(fast, plain, 0.05)
    assert_same(fast_grads, plain_grads, 0.15)


@of_each_kind
def test_a_batch_of_calls_equals_the_calls_one_by_one(case: Case) -> None:
    args = draw(tuple((2, *shape) for shape in case.shapes))
    alone = compiled(case.fast, case.shapes)
    one_by_one = [alone(*(a[i] for a in args)) for i in range(2)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *one_by_one)
    together = jax.jit(jax.vmap(value_and_gradients(case.fast, case.shapes)))
    assert_same(together(*args), stacked, 1e-5)


@of_each_kind
def test_a_product_with_the_hessian_equals_the_plain_one(case: Case) -> None:
    args = draw(case.shapes)
    directions = [jnp.asarray(np.cos(a)) for a in args]

    def product(function: Callable[..., Array], a: Any, d: Any) -> tuple[Array, ...]:
        loss = lambda *a: jnp.sum(jnp.sin(function(*a)))  # noqa: E731
        gradient = jax.grad(loss, argnums=tuple(range(len(args))))
        return jax.jvp(gradient, a, d)[1]

    both = jax.jit(lambda a, d: [product(function, a, d) for function in (case.fast, case.plain)])
    assert_same(*both(tuple(args), tuple(directions)), 1e-3)


@of_each_kind
def test_donated_arguments_give_the_same(case: Case) -> None:
    args = draw(case.shapes)
    want = compiled(case.fast, case.shapes)(*args)
    function = value_and_gradients(case.fast, case.shapes)
    donating = jax.jit(function, donate_argnums=tuple(range(len(args))))
    assert_same(donating(*draw(case.shapes)), want, 0.0)


@pytest.mark.parametrize("T", [7, 150])
def test_attention_does_not_see_what_comes_later(T: int) -> None:
    q, k, v = draw(((2, T, 2, 8),) * 3)
    for t in (0, T // 2, T - 2):
        output = lambda k, v, t=t: jnp.sum(attention.causal_attention(q, k, v)[:, : t + 1] ** 2)  # noqa: E731
        for gradient in jax.jit(jax.grad(output, argnums=(0, 1)))(k, v):
            assert np.all(np.asarray(gradient[:, t + 1 :]) == 0)
            assert np.any(np.asarray(gradient[:, t]) != 0) or t == 0


@pytest.mark.slow
def test_attention_with_large_scores_stays_finite() -> None:
    q, k, v = (100 * x for x in draw(((1, 70, 1, 8),) * 3))
    loss = lambda *qkv: jnp.sum(attention.causal_attention(*qkv))  # noqa: E731
    value, gradients = jax.value_and_grad(loss, argnums=(0, 1, 2))(q, k, v)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


def test_dropout_needs_a_key_and_keeps_the_mean() -> None:
    q, k, v = draw(((1, 9, 2, 4),) * 3)
    with pytest.raises(TypeError, match="dropout_key"):
        attention.causal_attention(q, k, v, dropout_rate=0.1)
    dropped = lambda key: attention.causal_attention(  # noqa: E731
        q, k, v, dropout_rate=0.25, dropout_key=key
    )
    many = jax.vmap(dropped)(jax.random.split(jax.random.key(0), 20_000))
    assert_same(jnp.mean(many, axis=0), attention.causal_attention(q, k, v), 0.05)


@pytest.mark.parametrize(
    ("function", "plain"),
    [
        (activation.gelu, activation.gelu_reference),
        (activation.gelu_tanh, activation.gelu_tanh_reference),
    ],
)
def test_gelu_where_it_is_flat(
    function: Callable[[Array], Array], plain: Callable[[Array], Array]
) -> None:
    x = jnp.asarray([-1e30, -20.0, -6.0, 0.0, 6.0, 20.0, 1e30], jnp.float32)
    gradients = jax.vmap(jax.grad(function))(x)
    np.testing.assert_allclose(function(x), plain(x), atol=1e-6)
    np.testing.assert_allclose(gradients, [0, 0, 0, 0.5, 1, 1, 1], atol=1e-6)


def test_the_two_forms_of_gelu_are_those_of_theory() -> None:
    """Check that the two forms differ, by at most 4.7e-4."""
    x = np.linspace(-6, 6, 2001)
    forms = {}
    for name, function in (("gelu", activation.gelu), ("gelu_tanh", activation.gelu_tanh)):
        expected = theory.find_activation(name)
        forms[name] = np.asarray(function(jnp.asarray(x, jnp.float32)), np.float64)
        gradients = jax.vmap(jax.grad(function))(jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(forms[name], expected.function(x), atol=2e-6)
        np.testing.assert_allclose(gradients, expected.derivative(x), atol=1e-5)
    difference = np.abs(forms["gelu"] - forms["gelu_tanh"]).max()
    assert difference == pytest.approx(4.73e-4, abs=2e-6)


def test_gates_that_are_shut_or_open_stay_finite() -> None:
    x_BG = jnp.asarray([[1e30] * 12, [-1e30] * 12, [200.0] * 12], jnp.float32)
    h_BH = jnp.ones((3, 3), jnp.float32)
    for update, state in (
        (gates.gru_gates, (h_BH,)),
        (gates.lstm_gates, (h_BH[:, :3], h_BH)),
    ):
        part = x_BG[:, : 3 * (2 + len(state))]
        loss = lambda x, update=update, state=state: jnp.sum(update(x, x, state)[0])  # noqa: E731
        value, slope = jax.value_and_grad(loss)(part)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


def test_sums_of_bfloat16_products_come_in_float32() -> None:
    x, kernel = draw(((3, 5, 6), (6, 4)), jnp.bfloat16)
    options = {"preferred_element_type": jnp.float32}
    fast, plain = linear.matmul(x, kernel, **options), linear.matmul_reference(x, kernel, **options)
    assert fast.dtype == jnp.float32
    assert_same(fast, plain, 1e-5)


def test_a_large_gradient_of_weights_in_a_training_loop_that_may_call_onednn() -> None:
    x, kernel, g = draw(((2048, 384), (384, 384), (2048, 384)))

    def gradients(matmul: Any) -> Any:
        return jax.grad(lambda x, kernel: jnp.vdot(matmul(x, kernel), g), argnums=(0, 1))

    mesh = parallel.make_mesh(jax.local_devices()[:1], 1)
    lowered = jax.jit(gradients(linear.matmul)).lower(x, kernel)
    called = choice.onednn_gradient(2048, 384, 384, jnp.float32)
    compiled = backend.compiled(lowered, mesh, onednn=called)
    assert ("__onednn" in compiled.as_text()) == called
    expected = jax.jit(gradients(linear.matmul_reference))(x, kernel)
    for fast, plain in zip(compiled(x, kernel), expected, strict=True):
        assert_same(fast, plain, 1e-4)


class TestChoice:
    """Choose by device and shape, in one place."""

    def test_a_gpu_owns_scans_of_more_than_one_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(choice, "on_cpu", lambda: True)
        assert not choice.owns_scan(128)
        monkeypatch.setattr(choice, "on_cpu", lambda: False)
        assert choice.owns_scan(128)
        assert not choice.owns_scan(1)

    def test_blocks_on_a_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # `make gpu-bench` runs these tests on a GPU.
        monkeypatch.setattr(choice, "on_cpu", lambda: True)
        (q,) = draw(((1, 128, 2, 64),))
        assert choice.attention_version(q, 0.0) == "blocks"

    @pytest.mark.parametrize(
        ("shape", "dtype", "version", "expected"),
        [
            ((64, 4, 8), jnp.float32, (0, 12), "laid out"),
            ((64, 8, 4), jnp.float32, (0, 12), "laid out, turned"),
            ((2048, 512, 256), jnp.float32, (0, 12), "onednn"),
            ((2047, 512, 256), jnp.float32, (0, 12), "laid out, turned"),
            ((2048, 512, 256), jnp.bfloat16, (0, 12), "laid out, turned"),
            ((2048, 256, 512), jnp.float32, (0, 10), "laid out"),
            ((2048, 256, 512), jnp.float32, (0, 13), "laid out"),
        ],
    )
    def test_gradients_of_weights_by_size_and_version(
        self,
        monkeypatch: pytest.MonkeyPatch,
        shape: tuple[int, int, int],
        dtype: jnp.dtype,
        version: tuple[int, int],
        expected: str,
    ) -> None:
        monkeypatch.setattr(choice, "on_cpu", lambda: True)
        monkeypatch.setattr(jax, "__version_info__", version)
        monkeypatch.setattr(choice.platform, "machine", lambda: "x86_64")
        N, D, E = shape
        x, g = jax.ShapeDtypeStruct((N, D), dtype), jax.ShapeDtypeStruct((N, E), dtype)
        assert choice.weights_gradient_version(x, g) == expected

    @pytest.mark.parametrize(
        ("dtype", "width", "rate", "capability", "version"),
        [
            (jnp.bfloat16, 64, 0.0, "9.0", "cudnn"),
            (jnp.float32, 64, 0.0, "9.0", "plain"),
            (jnp.bfloat16, 60, 0.0, "9.0", "plain"),
            (jnp.bfloat16, 256, 0.0, "9.0", "plain"),
            (jnp.bfloat16, 64, 0.1, "9.0", "plain"),
            (jnp.bfloat16, 64, 0.0, "7.5", "plain"),
        ],
    )
    def test_cudnn_on_a_gpu_that_takes_it(
        self,
        monkeypatch: pytest.MonkeyPatch,
        dtype: jnp.dtype,
        width: int,
        rate: float,
        capability: str,
        version: str,
    ) -> None:
        client = types.SimpleNamespace(platform_version="cuda 12090")
        gpu = types.SimpleNamespace(client=client, compute_capability=capability)
        (q,) = draw(((1, 128, 2, width),), dtype)
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr(jax, "local_devices", lambda: [gpu])
        assert choice.attention_version(q, rate) == version
        assert not choice.on_cpu()
