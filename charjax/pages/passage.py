"""A held-out passage, character by character: its loss, and the likeliest predictions.

Letters: N tokens, B rows at once, T targets per row, V vocabulary, K predictions.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax import parallel
from charjax.data.batches import Batch, TextWindows, evaluation_windows
from charjax.data.splits import Split
from charjax.data.tokenizers import CharTokenizer, Tokenizer
from charjax.models.contract import CharModel
from charjax.pages.baselines import first_targets
from charjax.training.scoring import gather_columns
from charjax.training.step import cross_entropy

# Predicted tokens of the passage, and fewer where there are very many symbols.
_TARGETS = 800
_MOST_LOGITS = 8_000_000
_PREDICTIONS = 5


class Character(NamedTuple):
    """A character of the passage, or the characters of one subword.

    Attributes:
      text: the characters; U+FFFD for bytes that are not UTF-8.
      loss: nats per character, the sum over its tokens; NaN for the first, which nothing precedes.
      predictions: the likeliest first tokens and their probabilities.
    """

    text: str
    loss: float
    predictions: list[tuple[str, float]]


def passage(
    model: CharModel, variables: Any, tokenizer: Tokenizer, split: Split
) -> list[Character]:
    """Return the first characters of a split as a model predicts them.

    A windowed model has at least half of its context before each character but the first ones.
    Families with a longer memory read from the beginning of the document.
    """
    part = first_targets(split, max(2, min(_TARGETS, _MOST_LOGITS // tokenizer.vocab_size)))
    last = int(part.doc_starts[-1] + part.doc_lengths[-1])
    losses_N, ids_NK, shares_NK = _predict(model, variables, part, last + 1)
    tokens_N = part.tokens[: last + 1]
    # The boundary before the first line is no character of the text.
    first = 1 if tokenizer.boundary else 0
    characters = []
    for begin, end, text in _pieces(tokenizer, tokens_N, first):
        predictions = [
            (_token_text(tokenizer, int(token)), float(share))
            for token, share in zip(ids_NK[begin], shares_NK[begin], strict=True)
            if not math.isnan(losses_N[begin])
        ]
        loss = float(losses_N[begin:end].sum()) / len(text)
        characters.append(Character(text, loss, predictions))
    return characters


def _predict(
    model: CharModel, variables: Any, split: Split, tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return losses (N,), likeliest tokens (N, K) and their probabilities (N, K)."""
    window = int(split.doc_lengths.max())
    stride = window
    if model.capacity is not None and window > model.capacity:
        window, stride = model.capacity, max(1, model.capacity // 2)
    table = evaluation_windows(split, window=window, stride=stride)
    rows = max(1, _MOST_LOGITS // (window * model.vocab_size))
    count = min(_PREDICTIONS, model.vocab_size)
    losses_N = np.full(tokens, np.nan)
    ids_NK, shares_NK = np.zeros((tokens, count), np.int64), np.zeros((tokens, count))
    mesh = parallel.make_mesh(jax.local_devices()[:1], 1)
    with parallel.target(mesh):
        text = jnp.asarray(split.tokens[: tokens + 1])
        for begin in range(0, len(table.starts), rows):
            columns = [jnp.asarray(column[begin : begin + rows], jnp.int32) for column in table]
            batch = gather_columns(
                TextWindows(text, *columns), window=window, lookback=model.lookback
            )
            found = _score(model, variables, batch, count)
            row, column = np.nonzero(np.asarray(batch.weights))
            place = table.starts[begin + row] + 1 + column
            for array, part in zip((losses_N, ids_NK, shares_NK), found, strict=True):
                array[place] = np.asarray(part)[row, column]
    return losses_N, ids_NK, shares_NK


@functools.partial(jax.jit, static_argnames=("model", "count"))
def _score(
    model: CharModel, variables: Any, batch: Batch, count: int
) -> tuple[Array, Array, Array]:
    """Return losses (B, T), the likeliest tokens (B, T, K) and their probabilities."""
    logits_BTV, _ = model.apply(variables, batch.inputs, num_outputs=batch.targets.shape[1])
    shares_BTK, ids_BTK = jax.lax.top_k(jax.nn.softmax(logits_BTV), count)
    return cross_entropy(logits_BTV, batch.targets), ids_BTK, shares_BTK


def _pieces(tokenizer: Tokenizer, tokens_N: np.ndarray, first: int) -> list[tuple[int, int, str]]:
    """Return the tokens from the first on, joined to whole characters: begin, end, text."""
    if isinstance(tokenizer, CharTokenizer):
        return [
            (place, place + 1, tokenizer.decode(tokens_N[place : place + 1]))
            for place in range(first, len(tokens_N))
        ]
    raw = [tokenizer.to_bytes(tokens_N[place : place + 1]) for place in range(len(tokens_N))]
    # Continuation bytes are 10xxxxxx.
    starts = [
        place
        for place in range(first, len(raw))
        if place == first or (raw[place] and raw[place][0] & 0xC0 != 0x80)
    ]
    ends = [*starts[1:], len(raw)]
    return [
        (begin, end, b"".join(raw[begin:end]).decode("utf-8", "replace") or "\ufffd")
        for begin, end in zip(starts, ends, strict=True)
    ]


def _token_text(tokenizer: Tokenizer, token: int) -> str:
    """Return a token as text; bytes that are no characters as their numbers."""
    if isinstance(tokenizer, CharTokenizer):
        return tokenizer.decode([token])
    raw = tokenizer.to_bytes([token])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "byte " * (len(raw) == 1) + "bytes " * (len(raw) > 1) + raw.hex(" ").upper()
