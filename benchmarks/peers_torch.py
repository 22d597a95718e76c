"""The works of benchmarks.peers in PyTorch: eager, torch.compile, the makemore lectures' loops.

Imported only where PyTorch is installed. Letters: B batch, T time, N characters, V vocabulary.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers import LECTURE_LOOP, TOLERANCE
from benchmarks.workloads import first_batch, open_quietly
from charjax.config import load_config
from charjax.conversion.state_dicts import to_state_dict
from charjax.performance.failures import LeftOut
from charjax.pytorch import original
from charjax.pytorch.lecture_mlp import LectureMLP, contexts_of
from charjax.training.session import Session, first_state
from charjax.training.state import TrainState, variables_of
from charjax.training.step import cross_entropy

_DEVICES = {"cpu": "cpu", "gpu": "cuda"}


def build(
    label: str,
    words: list[str],
    dtype: str,
    device: str,
    batch: int = 1,
    length: int = 0,
) -> "Peer | SamplerPeer":
    """Build a contestant by its label, with the weights that charjax draws for a configuration.

    Raises:
      LeftOut: PyTorch has no such device.
      ValueError: it does not compute charjax's model.
    """
    if device == "gpu" and not torch.cuda.is_available():
        raise LeftOut("PyTorch is installed without CUDA, or finds no GPU")
    session = open_quietly(load_config(None, words))
    state = first_state(session)
    if label == "nanoGPT":
        return SamplerPeer(session, state, device, batch, length)
    if label == LECTURE_LOOP:
        return LecturePeer(session, state, "float32", device, compiled=False)
    return Peer(session, state, dtype, device, compiled=label == "torch compile")


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
        self.config, self.device = session.config, _DEVICES[device]
        self.model = build_model(session, state).to(self.device)
        self.first = first_batch(session)
        self.net = WithLoss(self.model)
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
        self.facts = {"loss": self.exact_loss()}

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
        """Return the loss on charjax's first batch, with all products in full float32."""
        with _full_precision(), torch.no_grad():
            x, y = (torch.from_numpy(a.astype(np.int64)).to(self.device) for a in self.first)
            return float(self.net(x, y))

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


class LecturePeer(Peer):
    """The loop of Karpathy's GPT lecture, with nanoGPT's batches: windows are sliced one by one.

    The MLP of Building makemore Part 2 takes plain gradient steps, which are less work than AdamW;
    here it is trained by the loop of the bigram.
    """

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW as the lecture calls it."""
        return torch.optim.AdamW(self.model.parameters(), lr=self.config.optim.learning_rate)

    def step(self) -> None:
        """Do the lecture's step; the loss is not read."""
        loss = self.net(*self.lecture_batch())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def lecture_batch(self) -> tuple[Tensor, Tensor]:
        """Slice random windows, or contexts and the character after each, one by one."""
        if self._is_pairs:
            picked = torch.randint(len(self.contexts), (self.config.train.batch_size,))
            x = torch.stack([self.contexts[i] for i in picked])
            return x, torch.stack([self.targets[i] for i in picked])
        T = len(self.window) - 1
        picked = torch.randint(len(self.tokens) - T, (self.config.train.batch_size,))
        x = torch.stack([self.tokens[i : i + T] for i in picked])
        y = torch.stack([self.tokens[i + 1 : i + T + 1] for i in picked])
        return x, y


class SamplerPeer:
    """nanoGPT's sampler, which computes the whole window for each character."""

    def __init__(self, session: Session, state: TrainState, device: str, batch: int, length: int):
        """Build the model with the weights of a state; the prompt is the beginning of the text."""
        self._device = _DEVICES[device]
        self._session = session
        self._model: Any = build_model(session, state).to(self._device).eval()
        self._length = length
        context = session.config.model.context_length or 1
        prompt_T = session.dataset.splits["train"].tokens[:context].astype(np.int64)
        self._prompt = torch.from_numpy(np.tile(prompt_T, (batch, 1))).to(self._device)
        self.facts = {"loss_difference": self.check(variables_of(state))}

    def check(self, variables: Any) -> float:
        """Return the relative difference of the mean loss on some windows from charjax's.

        Raises:
          ValueError: by more than 1e-5.
        """
        context = self._session.config.model.context_length or 1
        tokens = self._session.dataset.splits["train"].tokens[: 4 * (context + 1)].astype(np.int32)
        rows = tokens.reshape(4, -1)
        with jax.default_matmul_precision("highest"):
            logits, _ = self._session.model.apply(variables, rows[:, :-1])
            ours = float(cross_entropy(logits, jnp.asarray(rows[:, 1:])).mean())
        with _full_precision(), torch.no_grad():
            x = torch.from_numpy(rows.astype(np.int64)).to(self._device)
            theirs = float(WithLoss(self._model)(x[:, :-1], x[:, 1:]))
        difference = abs(ours - theirs) / ours
        if not difference <= TOLERANCE:
            raise ValueError(f"the losses on the same weights differ: {ours:.7f}, {theirs:.7f}")
        return difference

    def run(self, threads: int, count: int) -> None:
        """Sample n times with so many threads."""
        torch.set_num_threads(threads)
        for _ in range(count):
            self.sample(self._prompt, self._length)
        if self._device == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def sample(self, text: Tensor, length: int) -> Tensor:
        """Sample as in nanoGPT's model.py; the readout is applied to the last position alone."""
        context = self._session.config.model.context_length or 1
        parts = self._model.transformer
        for _ in range(length):
            seen = text[:, -context:]
            places = torch.arange(seen.shape[1], device=seen.device)
            x = parts["wte"](seen) + parts["wpe"](places)
            for block in parts["h"]:
                x = block(x)
            logits = self._model.lm_head(parts["ln_f"](x)[:, -1])
            drawn = torch.multinomial(functional.softmax(logits, dim=-1), num_samples=1)
            text = torch.cat((text, drawn), dim=1)
        return text


def build_model(session: Session, state: TrainState) -> nn.Module:
    """Build the original of a model, with the weights of a state of charjax."""
    config, size = session.config.model, session.dataset.tokenizer.vocab_size
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
def _full_precision() -> Any:
    """Turn TF32 off while losses are compared; afterwards on, as it is by default in JAX."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
