"""Compiled products and attention compute what XLA's path computes, and only where they are there.

Letters: N rows, D input width, E output width, B batch, T time, H heads, K width of a head.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax import backend
from charjax.config import load_config
from charjax.data.datasets import load_dataset
from charjax.models import build_model
from charjax.ops import choice, compiled, compiled_gpt, kernels
from charjax.ops.linear import matmul, matmul_reference
from charjax.run.notes import environment
from charjax.training.program import compile_chunks, dropout_key
from charjax.training.session import Session, first_state, make_session

GPT = ["model.kind=transformer", "model.n_layer=2", "model.n_head=4", "model.d_model=64"]
BATCH = ["model.context_length=48", "train.batch_size=8", "train.steps=100", "optim.warmup_steps=2"]
FLOAT32 = 5e-6
size = st.integers(1, 70)


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave products of tests' sizes to the kernels."""
    monkeypatch.setattr(choice, "_COMPILED_LEAST", 2**20)


@pytest.fixture
def package() -> Any:
    found = kernels.find_products()
    if found is None:
        pytest.skip("charjax-kernels is not installed (pip install ./kernels): not compared")
    return found


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that leaves them unused until the end of the test."""

    def leave_out() -> None:
        monkeypatch.setattr(choice, "find_products", lambda: None)
        jax.clear_caches()

    yield leave_out
    jax.clear_caches()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Any:
    rng = np.random.default_rng(0)
    moves = np.where(rng.random(3000) < 0.8, 1, rng.integers(0, 10, 3000))
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join("abcdefgh \n"[i] for i in np.cumsum(moves) % 10))
    return path


def draws(*shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def assert_near(found: Any, exact: Any) -> None:
    scale = float(np.max(np.abs(exact), initial=1e-30))
    np.testing.assert_allclose(np.asarray(found) / scale, exact / scale, rtol=0, atol=FLOAT32)


# The last shapes have several blocks of rows, tasks and panels.
@settings(deadline=None, max_examples=25)
@given(st.one_of(st.tuples(size, size, size), st.sampled_from([(700, 530, 100), (129, 1100, 33)])))
def test_products_and_their_gradients(shape: tuple[int, int, int]):
    if kernels.find_products() is None:
        pytest.skip("charjax-kernels is not installed (pip install ./kernels): not compared")
    N, D, E = shape
    x_ND, kernel_DE, g_NE = draws((N, D), (D, E), (N, E))
    y_NE, pull = jax.vjp(compiled.compiled_matmul, x_ND, kernel_DE)
    wide_x, wide_kernel, wide_g = (np.float64(each) for each in (x_ND, kernel_DE, g_NE))
    exact = wide_x @ wide_kernel, wide_g @ wide_kernel.T, wide_x.T @ wide_g
    for found, expected in zip((y_NE, *pull(g_NE)), exact, strict=True):
        assert_near(found, expected)


@settings(deadline=None, max_examples=8)
@given(st.tuples(size, size, size))
def test_the_mlp(shape: tuple[int, int, int]):
    if kernels.find_products() is None:
        pytest.skip("charjax-kernels is not installed (pip install ./kernels): not compared")
    N, D, F = shape
    x_ND, up_DF, down_FD, g_ND = draws((N, D), (D, F), (F, D), (N, D))
    # Up to numbers at which the derivative is 0 or 1.
    arguments = 3 * x_ND, up_DF, down_FD

    with jax.enable_x64():
        wide = tuple(jnp.asarray(each, jnp.float64) for each in arguments)
        exact, exact_pull = jax.vjp(compiled_gpt.mlp_reference, *wide)
        expected = jax.tree.map(np.asarray, (exact, *exact_pull(jnp.asarray(g_ND, jnp.float64))))
    found, pull = jax.vjp(compiled_gpt.compiled_mlp, *arguments)
    for each, exact in zip((found, *pull(g_ND)), expected, strict=True):
        assert_near(each, exact)


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 3), st.integers(1, 80), st.integers(1, 3), st.integers(1, 40))
def test_attention(B: int, T: int, H: int, K: int):
    if kernels.find_products() is None:
        pytest.skip("charjax-kernels is not installed (pip install ./kernels): not compared")
    qkv_BTE, g_BTD = draws((B, T, 3 * H * K), (B, T, H * K))

    def plain(qkv_BTE: Any) -> Any:
        return compiled_gpt.attention_reference(qkv_BTE, H)

    with jax.enable_x64():
        exact, exact_pull = jax.vjp(plain, jnp.asarray(qkv_BTE, jnp.float64))
        expected = np.asarray(exact), np.asarray(exact_pull(jnp.asarray(g_BTD, jnp.float64))[0])
    found, pull = jax.vjp(lambda qkv: compiled_gpt.compiled_attention(qkv, H), qkv_BTE)
    for each, exact in zip((found, *pull(g_BTD)), expected, strict=True):
        assert_near(each, exact)


def test_the_same_bits_on_one_thread_and_on_all(package: Any):
    N, D, E = 600, 520, 200
    x_ND, kernel_DE = draws((N, D), (D, E))
    call = jax.ffi.ffi_call(package.PRODUCT, jax.ShapeDtypeStruct((N, E), jnp.float32))
    alone, all_threads = (
        call(x_ND, kernel_DE, left=False, right=False, alone=alone) for alone in (True, False)
    )
    np.testing.assert_array_equal(alone, all_threads)


def test_several_products_at_once(package: Any):
    x_RND, kernel_RDE = draws((3, 40, 30), (3, 30, 20))
    found = jax.vmap(compiled.compiled_matmul)(x_RND, kernel_RDE)
    for row, x_ND, kernel_DE in zip(found, x_RND, kernel_RDE, strict=True):
        np.testing.assert_array_equal(row, compiled.compiled_matmul(x_ND, kernel_DE))


@pytest.mark.parametrize(
    ("function", "plain", "shapes"),
    [
        (compiled.compiled_matmul, matmul_reference, ((9, 7), (7, 5))),
        (compiled_gpt.compiled_mlp, compiled_gpt.mlp_reference, ((9, 7), (7, 20), (20, 7))),
        (
            lambda qkv: compiled_gpt.compiled_attention(qkv, 2),
            lambda qkv: compiled_gpt.attention_reference(qkv, 2),
            ((2, 40, 3 * 10),),
        ),
    ],
)
def test_forward_derivatives_of_gradients(package: Any, function: Any, plain: Any, shapes: Any):
    arguments = draws(*shapes)
    moved = [0.1 * each[::-1] for each in draws(*shapes)]

    def moved_gradients(function: Any) -> Any:
        def gradients(*arguments: Any) -> Any:
            return jax.grad(lambda each: jnp.sum(jnp.sin(function(*each))))(arguments)

        return jax.jvp(gradients, tuple(arguments), tuple(moved))

    for found, expected in zip(
        jax.tree.leaves(moved_gradients(function)),
        jax.tree.leaves(moved_gradients(plain)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_what_is_not_finite_stays_so(package: Any):
    x_ND, kernel_DE = draws((40, 30), (30, 20))
    x_ND[3, 3], x_ND[7, 7] = np.nan, np.inf
    found = np.isfinite(compiled.compiled_matmul(x_ND, kernel_DE)).all(axis=1)
    assert np.flatnonzero(~found).tolist() == [3, 7]
    (qkv_BTE,) = draws((1, 40, 3 * 16))
    qkv_BTE[0, 5, 0] = np.nan
    found = np.isfinite(compiled_gpt.compiled_attention(qkv_BTE, 2)[0])
    assert not found[5, :8].any()
    assert found[:5].all()


def gpt(text: Any, *words: str) -> Session:
    config = load_config(None, [*GPT, *BATCH, "runtime.dtype=float32", f"data.path={text}", *words])
    devices = backend.start_backend(config.runtime)[:1]
    return make_session(config, load_dataset(config.data), devices)


def trained(session: Session, *chunks: int) -> tuple[Any, list[float]]:
    """Return the state after so many steps, and every step's loss."""
    state, losses = first_state(session), []
    key = dropout_key(session.config, session.mesh)
    parts = session.model, session.config, session.source, state, session.mesh, key
    program = compile_chunks(*parts)
    for steps in chunks:
        state, metrics, _ = program.run(state, steps)
        losses += np.asarray(metrics)[:steps, 0].tolist()
    return state, losses


