"""Convert state dicts to variables and back; find the layout and list mismatched tensors."""

from typing import Any

import numpy as np

from charjax.config import ModelConfig
from charjax.config.values import format_value, value_text
from charjax.conversion.huggingface import HF_GPT2
from charjax.conversion.layout import Arrays, Layout, Tensor
from charjax.conversion.llama import LLAMA, QWEN3
from charjax.conversion.makemore import BIGRAM, MLP
from charjax.conversion.makemore_lectures import MAKEMORE_LECTURES
from charjax.conversion.nanogpt import NANOGPT
from charjax.conversion.recurrent import RECURRENT
from charjax.errors import UserError
from charjax.models.own import is_own

_LAYOUTS = (HF_GPT2, LLAMA, QWEN3, NANOGPT, RECURRENT, MLP, BIGRAM, MAKEMORE_LECTURES)
_LAYOUT_OF_KIND = {
    "transformer": NANOGPT,
    "rnn": RECURRENT,
    "gru": RECURRENT,
    "lstm": RECURRENT,
    "mlp": MLP,
    "bigram": BIGRAM,
}
_FLOATS = ("float32", "float64", "float16", "bfloat16")
# The prefix of every name in a module compiled by torch.compile.
_COMPILED = "_orig_mod."


def refuse_without_original(config: ModelConfig) -> None:
    """Raise a UserError for a model that no PyTorch original computes.

    Those are models with counts beside the network, with activations of the user's own, and in
    makemore's MLP with all but tanh.
    """
    if orders := getattr(config, "counts", ()):
        raise UserError(
            f"model.counts: {format_value(orders)} given; no PyTorch original has counts beside "
            "the network, which alone would predict something else: train with model.counts=[] to "
            "export it"
        )
    activation = getattr(config, "activation", None)
    if is_own(activation) or (config.kind == "mlp" and activation != "tanh"):
        what = "code of your own" if is_own(activation) else "not tanh"
        raise UserError(
            f"model.activation: {activation!r} is {what}, which no PyTorch original of the family "
            "computes; only models with the original's activation have one"
        )


def to_state_dict(
    config: ModelConfig,
    vocab_size: int,
    variables: dict[str, Any],
    module: str | None = None,
    layout: Layout | None = None,
) -> dict[str, np.ndarray]:
    """Return the state dict of a model under its PyTorch original's names, float32.

    Args:
      config: the section `model`.
      vocab_size: V.
      variables: the model's variables, as nested dictionaries.
      module: the name of the recurrent module, in place of the usual one.
      layout: one of the family's layouts, in place of the usual one.

    Raises:
      UserError: the family has no PyTorch original, or `module` names a recurrent module and the
        family has none.
    """
    if config.kind not in _LAYOUT_OF_KIND:
        raise UserError(
            f"model.kind: {config.kind!r} cannot be exported, as the family has no PyTorch "
            f"original; families with one: {', '.join(_LAYOUT_OF_KIND)}"
        )
    refuse_without_original(config)
    layout, reference = layout or _LAYOUT_OF_KIND[config.kind], {}
    if module is not None and layout is not RECURRENT:
        raise UserError(
            f"--module: {module!r} given, but {layout.title} has no recurrent module; leave it out"
        )
    if module is not None:
        # The layout takes the module's name from a state dict to follow.
        reference = {f"{module}.weight_ih_l0": np.zeros(0)}
    flat = flatten(variables)
    return {
        entry.name: np.zeros(entry.shape, np.float32)
        if entry.is_zero
        else np.ascontiguousarray(entry.to_torch(_part(flat[entry.path], entry)))
        for entry in layout.tensors(config, vocab_size, reference)
    }


def _part(variable: Any, entry: Tensor) -> np.ndarray:
    """Return the part of a variable that a tensor has, float32."""
    array = np.asarray(variable, np.float32)
    return np.split(array, entry.parts, axis=-1)[entry.part] if entry.parts > 1 else array


def original_of(config: ModelConfig) -> str:
    """Name the PyTorch module that computes a model's function from its state dict."""
    module: str = _LAYOUT_OF_KIND[config.kind].original(config)
    return module


