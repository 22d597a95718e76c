"""The text whose n-grams are counted: documents, each after the zeros that fill up its contexts.

Letters: T tokens of the padded text, D documents.
"""

import itertools
from typing import NamedTuple

import numpy as np

from charjax.data.splits import Split

# Tokens that are worked on at once.
BLOCK = 1 << 20


class PaddedText(NamedTuple):
    """The documents of a split with zeros before each.

    Attributes:
      tokens: (T,), of the split's dtype.
      is_target: (T,) bool.
    """

    tokens: np.ndarray
    is_target: np.ndarray


def padded_text(split: Split, pad: int) -> PaddedText:
    """Return the documents of a split, each after `pad` zeros."""
    sizes_D = split.doc_lengths.astype(np.int64) + 1
    ends_D = np.cumsum(sizes_D + pad)
    tokens = np.zeros(int(ends_D[-1]), split.tokens.dtype)
    is_target = np.zeros(tokens.size, bool)
    # Many short documents at once; a long one by itself.
    (long,) = np.nonzero(sizes_D > BLOCK)
    cuts = np.searchsorted(ends_D, np.arange(0, tokens.size, BLOCK))
    bounds = np.unique(np.concatenate([[0], cuts, long, long + 1, [sizes_D.size]]))
    for begin, end in itertools.pairwise(bounds.tolist()):
        sizes, starts = sizes_D[begin:end], split.doc_starts[begin:end].astype(np.int64)
        if end - begin == 1:
            size, last = int(sizes[0]), int(ends_D[begin])
            tokens[last - size : last] = split.tokens[int(starts[0]) : int(starts[0]) + size]
            is_target[last - size + 1 : last] = True
            continue
        offset = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        places = np.repeat(ends_D[begin:end] - sizes, sizes) + offset
        tokens[places] = split.tokens[np.repeat(starts, sizes) + offset]
        is_target[places] = offset > 0
    return PaddedText(tokens, is_target)
