"""The MLP of the makemore lectures, by the names in their notebooks: C, W1, b1, W2, b2.

They are parts 2 and 3 of "Building makemore" in Karpathy's *Neural Networks: Zero to Hero*. With
batch norm there are bngain, bnbias, bnmean_running and bnstd_running, with or without b1.

Letters: V vocabulary, C context length, E width of an embedding, H width of the hidden layer.
"""

from collections.abc import Iterable

import numpy as np

from charjax.config import MLPConfig
from charjax.conversion.layout import Arrays, Inferred, Layout, Tensor, axis_length, most_common

_NAMES = {"C", "W1", "W2", "b2"}
_EPSILON = 1e-5
_MEAN, _BIAS = "batch_stats/norm_0/mean", "params/hidden_0/bias"


def _recognises(names: Iterable[str]) -> bool:
    return len(_NAMES & set(names)) >= 2


def _infer(tensors: Arrays) -> Inferred:
    E = axis_length(tensors, "C", 1)
    fan_in = axis_length(tensors, "W1", 0)
    batch = any(name.startswith("bn") for name in tensors)
    widths = (
        axis_length(tensors, "W1", 1),
        axis_length(tensors, "W2", 0),
        axis_length(tensors, "b1", 0, ndim=1),
    )
    H = most_common(*widths, axis_length(tensors, "bngain", 1))
    settings = {
        "kind": "mlp",
        "context_length": fan_in // E if fan_in and E and fan_in % E == 0 else None,
        "d_embed": E,
        "hidden": (H,) if H else None,
        "norm": "batch" if batch else "none",
        "blank": False,
    }
    V = most_common(
        axis_length(tensors, "C", 0),
        axis_length(tensors, "W2", 1),
        axis_length(tensors, "b2", 0, ndim=1),
    )
    return Inferred(settings, V, data={"layout": "pairs"} if batch else {})


def _tensors(config: MLPConfig, vocab_size: int, tensors: Arrays) -> list[Tensor]:
    V, E, C, (H,) = vocab_size, config.d_embed, config.context_length, config.hidden
    assert C is not None
    entries = [
        Tensor("C", "params/token_embedding/embedding", (V, E)),
        Tensor("W1", "params/hidden_0/kernel", (C * E, H)),
        Tensor("W2", "params/readout/kernel", (H, V)),
        Tensor("b2", "params/readout/bias", (V,)),
    ]
    if config.norm == "none" or "b1" in tensors:
        entries.append(Tensor("b1", _BIAS, (H,)))
    if config.norm == "batch":
        entries += [
            Tensor("bngain", "params/norm_0/scale", (1, H), np.ravel),
            Tensor("bnbias", "params/norm_0/bias", (1, H), np.ravel),
            Tensor("bnmean_running", _MEAN, (1, H), np.ravel),
            Tensor("bnstd_running", "batch_stats/norm_0/var", (1, H), _variance),
        ]
    return entries


def _variance(std: np.ndarray) -> np.ndarray:
    """Return the variance whose sqrt(var + 1e-5) is the notebook's running standard deviation."""
    return np.maximum(np.ravel(std).astype(np.float64) ** 2 - _EPSILON, 0.0).astype(np.float32)


def _assumptions(config: MLPConfig) -> str:
    norm = ", after the batch norm" if config.norm == "batch" else ""
    return (
        f"tanh{norm} (not ReLU); the context's embeddings oldest first (not newest first); symbol "
        "0 before a text"
    )


def _finish(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fold the bias before the batch norm, which only shifts its mean, into the running mean."""
    if _MEAN not in variables or _BIAS not in variables:
        return variables
    mean = variables[_MEAN] - variables[_BIAS]
    return {name: v for name, v in variables.items() if name != _BIAS} | {_MEAN: mean}


MAKEMORE_LECTURES = Layout(
    title="the makemore lectures' MLP",
    recognises=_recognises,
    infer=_infer,
    tensors=_tensors,
    original=lambda config: "the makemore lectures' MLP",
    assumptions=_assumptions,
    finish=_finish,
)
