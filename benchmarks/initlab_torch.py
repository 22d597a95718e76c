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

from benchmarks.initlab import RATE, sweep_program
from charjax.initlab.sweeps.program import GroupProgram
from charjax.training.state import variables_of


def build_apart(count: int) -> "Peer":
    """The network of the last of so many runs.

    Raises:
      ValueError: the losses are not those of the sweep.
    """
    return Peer(sweep_program(count))


class Peer:
    """The lectures' network and loop."""

    def __init__(self, program: GroupProgram):
        """Take the last run's weights, and all pairs of the training names."""
        session = program.session
        assert session.source is not None
        self.program, self.source = program, session.source
        tokens = np.asarray(session.dataset.splits["train"].tokens).astype(np.int64)
        contexts = np.zeros((len(tokens) - 1, 3), np.int64)
        seen = np.zeros(3, np.int64)
        for place, token in enumerate(tokens[:-1]):
            seen = np.array([0, 0, 0]) if token == 0 else np.append(seen[1:], token)
            contexts[place] = seen
        self.contexts, self.targets = torch.tensor(contexts), torch.tensor(tokens[1:])
        runs, self.numbers = program.begin(program.group.points)
        own = jax.tree.map(lambda leaf: np.array(leaf[-1]), variables_of(runs.states)["params"])
        names = ("token_embedding/embedding", "hidden_0/kernel", "hidden_0/bias")
        names += ("readout/kernel", "readout/bias")
        found = [own[name.split("/")[0]][name.split("/")[1]] for name in names]
        self.weights = [torch.tensor(array, requires_grad=True) for array in found]
        self._trained = [w.detach().clone().requires_grad_() for w in self.weights]
        self.facts = {"loss_difference": self.check()}

    def check(self) -> float:
        """Ten steps over the sweep's own batches: the largest difference of the losses.

        Raises:
          ValueError: it is above 1e-5 of the loss.
        """
        runs, numbers = self.program.begin(self.program.group.points)
        key = numbers.batch_key[-1]
        weights = [w.detach().clone().requires_grad_() for w in self.weights]
        worst = 0.0
        for step in range(10):
            batch = draw(self.source, key, step)
            runs = self.program.stack.run(runs.emptied(), numbers, 1)
            ours = float(runs.losses[-1] / runs.targets[-1])
            inputs = torch.tensor(np.asarray(batch.inputs).astype(np.int64))
            targets = torch.tensor(np.asarray(batch.targets)[:, 0].astype(np.int64))
            theirs = float(one_step(weights, inputs, targets))
            worst = max(worst, abs(ours - theirs) / theirs)
        if worst > 1e-5:
            raise ValueError(f"the losses differ by {worst:.1e} of themselves")
        return worst

    def with_threads(self, threads: int) -> Callable[[int], None]:
        """n steps with so many threads."""

        def run(count: int) -> None:
            torch.set_num_threads(threads)
            for _ in range(count):
                picked = torch.randint(0, len(self.targets), (32,))
                one_step(self._trained, self.contexts[picked], self.targets[picked])

        return run


def draw(source: Any, key: Any, step: int) -> Any:
    """The batch of a run's step."""
    return jax.jit(dataclasses.replace(source, key=key).draw)(jnp.int32(step))


def one_step(weights: list[torch.Tensor], contexts: torch.Tensor, targets: torch.Tensor) -> Any:
    """Forth, back, and theta - rate * slope; the loss stays a tensor, so nothing waits for it."""
    table, w1, b1, w2, b2 = weights
    hidden = torch.tanh(functional.embedding(contexts, table).view(len(contexts), -1) @ w1 + b1)
    loss = functional.cross_entropy(hidden @ w2 + b2, targets)
    slopes = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        torch._foreach_add_(weights, slopes, alpha=-RATE)
    return loss.detach()