@pytest.mark.parametrize(
    "words", [(), ("model.bias=true",), ("model.dropout=0.1",), ("model.positions=rotary",)]
)
def test_a_gpt_trains_as_by_xla(package: Any, without_kernels: Any, text: Any, words: Any):
    jax.clear_caches()
    session = gpt(text, *words)
    state, losses = trained(session, 20)
    again, _ = trained(session, 7, 13)
    jax.tree.map(np.testing.assert_array_equal, state.params, again.params)
    assert environment(session)["kernels"].startswith(package.__version__)
    without_kernels()
    plain, expected = trained(gpt(text, *words), 20)
    assert environment(session)["kernels"] == "XLA alone"
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    # The gradient of a key's bias is rounding alone, which AdamW makes steps of.
    if not words:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), state.params, plain.params
        )


def program_text(function: Any, *arguments: Any) -> str:
    # Not one that was traced with other kernels.
    return str(jax.jit(lambda *each: function(*each)).lower(*arguments).as_text())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_small_products_and_other_dtypes_are_xlas(package: Any, dtype: Any):
    large, small = jnp.zeros((128, 128), dtype), jnp.zeros((16, 16), dtype)
    has_call = [package.PRODUCT in program_text(matmul, x, x) for x in (large, small)]
    assert has_call == [dtype == jnp.float32, False]


def test_small_gpts_have_the_kernel_s_attention_and_xlas_products(
    package: Any, text: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(choice, "_COMPILED_LEAST", 2**26)
    session = gpt(text)
    assert environment(session)["kernels"] == kernels.kernels_in_words()
    model = build_model(session.config, session.dataset.tokenizer)
    tokens_BT = jnp.zeros((8, 48), jnp.int32)
    variables = model.init(jax.random.key(0), tokens_BT)
    found = program_text(lambda v, x: model.apply(v, x, train=True)[0], variables, tokens_BT)
    assert package.ATTENTION in found
    assert package.PRODUCT not in found


def test_a_package_that_xla_refuses_is_noted_and_left_unused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As jaxlib 0.10 refuses one that was built beside 0.12 ("API version is incompatible")."""

    class Package:
        def register(self) -> None:
            raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: the handler's API version")

    monkeypatch.setattr(kernels.importlib, "import_module", lambda name: Package())
    assert kernels.find_kernels.__wrapped__() is None
    assert "cannot be used: INVALID_ARGUMENT" in capsys.readouterr().err


def test_without_the_package_the_program_is_xlas(without_kernels: Any, text: Any):
    without_kernels()
    session = gpt(text)
    assert environment(session)["kernels"] == "XLA alone"
    tokens_BT = jnp.zeros((8, 48), jnp.int32)
    model = build_model(session.config, session.dataset.tokenizer)
    variables = model.init(jax.random.key(0), tokens_BT)
    found = program_text(lambda v, x: model.apply(v, x, train=True)[0], variables, tokens_BT)
    assert "charjax_" not in found
