"""Byte-level tokenizer.json files: what each token stands for, and which files are of that form.

The form is GPT-2's (https://github.com/openai/gpt-2/blob/master/src/encoder.py), as Hugging Face's
`tokenizers` writes it: a token is a string of letters, one letter for each byte of UTF-8.
"""

import json
from typing import Any

# A crafted file could number its tokens beyond any memory.
_MOST_TOKENS = 1 << 24


class UnsupportedError(ValueError):
    """A tokenizer.json is not of the form that is read; the message is the reason."""


def byte_letters() -> dict[str, int]:
    """Return the byte that each of GPT-2's 256 letters stands for.

    Printable bytes of latin-1 are their own letters; the others, in order, are U+0100 and after.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}


def token_bytes(text: str) -> tuple[bytes, ...]:
    """Return the bytes of each token of a tokenizer.json; b"" for numbers that no token has.

    An added token, special ones included, stands for its content.

    Raises:
      UnsupportedError: it is no byte-level BPE, or would not give every text back.
    """
    try:
        tree = json.loads(text)
        _check_form(tree)
        letters = byte_letters()
        added = {int(token["id"]): str(token["content"]) for token in tree.get("added_tokens", [])}
        vocabulary = {int(number): str(token) for token, number in tree["model"]["vocab"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, UnsupportedError):
            raise
        raise UnsupportedError("it is not written as Hugging Face's tokenizers does") from None
    numbers = [*added, *vocabulary]
    if not numbers or min(numbers) < 0 or max(numbers) >= _MOST_TOKENS:
        raise UnsupportedError(f"its tokens are not numbered from 0 to {_MOST_TOKENS:,} at most")
    table = [b""] * (max(numbers) + 1)
    for number, token in vocabulary.items():
        if number not in added:
            table[number] = _to_bytes(token, letters)
    for number, content in added.items():
        table[number] = content.encode("utf-8", "replace")
    return tuple(table)


def _to_bytes(token: str, letters: dict[str, int]) -> bytes:
    try:
        return bytes(letters[letter] for letter in token)
    except KeyError:
        raise UnsupportedError(f"its token {token!r} does not consist of byte letters") from None


def _check_form(tree: Any) -> None:
    model = tree["model"]
    # Early files have no type; of the models, BPE alone has merges.
    kind = model.get("type") or ("BPE" if "merges" in model else "unknown")
    if kind != "BPE":
        raise UnsupportedError(f"its model is {kind}, not byte-level BPE")
    steps = [step for step in _steps(tree.get("pre_tokenizer")) if step.get("type") == "ByteLevel"]
    if not steps:
        raise UnsupportedError("its pre-tokenizer is not byte-level")
    if any(step.get("add_prefix_space") for step in steps):
        raise UnsupportedError("it puts a space before each text (add_prefix_space)")
    if model.get("dropout"):
        raise UnsupportedError("its merges are dropped at random (dropout)")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UnsupportedError(f"its tokens are marked ({name})")


def _steps(pre_tokenizer: Any) -> list[dict[str, Any]]:
    """Return a pre-tokenizer's steps: itself, or the members of a sequence."""
    if not isinstance(pre_tokenizer, dict):
        return []
    if pre_tokenizer.get("type") == "Sequence":
        return [step for part in pre_tokenizer["pretokenizers"] for step in _steps(part)]
    return [pre_tokenizer]
