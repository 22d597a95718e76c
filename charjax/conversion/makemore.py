"""makemore.py's MLP and Bigram: github.com/karpathy/makemore.

The MLP is a torch.nn.Sequential: Linear layers `mlp.0` and `mlp.2`, further ones with more hidden
layers. With batch norm, each hidden Linear has no bias and a torch.nn.BatchNorm1d stands between it
and its Tanh. It concatenates the embeddings newest first, charjax oldest first.

Letters: V vocabulary, C context length, E width of an embedding, H width of a hidden layer.
"""

import functools
import re
from collections.abc import Iterable

import numpy as np

from charjax.config import BigramConfig, MLPConfig
from charjax.conversion.layout import (
    Arrays,
    Inferred,
    Layout,
    Tensor,
    axis_length,
    linear_weight,
    most_common,
)

_LINEAR = re.compile(r"mlp\.(\d{1,4})\.(?:weight|bias|running_mean|running_var)")
_TABLES = ("logits", "token_embedding_table.weight")


def _is_mlp(names: Iterable[str]) -> bool:
    return any(_LINEAR.fullmatch(name) for name in names)


def _infer_mlp(tensors: Arrays) -> Inferred:
    last = max((int(m[1]) for m in map(_LINEAR.fullmatch, tensors) if m), default=0)
    norm = any(name.endswith((".running_mean", ".running_var")) for name in tensors)
    # Linear, Tanh, ..., Linear; with norm Linear, BatchNorm1d, Tanh, ..., Linear.
    stride = 3 if norm else 2
    linears = range(0, last + 1, stride)
    V = most_common(
        axis_length(tensors, f"mlp.{linears[-1]}.weight", 0),
        axis_length(tensors, f"mlp.{linears[-1]}.bias", 0, ndim=1),
        axis_length(tensors, "wte.weight", 0),
    )
    rows, E = axis_length(tensors, "wte.weight", 0), axis_length(tensors, "wte.weight", 1)
    hidden = []
    for i in linears[:-1]:
        after = range(i, i + stride)
        vectors = [f"mlp.{j}.{kind}" for j in after for kind in ("weight", "bias")]
        widths = (axis_length(tensors, name, 0, ndim=1) for name in vectors)
        fan_in = axis_length(tensors, f"mlp.{i + stride}.weight", 1)
        hidden.append(most_common(axis_length(tensors, f"mlp.{i}.weight", 0), fan_in, *widths))
    fan_in = axis_length(tensors, "mlp.0.weight", 1)
    settings = {
        "kind": "mlp",
        "context_length": fan_in // E if fan_in and E and fan_in % E == 0 else None,
        "d_embed": E,
        "hidden": tuple(hidden) if hidden and all(hidden) else None,
        "norm": "batch" if norm else "none",
        "blank": rows is not None and V is not None and rows == V + 1,
    }
    return Inferred(settings, V, data={"layout": "pairs"} if norm else {})


def _mlp_tensors(config: MLPConfig, vocab_size: int, tensors: Arrays) -> list[Tensor]:
    V, E, C = vocab_size, config.d_embed, config.context_length
    assert C is not None
    entries = [Tensor("wte.weight", "params/token_embedding/embedding", (V + config.blank, E))]
    batch, stride = config.norm == "batch", 3 if config.norm == "batch" else 2
    fan_in = C * E
    for i, width in enumerate(config.hidden):
        there, here = f"mlp.{stride * i}", f"params/hidden_{i}/kernel"
        if i == 0:
            turn = functools.partial(_newest_first, width=E)
            back = functools.partial(_oldest_first, width=E)
            entries.append(Tensor(f"{there}.weight", here, (width, fan_in), back, turn))
        else:
            entries.append(linear_weight(f"{there}.weight", here, width, fan_in))
        if batch:
            entries += _batch_norm(f"mlp.{stride * i + 1}", f"norm_{i}", width)
        else:
            entries.append(Tensor(f"{there}.bias", f"params/hidden_{i}/bias", (width,)))
        fan_in = width
    there = f"mlp.{stride * len(config.hidden)}"
    return [
        *entries,
        linear_weight(f"{there}.weight", "params/readout/kernel", V, fan_in),
        Tensor(f"{there}.bias", "params/readout/bias", (V,)),
    ]


def _newest_first(kernel: np.ndarray, width: int) -> np.ndarray:
    """Convert (C E, H), the oldest character first, to (H, C E), the newest first."""
    blocks_CEH = kernel.reshape(-1, width, kernel.shape[1])
    return blocks_CEH[::-1].reshape(kernel.shape).T


def _oldest_first(weight: np.ndarray, width: int) -> np.ndarray:
    """Convert (H, C E), the newest character first, to (C E, H), the oldest first."""
    blocks_HCE = weight.reshape(weight.shape[0], -1, width)
    return blocks_HCE[:, ::-1].reshape(weight.shape).T


def _batch_norm(there: str, name: str, width: int) -> list[Tensor]:
    return [
        Tensor(f"{there}.weight", f"params/{name}/scale", (width,)),
        Tensor(f"{there}.bias", f"params/{name}/bias", (width,)),
        Tensor(f"{there}.running_mean", f"batch_stats/{name}/mean", (width,)),
        Tensor(f"{there}.running_var", f"batch_stats/{name}/var", (width,)),
    ]


def _mlp_assumptions(config: MLPConfig) -> str:
    norm = "batch norm with epsilon 1e-5, then " if config.norm == "batch" else ""
    first = "a blank symbol" if config.blank else "symbol 0"
    return (
        f"between the linear layers {norm}tanh (not ReLU); the context's embeddings newest first "
        f"(not oldest first); {first} before a text"
    )


def _is_counter(name: str, array: np.ndarray) -> bool:
    return name.endswith(".num_batches_tracked") and array.ndim == 0


MLP = Layout(
    title="makemore's MLP",
    recognises=_is_mlp,
    infer=_infer_mlp,
    tensors=_mlp_tensors,
    original=lambda config: "makemore's MLP",
    assumptions=_mlp_assumptions,
    is_ignored=_is_counter,
)


def _is_bigram(names: Iterable[str]) -> bool:
    # The GPT of the makemore lectures has a token_embedding_table among its other tensors.
    return any(set(names) == {table} for table in _TABLES)


def _infer_bigram(tensors: Arrays) -> Inferred:
    (name,) = tensors
    return Inferred({"kind": "bigram"}, axis_length(tensors, name, 0))


def _bigram_tensors(config: BigramConfig, vocab_size: int, tensors: Arrays) -> list[Tensor]:
    name = next(iter(tensors), _TABLES[0])
    return [Tensor(name, "params/logits", (vocab_size, vocab_size))]


BIGRAM = Layout(
    title="makemore's Bigram",
    recognises=_is_bigram,
    infer=_infer_bigram,
    tensors=_bigram_tensors,
    original=lambda config: "makemore's Bigram",
    assumptions=lambda config: "a row (not a column) holds the logits after its symbol",
)
