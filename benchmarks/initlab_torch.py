"""The lectures' network and loop of benchmarks.initlab, in PyTorch.

Imported only where PyTorch is installed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional

from benchmarks.initlab import COMPARED, RATE, sweep_program
from charjax.initlab.sweeps.program import GroupProgram
from charjax.training.state import variables_of


def build_apart(count: int) -> "Peer":
    """The network of the last of so many runs."""
    return Peer(sweep_program(count))


class Peer:
    """The lectures' network and loop."""

    def __init__(self, program: GroupProgram):
        """Take the last run's weights, and all pairs of the training names."""
        session = program.session
        assert session.source is not None
        tokens = np.asarray(session.dataset.splits["train"].tokens).astype(np.int64)
        contexts = np.zeros((len(tokens) - 1, 3), np.int64)
        seen = np.zeros(3, np.int64)
        for place, token in enumerate(tokens[:-1]):
            seen = np.array([0, 0, 0]) if token == 0 else np.append(seen[1:], token)
            contexts[place] = seen
        self.contexts, self.targets = torch.tensor(contexts), torch.tensor(tokens[1:])
        runs, numbers = program.start(program.group.points)
        own = jax.tree.map(lambda leaf: np.array(leaf[-1]), variables_of(runs.states)["params"])
        names = ("token_embedding/embedding", "hidden_0/kernel", "hidden_0/bias")
        names += ("readout/kernel", "readout/bias")
        found = [own[name.split("/")[0]][name.split("/")[1]] for name in names]
        self._weights = [torch.tensor(array, requires_grad=True) for array in found]
        self.facts = {"losses": self._first_losses(session.source, numbers.batch_key[-1])}

    def _first_losses(self, source: Any, key: Any) -> list[float]:
        """Of the first steps over the batches that the sweep draws."""
        draw = jax.jit(dataclasses.replace(source, key=key).draw)
        losses = []
        for step in range(COMPARED):
            batch = draw(jnp.int32(step))
            inputs = torch.tensor(np.asarray(batch.inputs).astype(np.int64))
            targets = torch.tensor(np.asarray(batch.targets)[:, 0].astype(np.int64))
            losses.append(float(one_step(self._weights, inputs, targets)))
        return losses

    def with_threads(self, threads: int) -> Callable[[int], None]:
        """n steps with so many threads."""

        def run(count: int) -> None:
            torch.set_num_threads(threads)
            for _ in range(count):
                picked = torch.randint(0, len(self.targets), (32,))
                one_step(self._weights, self.contexts[picked], self.targets[picked])

        return run


def one_step(weights: list[torch.Tensor], contexts: torch.Tensor, targets: torch.Tensor) -> Any:
    """Forth, back, and theta - rate * slope; the loss stays a tensor, so nothing waits for it."""
    table, w1, b1, w2, b2 = weights
    hidden = torch.tanh(functional.embedding(contexts, table).view(len(contexts), -1) @ w1 + b1)
    loss = functional.cross_entropy(hidden @ w2 + b2, targets)
    slopes = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        torch._foreach_add_(weights, slopes, alpha=-RATE)
    return loss.detach()
