"""Schemes compared with `torch.nn.init`, PyTorch's modules and the package `mup` (Yang 2022)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from charjax import models
from charjax.config import InitConfig, parse_config
from charjax.data.batches import Batch
from charjax.init import find_scheme, initialise
from charjax.models.roles import Activation, Parameter, Role, dense
from charjax.training.state import create_state, variables_of
from charjax.training.step import make_train_step

N, M, V = 192, 320, 11
torch = pytest.importorskip("torch", reason="the extra torch is not installed: make parity has it")


def ours(scheme: str, activation: Activation = "linear", **numbers: float) -> np.ndarray:
    """Draw one kernel (N, M) of a scheme."""
    shapes = {"kernel": jax.ShapeDtypeStruct((N, M), jnp.float32)}
    roles = (("kernel", dense(activation=activation)),)
    scheme_ = find_scheme(InitConfig(scheme=scheme, **numbers))
    return np.asarray(initialise(scheme_, shapes, roles, jax.random.key(3), 2).params["kernel"])


def theirs(draw, *arguments, **settings) -> np.ndarray:
    """Draw one weight (M, N) of PyTorch, outputs first."""
    torch.manual_seed(3)
    weight = torch.empty(M, N)
    draw(weight, *arguments, **settings)
    return weight.numpy().T


def assert_alike(a: np.ndarray, b: np.ndarray) -> None:
    """Check for one distribution, and a ratio of deviations within five standard errors of 1."""
    assert abs(a.std() / b.std() - 1) < 5 / math.sqrt(min(a.size, b.size))
    assert stats.ks_2samp(a.ravel(), b.ravel()).pvalue > 1e-5


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_variance_scaling_is_torchs(distribution):
    xavier = getattr(torch.nn.init, f"xavier_{distribution}_")
    assert_alike(ours(f"glorot_{distribution}"), theirs(xavier))
    kaiming = getattr(torch.nn.init, f"kaiming_{distribution}_")
    for activation in ("relu", "tanh", "linear"):
        found = ours(f"he_{distribution}", activation)
        assert_alike(found, theirs(kaiming, nonlinearity=activation))
    assert_alike(ours(f"lecun_{distribution}"), theirs(kaiming, nonlinearity="linear"))
    gain = {"gain": torch.nn.init.calculate_gain("tanh")}
    assert_alike(ours(f"glorot_{distribution}", **gain), theirs(xavier, **gain))


def test_orthogonal_is_torchs():
    a, b = ours("orthogonal"), theirs(torch.nn.init.orthogonal_)
    for kernel in (a, b):
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(N), atol=1e-5)
    assert_alike(a, b)


def test_pytorchs_own_modules():
    torch.manual_seed(3)
    assert_alike(ours("pytorch"), torch.nn.Linear(N, M).weight.detach().numpy().T)
    table = {"table": jax.ShapeDtypeStruct((N, M), jnp.float32)}
    roles = (("table", Parameter(Role.EMBEDDING, fan_out=(1,))),)
    scheme = find_scheme(InitConfig(scheme="pytorch"))
    drawn = initialise(scheme, table, roles, jax.random.key(3), 2).params["table"]
    assert_alike(np.asarray(drawn), torch.nn.Embedding(N, M).weight.detach().numpy())


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_pytorchs_own_recurrent_layers(kind):
    sizes = {"d_embed": 96, "d_hidden": 128, "context_length": 8}
    config = parse_config({"model": {"kind": kind, **sizes}, "init": {"scheme": "pytorch"}})
    model = models.build(config.model, V, jnp.float32)
    cell = create_state(model, config, jax.random.key(0)).params["cell_0"]
    torch.manual_seed(3)
    layer = getattr(torch.nn, kind.upper())(96, 128)
    for name, there in (
        ("input_kernel", layer.weight_ih_l0),
        ("hidden_kernel", layer.weight_hh_l0),
        ("input_bias", layer.bias_ih_l0),
        ("hidden_bias", layer.bias_hh_l0),
    ):
        assert cell[name].size == there.numel()
        assert_alike(np.asarray(cell[name]), there.detach().numpy())


def mup_package():
    return pytest.importorskip("mup", reason="the package mup is not installed: make parity has it")


class Net(torch.nn.Module):
    """The MLP of `charjax.models.mlp` with the readout of mup."""

    def __init__(self, width: int):
        super().__init__()
        self.table = torch.nn.Embedding(V, 5)
        self.first = torch.nn.Linear(3 * 5, width)
        self.second = torch.nn.Linear(width, width)
        self.readout = mup_package().MuReadout(width, V, readout_zero_init=True)

    def forward(self, tokens):
        h = self.table(tokens).flatten(-2)
        return self.readout(torch.tanh(self.second(torch.tanh(self.first(h)))))


def net(width: int, base: int) -> Net:
    made = Net(width)
    mup_package().set_base_shapes(made, Net(base), delta=Net(2 * base), rescale_params=False)
    return made


LAYERS = {"hidden_0": "first", "hidden_1": "second", "readout": "readout"}


@pytest.mark.parametrize(
    "optim",
    [
        {"learning_rate": 0.02, "weight_decay": 0.3, "eps": 1e-8},
        {"kind": "sgd", "learning_rate": 0.2, "momentum": 0.9},
        # Without momentum, torch's decay is decoupled too.
        {"kind": "sgd", "learning_rate": 0.2, "weight_decay": 0.3},
    ],
    ids=["adamw", "sgd with momentum", "sgd with decay"],
)
def test_mup_trains_as_the_package_does(optim):
    """Compare weights and logits after eight steps from equal weights, batches and settings."""
    base, width, decay = 16, 64, optim.get("weight_decay", 0.0)
    settings = {
        "model": {"kind": "mlp", "d_embed": 5, "hidden": (width, width), "context_length": 3},
        "data": {"layout": "pairs"},
        "init": {"scheme": "mup", "base_width": base},
        "optim": {"grad_clip": 0.0, **optim},
    }
    config = parse_config(settings)
    model = models.build(config.model, V, jnp.float32)
    state = create_state(model, config, jax.random.key(0))
    torch.manual_seed(0)
    other = net(width, base)
    with torch.no_grad():
        other.table.weight.copy_(
            torch.tensor(np.asarray(state.params["token_embedding"]["embedding"]))
        )
        for name, there in LAYERS.items():
            layer = getattr(other, there)
            layer.weight.copy_(torch.tensor(np.asarray(state.params[name]["kernel"]).T))
            layer.bias.copy_(torch.tensor(np.asarray(state.params[name]["bias"])))
    matrices = [p for p in other.parameters() if p.ndim == 2]
    vectors = [p for p in other.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if optim.get("kind") == "sgd":
        momentum = optim.get("momentum", 0.0)
        optimizer = mup_package().MuSGD(groups, lr=optim["learning_rate"], momentum=momentum)
    else:
        # The package leaves epsilon as it is; charjax scales it as EleutherAI/nanoGPT-mup does.
        eps = optim["eps"] * base / width
        optimizer = mup_package().MuAdamW(groups, lr=optim["learning_rate"], eps=eps)
    step = jax.jit(make_train_step(model, config))
    rng = np.random.default_rng(0)
    for _ in range(8):
        contexts, targets = rng.integers(0, V, (32, 3)), rng.integers(0, V, (32, 1))
        batch = Batch(
            jnp.asarray(contexts, jnp.int32),
            jnp.asarray(targets, jnp.int32),
            jnp.ones((32, 1)),
            jnp.array(True),
        )
        state, _ = step(state, batch, jax.random.key(0))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            other(torch.tensor(contexts)), torch.tensor(targets[:, 0])
        )
        loss.backward()
        optimizer.step()
    for name, there in LAYERS.items():
        found = np.asarray(state.params[name]["kernel"])
        expected = getattr(other, there).weight.detach().numpy().T
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-5, err_msg=name)
    logits, _ = model.apply(variables_of(state), jnp.asarray(contexts, jnp.int32), num_outputs=1)
    with torch.no_grad():
        expected = other(torch.tensor(contexts)).numpy()
    np.testing.assert_allclose(np.asarray(logits)[:, 0], expected, rtol=1e-3, atol=1e-4)


def test_hidden_kernels_of_mup_are_drawn_as_the_package_draws_them():
    """Draw kernels by fan-in with the package's Kaiming draw, which rescales none of them."""
    torch.manual_seed(0)
    other = net(256, 64)
    mup_package().init.kaiming_normal_(other.second.weight, nonlinearity="linear")
    config = parse_config(
        {
            "model": {"kind": "mlp", "hidden": (256, 256), "context_length": 3},
            "init": {"scheme": "mup", "base_width": 64},
            "data": {"layout": "pairs"},
        }
    )
    model = models.build(config.model, V, jnp.float32)
    state = create_state(model, config, jax.random.key(0))
    drawn = np.asarray(state.params["hidden_1"]["kernel"])
    assert_alike(drawn, other.second.weight.detach().numpy().T)
