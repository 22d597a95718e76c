"""A run's alphabet as the `tokenizer.json` of Hugging Face's tokenizers, and back.

Characters are a WordLevel model behind a split into single characters; bytes are a BPE without
merges behind a byte-level split, as in GPT-2's tokenizer.

Format: github.com/huggingface/tokenizers, https://huggingface.co/docs/tokenizers/api/models.
"""

import json
from collections.abc import Mapping
from typing import Any

from charjax.data.byte_level import byte_letters
from charjax.data.subwords import BpeTokenizer
from charjax.data.tokenizers import ByteTokenizer, Tokenizer

_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}


def to_tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of a tokenizer.json that encodes and decodes as a run's tokenizer does.

    A character outside the alphabet is an error there too, not an unknown token.
    """
    if isinstance(tokenizer, BpeTokenizer):
        subwords: dict[str, Any] = json.loads(tokenizer.json)
        return _newline_first(subwords) if tokenizer.boundary else subwords
    tree: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "post_processor": None,
    }
    if isinstance(tokenizer, ByteTokenizer):
        return tree | {
            "pre_tokenizer": _BYTE_LEVEL,
            "decoder": _BYTE_LEVEL,
            "model": {"type": "BPE", "vocab": _byte_vocabulary(tokenizer), "merges": []},
        }
    every = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated"}
    vocabulary = {symbol: token for token, symbol in enumerate(tokenizer.symbols)}
    return tree | {
        "pre_tokenizer": every | {"invert": False},
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": _UNKNOWN},
    }


def _newline_first(tree: dict[str, Any]) -> dict[str, Any]:
    """Exchange the numbers of the newline and of 0, as a run whose documents are lines does."""
    vocabulary: dict[str, int] = tree["model"]["vocab"]
    newline = vocabulary[_NEWLINE]
    exchange = {0: newline, newline: 0}
    exchanged = {name: exchange.get(token, token) for name, token in vocabulary.items()}
    added = [
        token | {"id": exchange.get(token["id"], token["id"])} for token in tree["added_tokens"]
    ]
    return tree | {"model": tree["model"] | {"vocab": exchanged}, "added_tokens": added}


# A newline as GPT-2's tokenizer shows it.
_NEWLINE = "\u010a"
# No symbol has so many characters: a character outside the alphabet is refused.
_UNKNOWN = "<unk>"


def bytes_of(vocabulary: Mapping[str, int]) -> ByteTokenizer | None:
    """Return the tokenizer of bytes with this byte-level vocabulary, None for another one."""
    for boundary in (False, True):
        if vocabulary == _byte_vocabulary(ByteTokenizer(boundary)):
            return ByteTokenizer(boundary)
    return None


def _byte_vocabulary(tokenizer: ByteTokenizer) -> dict[str, int]:
    """Return the token of each byte under the letter by which GPT-2's tokenizer shows it."""
    letters = {byte: letter for letter, byte in byte_letters().items()}
    return {letters[tokenizer.to_bytes([token])[0]]: token for token in range(256)}
