"""The works of benchmarks.peers in PyTorch: eager, torch.compile, the makemore lectures' loops.

Imported only where PyTorch is installed. Letters: B batch, T time, N characters, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers import LECTURE_LOOP, TOLERANCE
from benchmarks.workloads import open_quietly
from charjax.config import load_config
from charjax.performance.failures import LeftOut
from charjax.pytorch.peer import DEVICES, Peer, WithLoss, build_model, full_precision
from charjax.training.session import Session, first_state
from charjax.training.state import TrainState, variables_of
from charjax.training.step import cross_entropy


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
        self._device = DEVICES[device]
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
        with full_precision(), torch.no_grad():
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
