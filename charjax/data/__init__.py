"""From a text to batches: corpora, tokenizers, datasets, windows, batches."""
