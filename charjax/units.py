"""Units of a loss."""

import math


def bits_per_character(nats: float) -> float:
    """Convert a loss in nats per character to bits per character."""
    return nats / math.log(2)
