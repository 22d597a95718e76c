"""The text before which samples end."""

import numpy as np

from charjax.data.tokenizers import Tokenizer
from charjax.errors import UserError


class StopText:
    """A text before which samples end, found in their bytes while they are generated.

    In bytes, because subwords may spell it in many ways, and it may begin within one.
    """

    def __init__(self, tokenizer: Tokenizer, text: str | None, num_samples: int):
        """Encode the text; None is never found.

        Raises:
          UserError: it is empty, or has a character that is not in the alphabet.
        """
        if text == "":
            raise UserError("'' given; it must have at least one character")
        self._tokenizer = tokenizer
        self._stop = None if text is None else tokenizer.to_bytes(tokenizer.encode(text))
        self._lengths_V = None if text is None else tokenizer.byte_counts()
        self._ended_B = np.zeros(num_samples, bool)
        self._tails = [b""] * num_samples

    def reached(self, tokens_BK: np.ndarray, rows: slice = slice(None)) -> bool:
        """Read the newest tokens of some samples; return true once it stands in each of them."""
        if self._stop is None:
            return False
        for row, tokens_K in zip(range(len(self._tails))[rows], tokens_BK, strict=True):
            recent = self._tails[row] + self._tokenizer.to_bytes(tokens_K)
            self._ended_B[row] |= self._stop in recent
            self._tails[row] = recent[max(0, len(recent) - len(self._stop) + 1) :]
        return bool(self._ended_B[rows].all())

    def cut(self, tokens_N: np.ndarray) -> np.ndarray:
        """Return a sample's tokens before the one in which the text begins, or all of them."""
        place = self._place(tokens_N)
        if place < 0 or self._lengths_V is None:
            return tokens_N
        ends_N = np.cumsum(self._lengths_V[tokens_N])
        return tokens_N[: int(np.searchsorted(ends_N, place, side="right"))]

    def decode(self, tokens_N: np.ndarray) -> str:
        """Return a sample's text up to the stop text, which may begin within a token."""
        place = self._place(tokens_N)
        if place < 0:
            return self._tokenizer.decode(tokens_N)
        return self._tokenizer.to_bytes(tokens_N)[:place].decode("utf-8", "replace")

    def _place(self, tokens_N: np.ndarray) -> int:
        """Return the byte at which the text begins; -1 without it."""
        return -1 if self._stop is None else self._tokenizer.to_bytes(tokens_N).find(self._stop)
