"""Schemes in training: factors are data, one program serves all, and every reader applies them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import models
from charjax.config import Config, parse_config
from charjax.data.batches import Batch
from charjax.data.splits import Split, target_counts
from charjax.init import scheme_names
from charjax.training.state import InitData, create_state, variables_of
from charjax.training.step import make_train_step
from tests.init.test_schemes import COVERED, SETTINGS

V = 11
SMALL = {
    "mlp": {"kind": "mlp", "d_embed": 4, "hidden": (16, 16), "context_length": 4},
    "rnn": {"kind": "rnn", "d_embed": 4, "d_hidden": 8, "activation": "relu", "context_length": 6},
    "lstm": {"kind": "lstm", "d_embed": 4, "d_hidden": 8, "context_length": 6},
    "transformer": {
        "kind": "transformer",
        "context_length": 6,
        "n_layer": 2,
        "n_head": 2,
        "d_model": 8,
        "bias": True,
        "tie_embeddings": False,
    },
}


@dataclasses.dataclass
class Bench:
    """Small model, a batch, and states by scheme."""

    kind: str
    model_settings: dict[str, Any]
    optim: dict[str, Any] = dataclasses.field(default_factory=dict)

    def config(self, scheme: str, **numbers: Any) -> Config:
        init = {"scheme": scheme, **numbers}
        return parse_config({"model": self.model_settings, "init": init, "optim": self.optim})

    def model(self, scheme: str = "default"):
        return models.build(self.config(scheme).model, V, jnp.float32)

    def state(self, scheme: str, *, with_scales: bool = True, seed: int = 0, **numbers: Any):
        batch = self.batch()
        data = InitData(jnp.log(jnp.full(V, 1 / V)), batch.inputs, batch.targets.shape[1])
        config, key = self.config(scheme, **numbers), jax.random.key(seed)
        return create_state(self.model(), config, key, data, with_scales=with_scales)

    def batch(self, rows: int = 8) -> Batch:
        tokens = np.random.default_rng(0).integers(0, V, (rows, self.model().lookback + 7))
        inputs, targets = jnp.asarray(tokens[:, :-1]), jnp.asarray(tokens[:, -6:])
        weights = jnp.ones(targets.shape, jnp.float32)
        return Batch(inputs.astype(jnp.int32), targets.astype(jnp.int32), weights, jnp.array(True))

    def step(self):
        """Return the train step as a program, which names no scheme."""
        return jax.jit(make_train_step(self.model(), self.config("default")))


def bench(kind: str, **settings: Any) -> Bench:
    return Bench(kind, SMALL[kind] | settings)


@pytest.mark.parametrize(
    ("kind", "residual"),
    [
        *((kind, None) for kind in ("mlp", "rnn", "lstm")),
        *(
            ("transformer", residual)
            for residual in ("plain", "pre_norm", "deepnorm", "rezero", "layerscale", "fixup")
        ),
    ],
)
@pytest.mark.quick("mlp-None")
@pytest.mark.slow
def test_every_scheme_trains_in_one_program(kind, residual):
    here = bench(kind, **({"residual": residual} if residual else {}))
    step, batch, key = here.step(), here.batch(), jax.random.key(0)
    for scheme in scheme_names():
        needs = SETTINGS.get(scheme, {}).get("residual", "pre_norm")
        if kind not in COVERED[scheme] or residual not in (None, needs):
            continue
        if kind == "rnn" and COVERED[scheme] != {"rnn"}:
            continue  # its parameters are the lstm's
        state = here.state(scheme, **({"meta_steps": 2} if scheme == "metainit" else {}))
        losses = []
        for _ in range(4):
            state, metrics = step(state, batch, key)
            losses.append(float(metrics.loss))
        assert losses[-1] < losses[0], scheme
        assert int(state.counters.skipped) == 0
    assert step._cache_size() == 1


def test_a_step_by_hand():
    """theta - rate * (f * direction + decay * theta), with the slope of the loss of m * theta."""
    optim = {"kind": "sgd", "learning_rate": 0.1, "grad_clip": 0.0, "weight_decay": 0.5}
    here = dataclasses.replace(bench("mlp"), optim=optim)
    state, batch = here.state("default"), here.batch()
    count = iter(range(1, 100))
    spread = jax.tree.map(lambda _: jnp.float32(0.5 + 0.25 * next(count)), state.scales)
    state = state._replace(scales=spread)
    after, metrics = here.step()(state, batch, jax.random.key(0))

    def loss(params):
        logits, _ = here.model().apply({"params": params}, batch.inputs, num_outputs=6)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets[..., None], -1)
        return -jnp.mean(picked)

    seen = jax.tree.map(jnp.multiply, state.params, spread.multipliers)
    value, gradients = jax.jit(jax.value_and_grad(loss))(seen)
    np.testing.assert_allclose(metrics.loss, value, rtol=1e-5)
    expected = jax.tree.map(
        lambda p, g, f, m: p - 0.1 * (f * m * g + (0.5 * p if p.ndim > 1 else 0.0)),
        state.params,
        gradients,
        *spread,
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), after.params, expected)
    jax.tree.map(np.testing.assert_array_equal, after.scales, spread)
    jax.tree.map(np.testing.assert_array_equal, variables_of(state)["params"], seen)


@pytest.mark.slow
def test_schemes_stacked_and_vmapped_equal_each_alone():
    here = bench("transformer", bias=False)
    names = ("gpt2", "mup", "completep", "default")
    base = {"mup": {"base_width": 4}, "completep": {"base_width": 2, "base_depth": 1}}
    states = [here.state(name, **base.get(name, {})) for name in names]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    step, batch, key = here.step(), here.batch(), jax.random.key(0)
    stepped = jax.jit(
        jax.vmap(make_train_step(here.model(), here.config("default")), (0, None, None))
    )
    for _ in range(30):
        together, _ = stepped(together, batch, key)
        states = [step(state, batch, key)[0] for state in states]
    for index, state in enumerate(states):
        part = jax.tree.map(lambda leaf, i=index: leaf[i], together)
        for a, b in zip(jax.tree.leaves(part.params), jax.tree.leaves(state.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    seen = variables_of(together)["params"]["readout"]["kernel"][1]
    np.testing.assert_allclose(seen, together.params["readout"]["kernel"][1] * 0.5, rtol=1e-6)


def test_scales_of_one_change_nothing():
    here = bench("mlp")
    step, batch, key = here.step(), here.batch(), jax.random.key(0)
    with_them, without = here.state("gpt2"), here.state("gpt2", with_scales=False)
    assert without.scales == ()
    for _ in range(5):
        with_them, without = (step(s, batch, key)[0] for s in (with_them, without))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), with_them.params, without.params
    )


def test_factors_of_the_width_parametrisations():
    here = bench("transformer", d_model=16, n_layer=4)
    numbers = {"base_width": 4, "base_depth": 1}
    for scheme, rate, branch in (("depth_mup", 4**-0.5, 0.5), ("completep", 1.0, 0.25)):
        rates, multipliers = here.state(scheme, **numbers).scales
        block, factors = rates["block_2"], multipliers["block_2"]
        assert block["attention"]["qkv"]["kernel"] == rate / 4
        assert block["mlp"]["down"]["bias"] == block["norm_1"]["scale"] == rate
        assert rates["token_embedding"]["embedding"] == rates["final_norm"]["scale"] == 1
        assert rates["readout"]["kernel"] == 1
        assert multipliers["readout"]["kernel"] == 0.25
        assert factors["mlp"]["down"]["kernel"] == factors["mlp"]["down"]["bias"] == branch
        assert factors["mlp"]["up"]["kernel"] == factors["attention"]["qkv"]["bias"] == 1
        assert multipliers["final_norm"]["scale"] == 1
    tied = bench("transformer", d_model=16, tie_embeddings=True)
    multipliers = tied.state("mup", base_width=4).scales.multipliers
    assert multipliers["final_norm"] == {"scale": 0.25, "bias": 0.25}
    assert multipliers["token_embedding"]["embedding"] == 1
    rates = bench("mlp").state("spectral", base_width=4).scales.learning_rates
    assert [rates[f"hidden_{i}"]["kernel"] for i in (0, 1)] == [1, 0.25]
    assert rates["readout"]["kernel"] == 0.25


@pytest.mark.quick("mlp")
@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_lsuv_brings_every_layer_to_unit_variance(kind):
    here = bench(kind)
    settings = here.model_settings | ({"norm": "batch"} if kind == "mlp" else {})
    config = parse_config(
        {"model": settings, "init": {"scheme": "lsuv"}, "data": {"layout": "pairs"}}
    )
    model, batch = models.build(config.model, V, jnp.float32), here.batch(64)
    data = InitData(jnp.zeros(V), batch.inputs, 6)
    state = create_state(model, config, jax.random.key(0), data)
    _, caught = model.apply(
        variables_of(state),
        batch.inputs,
        num_outputs=6,
        train=kind == "mlp",
        capture_intermediates=lambda module, _: type(module).__name__ in ("Linear", "Readout"),
        mutable=["intermediates", "batch_stats"],
    )
    stds = [float(jnp.std(x)) for x in jax.tree.leaves(caught["intermediates"])]
    assert len(stds) == (3 if kind == "mlp" else 9)
    np.testing.assert_allclose(stds, 1, rtol=1e-3)


def test_targets_are_counted_document_by_document():
    tokens = np.array([0, 1, 2, 0, 2, 2, 0, 1], np.uint8)
    lines = Split(tokens, np.array([0, 3]), np.array([3, 3]))
    assert target_counts(lines, 4).tolist() == [2, 1, 3, 0]
    rows = Split(tokens, np.array([0, 4]), np.array([3, 3]))
    assert target_counts(rows, 3).tolist() == [2, 2, 2]
