"""A transformer's weights in the order in which the compiled sampler reads them.

The kernel (kernels/src/charjax_kernels/decode_step.h) cuts every layer into two halves, one for
each thread: the heads, and the units of the MLP. Of a half, each layer's weights follow one
another.

A matrix is cut into panels of 48 columns, one after the other.

Letters: V vocabulary, C context, D width of the stream, K width of a head, F units of the MLP. Rows
are padded with zeros to whole multiples of 16 numbers.
"""

import dataclasses
from typing import Any

import numpy as np

_PAD = 16
_PANEL = 48


@dataclasses.dataclass(frozen=True)
class KernelForm:
    """A decoder of GPT-2's form in float32, with learned positions.

    Attributes:
      vocabulary: V.
      context: C.
      width: D.
      heads: of attention.
      layers: blocks.
      hidden: F.
      tanh: GELU is its approximation by tanh.
      epsilon: of the norms.
    """

    vocabulary: int
    context: int
    width: int
    heads: int
    layers: int
    hidden: int
    tanh: bool
    epsilon: float

    @property
    def cache_size(self) -> int:
        """Return the numbers of a cache: keys (K, C) and values (C, K) of every head."""
        K = self.width // self.heads
        return self.layers * self.heads * (K * _padded(self.context) + self.context * _padded(K))

    @property
    def size(self) -> int:
        """Return N, the numbers of all weights as packed."""
        D, V, row = self.width, self.vocabulary, _padded(self.width)
        size = (2 + 6 * self.layers + V + self.context) * row + D * _padded(V)
        for heads, units in zip(self._heads(), self._units(), strict=True):
            E, U = _padded(3 * heads * (D // self.heads)), _padded(units)
            rows = heads * (D // self.heads) + units
            size += self.layers * ((D + 1) * (E + U) + rows * row)
        return size

    def pack(self, params: Any) -> np.ndarray:
        """Return all weights of a Transformer in one array, (N,) float32."""
        D, params = self.width, _on_host(params)
        blocks = [params[f"block_{i}"] for i in range(self.layers)]
        parts = [part for half in (0, 1) for block in blocks for part in self._half(block, half)]
        for block in blocks:
            for norm in ("norm_1", "norm_2"):
                parts += _scale_and_bias(block[norm], D)
            parts += [_bias(block["attention"]["out"], D), _bias(block["mlp"]["down"], D)]
        parts += _scale_and_bias(params["final_norm"], D)
        embedding_VD = params["token_embedding"]["embedding"]
        is_tied = "readout" not in params
        parts += _panels(embedding_VD.T if is_tied else params["readout"]["kernel"])
        parts += [embedding_VD, params["position_embedding"]["embedding"]]
        return _concatenated(parts)

    def _half(self, block: Any, half: int) -> list[np.ndarray]:
        """Return what one half reads of a block."""
        D, K, F = self.width, self.width // self.heads, self.hidden
        heads, middle = self._heads()[0], self._units()[0]
        columns = slice(heads * K, D) if half else slice(0, heads * K)
        units = slice(middle, F) if half else slice(0, middle)
        attention, mlp = block["attention"], block["mlp"]
        qkv_DE = attention["qkv"]["kernel"].reshape(D, 3, D)[:, :, columns].reshape(D, -1)
        qkv_bias_E = _bias(attention["qkv"], 3 * D).reshape(3, D)[:, columns].reshape(-1)
        return [
            *_panels(qkv_DE),
            qkv_bias_E,
            *_panels(attention["out"]["kernel"][columns]),
            *_panels(mlp["up"]["kernel"][:, units]),
            _bias(mlp["up"], F)[units],
            *_panels(mlp["down"]["kernel"][units]),
        ]

    def _heads(self) -> tuple[int, int]:
        """Return the heads of each half."""
        return -(-self.heads // 2), self.heads // 2

    def _units(self) -> tuple[int, int]:
        """Return the units of each half."""
        first = min(self.hidden, _padded(-(-self.hidden // 2)))
        return first, self.hidden - first


def _on_host(tree: Any) -> Any:
    """Return the arrays of a tree of dicts as NumPy's."""
    if isinstance(tree, dict):
        return {name: _on_host(value) for name, value in tree.items()}
    return np.asarray(tree)


def _bias(layer: Any, size: int) -> np.ndarray:
    bias: np.ndarray = layer["bias"] if "bias" in layer else np.zeros(size, np.float32)
    return bias


def _scale_and_bias(norm: Any, size: int) -> list[np.ndarray]:
    return [norm["scale"], _bias(norm, size)]


def _panels(matrix: np.ndarray) -> list[np.ndarray]:
    return [matrix[:, i : i + _PANEL] for i in range(0, matrix.shape[1], _PANEL)]


def _concatenated(parts: list[np.ndarray]) -> np.ndarray:
    """Return the rows of all parts one after the other, each padded."""
    # With one head, or few units, the second half has none.
    rows = [np.atleast_2d(part) for part in parts]
    ends = np.cumsum([len(part) * _padded(part.shape[1]) for part in rows]).tolist()
    packed_N = np.zeros(ends[-1], np.float32)
    for part, end in zip(rows, ends, strict=True):
        width = _padded(part.shape[1])
        packed_N[end - len(part) * width : end].reshape(len(part), width)[:, : part.shape[1]] = part
    return packed_N


def _padded(count: int) -> int:
    return -(-count // _PAD) * _PAD
