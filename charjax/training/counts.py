"""Counts beside a network, in a run: what its text must be, their predictions and their tables."""

import jax
import jax.numpy as jnp
import numpy as np

from charjax import hardware
from charjax.config import Config
from charjax.config.values import format_value
from charjax.data.splits import Split
from charjax.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from charjax.errors import UserError
from charjax.models import word_contexts
from charjax.models.mixture import Mixture
from charjax.models.ngram_cross_fit import DTYPE, LENGTH_BYTES, cross_fit
from charjax.models.word_contexts import fold_symbols
from charjax.training.state import Tables, TrainState


def predicted_by_the_rest(
    config: Config, model: Mixture, split: Split, tokenizer: Tokenizer
) -> np.ndarray:
    """Return what counts of the rest of a text predict in place of each token (`cross_fit`).

    Raises:
      UserError: the text is too long for that, has too few characters, or no words.
    """
    _check(config, model, split)
    return cross_fit(
        split,
        vocab_size=model.vocab_size,
        orders=model.orders,
        folds=model.folds,
        words=model.words,
        fold_V=_letters(model, tokenizer),
    )


def _letters(model: Mixture, tokenizer: Tokenizer) -> np.ndarray:
    """Return which symbols are letters, and which are the same (`word_contexts.fold_symbols`).

    Raises:
      UserError: words are counted, and the tokens are subwords.
    """
    if isinstance(tokenizer, CharTokenizer):
        return fold_symbols(tokenizer.symbols)
    if isinstance(tokenizer, ByteTokenizer):
        # Bytes above 127 are parts of letters: an ideograph stands for each.
        return fold_symbols([chr(b) if b < 128 else chr(0x4E00 + b) for b in range(256)])
    if model.words:
        raise UserError(
            f"model.count_words: {model.words} given with data.tokenizer=bpe, whose tokens are "
            "parts of words already: use char or byte, or set model.count_words=0"
        )
    return np.zeros(0, np.int32)


def _check(config: Config, model: Mixture, split: Split) -> None:
    """Refuse a text whose probabilities by counts do not fit in memory, or too few folds of it.

    Raises:
      UserError: the message has the bytes.
    """
    predicted = model.num_counts * model.vocab_size * DTYPE.itemsize
    lengths = model.orders[-1] + (word_contexts.lengths(model.words) if model.words else 0)
    # The host has predictions once, and a CPU's device a second time while they are placed.
    needed = split.tokens.size * (2 * predicted + lengths * LENGTH_BYTES)
    free = hardware.free_memory() * 2 / 3
    if split.tokens.nbytes > config.data.device_bytes:
        raise UserError(
            f"model.counts: {format_value(model.orders)} given for a text of "
            f"{split.tokens.nbytes:,} bytes, which stays on the host as data.device_bytes is "
            f"{config.data.device_bytes:,}; counts need it on the device: raise that, or set "
            "model.counts=[]"
        )
    if needed > free:
        raise UserError(
            f"model.counts: {format_value(model.orders)} given for a text of {split.tokens.size:,} "
            f"tokens; counting it and what counts predict in place of each takes "
            f"{needed / 1e9:,.1f} GB in training, and may take {free / 1e9:,.1f} GB: set "
            "model.counts=[], or give a shorter text"
        )
    if split.num_targets < model.folds:
        raise UserError(
            f"model.count_folds: {model.folds} given for a training split of "
            f"{split.num_targets:,} characters; lower it, or give a longer text"
        )


def with_tables(
    state: TrainState, model: Mixture, split: Split, tokenizer: Tokenizer
) -> TrainState:
    """Return a state with the tables of the counts of a text."""
    tables = model.count(split, _letters(model, tokenizer))
    return state._replace(tables=jax.tree.map(jnp.asarray, tables))


def table_shapes(model: Mixture, split: Split, tokenizer: Tokenizer) -> Tables:
    """Count a text, and return the shapes of the tables."""
    tables = model.count(split, _letters(model, tokenizer))
    return {name: jax.ShapeDtypeStruct(table.shape, table.dtype) for name, table in tables.items()}
