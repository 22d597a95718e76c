"""Options of transformers and recurrent networks, and of training, against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax.config import parse_config
from charjax.data.batches import Batch
from charjax.models import build
from charjax.training.state import initial_state
from charjax.training.step import cross_entropy, make_train_step
from tests.parity.test_functions import assert_near

torch = pytest.importorskip("torch", reason="the extra torch is not installed: make parity has it")

V, B, T = 11, 3, 12
_GPT = {"kind": "transformer", "n_layer": 2, "n_head": 4, "d_model": 32, "context_length": T}
_CELL = {"n_layer": 2, "d_embed": 16, "d_hidden": 24}
CASES = {
    "rmsnorm": {**_GPT, "norm": "rmsnorm"},
    "qk_norm": {**_GPT, "qk_norm": True, "bias": True},
    "qk_norm, rmsnorm, rotary": {
        **{**_GPT, "qk_norm": True, "norm": "rmsnorm", "positions": "rotary"}
    },
    "relu2": {**_GPT, "activation": "relu2", "tie_embeddings": False},
    "swiglu": {**_GPT, "activation": "swiglu"},
    "geglu": {**_GPT, "activation": "geglu", "bias": True},
    "grouped queries": {**_GPT, "n_kv_head": 2, "positions": "rotary"},
    "one head of keys": {**_GPT, "n_kv_head": 1, "bias": True},
    "soft caps": {**_GPT, "attn_softcap": 1.5, "final_softcap": 4.0},
    "window": {**_GPT, "window": 4, "n_kv_head": 2},
    "gru": {"kind": "gru", "norm": "layernorm", **_CELL},
    "lstm": {"kind": "lstm", "norm": "layernorm", **_CELL},
    "minlstm": {"kind": "minlstm", **_CELL},
}


def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, V, (B, T + 1)).astype(np.int32)


def prepared(section):
    """Return the config and model of a section, and parameters of which no scale is 1."""
    config = parse_config({"model": section}).model
    model = build(config, V, jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        mean = 1.0 if "scale" in path[-1].key else 0.0
        return rng.normal(mean, 0.3, leaf.shape).astype(np.float32)

    return config, model, jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients(name):
    from tests.parity import modern

    config, model, params = prepared(CASES[name])
    inputs, targets = tokens()[:, :-1], tokens()[:, 1:]

    @jax.jit
    def ours(params):
        def loss(params):
            logits, _ = model.apply({"params": params}, inputs, train=True)
            return jnp.mean(cross_entropy(logits, targets)), logits

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, logits), gradients = ours(params)
    theirs = jax.tree.map(lambda x: torch.tensor(x, requires_grad=True), params)
    function = modern.transformer if config.kind == "transformer" else modern.recurrent
    expected = function(config, theirs, torch.tensor(inputs.astype(np.int64)))
    wanted = torch.tensor(targets.astype(np.int64)).flatten()
    torch.nn.functional.cross_entropy(expected.flatten(0, 1), wanted).backward()
    assert_near(np.asarray(logits), expected.detach().numpy(), 1e-5, "logits")
    for path, slope in jax.tree_util.tree_leaves_with_path(gradients):
        leaf = theirs
        for part in path:
            leaf = leaf[part.key]
        where, grad = "/".join(part.key for part in path), leaf.grad.numpy()
        slope = np.asarray(slope)
        parts = {"qkv/bias": (3, 1), "key_value/bias": (2, 0)}.get("/".join(where.split("/")[-2:]))
        if parts is not None and not config.qk_norm:
            # The bias of keys changes no weight of attention: its gradient is a rounding error.
            count, keys = parts
            slope, grad = (np.delete(x.reshape(count, -1), keys, 0) for x in (slope, grad))
        assert_near(slope, grad, 1e-4, f"{name}: {where}")


@pytest.mark.parametrize("smoothing", [0.1, 0.4])
@pytest.mark.parametrize("bound", [0.0, 3e-3])
def test_smoothed_labels_and_clipping_by_element(smoothing, bound):
    """One step of descent, as torch's cross-entropy and clip_grad_value_ have it."""
    _, _, params = prepared({"kind": "bigram"})
    optim = {"kind": "sgd", "learning_rate": 1.0, "clip_value": bound, "grad_clip": 0.05}
    config = parse_config(
        {"model": {"kind": "bigram"}, "optim": optim, "train": {"label_smoothing": smoothing}}
    )
    model = build(config.model, V, jnp.float32)
    inputs, targets = tokens()[:, :-1], tokens()[:, 1:]
    batch = Batch(inputs, targets, jnp.ones((B, T)), jnp.array(True))
    state = initial_state(model, config, params, {})
    after, metrics = jax.jit(make_train_step(model, config))(state, batch, jax.random.key(0))
    table = torch.nn.Parameter(torch.tensor(params["logits"]))
    logits = table[torch.tensor(inputs.astype(np.int64))].flatten(0, 1)
    wanted = torch.tensor(targets.astype(np.int64)).flatten()
    cross_entropy_of = torch.nn.functional.cross_entropy
    cross_entropy_of(logits, wanted, label_smoothing=smoothing).backward()
    if bound:
        torch.nn.utils.clip_grad_value_([table], bound)
    torch.nn.utils.clip_grad_norm_([table], 0.05)
    expected = (table - table.grad).detach().numpy()
    np.testing.assert_allclose(after.params["logits"], expected, atol=1e-6)
    assert float(metrics.loss) == pytest.approx(cross_entropy_of(logits, wanted).item(), rel=1e-5)