def clean(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> dict[str, np.ndarray]:
    """Return the tensors under the names of the original module, aliases included.

    torch.compile prefixes every name; safetensors.torch.save_model writes a shared tensor under
    one of its names and lists the others in the metadata.

    Raises:
      UserError: a tensor occurs both with the prefix and without it.
    """
    cleaned: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        plain = name.removeprefix(_COMPILED)
        if plain in cleaned:
            raise UserError(
                f"FILE: {plain!r} occurs twice, with and without {_COMPILED}; remove one of them"
            )
        cleaned[plain] = array
    for name, other in metadata.items():
        plain, other = name.removeprefix(_COMPILED), other.removeprefix(_COMPILED)
        if plain not in cleaned and other in cleaned:
            cleaned[plain] = cleaned[other]
    return cleaned


def find_layout(tensors: Arrays) -> Layout:
    """Return the layout with these tensors, or raise a UserError."""
    names = list(tensors)
    for layout in _LAYOUTS:
        if layout.recognises(tensors):
            return layout
    known = ", ".join(layout.title for layout in _LAYOUTS)
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise UserError(f"FILE: tensors {shown or '(none)'} match no known layout; known: {known}")


def from_state_dict(
    layout: Layout, config: ModelConfig, vocab_size: int, tensors: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the variables of a model by path, in float32, and the names of the converted dtypes.

    Raises:
      UserError: tensors are missing, unexpected, of another shape or not floating-point (all are
        listed); values are not finite; or the two names of one parameter hold different values.
    """
    tensors = {name: a for name, a in tensors.items() if not layout.is_ignored(name, a)}
    entries = layout.tensors(config, vocab_size, tensors)
    misfits = _misfits(entries, tensors)
    if misfits:
        raise UserError(
            f"FILE: the tensors are not those of {layout.title} with "
            f"{_describe(config, vocab_size)}: {'; '.join(misfits)}"
        )
    _check_finite(tensors)
    parts: dict[str, dict[int, np.ndarray]] = {}
    for entry in entries:
        if entry.is_zero:
            _check_zero(entry, tensors)
        elif entry.is_alias:
            _check_alias(entry, entries, tensors)
        else:
            # float32 first: a layout's arithmetic is the model's.
            array = entry.to_flax(np.asarray(tensors[entry.name], np.float32))
            parts.setdefault(entry.path, {})[entry.part] = array
    variables = {
        path: np.ascontiguousarray(np.concatenate([found[i] for i in sorted(found)], axis=-1))
        for path, found in parts.items()
    }
    dtypes = sorted({array.dtype.name for array in tensors.values()} - {"float32"})
    return layout.finish(variables), dtypes


def _misfits(entries: list[Tensor], tensors: dict[str, np.ndarray]) -> list[str]:
    """Describe every tensor that is missing, unexpected, or of another shape or dtype."""
    shapes = {entry.name: entry.shape for entry in entries}
    needed = [entry for entry in entries if not entry.is_alias]
    missing = [f"{e.name} {_show(e.shape)}" for e in needed if e.name not in tensors]
    extra = [f"{name} {_show(a.shape)}" for name, a in tensors.items() if name not in shapes]
    wrong = [
        f"{name} is {_show(tensors[name].shape)}, expected {_show(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    others = [
        f"{name} is {tensors[name].dtype.name}, expected float32"
        for name in shapes
        if name in tensors and tensors[name].dtype.name not in _FLOATS
    ]
    groups = {
        "missing": missing,
        "not expected": extra,
        "of another shape": wrong,
        "of another dtype": others,
    }
    return [f"{title}: {', '.join(found)}" for title, found in groups.items() if found]


def _show(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _describe(config: ModelConfig, vocab_size: int) -> str:
    """Describe the settings of a model that determine its shapes."""
    widths = ("d_model", "n_kv_head", "d_ff", "d_embed", "d_hidden", "hidden")
    names = ("n_layer", *widths, "context_length", "norm")
    sizes = {name: value for name, value in config.model_dump().items() if name in names}
    sizes = {name: value for name, value in sizes.items() if value is not None}
    sizes["vocab_size"] = vocab_size
    return ", ".join(f"{name}={value_text(value)}" for name, value in sizes.items())


def _check_finite(tensors: dict[str, np.ndarray]) -> None:
    # A float64 beyond the range of float32 becomes infinite.
    with np.errstate(over="ignore"):
        bad = [name for name, a in tensors.items() if not np.isfinite(a.astype(np.float32)).all()]
    if bad:
        raise UserError(
            f"FILE: values that are not finite in float32 (NaN or infinite) in: {', '.join(bad)}; "
            "give a state dict of a run that has not diverged"
        )


def _check_zero(entry: Tensor, tensors: dict[str, np.ndarray]) -> None:
    if tensors[entry.name].any():
        raise UserError(
            f"FILE: {entry.name} is not zero, but model.bias = false has no biases; use "
            "model.bias=true"
        )


def _check_alias(entry: Tensor, entries: list[Tensor], tensors: dict[str, np.ndarray]) -> None:
    (first,) = (e.name for e in entries if e.path == entry.path and not e.is_alias)
    if entry.name in tensors and not np.array_equal(tensors[entry.name], tensors[first]):
        raise UserError(
            f"FILE: {entry.name} differs from {first}, but model.tie_embeddings = true makes them "
            "one parameter; use model.tie_embeddings=false"
        )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries into one with paths such as `params/readout/kernel`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= flatten(value, f"{path}/") if isinstance(value, dict) else {path: value}
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """Nest a dictionary of `flatten` again."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return tree
