"""The network and loop of the makemore lectures for benchmarks.initlab, in PyTorch.

Imported only where PyTorch is installed.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional

from benchmarks.initlab import COMPARED, RATE, sweep_program
from charjax.initlab.sweeps.program import GroupProgram
from charjax.pytorch.lecture_mlp import contexts_of
from charjax.training.state import variables_of


def build(count: int) -> "Peer":
    """Build the network of the last of so many runs."""
    return Peer(sweep_program(count))


class Peer:
    """The network and loop of the makemore lectures."""

    def __init__(self, program: GroupProgram):
        """Convert the last run's weights, and list all contexts of the training names."""
        session = program.session
        assert session.source is not None
        tokens = np.asarray(session.dataset.splits["train"].tokens).astype(np.int64)
        self.contexts, self.targets = map(torch.from_numpy, contexts_of(tokens, 3))
        runs, numbers = program.start(program.group.points)
        params = jax.tree.map(lambda leaf: np.array(leaf[-1]), variables_of(runs.states)["params"])
        names = ("token_embedding/embedding", "hidden_0/kernel", "hidden_0/bias")
        names += ("readout/kernel", "readout/bias")
        arrays = [params[name.split("/")[0]][name.split("/")[1]] for name in names]
        self._weights = [torch.tensor(array, requires_grad=True) for array in arrays]
        self.facts = {"losses": self._first_losses(session.source, numbers.batch_key[-1])}

    def _first_losses(self, source: Any, key: Any) -> list[float]:
        """Train the first steps on the sweep's batches; return their losses."""
        draw = jax.jit(dataclasses.replace(source, key=key).draw)
        losses = []
        for step in range(COMPARED):
            batch = draw(jnp.int32(step))
            inputs = torch.tensor(np.asarray(batch.inputs).astype(np.int64))
            targets = torch.tensor(np.asarray(batch.targets)[:, 0].astype(np.int64))
            losses.append(float(one_step(self._weights, inputs, targets)))
        return losses

    def run(self, threads: int, count: int) -> None:
        """Do n steps with so many threads."""
        torch.set_num_threads(threads)
        for _ in range(count):
            picked = torch.randint(0, len(self.targets), (32,))
            one_step(self._weights, self.contexts[picked], self.targets[picked])


def one_step(weights: list[torch.Tensor], contexts: torch.Tensor, targets: torch.Tensor) -> Any:
    """Do a step of SGD; return the loss as a tensor, so that nothing waits for it."""
    table, w1, b1, w2, b2 = weights
    hidden = torch.tanh(functional.embedding(contexts, table).view(len(contexts), -1) @ w1 + b1)
    loss = functional.cross_entropy(hidden @ w2 + b2, targets)
    gradients = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        torch._foreach_add_(weights, gradients, alpha=-RATE)
    return loss.detach()
