"""Classify generated documents by the split that already holds them, as makemore does."""

from collections.abc import Mapping, Sequence

import numpy as np

from charjax.data.splits import Split


def find_origins(splits: Mapping[str, Split], samples: Sequence[np.ndarray]) -> list[str]:
    """Return, for each sample, the first split that holds it as a whole document, or "new".

    Args:
      splits: by name, in the order of the search.
      samples: tokens of one document each, without boundaries.
    """
    wanted = {_bytes(sample) for sample in samples}
    lengths = sorted({len(sample) for sample in samples})
    found: dict[bytes, str] = {}
    for name, split in splits.items():
        # A document's targets are its characters and the final boundary.
        candidates = np.flatnonzero(np.isin(split.doc_lengths, np.asarray(lengths) + 1))
        for start, length in zip(
            split.doc_starts[candidates], split.doc_lengths[candidates], strict=True
        ):
            document = _bytes(split.tokens[start + 1 : start + length])
            if document in wanted:
                found.setdefault(document, name)
    return [found.get(_bytes(sample), "new") for sample in samples]


def _bytes(tokens: np.ndarray) -> bytes:
    return tokens.astype(np.uint32).tobytes()
