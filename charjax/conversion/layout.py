"""What a layout is: under which names, and turned which way, PyTorch holds a family's parameters.

Letters in shapes: V vocabulary, C context length, D, E, H widths.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


def unchanged(array: np.ndarray) -> np.ndarray:
    """The array itself."""
    return array


def transpose(array: np.ndarray) -> np.ndarray:
    """A matrix turned: torch.nn.Linear keeps (fan_out, fan_in), flax (fan_in, fan_out)."""
    return array.T


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a state dict and the variable it is here.

    Attributes:
      name: in the state dict.
      path: of the variable, as in `params/readout/kernel`.
      shape: in the state dict.
      to_ours: from the tensor to the variable.
      to_torch: and back.
      is_copy: a second name of a parameter; a state dict may leave it out.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    to_ours: Callable[[np.ndarray], np.ndarray] = unchanged
    to_torch: Callable[[np.ndarray], np.ndarray] = unchanged
    is_copy: bool = False


def matrix(name: str, path: str, fan_out: int, fan_in: int) -> Tensor:
    """A torch.nn.Linear's weight."""
    return Tensor(name, path, (fan_out, fan_in), transpose, transpose)


@dataclasses.dataclass(frozen=True)
class Told:
    """What the names and shapes of a state dict tell.

    Attributes:
      settings: of the section `model`; None where no tensor tells.
      vocab_size: V, or None.
      free: settings of these that a config may contradict.
      data: settings of the section `data` that such a model needs.
    """

    settings: dict[str, Any]
    vocab_size: int | None
    free: frozenset[str] = frozenset()
    data: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Question:
    """A setting that no tensor shows and that decides which function a state dict is.

    Attributes:
      answers: the values it may have and which original has which, for a message.
      stand_in: the value it has while the tensors are checked.
    """

    answers: str
    stand_in: Any


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way to lay out the parameters of a family, or of several.

    Attributes:
      title: its name in messages.
      recognises: whether names of tensors are of this layout.
      infer: settings from the tensors; wrong shapes are outvoted, not refused.
      tensors: the state dict of a model: (section `model`, V, the tensors at hand) to its tensors.
      original: the PyTorch module that computes the function of a section `model`.
      assumed: the rest of the function that no tensor shows, each with its alternative.
      ignored: whether a tensor is a buffer that says nothing.
      asked: settings that no tensor shows and a config must give, in the families that have them.
      finish: the last word on the variables, by path.
    """

    title: str
    recognises: Callable[[Iterable[str]], bool]
    infer: Callable[[Arrays], Told]
    tensors: Callable[[Any, int, Arrays], list[Tensor]]
    original: Callable[[Any], str]
    assumed: Callable[[Any], str]
    ignored: Callable[[str, np.ndarray], bool] = lambda name, array: False
    asked: Mapping[str, Question] = dataclasses.field(default_factory=dict)
    finish: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda variables: variables


def vote(*candidates: int | None) -> int | None:
    """The number that most tensors agree on; of several, the first."""
    counts = collections.Counter(number for number in candidates if number is not None)
    return counts.most_common(1)[0][0] if counts else None


def size(tensors: Arrays, name: str, axis: int, ndim: int = 2) -> int | None:
    """The length of an axis, or None where there is no such tensor of `ndim` axes."""
    array = tensors.get(name)
    return int(array.shape[axis]) if array is not None and array.ndim == ndim else None


def count_layers(indices: Iterable[int]) -> int:
    """The number of layers, from the indices found: a gap is a layer that is missing.

    Unless most are missing: then the highest index is a stray one.
    """
    found = sorted(set(indices))
    while found and found[-1] >= 2 * len(found):
        found.pop()
    return found[-1] + 1 if found else 0
