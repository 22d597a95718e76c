"""The alphabet of an imported model: its forms, and what is refused."""

import contextlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from charjax.conversion.alphabets import read_alphabet
from charjax.conversion.tokenizer_json import to_tokenizer_json
from charjax.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from charjax.errors import UserError

# In an order that is not that of their code points.
SYMBOLS = "\nbaé!"
STOI = {symbol: number for number, symbol in enumerate(SYMBOLS)}
ITOS = {number: symbol for symbol, number in STOI.items()}
META = {"vocab_size": 5, "itos": ITOS, "stoi": STOI}


def read(path: Path, content: Any, vocab_size: int = 5, *, boundary: bool = False) -> Tokenizer:
    if content is None:
        path.unlink(missing_ok=True)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8", newline="")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(json.dumps(content))
    return read_alphabet(path, vocab_size, boundary=boundary).tokenizer


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("meta.json", META),
        ("stoi.json", {"stoi": STOI}),
        ("itos.json", {"itos": ITOS}),
        ("list.json", {"itos": list(SYMBOLS)}),
        ("vocab.json", STOI),
        ("symbols.json", list(SYMBOLS)),
        ("charjax.json", CharTokenizer(SYMBOLS).to_json()),
        ("tokenizer.json", to_tokenizer_json(CharTokenizer(SYMBOLS))),
        ("order.txt", SYMBOLS),
        ("order-ended.txt", SYMBOLS + "\n"),
        ("by_line.txt", "\nb\na\né\n!\n"),
    ],
)
def test_the_order_is_that_of_the_file(name: str, content: Any, tmp_path: Path):
    assert read(tmp_path / name, content) == CharTokenizer(SYMBOLS)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("count", [5, 300, 2_500])
def test_nanogpts_pickle(count: int, protocol: int, tmp_path: Path):
    """Written by its data/shakespeare_char/prepare.py: vocab_size, itos and stoi."""
    symbols = [chr(0x10000 + i) for i in range(count)]
    meta = {
        "vocab_size": count,
        "itos": dict(enumerate(symbols)),
        "stoi": {symbol: number for number, symbol in enumerate(symbols)},
    }
    found = read(tmp_path / "meta.pkl", pickle.dumps(meta, protocol), count)
    assert found == CharTokenizer("".join(symbols))


class Planted:
    """A pickle of it calls os.system when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_runs_nothing(protocol: int, tmp_path: Path):
    planted = {"stoi": STOI, "more": Planted(tmp_path / "planted")}
    raw = pickle.dumps(planted, protocol)
    with pytest.raises(UserError, match="is a pickle with more than texts and numbers"):
        read(tmp_path / "meta.pkl", raw)
    assert not (tmp_path / "planted").exists()
    pickle.loads(raw)
    assert (tmp_path / "planted").exists()


@pytest.mark.parametrize("cut", [1, 2, 20, 60, -1])
def test_a_damaged_pickle(cut: int, tmp_path: Path):
    with pytest.raises(UserError, match=r"is a damaged pickle|more than texts|has no symbols"):
        read(tmp_path / "meta.pkl", pickle.dumps(META)[:cut])


def test_no_bytes_make_a_pickle_fail_otherwise(tmp_path: Path):
    raw = pickle.dumps(META)
    for place in range(len(raw)):
        for byte in (ord("."), ord("u"), 255):
            damaged = raw[:place] + bytes([byte]) + raw[place + 1 :]
            with contextlib.suppress(UserError):
                read(tmp_path / "meta.pkl", damaged)


def test_a_text_in_the_order_of_code_points(tmp_path: Path):
    text = "a baby!\na cab\n"
    assert read(tmp_path / "text.txt", text, 7) == CharTokenizer("\n !abcy")
    assert read(tmp_path / "text.txt", text, 7, boundary=True) == CharTokenizer("\n !abcy", True)
    # nanoGPT counts a byte order mark, charjax does not; line ends are LF in both.
    marked = "\ufeffa baby!\r\na cab\r\n"
    assert read(tmp_path / "text.txt", marked, 7) == CharTokenizer("\n !abcy")
    assert read(tmp_path / "text.txt", marked, 8) == CharTokenizer("\n !abcy\ufeff")
    # makemore strips the blanks at the ends of lines.
    names = " anna \nbob\n"
    assert read(tmp_path / "names.txt", names, 6, boundary=True) == CharTokenizer("\n abno", True)
    assert read(tmp_path / "names.txt", names, 5, boundary=True) == CharTokenizer("\nabno", True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("makemore.json", {"stoi": {"b": 1, "a": 2, "é": 3, "!": 4}}),
        ("notebook.json", {"stoi": {"b": 1, "a": 2, "é": 3, "!": 4, ".": 0}}),
        ("charjax.json", META),
        ("order.txt", "baé!"),
        ("with_boundary.txt", ".baé!"),
        ("by_line.txt", "b\na\né\n!\n"),
    ],
)
def test_symbol_0_of_lines_is_the_boundary(name: str, content: Any, tmp_path: Path):
    found = read(tmp_path / name, content, boundary=True)
    assert found == CharTokenizer(SYMBOLS, boundary=True)


@pytest.mark.parametrize("boundary", [False, True])
def test_bytes(boundary: bool, tmp_path: Path):
    tokenizer = ByteTokenizer(boundary)
    tree = to_tokenizer_json(tokenizer)
    assert read(tmp_path / "tokenizer.json", tree, 256, boundary=boundary) == tokenizer
    assert read(tmp_path / "x.json", tokenizer.to_json(), 256, boundary=boundary) == tokenizer


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.json", b"\xff\xfe{", "is not JSON"),
        ("a.json", "3", "has no symbols; give nanoGPT's meta.pkl or meta.json"),
        ("a.json", {"model": 3}, "has no symbols"),
        ("a.json", {"stoi": {"a": 0, "b": 0}}, "gives two symbols one number"),
        ("a.json", {"stoi": {"a": [1]}}, "has the entry 'a': [1]"),
        ("a.json", {"itos": {"0": "a", "1": "a"}}, "has the entry '1': 'a'"),
        ("a.json", {"a": True}, "has the entry 'a': True"),
        ("a.json", {"kind": "char"}, "is a damaged alphabet"),
        ("a.json", {"a": 0, "b": 1}, "has 2 symbols, numbered from 0 to 1, but the tensors have"),
        ("a.json", {"a": 1, "b": 2, "c": 3, "d": 4}, "boundary of lines, add data.layout=lines"),
        ("a.json", ["a", "b", "c", "d", "the"], "has the symbol 'the'; charjax's symbols are"),
        ("a.json", CharTokenizer("ab").to_json(), "has 2 symbols, but the tensors have a vocab"),
        ("a.json", {"model": {"vocab": {"a": 0}, "merges": [["a", "b"]]}}, "joins characters"),
        ("a.txt", "abcabc", "has 3 different characters and no list of 5 symbols, but"),
        ("a.txt", b"\xff", "is not UTF-8"),
        ("a.txt", "", "is empty"),
        ("none/a.txt", None, "does not exist"),
    ],
)
def test_what_is_no_alphabet_is_refused(name: str, content: Any, said: str, tmp_path: Path):
    with pytest.raises(UserError) as caught:
        read(tmp_path / name, content)
    assert said in str(caught.value)
    assert str(caught.value).startswith("--alphabet: ")


def test_the_boundary_is_no_other_symbol(tmp_path: Path):
    with pytest.raises(UserError, match="twice, the boundary of lines included"):
        read(tmp_path / "a.json", {".": 0, "a": 1, "\n": 2}, 3, boundary=True)
