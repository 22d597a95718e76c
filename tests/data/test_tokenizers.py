import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax.data import tokenizers
from charjax.data.tokenizers import ByteTokenizer, CharTokenizer, tokenizer_from_json
from charjax.errors import UserError

characters = st.text(st.characters(codec="utf-8"), max_size=60)


@given(characters.filter(bool), st.booleans())
@settings(max_examples=60, deadline=None)
def test_decode_undoes_encode(text: str, boundary: bool):
    for tokenizer in (
        CharTokenizer.from_text(text + "\n", boundary=boundary),
        ByteTokenizer(boundary),
    ):
        tokens = tokenizer.encode(text)
        assert tokens.dtype == np.uint8
        assert tokenizer.decode(tokens) == text
        assert tokenizer.decode(tokens.tolist()) == text


def test_symbols_are_sorted():
    tokenizer = CharTokenizer.from_text("hello\tworld\n")
    assert tokenizer.symbols == "\t\ndehlorw"
    assert tokenizer.encode("hew").tolist() == [4, 3, 8]
    assert not tokenizer.boundary


def test_boundary_is_token_0_and_is_the_newline():
    for tokenizer in (
        CharTokenizer.from_text("a\tb\n", boundary=True),
        CharTokenizer.from_text("no newline in here", boundary=True),
        ByteTokenizer(boundary=True),
    ):
        assert tokenizer.encode("\n").tolist() == [0]
        assert tokenizer.decode([0]) == "\n"
        assert tokenizer.boundary


def test_bytes_are_themselves():
    assert ByteTokenizer().encode("é\n").tolist() == [0xC3, 0xA9, 10]
    assert ByteTokenizer().encode(b"\xff\x00").tolist() == [255, 0]
    assert ByteTokenizer(boundary=True).encode(b"\x00\n\x09").tolist() == [10, 0, 9]
    assert ByteTokenizer().decode([0xC3]) == "\ufffd"


def test_bytes_of_a_command_line_that_are_not_utf8_come_through():
    argument = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert ByteTokenizer().encode(argument).tolist() == list(b"caf\xe9")


def test_unknown_character_is_named():
    tokenizer = CharTokenizer.from_text("abc")
    with pytest.raises(
        UserError, match=r"'é' \(U\+00E9\) at line 1, column 4.* 3 symbols.*abc"
    ) as error:
        tokenizer.encode("abcé")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"'\\n' \(U\+000A\)"):
        tokenizer.encode("a\nb")
    with pytest.raises(UserError, match="U\\+DCE9"):
        tokenizer.encode("\udce9")


def test_unknown_characters_are_located_and_counted():
    tokenizer = CharTokenizer.from_text("abc\n")
    text = "abc\nabéc\nx\ncéé\n"
    assert tokenizer.find_unknown(text).tolist() == [6, 9, 12, 13]
    with pytest.raises(UserError, match=r"at line 2, column 3 \(found 3 times; 4 unknown in all\)"):
        tokenizer.encode(text)
    with pytest.raises(UserError, match=r"at line 1, column 2 \(found once\)"):
        tokenizer.encode("axb")
    assert tokenizer.find_unknown("").tolist() == []


def test_long_texts_are_encoded_in_pieces(monkeypatch: pytest.MonkeyPatch):
    text = "plain, café, and 漢字; " * 5
    whole = CharTokenizer.from_text(text)
    tokens = whole.encode(text)
    monkeypatch.setattr(tokenizers, "_CHUNK", 7)
    assert CharTokenizer.from_text(text) == whole
    assert (whole.encode(text) == tokens).all()
    with pytest.raises(UserError, match=f"'ß'.* at line 1, column {len(text) + 1} "):
        whole.encode(text + "ß")
    assert whole.find_unknown(f"ß{text}ß").tolist() == [0, len(text) + 1]


def test_tokens_grow_with_the_alphabet():
    for count, dtype in ((256, np.uint8), (257, np.uint16)):
        text = "".join(chr(0x100 + i) for i in range(count))
        tokens = CharTokenizer.from_text(text).encode(text)
        assert tokens.dtype == dtype
        assert tokens.tolist() == list(range(count))


def test_too_many_symbols():
    text = "".join(map(chr, range(0x10000, 0x10000 + 65537)))
    with pytest.raises(UserError, match=r"data.tokenizer: .*65,537.*data.tokenizer=byte"):
        CharTokenizer.from_text(text)


@pytest.mark.parametrize(
    "tokenizer",
    [
        CharTokenizer.from_text("ab\nc é \u2028 漢", boundary=True),
        CharTokenizer.from_text("xyz"),
        ByteTokenizer(),
        ByteTokenizer(boundary=True),
    ],
)
def test_saved_and_read_back(tokenizer: tokenizers.Tokenizer):
    back = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert back == tokenizer
    assert back.digest() == tokenizer.digest()


def test_digests_differ():
    different = [
        CharTokenizer("\nab"),
        CharTokenizer("\nab", boundary=True),
        CharTokenizer("\nac"),
        ByteTokenizer(),
        ByteTokenizer(boundary=True),
    ]
    assert len({tokenizer.digest() for tokenizer in different}) == len(different)


def test_unknown_kind():
    with pytest.raises(ValueError, match="allowed: char, byte"):
        tokenizer_from_json({"kind": "word"})


def test_a_boundary_needs_its_newline():
    with pytest.raises(ValueError, match="newline"):
        CharTokenizer("abc", boundary=True)
