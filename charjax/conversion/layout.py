"""Layouts: the names and orientation under which PyTorch holds a family's parameters.

Letters in shapes: V vocabulary, C context length, D, E, H widths.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


def unchanged(array: np.ndarray) -> np.ndarray:
    """Return the array itself."""
    return array


def transpose(array: np.ndarray) -> np.ndarray:
    """Return the transpose: torch.nn.Linear holds (fan_out, fan_in), flax (fan_in, fan_out)."""
    return array.T


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a state dict and the flax variable that it corresponds to.

    Attributes:
      name: in the state dict.
      path: of the variable, as in `params/readout/kernel`.
      shape: in the state dict.
      to_flax: from the tensor to the variable.
      to_torch: from the variable to the tensor.
      is_alias: a second name of a parameter, which a state dict may leave out.
      is_zero: a bias that the original has and this model does not: zeros, and no variable.
      part: index of the tensor among those that the variable holds side by side.
      parts: number of those, equal parts of the variable's last axis.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    to_flax: Callable[[np.ndarray], np.ndarray] = unchanged
    to_torch: Callable[[np.ndarray], np.ndarray] = unchanged
    is_alias: bool = False
    is_zero: bool = False
    part: int = 0
    parts: int = 1


def linear_weight(name: str, path: str, fan_out: int, fan_in: int) -> Tensor:
    """Return the entry of a torch.nn.Linear's weight."""
    return Tensor(name, path, (fan_out, fan_in), transpose, transpose)


@dataclasses.dataclass(frozen=True)
class Inferred:
    """Settings inferred from the names and shapes of a state dict.

    Attributes:
      settings: of the section `model`; None for one that the tensors do not determine.
      vocab_size: V, or None.
      overridable: names of those settings that a config may contradict.
      data: settings of the section `data` that such a model needs.
    """

    settings: dict[str, Any]
    vocab_size: int | None
    overridable: frozenset[str] = frozenset()
    data: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Question:
    """A setting that changes the model's function and that no tensor determines.

    Attributes:
      answers: the possible values and the originals that have them, for a message.
      placeholder: the value used while the tensors are checked.
    """

    answers: str
    placeholder: Any


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout of the parameters of one family or several.

    Attributes:
      title: its name in messages.
      recognises: return True for the tensors of this layout.
      infer: infer settings from the tensors; a wrong shape is outvoted here and refused later.
      tensors: map (section `model`, V, a state dict to follow in optional names) to the entries of
        the model's state dict.
      original: name the PyTorch module that computes the function of a section `model`.
      assumptions: describe what no tensor determines, each with its alternative.
      is_ignored: return True for a buffer without information, by name and array.
      questions: settings that a config must give, by name; families without them are not asked.
      finish: transform the variables, by path, after conversion.
      needs_config: the tensors alone do not determine the model; their config.json does.
    """

    title: str
    recognises: Callable[[Arrays], bool]
    infer: Callable[[Arrays], Inferred]
    tensors: Callable[[Any, int, Arrays], list[Tensor]]
    original: Callable[[Any], str]
    assumptions: Callable[[Any], str]
    is_ignored: Callable[[str, np.ndarray], bool] = lambda name, array: False
    questions: Mapping[str, Question] = dataclasses.field(default_factory=dict)
    finish: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda variables: variables
    needs_config: bool = False


def most_common(*candidates: int | None) -> int | None:
    """Return the most frequent number, the first of several; None without candidates."""
    counts = collections.Counter(number for number in candidates if number is not None)
    return counts.most_common(1)[0][0] if counts else None


def axis_length(tensors: Arrays, name: str, axis: int, ndim: int = 2) -> int | None:
    """Return the length of an axis, or None if no tensor of that name has `ndim` axes."""
    array = tensors.get(name)
    return int(array.shape[axis]) if array is not None and array.ndim == ndim else None


def count_layers(indices: Iterable[int]) -> int:
    """Return the number of layers for the layer indices found in a state dict.

    A gap counts as a missing layer. If most layers are missing, the highest index is a stray one
    and is dropped.
    """
    found = sorted(set(indices))
    while found and found[-1] >= 2 * len(found):
        found.pop()
    return found[-1] + 1 if found else 0
