"""Text generation: decoder with a cache, sampling by logits processors."""
