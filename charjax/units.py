"""Units of a loss, and of sizes in bytes."""

import math
from typing import NamedTuple


def bits_per_character(nats: float) -> float:
    """Convert a loss in nats per character to bits per character."""
    return nats / math.log(2)


def perplexity(nats: float) -> float:
    """Return exp(loss); infinite where that is larger than any float."""
    return math.exp(nats) if nats < _LARGEST_EXPONENT else math.inf


_LARGEST_EXPONENT = 700.0


def shown_bytes(size: int) -> str:
    """Return a size as a person reads it: kB below a million bytes, else MB."""
    return f"{size / 1e3:,.1f} kB" if size < 1e6 else f"{size / 1e6:,.1f} MB"


class TextSize(NamedTuple):
    """The size of a predicted text, by which a loss per token is converted.

    Attributes:
      tokens: predicted tokens.
      characters: characters that begin in them.
      bytes: their bytes in UTF-8.
    """

    tokens: int
    characters: int
    bytes: int

    def per_character(self, loss: float) -> float:
        """Convert nats per token to nats per character; NaN for a text without any."""
        if self.tokens == self.characters:
            return loss
        return loss * self.tokens / self.characters if self.characters else math.nan

    def bpc(self, loss: float) -> float:
        """Convert nats per token to bits per character."""
        return bits_per_character(self.per_character(loss))

    def bpb(self, loss: float) -> float:
        """Convert nats per token to bits per byte; NaN for a text without any."""
        if self.tokens == self.bytes:
            return bits_per_character(loss)
        return bits_per_character(loss * self.tokens / self.bytes) if self.bytes else math.nan
