"""Schemes that do more than draw, against their sources; and runs from before them."""

import json
import math
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from charjax import models
from charjax.config import load_config, parse_config
from charjax.config.loading import IMPLIED
from charjax.conversion.nanogpt import _tensors as tensors_of_nanogpt
from charjax.errors import UserError
from charjax.init import find_scheme, scheme_names
from charjax.init.scheme import find_adam_factors
from charjax.initlab.sweeps.axes import Axes
from charjax.initlab.sweeps.grid import make_groups
from charjax.run.checkpoint import Checkpoints
from charjax.run.load import find_run, load_run
from charjax.training.state import ADAM_SCALES, AdamScales, create_state
from charjax.training.step import make_train_step
from tests.commands import run, tiny
from tests.init.test_training import Bench, bench

V = 65
TFIXUP = ["init.scheme=tfixup", "model.residual=plain"]


def stream(words):
    """Return the first block's input, the last block's output, the logits and the parameters."""
    words = ["model.n_layer=4", "model.d_model=256", "model.n_head=4", *TFIXUP, *words]
    config = load_config(None, words)
    model = models.build(config.model, V, jnp.float32)
    tokens_BT = jax.random.randint(jax.random.key(1), (8, 32), 0, V)
    seen = {}

    def note(next_fun, args, kwargs, context):
        output = next_fun(*args, **kwargs)
        if context.module.name in ("block_0", "block_3") and context.method_name == "__call__":
            seen[context.module.name] = args[0], output[0]
        return output

    @jax.jit
    def program(key):
        params = create_state(model, config, key).params
        with nn.intercept_methods(note):
            logits_BTV, _ = model.apply({"params": params}, tokens_BT)
        return seen["block_0"][0], seen["block_3"][1], logits_BTV, params

    return jax.tree.map(np.asarray, program(jax.random.key(0)))


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


@pytest.mark.slow
def test_t_fixup_begins_with_embeddings_of_its_size():
    """Expect a stream of (9 * 4)^(-1/4) = 0.408 at any width; a tied readout has no sqrt(d)."""
    x_BTD, last_BTD, logits_BTV, params = stream(["model.positions=rotary"])
    table_VD = params["token_embedding"]["embedding"]
    assert rms(x_BTD) == pytest.approx(0.408, rel=0.01)
    assert rms(table_VD) == pytest.approx(36**-0.25 / 16, rel=0.02)
    np.testing.assert_allclose(logits_BTV, last_BTD @ table_VD.T, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_t_fixup_does_not_multiply_learned_positions():
    assert rms(stream([])[0]) == pytest.approx(36**-0.25 * math.sqrt(1 + 1 / 256), rel=0.01)
    words = ["model.positions=rotary"]
    unscaled = stream([*words, "model.scale_embeddings=false"])[0]
    np.testing.assert_allclose(stream(words)[0], 16 * unscaled, rtol=1e-6)


def test_what_a_scheme_implies_is_in_the_config_too():
    for name in scheme_names():
        found = find_scheme(parse_config({"init": {"scheme": name}}).init).sets
        assert found == {f"model.{key}": value for key, value in IMPLIED.get(name, {}).items()}


def test_a_setting_that_is_given_is_not_implied():
    tree = {"init": {"scheme": "tfixup"}, "model": {"residual": "plain"}}
    assert parse_config(tree).model.scale_embeddings
    assert not parse_config(tree, saved=True).model.scale_embeddings
    explicit = tree | {"model": {"residual": "plain", "scale_embeddings": False}}
    assert not parse_config(explicit).model.scale_embeddings
    assert not parse_config({"init": {"scheme": "tfixup"}, "model": {"kind": "mlp"}}).model.hidden[
        1:
    ]


def test_a_sweep_gives_t_fixup_its_architecture():
    axes = Axes(("gpt2", "tfixup"), (None,), (), (), (), (0,))
    groups = make_groups(load_config(None, []), axes)
    settings = [(list(g.configs), g.config.model.scale_embeddings) for g in groups]
    assert settings == [(["gpt2"], False), (["tfixup"], True)]


def test_scaled_embeddings_have_no_pytorch_original():
    config = load_config(None, ["model.scale_embeddings=true"]).model
    with pytest.raises(UserError, match=r"^model.scale_embeddings: true"):
        tensors_of_nanogpt(config, V, {})


def factors(scheme):
    """Return the factors of AdamW's epsilon and the decay, at 4 times the width and depth."""
    here = bench("transformer", d_model=16, n_layer=4)
    config = here.config(scheme, base_width=4, base_depth=1)
    model = models.build(config.model, 11, jnp.float32)
    state = create_state(model, config, jax.random.key(0))
    return here, state, AdamScales(*find_adam_factors(*parts(config, model, state)))


def parts(config, model, state):
    return find_scheme(config.init), state.params, model.roles, model.n_layer


def test_completep_scales_the_epsilon():
    """1 / r at the ends, 1 / (r l) in the blocks, for kernels, biases and norms alike."""
    _, state, (epsilons, decays) = factors("completep")
    assert jax.tree.leaves(state.adam_scales.epsilons) == jax.tree.leaves(epsilons)
    for name, tree in epsilons.items():
        expected = 1 / 16 if name.startswith("block_") else 1 / 4
        assert set(map(float, jax.tree.leaves(tree))) == {expected}, name
    assert set(map(float, jax.tree.leaves(decays))) == {1.0}


def test_the_decay_of_depth_mup_follows_its_rate_with_the_depth():
    _, state, (epsilons, decays) = factors("depth_mup")
    rates = state.scales.learning_rates
    for name, tree in decays.items():
        expected = 4**-0.5 if name.startswith("block_") else 1.0
        assert set(map(float, jax.tree.leaves(tree))) == {expected}, name
    assert float(rates["block_0"]["mlp"]["up"]["kernel"]) == 4**-0.5 / 4
    assert set(map(float, jax.tree.leaves(epsilons))) == {1.0}


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        ("mup", "mlp"),
        *((name, "transformer") for name in ("mup", "depth_mup", "completep", "gpt2")),
    ],
)
@pytest.mark.quick("mup-mlp")
@pytest.mark.slow
def test_a_first_step_of_adamw_by_hand(scheme, kind):
    """Expect the step theta - rate * (f * g / (|g| + e eps) + d * decay * theta)."""
    optim = {"learning_rate": 0.01, "grad_clip": 0.0, "weight_decay": 0.5, "eps": 1e-3}
    numbers = {} if scheme == "gpt2" else {"base_width": 2}
    numbers |= {} if scheme in ("gpt2", "mup") else {"base_depth": 1}
    here = Bench(kind, bench(kind).model_settings, optim)
    config = here.config(scheme, **numbers)
    state = create_state(here.model(), config, jax.random.key(0))
    batch = here.batch()
    step = jax.jit(make_train_step(here.model(), config))
    after, _ = step(state, batch, jax.random.key(0))
    # The first moment is (1 - beta1) g after one step, which gives the gradient back.
    moments = next(part for part in after.opt_state if hasattr(part, "mu"))
    ones = jax.tree.map(lambda _: 1.0, state.params)
    rates = state.scales.learning_rates if state.scales else ones
    epsilons, decays = state.adam_scales or (ones, ones)

    def expected(p, mean, f, e, d):
        g = mean / np.float32(0.1)
        decay = 0.5 * d if p.ndim > 1 else 0.0
        return p - 0.01 * (f * g / (np.abs(g) + e * 1e-3) + decay * p)

    found = jax.tree.map(expected, state.params, moments.mu, rates, epsilons, decays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 2e-5, 2e-6), after.params, found)
    if scheme in ("completep", "mup"):
        # A size that the epsilon decides: without its factor the step would be another.
        plain = jax.tree.map(expected, state.params, moments.mu, rates, ones, ones)
        gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), plain, found)
        assert max(jax.tree.leaves(gaps)) > 1e-4


