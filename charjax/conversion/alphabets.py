"""The alphabet of a model that was trained elsewhere: what its symbols 0, 1, ... stand for.

Letter: V vocabulary.
"""

import dataclasses
import json
import pickletools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from charjax.conversion.tokenizer_json import bytes_of
from charjax.data.reading import UTF_8, decode_file, read_bytes
from charjax.data.tokenizers import CharTokenizer, Tokenizer, tokenizer_from_json
from charjax.errors import UserError

_FORMS = (
    "nanoGPT's meta.pkl or meta.json, {symbol: number} or a list of symbols as JSON, the symbols "
    "in their order as text, or the text that the model was trained on"
)


class Alphabet(NamedTuple):
    """A tokenizer, and a description of where its order is from."""

    tokenizer: Tokenizer
    order: str


def read_alphabet(path: Path, vocab_size: int, *, boundary: bool) -> Alphabet:
    """Read an alphabet in one of several forms; see docs/interop.md.

    Args:
      path: of nanoGPT's meta.pkl or meta.json, a vocab.json or tokenizer.json, a list of symbols as
        JSON or text, or a text with these characters.
      vocab_size: V, which it must have.
      boundary: documents are lines: symbol 0 is the boundary, whatever it is called there.

    Raises:
      UserError: the file is in no such form, or has another number of symbols.
    """
    raw = read_bytes(path, "--alphabet")
    if raw[:1] == b"\x80" or path.suffix in (".pkl", ".pickle"):
        return _from_tree(_read_pickle(raw, path), path, vocab_size, boundary)
    if path.suffix == ".json":
        try:
            tree = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise _not_in_a_form(path, f"is not JSON: {error}") from None
        return _from_tree(tree, path, vocab_size, boundary)
    return _from_text(raw, path, vocab_size, boundary)


def _not_in_a_form(path: Path, reason: str) -> UserError:
    return UserError(f"--alphabet: {str(path)!r} {reason}; give {_FORMS}")


def _from_tree(tree: Any, path: Path, vocab_size: int, boundary: bool) -> Alphabet:
    """Return the alphabet of a JSON or pickled value."""
    order = f"symbols are those of {path.name}"
    if isinstance(tree, Mapping) and tree.get("kind") in ("char", "byte"):
        try:
            return Alphabet(_sized(tokenizer_from_json(dict(tree)), path, vocab_size), order)
        except (ValueError, TypeError, KeyError) as error:
            raise _not_in_a_form(path, f"is a damaged alphabet ({error})") from None
    numbers = _numbers(tree, path)
    if (as_bytes := bytes_of(numbers)) is not None:
        return Alphabet(_sized(as_bytes, path, vocab_size), order)
    symbols = {number: symbol for symbol, number in numbers.items()}
    if len(symbols) < len(numbers):
        raise _not_in_a_form(path, "gives two symbols one number")
    if boundary:
        # makemore has no symbol 0, and the makemore lectures call it ".".
        symbols[0] = "\n"
    if sorted(symbols) != list(range(vocab_size)):
        remedy = "give the alphabet that they belong to"
        if min(symbols) == 1 and not boundary:
            remedy = "where symbol 0 is the boundary of lines, add data.layout=lines"
        raise UserError(
            f"--alphabet: {str(path)!r} has {len(symbols):,} symbols, numbered from {min(symbols)} "
            f"to {max(symbols)}, but the tensors have a vocabulary of {vocab_size:,}, numbered "
            f"from 0; {remedy}"
        )
    return Alphabet(
        _characters([symbols[i] for i in range(vocab_size)], path, boundary),
        order + ", symbol 0 the boundary of lines" * boundary,
    )


def _numbers(tree: Any, path: Path) -> dict[str, int]:
    """Return the number of each symbol."""
    if isinstance(tree, Mapping) and "model" in tree:
        model = tree["model"]
        tree = model.get("vocab") if isinstance(model, Mapping) else None
        if isinstance(model, Mapping) and model.get("merges"):
            raise _not_in_a_form(
                path,
                "joins characters to longer tokens, and an alphabet has single ones: give it as "
                f"data.tokenizer={path}",
            )
    if isinstance(tree, Mapping) and ("stoi" in tree or "itos" in tree):
        tree = tree["stoi"] if "stoi" in tree else tree["itos"]
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    found: dict[str, int] = {}
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        # {symbol: number}, or {number: symbol}, whose numbers are texts in JSON.
        symbol, number = (key, value) if isinstance(value, int) else (value, key)
        if isinstance(number, str) and number.isascii() and number.isdecimal():
            number = int(number) if len(number) < 10 else -1
        if not isinstance(symbol, str) or type(number) is not int or symbol in found:
            raise _not_in_a_form(path, f"has the entry {key!r}: {value!r}"[:200])
        found[symbol] = number
    if not found:
        raise _not_in_a_form(path, "has no symbols")
    return found


