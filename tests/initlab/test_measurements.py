"""Measurements during training: each against a plain reference, and none changes a run."""

import csv
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from charjax.config import load_config
from charjax.data.datasets import load_dataset
from charjax.errors import UserError
from charjax.initlab.__main__ import main
from charjax.initlab.measurements.catalogue import MEASUREMENTS, place_names
from charjax.initlab.measurements.curvature import largest_eigenvalue
from charjax.initlab.measurements.gradients import estimate_noise, matrices, spectral_norm
from charjax.initlab.measurements.kernel import tangent_kernel
from charjax.initlab.measurements.moment import Moment, batch_loss, multiplied
from charjax.initlab.probes.depth import effective_rank
from charjax.signals import Interrupted
from charjax.training.session import first_state, make_session
from charjax.training.step import make_train_step
from tests.commands import tiny

SMALL = ["model.d_embed=2", "model.hidden=[4]", "model.context_length=2", "model.norm=none"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the cat sat on the mat and ran off\n" * 40)
    return path


@functools.cache
def moment_of(text, *words, steps=1) -> Moment:
    config = load_config(None, [*tiny("mlp"), *SMALL, f"data.path={text}", *words])
    session = make_session(config, load_dataset(config.data), jax.local_devices()[:1])
    draw, step = jax.jit(lambda n: session.source.draw(n)), make_train_step(session.model, config)
    first, key = draw(jnp.int32(0)), jax.random.key(0)
    state = initial = first_state(session)
    for number in range(steps):
        state, _ = jax.jit(step)(state, draw(jnp.int32(number)), key)
    return Moment(
        session.model, session.model, config, initial, state, first, draw(jnp.int32(steps)), key
    )


def compute(name, moment):
    """Compute a measurement; of a copy, which holds no arrays of another trace."""
    return jax.jit(lambda: MEASUREMENTS[name].compute(dataclasses.replace(moment)))()


@functools.cache
def hessian_of(text, *words):
    """Return the dense Hessian in the trained parameters."""
    moment = moment_of(text, *words)
    flat_N, unravel = ravel_pytree(moment.state.params)

    def loss(x_N):
        return batch_loss(moment.model, multiplied(moment.state, unravel(x_N)), moment.batch)

    return np.asarray(jax.jit(jax.hessian(loss))(flat_N), np.float64)


def test_the_largest_eigenvalue_is_not_the_one_of_the_largest_size():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    values = np.linspace(-9.0, 2.0, 40)
    matrix = jnp.asarray(basis * values @ basis.T, jnp.float32)
    start = jnp.asarray(rng.normal(size=40), jnp.float32)
    found, residual = largest_eigenvalue(lambda v: matrix @ v, start, 40)
    assert float(found) == pytest.approx(2.0, abs=1e-4)
    rough, bound = largest_eigenvalue(lambda v: matrix @ v, start, 8)
    assert float(residual) < 1e-2 < float(bound)
    assert np.min(np.abs(values - float(rough))) <= float(bound)


@pytest.mark.parametrize("values", [[-3.0, -3.0, -1.0], [0.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
def test_a_space_that_is_exhausted(values):
    matrix = jnp.diag(jnp.asarray(values))
    found, residual = largest_eigenvalue(lambda v: matrix @ v, jnp.array([1.0, 2.0, 0.5]), 3)
    assert float(found) == pytest.approx(max(values), abs=1e-5)
    assert float(residual) == pytest.approx(0.0, abs=1e-5)


def test_a_hessian_that_is_not_finite_has_no_sharpness():
    found, _ = largest_eigenvalue(lambda v: v * jnp.nan, jnp.ones(3), 3)
    assert np.isnan(float(found))


def test_sharpness_is_that_of_the_dense_hessian(text):
    moment = moment_of(text)
    found = compute("sharpness", moment)
    expected = np.linalg.eigvalsh(hessian_of(text))[-1]
    assert float(found["sharpness"]) == pytest.approx(expected, rel=1e-3)
    assert abs(float(found["sharpness"]) - expected) <= float(found["sharpness_residual"]) + 1e-4


@pytest.mark.slow
def test_preconditioned_sharpness_is_that_of_the_dense_hessian(text):
    moment = moment_of(text)
    found = compute("preconditioned_sharpness", moment)
    # The mean square of two steps, by hand.
    squares, beta1, beta2 = 0.0, 0.9, 0.999
    for state, batch in ((moment.initial, moment.first), (moment.state, moment.batch)):
        loss = functools.partial(batch_loss, moment.model, batch=batch)
        grads = jax.grad(lambda p, loss=loss, state=state: loss(multiplied(state, p)))(state.params)
        scale = min(1.0, 1.0 / float(optax.tree.norm(grads)))
        gradient = scale * np.asarray(ravel_pytree(grads)[0], np.float64)
        squares = beta2 * squares + (1 - beta2) * gradient**2
    p = (np.sqrt(squares / (1 - beta2**2)) + 1e-8) * (1 - beta1**2)
    expected = np.linalg.eigvalsh(hessian_of(text) / np.sqrt(np.outer(p, p)))[-1]
    # Entries without a gradient have a P of 1e-8, and the spectrum is wide.
    assert float(found["preconditioned_sharpness"]) == pytest.approx(expected, rel=2e-2)


def test_the_noise_scale_has_unbiased_parts():
    """Over many batches of Gaussian gradients, tr(S) and |G|^2 are those of the distribution."""
    rng = np.random.default_rng(0)
    mean, std, rows = np.array([1.0, 0.5, 0.0]), np.array([1.0, 2.0, 3.0]), 4
    grads = mean + std * rng.normal(size=(20_000, rows, 3))
    small = np.mean(np.sum(grads**2, axis=-1), axis=-1)
    big = np.sum(np.mean(grads, axis=1) ** 2, axis=-1)
    found = estimate_noise(small, big, rows)
    assert np.mean(found["gradient_variance"]) == pytest.approx(np.sum(std**2), rel=0.02)
    assert np.mean(found["gradient_square"]) == pytest.approx(np.sum(mean**2), rel=0.1)
    # Uncorrected, |G|^2 would have the noise of the mean as well.
    assert np.mean(big) > 3 * np.sum(mean**2)


@pytest.mark.slow
def test_the_noise_scale_of_rows_and_their_mean(text):
    moment = moment_of(text)
    found = compute("noise_scale", moment)
    rows = []
    for index in range(4):
        row = jax.tree.map(lambda x, i=index: x[i : i + 1] if x.ndim else x, moment.batch)
        loss = functools.partial(batch_loss, moment.model, batch=row)
        grads = jax.grad(lambda p, loss=loss: loss(multiplied(moment.state, p)))
        rows.append(np.asarray(ravel_pytree(grads(moment.state.params))[0], np.float64))
    rows = np.stack(rows)
    # tr of the sample covariance, with its n - 1.
    variance = np.sum(np.var(rows, axis=0, ddof=1))
    assert float(found["gradient_variance"]) == pytest.approx(variance, rel=1e-4)
    square = np.sum(rows.mean(0) ** 2) - variance / 4
    assert float(found["gradient_square"]) == pytest.approx(square, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_the_update_ratio_is_by_singular_values(text):
    moment = moment_of(text)
    found = compute("update_ratio", moment)["update_ratio"]
    names = place_names("matrices", moment.model, moment.state.params)
    assert names == ["hidden_0/kernel", "readout/kernel", "token_embedding/embedding"]
    before, after = (matrices(state.params) for state in (moment.state, moment.after))
    for value, name in zip(found, names, strict=True):
        old, new = (np.asarray(tree[name], np.float64) for tree in (before, after))
        norms = [np.linalg.svd(x, compute_uv=False)[0] for x in (new - old, old)]
        assert float(value) == pytest.approx(norms[0] / norms[1], rel=1e-4)


def test_spectral_norms_where_singular_values_crowd():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (30, 20))
    for values in (np.ones(20), np.linspace(0.99, 1.0, 20), np.logspace(-6, 0, 20)):
        matrix = 3e-5 * left[:, :20] * values @ right
        found = jax.jit(spectral_norm)(jnp.asarray(matrix, jnp.float32))
        assert float(found) == pytest.approx(3e-5, rel=1e-3)
    assert float(spectral_norm(jnp.zeros((3, 2)))) == 0


@pytest.mark.slow
def test_the_tangent_kernel_is_that_of_the_jacobian(text):
    moment = moment_of(text)
    flat_N, unravel = ravel_pytree(moment.state.params)

    def logits(x_N):
        variables = multiplied(moment.state, unravel(x_N))
        return moment.model.apply(variables, moment.first.inputs, num_outputs=1)[0][:, 0]

    jacobian = np.asarray(jax.jit(jax.jacrev(logits))(flat_N), np.float64)
    expected = np.einsum("ivn,jvn->ij", jacobian, jacobian)
    kernel = functools.partial(tangent_kernel, moment.model, inputs_IS=moment.first.inputs)
    np.testing.assert_allclose(jax.jit(kernel)(moment.state), expected, rtol=1e-4)
    found = compute("ntk", moment)
    assert 0 < float(found["ntk_distance"]) < 1
    same = dataclasses.replace(moment, state=moment.initial)
    found = compute("ntk", same)
    assert float(found["ntk_distance"]) == 0
    assert float(found["ntk_alignment"]) == pytest.approx(1.0)


@pytest.mark.slow
def test_layers_change_from_the_start(text):
    moment = moment_of(text)
    same = dataclasses.replace(moment, state=moment.initial)
    assert compute("feature_change", same)["feature_change"].tolist() == [0, 0, 0]
    found = compute("feature_change", moment)["feature_change"]
    # The first layer is the embedding itself, of the contexts' characters.
    old, new = (
        state.params["token_embedding"]["embedding"] for state in (same.state, moment.state)
    )
    inputs = moment.first.inputs
    expected = np.linalg.norm(new[inputs] - old[inputs]) / np.linalg.norm(old[inputs])
    assert float(found[0]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_the_rank_is_that_of_the_probe(text):
    moment = moment_of(text)
    found = compute("effective_rank", moment)["effective_rank"]
    table = moment.state.params["token_embedding"]["embedding"][moment.first.inputs]
    expected = effective_rank(np.asarray(table).reshape(4, -1))
    assert float(found[0]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_the_entropy_of_heads_that_cannot_tell_keys_apart(text):
    """Scores of 0: the weights are equal, and the entropy is the mean of log t."""
    moment = moment_of.__wrapped__(text, steps=0)
    words = [*tiny("transformer"), f"data.path={text}"]
    config = load_config(None, words)
    session = make_session(config, load_dataset(config.data), jax.local_devices()[:1])
    state = first_state(session)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * float("qkv" not in jax.tree_util.keystr(path)), state.params
    )
    batch = session.source.draw(jnp.int32(0))
    state = state._replace(params=params)
    moment = Moment(session.model, session.model, config, state, state, batch, batch, moment.key)
    found = MEASUREMENTS["attention_entropy"].compute(moment)["attention_entropy"]
    names = place_names("heads", session.model, state.params)
    assert names[0] == "block_0/attention/head_0"
    assert len(names) == len(found)
    length = batch.targets.shape[1]
    expected = np.mean(np.log(np.arange(1, length + 1)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def words(text, out, *others):
    grid = ["--scheme", "pytorch,mup", "init.base_width=4", "--seeds", "2", "--steps", "12"]
    return ["sweep", *tiny("mlp"), f"data.path={text}", *grid, *others, "--out", str(out)]


def _stop_and_resume(monkeypatch, command):
    """Stop a sweep between two of its measurements, and continue it."""
    calls = 0

    def poll(self):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise Interrupted(15)

    monkeypatch.setattr("charjax.signals.Signals.poll", poll)
    assert main(command) == 143
    assert main([*command, "--resume"]) == 0


@pytest.mark.slow
def test_measuring_changes_no_run(text, tmp_path, monkeypatch):
    """Bits of all tables, of parts and of an extension, with stops at steps of its own."""
    named = ("--measure", ",".join(name for name in MEASUREMENTS if name != "attention_entropy"))
    named += ("--measure-at", "0,3,7,12")
    assert main(words(text, tmp_path / "plain")) == 0
    assert main(words(text, tmp_path / "whole", *named)) == 0
    for name in ("runs.csv", "curves.csv", "layers.csv", "histograms.npz"):
        plain = (tmp_path / "plain" / name).read_bytes()
        assert plain == (tmp_path / "whole" / name).read_bytes(), name
    for number in (1, 2):
        part = ("--part", f"{number}/2")
        assert main(words(text, tmp_path / f"part{number}", *named, *part)) == 0
    assert main(["merge", *(str(tmp_path / name) for name in ("merged", "part1", "part2"))]) == 0
    whole = (tmp_path / "whole" / "measurements.csv").read_bytes()
    assert whole == (tmp_path / "merged" / "measurements.csv").read_bytes()
    with (tmp_path / "whole" / "measurements.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["step"] for row in rows} == {"0", "3", "7", "12"}
    # muP's readout is 0 at first, and has no change relative to itself.
    assert not [row for row in rows if row["value"] == "" and row["scheme"] == "pytorch"]
    facts = json.loads((tmp_path / "whole" / "sweep.json").read_text())
    assert facts["measured"]["at"] == [0, 3, 7, 12]
    _stop_and_resume(monkeypatch, words(text, tmp_path / "stopped", *named))
    assert whole == (tmp_path / "stopped" / "measurements.csv").read_bytes()
    with pytest.raises(UserError, match=r"--extend: measure\.\w+ was .* and is unset now"):
        main(words(text, tmp_path / "whole", "--extend"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--measure", "sharpnes"], "did you mean sharpness?"),
        (["--measure", "ntk,ntk"], "ntk given twice"),
        (["--measure", "attention_entropy"], "model.kind=mlp has no attention"),
        (["--measure", "preconditioned_sharpness", "optim.kind=sgd"], "optim.kind is sgd"),
        (["--measure", "ntk", "--measure-at", "13"], "13 given; a run ends at step 12"),
        (["--measure-at", "0"], "no --measure given"),
        (["--measure", "ntk", "--measure-at", "-1"], "must be whole numbers"),
    ],
)
def test_mistakes_leave_nothing_behind(flags, message, text, tmp_path):
    with pytest.raises(UserError) as caught:
        main(words(text, tmp_path / "out", *flags))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
