"""The published numbers on initialisation, each measured by a module of its own.

A module has `run(tier, progress, poll)`, which returns checks (charjax/reproduction/checks.py), and
is imported when it is run: nothing here needs JAX.
"""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Protocol

from charjax.initlab.named import select_named
from charjax.reproduction.checks import Check, Poll, Progress, Tier


class Run(Protocol):
    """Measures a reproduction."""

    def __call__(self, tier: Tier, progress: Progress, poll: Poll) -> Sequence[Check]:
        """Measure at a tier's size."""
        ...


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """Published numbers that belong together.

    Attributes:
      name: what the command takes.
      number: its place in the list, from 1; the command takes that, too.
      title: what it is.
      source: where the numbers are published.
      run: measures it.
      larger_on_gpu: whether the GPU tier measures something larger, which is not run on a CPU.
      corpora: the texts it needs; they are looked up before anything is measured.
    """

    name: str
    number: int
    title: str
    source: str
    run: Run
    larger_on_gpu: bool = False
    corpora: tuple[str, ...] = ()


def _from_file(module: str) -> Run:
    """Return the `run` of a module of this package."""

    def run(tier: Tier, progress: Progress, poll: Poll) -> Sequence[Check]:
        imported = importlib.import_module(f"charjax.initlab.reproductions.{module}")
        checks: Sequence[Check] = imported.run(tier, progress, poll)
        return checks

    return run


_LECTURE = "Building makemore Part 3"
REPRODUCTIONS: tuple[Reproduction, ...] = (
    Reproduction(
        "initial-loss",
        1,
        "the loss at step 0, of 27 symbols",
        _LECTURE,
        _from_file("initial_loss"),
        corpora=("names",),
    ),
    Reproduction(
        "tanh-stack",
        2,
        "five layers of tanh: sizes and saturation",
        f"{_LECTURE}, and the theory of Poole et al. 2016",
        _from_file("tanh_stack"),
    ),
    Reproduction(
        "gradients",
        3,
        "growth of a gradient's variance a layer",
        "Schoenholz et al. 2017; with batch norm, Yang et al. 2019",
        _from_file("gradients"),
    ),
    Reproduction(
        "correlation-depth",
        4,
        "layers over which two inputs become alike",
        "Schoenholz et al. 2017",
        _from_file("correlation"),
    ),
    Reproduction(
        "jacobian",
        5,
        "spread of the singular values of a deep Jacobian",
        "Pennington, Schoenholz and Ganguli 2017",
        _from_file("jacobian"),
    ),
    Reproduction(
        "relu-stack",
        6,
        "thirty ReLU layers: growth of the signal",
        "He et al. 2015",
        _from_file("relu_stack"),
    ),
    Reproduction(
        "zeros",
        7,
        "the names MLP from all zeros",
        _LECTURE,
        _from_file("zeros"),
        corpora=("names",),
    ),
    Reproduction(
        "names-arms",
        8,
        "the names MLP from five initialisations, 200k steps",
        _LECTURE,
        _from_file("names_variants"),
        larger_on_gpu=True,
        corpora=("names",),
    ),
    Reproduction(
        "transformer",
        9,
        "the stream's variance by depth; the coordinate check of muP",
        "Radford et al. 2019; Yang et al. 2022",
        _from_file("transformer"),
        larger_on_gpu=True,
        corpora=("shakespeare",),
    ),
    Reproduction(
        "transfer",
        10,
        "the best learning rate by width, in the standard parametrisation and in muP",
        "Yang et al. 2022; nanoGPT-mup",
        _from_file("transfer"),
        larger_on_gpu=True,
        corpora=("shakespeare",),
    ),
)


def select(words: Sequence[str]) -> tuple[Reproduction, ...]:
    """Return the reproductions that the command's words name, in order: names, numbers, or "all".

    Raises:
      UserError: a word that is none of them.
    """
    return select_named(words, REPRODUCTIONS)
