"""Units of a loss."""

import math


def bits_per_character(nats: float) -> float:
    """Convert a loss in nats per character to bits per character."""
    return nats / math.log(2)


def perplexity(nats: float) -> float:
    """Return exp(loss); infinite where that is larger than any float."""
    return math.exp(nats) if nats < _LARGEST_EXPONENT else math.inf


_LARGEST_EXPONENT = 700.0
