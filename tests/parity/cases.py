"""The models compared, and charjax's results for a state dict and a few batches.

Letters: S steps, B batch, T time, V vocabulary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from charjax.config import Config, parse_config
from charjax.conversion.state_dicts import (
    find_layout,
    from_state_dict,
    to_state_dict,
    unflatten,
)
from charjax.data.batches import Batch
from charjax.models import CharModel, build
from charjax.training.state import TrainState, initial_state
from charjax.training.step import cross_entropy, make_train_step

V, B, T, STEPS = 11, 3, 6, 10
# The model that writes past its context, and a seed of its parameters with which no greedy text
# soon repeats itself.
PAST_CONTEXT, SEED = "gpt-untied", 4
# Widths of the models: of the files, and where PyTorch is at hand.
SMALL, LARGE = 4, 32

_GPT = {"kind": "transformer", "n_layer": 2, "n_head": 2}
CASES: dict[str, dict[str, Any]] = {
    "gpt": {**_GPT},
    "gpt-bias": {**_GPT, "bias": True},
    "gpt-untied": {**_GPT, "tie_embeddings": False},
    "gpt-untied-bias": {**_GPT, "tie_embeddings": False, "bias": True},
    "gpt-tanh": {
        **{**_GPT, "tie_embeddings": False, "bias": True},
        "activation": "gelu_tanh",
    },
    "rnn": {"kind": "rnn"},
    "rnn-relu": {"kind": "rnn", "activation": "relu"},
    "rnn-2": {"kind": "rnn", "n_layer": 2},
    "gru": {"kind": "gru"},
    "gru-2": {"kind": "gru", "n_layer": 2},
    "lstm": {"kind": "lstm"},
    "lstm-2": {"kind": "lstm", "n_layer": 2},
    "mlp": {"kind": "mlp"},
    "mlp-blank": {"kind": "mlp", "blank": True},
    "mlp-batch_norm": {"kind": "mlp", "norm": "batch"},
    "bigram": {"kind": "bigram"},
}

# Families without an original, written anew in functional.py.
FUNCTIONAL: dict[str, dict[str, Any]] = {
    "bow": {"kind": "bow"},
    "wavenet": {"kind": "wavenet"},
}

_SHARED = {"learning_rate": 1e-2, "grad_clip": 0.5}
_COSINE = {
    "schedule": "cosine",
    "warmup_steps": 2,
    "decay_steps": STEPS,
    "min_learning_rate": 1e-3,
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {
        **{"kind": "adamw", "beta2": 0.95, "weight_decay": 0.1},
        **_SHARED,
        **_COSINE,
        "learning_rate": 3e-3,
    },
    "rmsprop": {
        "kind": "rmsprop",
        "rms_decay": 0.9,
        "momentum": 0.5,
        **_SHARED,
        "learning_rate": 1e-3,
        # At 1e-8 a slope that is only rounding, divided by its own size, is a whole step.
        "eps": 1e-6,
    },
    "sgd": {"kind": "sgd", "momentum": 0.9, **_SHARED, "learning_rate": 0.1},
}


def make_config(name: str, width: int, optimizer: str = "adamw") -> Config:
    """Return the configuration of a case."""
    model = (CASES | FUNCTIONAL)[name]
    model = model | {"context_length": {"mlp": 3, "wavenet": 4}.get(model["kind"], T)}
    widths = {
        "bow": {"d_embed": width},
        "transformer": {"d_model": width},
        "mlp": {"d_embed": width, "hidden": (width + 2, width + 1)},
        "bigram": {},
    }
    model |= widths.get(model["kind"], {"d_embed": width, "d_hidden": width + 1})
    data = {"layout": "pairs", "split": "shuffled_lines"}
    optim = OPTIMIZERS[optimizer]
    if (width, optimizer) == (LARGE, "sgd"):
        # At 0.1 a GPT of this width diverges at times, and each step multiplies rounding: its loss
        # after twenty was off by 7e-6 on one processor and 1.5e-5 on another; at 0.05, by 7e-7.
        optim = optim | {"learning_rate": 0.05}
    return parse_config({"model": model, "data": data, "optim": optim})


def draw_tokens(steps: int = STEPS) -> np.ndarray:
    """Draw texts (S, B, T + 1) with token 0, the boundary, only at the start."""
    rng = np.random.default_rng(0)
    tokens_SBT = rng.integers(1, V, (steps, B, T + 1)).astype(np.int32)
    tokens_SBT[:, :, 0] = 0
    return tokens_SBT


@functools.cache
def _compiled_step(model: CharModel, config: Config) -> Any:
    return jax.jit(make_train_step(model, config))


def train(
    model: CharModel, config: Config, state: TrainState, tokens_SBT: np.ndarray
) -> tuple[TrainState, list[float]]:
    """Return the state after one step per batch, and the losses before the steps."""
    step, losses = _compiled_step(model, config), []
    for tokens_BT in tokens_SBT:
        state, metrics = step(state, make_batch(model, tokens_BT), jax.random.key(0))
        losses.append(float(metrics.loss))
    return state, losses


def make_batch(model: CharModel, tokens_BT: np.ndarray) -> Batch:
    """Return a batch with every token but the first as a target."""
    inputs = np.pad(tokens_BT[:, :-1], ((0, 0), (model.lookback, 0)))
    targets = jnp.asarray(tokens_BT[:, 1:])
    return Batch(jnp.asarray(inputs), targets, jnp.ones(targets.shape), jnp.array(True))


class Ours:
    """A model of charjax with the parameters of a PyTorch state dict."""

    def __init__(self, config: Config, state_dict: dict[str, np.ndarray]):
        self.config = config
        self.model: CharModel = build(config.model, V, jnp.float32)
        layout = find_layout(state_dict)
        variables, _ = from_state_dict(layout, config.model, V, state_dict)
        trees = jax.tree.map(jnp.asarray, unflatten(variables))
        self.params, self.model_state = trees.pop("params"), trees

    def after(self, tokens_SBT: np.ndarray) -> tuple[dict[str, np.ndarray], list[float]]:
        """Return the state dict after one step per batch, and the losses before the steps."""
        state = initial_state(self.model, self.config, self.params, self.model_state)
        state, losses = train(self.model, self.config, state, tokens_SBT)
        return self.state_dict(state), losses

    def state_dict(self, state: TrainState) -> dict[str, np.ndarray]:
        variables = {"params": state.params, **state.model_state}
        return to_state_dict(self.config.model, V, variables)

    def logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Return the logits (B, T, V) in evaluation mode."""
        variables = {"params": self.params, **self.model_state}
        logits_BTV, _ = jax.jit(self.model.apply)(variables, jnp.asarray(tokens_BT))
        return np.asarray(logits_BTV)

    def logits_and_gradient(
        self, tokens_BT: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return logits in evaluation mode, and gradients of the mean loss in training mode.

        Both come from one program, as compilation dominates the time. The gradients have
        PyTorch's names.
        """
        batch = make_batch(self.model, tokens_BT)

        def mean_loss(params: Any) -> Any:
            (logits_BTV, _), _ = self.model.apply(
                {"params": params, **self.model_state},
                batch.inputs,
                num_outputs=T,
                train=True,
                mutable=list(self.model_state),
            )
            return jnp.mean(cross_entropy(logits_BTV, batch.targets))

        @jax.jit
        def run(params: Any, tokens_BT: Any) -> Any:
            logits_BTV, _ = self.model.apply({"params": params, **self.model_state}, tokens_BT)
            return logits_BTV, jax.grad(mean_loss)(params)

        logits_BTV, gradients = run(self.params, tokens_BT[:, :-1])
        variables = {"params": gradients, **self.model_state}
        return np.asarray(logits_BTV), to_state_dict(self.config.model, V, variables)
