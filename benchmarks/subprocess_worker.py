"""The benchmarks' contestants in processes of their own: see `charjax.performance.workers`."""

import os
from pathlib import Path
from typing import Any

from benchmarks.section import Section
from charjax.performance import workers
from charjax.performance.failures import LeftOut

# Made by `make parity`.
_ENVIRONMENT = Path(__file__).resolve().parent.parent / ".venv-torch" / "bin" / "python"


def find_torch(section: Section) -> str | None:
    """Return the Python that has PyTorch, and add its version to the section's facts.

    It is that of `workers.find_torch`, or else that of `make parity`. Without one, return None and
    add a line to what the section leaves out.
    """
    fallback = str(_ENVIRONMENT) if _ENVIRONMENT.exists() else None
    try:
        python, versions = workers.find_torch(fallback)
    except LeftOut as reason:
        section.leave_out("PyTorch", str(reason))
        return None
    section.facts["hardware"]["versions"]["torch"] = versions
    return python


def start(
    python: str, module: str, variables: dict[str, str] | None = None, **arguments: Any
) -> workers.Worker:
    """Start a process that builds a contestant, with these variables in its environment."""
    environment = {**os.environ, **(variables or {})}
    if module.endswith("torch"):
        # JAX only draws the weights there; the GPU is for PyTorch.
        environment["JAX_PLATFORMS"] = "cpu"
    return workers.Worker(python, module, environment, **arguments)
