"""PyTorch in a benchmark's process: see `charjax.performance.workers`."""

import jax
import torch

from charjax.config import load_config
from charjax.errors import UserError
from charjax.performance.failures import LeftOut
from charjax.pytorch.peer import Peer
from charjax.training.session import first_state, open_session


def build(label: str, config: str | None, words: list[str], device: str) -> Peer:
    """Build a contestant by its label, with the weights that charjax draws for a configuration.

    Raises:
      LeftOut: PyTorch has no such device, or cannot express the model.
    """
    if device == "gpu" and not torch.cuda.is_available():
        raise LeftOut("PyTorch is installed without CUDA, or finds no GPU")
    # JAX only draws the weights here; the device is for PyTorch.
    jax.config.update("jax_platforms", "cpu")
    settings = load_config(config, [*words, "runtime.device=cpu"])
    try:
        session = open_session(settings)
        state = first_state(session)
        compiled = label == "torch compile"
        return Peer(session, state, settings.runtime.dtype, device, compiled=compiled)
    except UserError as error:
        raise LeftOut(str(error)) from None