def _characters(symbols: list[str], path: Path, boundary: bool) -> CharTokenizer:
    """Return the tokenizer of symbols in order."""
    longer = [symbol for symbol in symbols if len(symbol) != 1]
    if longer:
        raise UserError(
            f"--alphabet: {str(path)!r} has the symbol {longer[0][:40]!r}; charjax's symbols are "
            "single characters, so this model cannot be imported with them"
        )
    if len(set(symbols)) < len(symbols):
        twice = next(symbol for symbol in symbols if symbols.count(symbol) > 1)
        raise UserError(
            f"--alphabet: {str(path)!r} has {twice!r} twice, the boundary of lines included; give "
            "each symbol once"
        )
    return CharTokenizer("".join(symbols), boundary)


def _sized(tokenizer: Tokenizer, path: Path, vocab_size: int) -> Tokenizer:
    if tokenizer.vocab_size != vocab_size:
        raise UserError(
            f"--alphabet: {str(path)!r} has {tokenizer.vocab_size:,} symbols, but the tensors have "
            f"a vocabulary of {vocab_size:,}; give the alphabet that they belong to"
        )
    return tokenizer


def _from_text(raw: bytes, path: Path, vocab_size: int, boundary: bool) -> Alphabet:
    """Return the alphabet of a text: its characters as they stand, if all differ, or sorted."""
    marked = dataclasses.replace(UTF_8, drop_mark=False)
    text, _ = decode_file(raw, UTF_8, str(path), "--alphabet")
    whole, _ = decode_file(raw, marked, str(path), "--alphabet")
    assert isinstance(text, str)
    assert isinstance(whole, str)
    for symbols in _listings(whole, vocab_size, boundary):
        order = f"symbols are in the order of {path.name}"
        return Alphabet(_characters(symbols, path, boundary), order)
    readings = {
        "": text,
        ", the byte order mark among them": whole,
        ", blanks at the ends of lines left out": _strip_lines(text) if boundary else text,
    }
    for reading, read in readings.items():
        tokenizer = CharTokenizer.from_text(read, boundary=boundary)
        if tokenizer.vocab_size == vocab_size:
            sorted_symbols = f"the characters of {path.name} in the order of their code points"
            return Alphabet(tokenizer, f"symbols are {sorted_symbols}{reading}")
    count = CharTokenizer.from_text(text, boundary=boundary).vocab_size
    lines = "with the boundary of lines " * boundary
    raise UserError(
        f"--alphabet: {str(path)!r} has {count:,} different characters {lines}and no list of "
        f"{vocab_size:,} symbols, but the tensors have a vocabulary of {vocab_size:,}; give "
        f"{_FORMS}"
    )


def _listings(text: str, vocab_size: int, boundary: bool) -> Iterator[list[str]]:
    """Yield the symbols of a text that lists V of them, side by side or one per line."""
    lines = text.removesuffix("\n").split("\n")
    # An empty line stands for the newline.
    side_by_side = [list(text), list(text.removesuffix("\n"))]
    by_line = [[line or "\n" for line in lines]] if max(map(len, lines)) == 1 < len(lines) else []
    for symbols in (*by_line, *side_by_side):
        if len(set(symbols)) < len(symbols):
            continue
        if boundary and len(symbols) == vocab_size - 1 and "\n" not in symbols:
            yield ["\n", *symbols]
        elif len(symbols) == vocab_size:
            # The boundary, by whatever name.
            yield ["\n", *symbols[1:]] if boundary else symbols


def _strip_lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.split("\n"))


def _read_pickle(raw: bytes, path: Path) -> Any:
    """Read a pickle of nested dictionaries and lists of texts and whole numbers; run nothing.

    The instructions are those that pickle itself writes for such values. A pickle's other
    instructions can import and call anything; here they are refused, as nothing carries them out.
    pickle.Unpickler without imports would not do: it may allocate gigabytes for a few bytes
    (github.com/python/cpython/issues/115952).
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(raw):
            name = opcode.name
            if name in ("PROTO", "FRAME"):
                continue
            if name == "STOP":
                return stack.pop()
            if name in _VALUES:
                stack.append(argument)
            elif name in ("EMPTY_DICT", "EMPTY_LIST"):
                stack.append({} if name == "EMPTY_DICT" else [])
            elif name == "MARK":
                marks.append(len(stack))
            elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
                memo[len(memo) if argument is None else argument] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name in _FILLED:
                start = marks.pop() if name.endswith("S") else len(stack) - _FILLED[name]
                items = stack[start:]
                del stack[start:]
                _fill(stack[-1], items)
            else:
                raise _not_in_a_form(path, f"is a pickle with more than texts and numbers ({name})")
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise _not_in_a_form(path, f"is a damaged pickle ({error})") from None
    raise _not_in_a_form(path, "is a damaged pickle")


_VALUES = {"SHORT_BINUNICODE", "BINUNICODE", "BININT", "BININT1", "BININT2"}
# Instructions that fill a dictionary or a list, and the number of values that one of them takes.
_FILLED = {"SETITEM": 2, "SETITEMS": 0, "APPEND": 1, "APPENDS": 0}


def _fill(target: Any, items: list[Any]) -> None:
    if isinstance(target, dict):
        target.update(zip(items[0::2], items[1::2], strict=True))
    else:
        target.extend(items)
