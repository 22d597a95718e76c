"""Recurrent networks as a user of flax writes them: nn.RNN over nn.GRUCell or an LSTM cell.

Letters: B batch, T time, E width of an embedding, H width of the state.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from charjax.config import Config
from charjax.parallel import first_copy
from charjax.performance.workload import Training
from charjax.training.state import variables_of
from charjax.training.step import cross_entropy


class Network(nn.Module):
    """Embedding, layers of nn.RNN, readout."""

    config: Any
    vocab_size: int
    dtype: Any

    @nn.compact
    def __call__(self, tokens_BT: Array) -> Array:
        """Compute logits (B, T, V)."""
        config = self.config
        h = nn.Embed(self.vocab_size, config.d_embed, dtype=self.dtype, name="embed")(tokens_BT)
        cell = nn.GRUCell if config.kind == "gru" else nn.OptimizedLSTMCell
        for i in range(config.n_layer):
            h = nn.RNN(cell(config.d_hidden, dtype=self.dtype, name=f"cell_{i}"))(h)
        return nn.Dense(self.vocab_size, dtype=self.dtype, name="readout")(h).astype(jnp.float32)


class Peer:
    """The network with charjax's weights, batches and optimizer; many steps in one program."""

    def __init__(self, training: Training, dtype: str):
        """Convert the weights; the program is compiled at the first step."""
        session = training.session
        assert session.source is not None
        self._config: Config = session.config
        # On one device: two would each do all of the work.
        self._source = first_copy(session.source)
        size = session.dataset.tokenizer.vocab_size
        self._exact = Network(self._config.model, size, jnp.float32)
        self._network = Network(self._config.model, size, jnp.dtype(dtype))
        variables = jax.tree.map(np.array, variables_of(training.state))
        self._params = jax.device_put(convert(self._config.model, variables["params"]))
        optim = self._config.optim
        self._optimizer = optax.chain(
            optax.clip_by_global_norm(optim.grad_clip),
            optax.adamw(
                optim.learning_rate,
                optim.beta1,
                optim.beta2,
                optim.eps,
                weight_decay=optim.weight_decay,
            ),
        )
        params = jax.tree.map(jnp.array, self._params)
        self._state = (params, self._optimizer.init(params))
        self._run = jax.jit(self._train, donate_argnums=0)
        self._step = 0

    def exact_loss(self) -> float:
        """Return the loss on the first batch in full float32."""
        batch = jax.jit(self._source.draw)(jnp.int32(0))
        with jax.default_matmul_precision("highest"):
            logits = jax.jit(self._exact.apply)({"params": self._params}, batch.inputs)
        return float(jnp.mean(cross_entropy(logits, batch.targets)))

    def steps(self, count: int) -> None:
        """Do so many steps in one program, and wait."""
        self._state = self._run(self._state, self._source, jnp.int32(self._step), jnp.int32(count))
        jax.block_until_ready(self._state)
        self._step += count

    def _train(self, state: Any, source: Any, first: Array, count: Array) -> Any:
        def loss(params: Any, batch: Any) -> Array:
            logits = self._network.apply({"params": params}, batch.inputs)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
            return jnp.mean(losses)

        def body(index: Array, state: Any) -> Any:
            params, optim = state
            gradients = jax.grad(loss)(params, source.draw(first + index))
            updates, optim = self._optimizer.update(gradients, optim, params)
            return optax.apply_updates(params, updates), optim

        return jax.lax.fori_loop(0, count, body, state)


def convert(config: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Return charjax's parameters under flax's names; biases that are only added become one."""
    converted: dict[str, Any] = {
        "embed": {"embedding": params["token_embedding"]["embedding"]},
        "readout": dict(params["readout"]),
    }
    split = _gru if config.kind == "gru" else _lstm
    for i in range(config.n_layer):
        converted[f"cell_{i}"] = split(params[f"cell_{i}"])
    return converted


def _gru(cell: dict[str, np.ndarray]) -> dict[str, Any]:
    wi, wh, bi, bh = (np.split(cell[name], 3, axis=-1) for name in _PARTS)
    gates: dict[str, Any] = {}
    for k, gate in enumerate("rzn"):
        # The new state's product has a separate bias, inside the reset gate.
        has_two = gate == "n"
        gates[f"i{gate}"] = {"kernel": wi[k], "bias": bi[k] if has_two else bi[k] + bh[k]}
        gates[f"h{gate}"] = {"kernel": wh[k]} | ({"bias": bh[k]} if has_two else {})
    return gates


def _lstm(cell: dict[str, np.ndarray]) -> dict[str, Any]:
    wi, wh, bi, bh = (np.split(cell[name], 4, axis=-1) for name in _PARTS)
    gates: dict[str, Any] = {}
    for k, gate in enumerate("ifgo"):
        gates[f"i{gate}"] = {"kernel": wi[k]}
        gates[f"h{gate}"] = {"kernel": wh[k], "bias": bi[k] + bh[k]}
    return gates


_PARTS = ("input_kernel", "hidden_kernel", "input_bias", "hidden_bias")
