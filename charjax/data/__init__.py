"""The path from a text to batches: corpora, tokenizers, splits, windows, batches."""