def corpus(folder: Path) -> list[str]:
    rng = np.random.default_rng(0)
    path = folder / "text.txt"
    path.write_text("".join("abcdefgh \n"[i] for i in np.minimum(rng.geometric(0.3, 2000), 10) - 1))
    return [f"data.path={path}"]


def make_older(place: Path) -> None:
    """Remove from a run what older ones lack: the setting and the factors."""
    toml = place / "config.toml"
    toml.write_text(re.sub(r"scale_embeddings = \w+\n", "", toml.read_text()))
    store = Checkpoints(place / "checkpoints")
    saved = []
    for step in store.steps():
        state, meta, _ = store.restore(step, _shapes(place, step), ones=ADAM_SCALES)
        del meta["config"]["model"]["scale_embeddings"]
        saved.append((step, state._replace(adam_scales=()), meta))
    shutil.rmtree(place / "checkpoints")
    older = Checkpoints(place / "checkpoints", keep=9)
    for step, state, meta in saved:
        older.save(step, state, meta)
    older.close()


def _shapes(place: Path, step: int):
    from charjax.run.notes import read_notes
    from charjax.training.state import state_shapes

    read = load_run(find_run(place, str(step)))
    notes = read_notes(Checkpoints(place / "checkpoints").read_meta(step))
    return state_shapes(read.model, read.config, notes.tables)


def test_a_checkpoint_without_the_factors_has_factors_of_one(tmp_path):
    state = {"params": np.zeros(3, np.float32), "adam_scales": AdamScales(np.float32(2), ())}
    store = Checkpoints(tmp_path, keep=1)
    store.save(1, {"params": state["params"]}, {})
    store.wait()
    read, _, _ = store.restore("latest", state, ones=ADAM_SCALES)
    assert read["adam_scales"].epsilons == 1
    with pytest.raises(UserError, match="adam_scales/epsilons is missing there"):
        store.restore("latest", state)
    store.save(2, state, {})
    store.wait()
    assert store.restore("latest", state, ones=ADAM_SCALES)[0]["adam_scales"].epsilons == 2
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["completep", "tfixup"])
def test_an_older_run_goes_on_as_it_began(scheme, tmp_path):
    """Use the base size, where the factors that older runs lack are 1."""
    words = [*tiny("transformer"), *corpus(tmp_path), f"init.scheme={scheme}"]
    if scheme == "completep":
        read = load_config(None, words).model
        words += [f"init.base_width={read.d_model}", f"init.base_depth={read.n_layer}"]
    else:
        words += ["model.residual=plain", "model.scale_embeddings=false"]
    place, whole = tmp_path / "run", tmp_path / "whole"
    assert run("train", *words, "train.steps=10", "--workdir", place).status == 0
    assert run("train", *words, "train.steps=20", "--workdir", whole).status == 0
    make_older(place)
    assert run("evaluate", place, "--json").status == 0
    resumed = run("train", "train.steps=20", "--workdir", place, "--resume")
    assert resumed.status == 0, resumed.err
    summaries = [json.loads((p / "summary.json").read_text()) for p in (place, whole)]
    assert summaries[0]["state_digest"] == summaries[1]["state_digest"]
    assert summaries[0]["config_digest"] == summaries[1]["config_digest"]
    assert load_run(find_run(place)).config.model.scale_embeddings is False
