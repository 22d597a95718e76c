"""charjax in a benchmark's process: a run's compiled steps and its generation, timed on request.

See `charjax.performance.workers`; `charjax.performance.contest` asks.
"""

import time
from typing import Any

import jax
import numpy as np

from charjax import hardware, parallel
from charjax.config import Config, load_config
from charjax.errors import UserError
from charjax.generation.generate import start_tokens, stream
from charjax.generation.sampling import Sampling
from charjax.performance import energy, resident, workload
from charjax.performance.devices import nominal
from charjax.performance.failures import LeftOut
from charjax.performance.flops import flops_formula, train_flops
from charjax.performance.rates import Roofline
from charjax.training.session import open_session, start_for_training
from charjax.training.state import parameter_count, variables_of

# Tokens of each generated text, fewer where they take too long.
_NEW_TOKENS, _FIRST_TOKENS = 128, 8
_GENERATION_SECONDS = 2.0


class Contestant:
    """A run's real training steps and generation on one device.

    Attributes:
      facts: of the device, the model and the compiled program.
    """

    def __init__(self, config: Config, *, exact: bool, rates: dict[str, float] | None):
        """Open the session, compile the chunk, do the first steps.

        Args:
          config: with the device.
          exact: compute the loss of the first batch, to compare with another contestant's.
          rates: the machine's peak rates, if they have been measured before.

        Raises:
          LeftOut: the device is missing, or the model does not fit.
          UserError: a mistake in the data.
        """
        try:
            start_for_training(config)
        except UserError as error:
            raise LeftOut(str(error)) from None
        session = open_session(config)
        devices = list(session.mesh.devices.flat)
        self._device = config.runtime.device
        self._training = training = workload.prepare(session)
        loss = workload.exact_loss(training) if exact else None
        parameters = parameter_count(training.state.params)
        measured = resident.peak_bytes(
            lambda: training.steps(2), lambda: (training.state, session.source), devices
        )
        self._roofline = Roofline(self._device, earlier=rates)
        kind, dtype = str(devices[0].device_kind), config.runtime.dtype
        # A CPU's devices share its cores, so its peak is that of all of them.
        together = 1 if self._device == "cpu" else len(devices)
        peak = nominal(kind, dtype)
        model = session.config.model
        self.facts: dict[str, Any] = {
            "text": session.dataset.digest,
            "hardware": {**hardware.machine_facts(), "device_kind": kind},
            "devices": len(devices),
            "context": model.context_length,
            "batch": config.train.batch_size,
            "parameters": parameters,
            "vocab_size": session.model.vocab_size,
            "tokens_per_step": workload.targets_per_step(session),
            "flops_formula": flops_formula(model.kind),
            "flops_per_token": train_flops(model, session.model.vocab_size),
            "compile_seconds": training.program.compile_seconds,
            "bytes_predicted": training.bytes_needed * (len(devices) if together == 1 else 1),
            "bytes_measured": measured,
            "peak_measured": together * self._roofline.start[dtype],
            "peak_nominal": together * peak if peak else None,
            "roofline": self._roofline.start,
            "loss": loss,
        }

    def run(self, threads: int, count: int) -> None:
        """Do n steps and wait for the last; XLA uses all threads."""
        self._training.steps(count)

    def generate(self, texts: int, repeats: int) -> dict[str, Any]:
        """Generate so many texts at once, several times; compilation is not counted.

        Returns:
          The new tokens of each text, and the seconds of every repeat.
        """
        warm = self._stream(texts, _FIRST_TOKENS)
        tokens = _NEW_TOKENS
        if _NEW_TOKENS / _FIRST_TOKENS * warm > _GENERATION_SECONDS:
            tokens = max(_FIRST_TOKENS, int(_FIRST_TOKENS * _GENERATION_SECONDS / warm))
        # What only the longer texts need is compiled here.
        self._stream(texts, tokens)
        return {
            "tokens": tokens,
            "seconds": [self._stream(texts, tokens) for _ in range(repeats)],
        }

    def _stream(self, texts: int, tokens: int) -> float:
        """Return the seconds of generating, without those of compiling."""
        session = self._training.session
        prompt_T = start_tokens(session.dataset.tokenizer, "")
        variables = parallel.first_copy(
            parallel.whole(variables_of(self._training.state), session.mesh)
        )
        began, compiling = time.perf_counter(), 0.0
        for chunk in stream(
            session.model,
            variables,
            np.asarray(prompt_T),
            num_samples=texts,
            max_new_tokens=tokens,
            settings=Sampling(),
            seed=0,
        ):
            compiling += chunk.compile_seconds
        return time.perf_counter() - began - compiling

    def energy(self, step_seconds: float, seconds: float) -> dict[str, Any] | None:
        """Return the joules of a step and their source; None where the device reports none."""
        counter = energy.find(self._device, self.facts["devices"])
        if counter is None:
            return None
        try:
            joules = energy.joules_per_step(counter, self._training.steps, step_seconds, seconds)
        finally:
            counter.close()
        return None if joules is None else {"joules_per_step": joules, "source": counter.name}

    def finish(self) -> dict[str, Any]:
        """Measure the peak rates again; return both and the drift."""
        return self._roofline.finish()


def build(
    config: str | None, words: list[str], exact: bool, rates: dict[str, float] | None
) -> Contestant:
    """Build the contestant of a process; arguments as of `load_config` and `Contestant`."""
    # A compiled program of before would make compiling look short.
    jax.config.update("jax_enable_compilation_cache", False)
    return Contestant(load_config(config, words), exact=exact, rates=rates)
