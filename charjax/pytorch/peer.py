"""A PyTorch model with charjax's weights on the same batches' sizes, trained by fast PyTorch.

Letters: B batch, T time, N characters, V vocabulary.
"""

import contextlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from charjax.conversion.state_dicts import refuse_without_original, to_state_dict
from charjax.performance.workload import first_batch
from charjax.pytorch import original
from charjax.pytorch.lecture_mlp import LectureMLP, contexts_of
from charjax.training.session import Session
from charjax.training.state import TrainState, variables_of

DEVICES = {"cpu": "cpu", "gpu": "cuda"}


class WithLoss(nn.Module):
    """A model and its mean cross entropy, compiled as one."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss in nats."""
        out = self.model(x)
        logits = out[0] if isinstance(out, tuple) else out
        return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))


class Peer:
    """A PyTorch model with charjax's weights, trained by idiomatic, fast PyTorch."""

    def __init__(
        self, session: Session, state: TrainState, dtype: str, device: str, compiled: bool
    ):
        """Build the model and put the text on the device."""
        self.config, self.device = session.config, DEVICES[device]
        self.model = build_model(session, state).to(self.device)
        self.first = first_batch(session)
        self.net = WithLoss(self.model)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.loss: Any = torch.compile(self.net) if compiled else self.net
        self._bfloat16 = dtype == "bfloat16"
        self.optimizer = self.make_optimizer()
        tokens = torch.from_numpy(session.dataset.splits["train"].tokens.astype(np.int64))
        assert self.config.model.context_length is not None
        self.window = torch.arange(self.config.model.context_length + 1, device=self.device)
        self._is_pairs = self.config.model.kind == "mlp"
        if self._is_pairs:
            contexts, targets = contexts_of(tokens.numpy(), len(self.window) - 1)
            self.contexts = torch.from_numpy(contexts).to(self.device)
            self.targets = torch.from_numpy(targets).to(self.device)
        self.tokens = tokens.to(self.device)
        self.facts = {
            "loss": self.exact_loss(),
            "parameters": self.parameters,
            "text": session.dataset.digest,
        }

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return a fused AdamW that decays matrices alone."""
        optim, parameters = self.config.optim, list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": optim.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=optim.learning_rate,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            fused=True,
        )

    def exact_loss(self) -> float:
        """Return the loss on charjax's first batch, with all products in full float32.

        Nothing is dropped in it.
        """
        self.net.eval()
        with full_precision(), torch.no_grad():
            x, y = (torch.from_numpy(a.astype(np.int64)).to(self.device) for a in self.first)
            loss = float(self.net(x, y))
        self.net.train()
        return loss

    def run(self, threads: int, count: int) -> None:
        """Do n steps with so many threads, and wait for the last."""
        torch.set_num_threads(threads)
        for _ in range(count):
            self.step()
        if self.device == "cuda":
            torch.cuda.synchronize()

    def step(self) -> None:
        """Do one step without waiting for the device."""
        with self._autocast():
            loss = self.loss(*self.batch())
        loss.backward()
        if self.config.optim.grad_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Draw random windows by one gather."""
        rows = self.config.train.batch_size
        if self._is_pairs:
            picked = torch.randint(len(self.targets), (rows,), device=self.device)
            return self.contexts[picked], self.targets[picked]
        last = len(self.tokens) - len(self.window)
        starts = torch.randint(last, (rows,), device=self.device)
        both = self.tokens[starts[:, None] + self.window]
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16, enabled=self._bfloat16)


def build_model(session: Session, state: TrainState) -> nn.Module:
    """Build the original of a model, with the weights of a state of charjax."""
    config, size = session.config.model, session.dataset.tokenizer.vocab_size
    refuse_without_original(config)
    variables = _plain(variables_of(state))
    if config.kind == "mlp":
        return LectureMLP.holding(variables["params"])
    model = original.build(config, size)
    tensors = to_state_dict(config, size, variables)
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in tensors.items()})
    return model


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _plain(value) for name, value in tree.items()}
    return np.array(tree)


@contextlib.contextmanager
def full_precision() -> Any:
    """Turn TF32 off while losses are compared; afterwards on, as it is by default in JAX."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
