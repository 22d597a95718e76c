"""State dicts to variables and back: finding the layout, and listing what does not fit."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from charjax.config import ModelConfig
from charjax.conversion.layout import Layout, Tensor
from charjax.conversion.lectures import LECTURES
from charjax.conversion.makemore import BIGRAM, MLP
from charjax.conversion.nanogpt import NANOGPT
from charjax.conversion.recurrent import RECURRENT
from charjax.errors import UserError

_LAYOUTS = (NANOGPT, RECURRENT, MLP, BIGRAM, LECTURES)
_OF_KIND = {
    "transformer": NANOGPT,
    "rnn": RECURRENT,
    "gru": RECURRENT,
    "lstm": RECURRENT,
    "mlp": MLP,
    "bigram": BIGRAM,
}
_FLOATS = ("float32", "float64", "float16", "bfloat16")
# What torch.compile puts before every name.
_COMPILED = "_orig_mod."


def to_state_dict(
    config: ModelConfig, vocab_size: int, variables: dict[str, Any], module: str | None = None
) -> dict[str, np.ndarray]:
    """The state dict of a model, by its PyTorch original's names, float32.

    Args:
      config: the section `model`.
      vocab_size: V.
      variables: the model's, as nested dictionaries.
      module: what a recurrent module is called instead of its usual name.

    Raises:
      UserError: the family has no PyTorch original, or no recurrent module to name.
    """
    if config.kind not in _OF_KIND:
        raise UserError(
            f"model.kind: {config.kind!r} has no PyTorch original to be exported to; these have: "
            f"{', '.join(_OF_KIND)}"
        )
    layout, named = _OF_KIND[config.kind], {}
    if module is not None and layout is not RECURRENT:
        raise UserError(
            f"--module: {module!r} given, but {layout.title} has no recurrent module; leave it out"
        )
    if module is not None:
        # The layout finds the module's name in a state dict at hand.
        named = {f"{module}.weight_ih_l0": np.zeros(0)}
    flat = flatten(variables)
    return {
        entry.name: np.ascontiguousarray(entry.to_torch(np.asarray(flat[entry.path], np.float32)))
        for entry in layout.tensors(config, vocab_size, named)
    }


def original_of(config: ModelConfig) -> str:
    """Name the PyTorch module that computes a model's function from its state dict."""
    module: str = _OF_KIND[config.kind].original(config)
    return module


def clean(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> dict[str, np.ndarray]:
    """The tensors by the names that the original gave them, and their second names.

    torch.compile puts a prefix before all; safetensors.torch.save_model leaves out all but one
    name of a shared tensor, and says so in the header.

    Raises:
      UserError: a tensor is there with the prefix and without it.
    """
    cleaned: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        plain = name.removeprefix(_COMPILED)
        if plain in cleaned:
            raise UserError(f"FILE: {plain!r} is there twice, with and without {_COMPILED}")
        cleaned[plain] = array
    for name, other in metadata.items():
        plain, other = name.removeprefix(_COMPILED), other.removeprefix(_COMPILED)
        if plain not in cleaned and other in cleaned:
            cleaned[plain] = cleaned[other]
    return cleaned


def find_layout(names: Iterable[str]) -> Layout:
    """The layout that names are of, or a UserError."""
    names = list(names)
    for layout in _LAYOUTS:
        if layout.recognises(names):
            return layout
    known = ", ".join(layout.title for layout in _LAYOUTS)
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise UserError(f"FILE: tensors {shown or '(none)'} are of no layout known here: {known}")


def from_state_dict(
    layout: Layout, config: ModelConfig, vocab_size: int, tensors: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The variables of a model by path, float32, and what was converted, in words.

    Raises:
      UserError: tensors are missing, not expected, of other shapes or no floats (all are listed);
        numbers are not finite; or two names of one parameter differ.
    """
    held = {name: a for name, a in tensors.items() if not layout.ignored(name, a)}
    entries = layout.tensors(config, vocab_size, held)
    misfits = _misfits(entries, held)
    if misfits:
        raise UserError(
            f"FILE: the tensors are not those of {layout.title} with "
            f"{_describe(config, vocab_size)}: {'; '.join(misfits)}"
        )
    _check_finite(held)
    variables = {}
    for entry in entries:
        if entry.is_copy:
            _check_copy(entry, entries, held)
        else:
            # float32 first: a layout's arithmetic is the model's.
            array = entry.to_ours(np.asarray(held[entry.name], np.float32))
            variables[entry.path] = np.ascontiguousarray(array)
    dtypes = sorted({array.dtype.name for array in held.values()} - {"float32"})
    return layout.finish(variables), dtypes


def _misfits(entries: list[Tensor], held: dict[str, np.ndarray]) -> list[str]:
    """Every tensor that is not as it should be, in words."""
    shapes = {entry.name: entry.shape for entry in entries}
    needed = [entry for entry in entries if not entry.is_copy]
    missing = [f"{e.name} {_show(e.shape)}" for e in needed if e.name not in held]
    extra = [f"{name} {_show(a.shape)}" for name, a in held.items() if name not in shapes]
    wrong = [
        f"{name} is {_show(held[name].shape)}, expected {_show(shape)}"
        for name, shape in shapes.items()
        if name in held and held[name].shape != shape
    ]
    others = [
        f"{name} is {held[name].dtype.name}, expected float32"
        for name in shapes
        if name in held and held[name].dtype.name not in _FLOATS
    ]
    groups = {"missing": missing, "not expected": extra, "of another shape": wrong}
    groups["of another dtype"] = others
    return [f"{title}: {', '.join(found)}" for title, found in groups.items() if found]


def _show(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _describe(config: ModelConfig, vocab_size: int) -> str:
    """The settings of a model that decide its shapes."""
    names = ("n_layer", "d_model", "d_embed", "d_hidden", "hidden", "context_length", "norm")
    given = {name: value for name, value in config.model_dump().items() if name in names}
    given["vocab_size"] = vocab_size
    return ", ".join(f"{name}={value}" for name, value in given.items())


def _check_finite(held: dict[str, np.ndarray]) -> None:
    # A float64 may be past what float32 holds: then it is infinite here.
    with np.errstate(over="ignore"):
        bad = [name for name, a in held.items() if not np.isfinite(a.astype(np.float32)).all()]
    if bad:
        raise UserError(
            f"FILE: numbers that are not finite in float32 (NaN or infinite) in: {', '.join(bad)};"
            " nothing was imported; give a state dict of a run that has not diverged"
        )


def _check_copy(entry: Tensor, entries: list[Tensor], held: dict[str, np.ndarray]) -> None:
    (first,) = (e.name for e in entries if e.path == entry.path and not e.is_copy)
    if entry.name in held and not np.array_equal(held[entry.name], held[first]):
        raise UserError(
            f"FILE: {entry.name} differs from {first}, but model.tie_embeddings = true makes them "
            "one parameter; use model.tie_embeddings=false"
        )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, by paths with slashes."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= flatten(value, f"{path}/") if isinstance(value, dict) else {path: value}
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """And back."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return tree
