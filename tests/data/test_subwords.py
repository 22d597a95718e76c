"""Subword tokens: any text comes back, and characters and bytes are counted exactly."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax.config import DataConfig, load_config
from charjax.data.byte_level import UnsupportedError, byte_letters, token_bytes
from charjax.data.datasets import load_dataset
from charjax.data.subwords import BpeTokenizer, cut_text, read_tokenizer, train_bpe
from charjax.data.tokenizers import ByteTokenizer, CharTokenizer, text_size, tokenizer_from_json
from charjax.errors import UserError
from charjax.run.loss_rows import by_character, by_line, characters

tokenizers = pytest.importorskip("tokenizers", reason='pip install "charjax[bpe]"')

TEXT = "the cat's café, the naïve cats\nnot the 日本語 of the 日本 cats 🙂🙂\n\n" * 30
ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
# Characters of one to four bytes, of which tokens were learned.
FAMILIAR = st.text(st.sampled_from("the cas\n日本語🙂é'"), max_size=40)


def trained(boundary: bool) -> BpeTokenizer:
    return train_bpe(TEXT, 320, boundary=boundary)


STREAM, LINES = trained(False), trained(True)


@given(ANY_TEXT | FAMILIAR)
@settings(max_examples=200)
def test_any_text_comes_back(text: str):
    for tokenizer in (STREAM, LINES):
        tokens = tokenizer.encode(text)
        assert tokens.dtype == np.uint16
        assert tokenizer.decode(tokens) == text
        assert tokenizer.to_bytes(tokens.tolist()) == text.encode()


@given(FAMILIAR | ANY_TEXT, st.lists(st.integers(0, 60), max_size=4))
@settings(max_examples=200)
def test_counts_are_exact_wherever_a_text_is_cut(text: str, cuts: list[int]):
    for tokenizer in (STREAM, LINES, ByteTokenizer(), CharTokenizer.from_text(text)):
        tokens = tokenizer.encode(text)
        places = sorted(min(cut, len(tokens)) for cut in cuts)
        parts = np.split(tokens, places)
        counts = [np.bincount(part, minlength=tokenizer.vocab_size) for part in parts]
        sizes = [text_size(tokenizer, count) for count in counts]
        assert sum(size.tokens for size in sizes) == len(tokens)
        assert sum(size.characters for size in sizes) == len(text)
        assert sum(size.bytes for size in sizes) == len(text.encode())
        for part, size in zip(parts, sizes, strict=True):
            raw = tokenizer.to_bytes(part)
            assert size.bytes == len(raw)
            # A count by another rule: continuation bytes are 0x80 to 0xBF.
            assert size.characters == len([byte for byte in raw if not 0x80 <= byte <= 0xBF])


@given(FAMILIAR | ANY_TEXT, st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_losses_of_characters_and_lines_add_up_to_those_of_tokens(text: str, random: Any):
    tokens = STREAM.encode(text)
    losses_N = np.array([random.random() for _ in tokens])
    shown, losses_C = characters(STREAM, tokens, losses_N)
    assert shown == text
    assert losses_C.shape == (len(text),)
    np.testing.assert_allclose(losses_C.sum(), losses_N.sum())
    lines = list(by_line(text, losses_C))
    np.testing.assert_allclose(sum(line["total"] for line in lines), losses_N.sum())
    assert sum(line["bytes"] for line in lines) == len(text.encode())
    assert len(list(by_character(text, losses_C))) == len(text)


def test_the_letters_of_bytes_are_those_of_the_library():
    assert set(byte_letters()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_letters().values()) == list(range(256))
    assert (byte_letters()["Ġ"], byte_letters()["Ċ"]) == (32, 10)


def test_a_boundary_is_token_0_and_is_the_newline():
    assert LINES.encode("\n").tolist() == [0]
    assert LINES.decode([0]) == "\n"
    tokens = LINES.encode("\nthe cats\nof\n")
    assert np.flatnonzero(tokens == 0).tolist() == [0, 3, 5]
    assert LINES.encode("the cats").tolist() == tokens[1:3].tolist()
    # Numbers other than the two that are exchanged are those of the file.
    library = tokenizers.Tokenizer.from_str(LINES.json)
    assert library.encode("the cats").ids == tokens[1:3].tolist()
    first = library.id_to_token(0)
    assert LINES.encode(first).tolist() == [library.token_to_id("Ċ")]


def test_a_long_text_is_encoded_as_the_library_encodes_it(monkeypatch: pytest.MonkeyPatch):
    from charjax.data import subwords

    text = "".join(np.random.default_rng(0).choice(list("the cats. ,\n\t'12日é"), 4000))
    whole = tokenizers.Tokenizer.from_str(STREAM.json).encode(text).ids
    monkeypatch.setattr(subwords, "_PIECE", 50)
    pieces = list(cut_text(text))
    assert len(pieces) > 20
    assert "".join(pieces) == text
    assert STREAM.encode(text).tolist() == whole


def test_special_tokens_are_never_read_from_a_text(gpt2_form: Path):
    tokenizer = read_tokenizer(str(gpt2_form), boundary=False)
    library = tokenizers.Tokenizer.from_file(str(gpt2_form))
    end = library.token_to_id("<|endoftext|>")
    assert end in library.encode("the<|endoftext|>cats").ids
    tokens = tokenizer.encode("the<|endoftext|>cats")
    assert end not in tokens.tolist()
    assert tokenizer.decode(tokens) == "the<|endoftext|>cats"
    # One that a model generates is shown.
    assert tokenizer.decode([end]) == "<|endoftext|>"
    assert tokenizer.vocab_size == end + 1


@pytest.fixture
def gpt2_form(tmp_path: Path) -> Path:
    """Write a tiny tokenizer.json of GPT-2's form: byte-level, with a special token."""
    tree = json.loads(STREAM.json)
    library = tokenizers.Tokenizer.from_str(json.dumps(tree))
    library.add_special_tokens(["<|endoftext|>"])
    library.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    path = tmp_path / "gpt2.json"
    library.save(str(path))
    return path


def test_training_again_gives_the_same_tokens():
    code = (
        "import sys; from charjax.data.subwords import train_bpe; "
        "sys.stdout.write(train_bpe(sys.stdin.read(), 320, boundary=False).digest())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], input=TEXT, capture_output=True, text=True, encoding="utf-8"
    )
    assert ended.stdout == STREAM.digest()
    assert tokenizer_from_json(json.loads(json.dumps(STREAM.to_json()))) == STREAM
    assert STREAM.digest() != LINES.digest()


@pytest.mark.parametrize(("size", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_the_dtype_follows_the_vocabulary(size: int, dtype: Any):
    assert train_bpe(TEXT, size, boundary=False).encode("cats").dtype == dtype


def test_numbers_above_65535_are_uint32():
    tree = json.loads(STREAM.json)
    last = tree["model"]["merges"][-1]
    token = "".join(last) if isinstance(last, list) else last.replace(" ", "")
    tree["model"]["vocab"][token] = 70_000
    tokenizer = BpeTokenizer(json.dumps(tree))
    assert tokenizer.vocab_size == 70_001
    text = token_bytes(json.dumps(tree))[70_000].decode()
    assert tokenizer.encode(text).tolist() == [70_000]
    assert tokenizer.encode(text).dtype == np.uint32


def change(tree: dict[str, Any], **model: Any) -> dict[str, Any]:
    return tree | {"model": tree["model"] | model}


UNSUPPORTED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another model": (lambda t: change(t, type="WordPiece"), "its model is WordPiece"),
    "no bytes": (lambda t: t | {"pre_tokenizer": {"type": "Whitespace"}}, "is not byte-level"),
    "nothing before": (lambda t: t | {"pre_tokenizer": None}, "is not byte-level"),
    "a space": (
        lambda t: t | {"pre_tokenizer": t["pre_tokenizer"] | {"add_prefix_space": True}},
        "puts a space before",
    ),
    "dropout": (lambda t: change(t, dropout=0.1), "at random (dropout)"),
    "suffix": (lambda t: change(t, end_of_word_suffix="</w>"), "(end_of_word_suffix)"),
    "letters": (lambda t: change(t, vocab=t["model"]["vocab"] | {"日": 400}), "byte letters"),
    "numbers": (lambda t: change(t, vocab={"a": 1 << 40}), "not numbered from 0"),
    "no vocabulary": (lambda t: change(t, vocab=None), "not written as"),
    "a list": (lambda t: [t], "not written as"),
    "library": (lambda t: change(t, merges=[["x", "日"]]), "the library cannot read it"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_files_are_refused_in_one_line(name: str, tmp_path: Path):
    spoil, message = UNSUPPORTED[name]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(spoil(json.loads(STREAM.json))))
    with pytest.raises(UserError) as error:
        read_tokenizer(str(path), boundary=False)
    assert message in str(error.value)
    assert str(error.value).startswith(f"data.tokenizer: {str(path)!r} is not supported: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read (No such file"), (b"\xff", "is not UTF-8"), (b"{", "not written as")],
)
def test_files_that_are_none(content: bytes | None, message: str, tmp_path: Path):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_tokenizer(str(tmp_path / "tokenizer.json"), boundary=False)
    assert message in str(error.value)


def test_a_normalizer_that_loses_is_found_on_the_text(tmp_path: Path):
    tree = json.loads(STREAM.json) | {"normalizer": {"type": "Lowercase"}}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tree))
    tokenizer = read_tokenizer(str(path), boundary=False)
    assert tokenizer.decode(tokenizer.encode("the cats")) == "the cats"
    (tmp_path / "text.txt").write_text("the cats " * 20 + "The cats")
    config = DataConfig(path=str(tmp_path / "text.txt"), tokenizer=str(path))
    with pytest.raises(UserError, match="do not give the text back: 'The cats' becomes 'the cats'"):
        load_dataset(config)


def test_a_byte_without_a_token_is_found_on_the_text():
    tree = json.loads(STREAM.json)
    tree["model"] |= {"vocab": {"t": 0, "h": 1, "e": 2}, "merges": []}
    tokenizer = BpeTokenizer(json.dumps(tree))
    assert tokenizer.encode("the").tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="do not give the text back: 'x' becomes ''"):
        tokenizer.encode("thex")
    with pytest.raises(UnsupportedError, match="no token for the newline"):
        BpeTokenizer(tokenizer.json, boundary=True).encode("the")


def test_what_is_no_unicode_is_refused():
    with pytest.raises(UserError, match=r"U\+DCFF at character 2"):
        STREAM.encode("a\udcff")


def test_without_the_library_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for use in (
        lambda: train_bpe(TEXT, 300, boundary=False),
        lambda: BpeTokenizer(STREAM.json).encode(""),
    ):
        with pytest.raises(UserError, match=r'pip install "charjax\[bpe\]"'):
            use()


# Datasets.


def dataset(tmp_path: Path, text: str = TEXT, **settings: Any) -> Any:
    (tmp_path / "text.txt").write_text(text)
    chosen = {"tokenizer": "bpe", "vocab_size": 320, **settings}
    return load_dataset(DataConfig.model_validate({"path": str(tmp_path / "text.txt"), **chosen}))


def test_a_stream_is_split_at_the_same_characters(tmp_path: Path):
    subwords, plain = dataset(tmp_path), dataset(tmp_path, tokenizer="char")
    cut = int(0.9 * len(TEXT))
    for name, part in (("train", TEXT[:cut]), ("val", TEXT[cut:])):
        split = subwords.splits[name]
        assert subwords.tokenizer.decode(split.tokens) == part
        assert plain.tokenizer.decode(plain.splits[name].tokens) == part
        first = len(subwords.tokenizer.decode(split.tokens[:1]))
        assert split.size == (len(split.tokens) - 1, len(part) - first, len(part[first:].encode()))
        one = len(part[:1].encode())
        assert plain.splits[name].size == (len(part) - 1, len(part) - 1, len(part.encode()) - one)
    # Of the training part alone.
    assert subwords.tokenizer == train_bpe(TEXT[:cut], 320, boundary=False)


@pytest.mark.parametrize("layout", ["lines", "pairs"])
def test_lines_are_documents_of_subwords(tmp_path: Path, layout: str):
    settings = {"layout": layout, "split": "shuffled_lines"}
    subwords, plain = (dataset(tmp_path, tokenizer=t, **settings) for t in ("bpe", "char"))
    for name, split in subwords.splits.items():
        other = plain.splits[name]
        assert subwords.tokenizer.decode(split.tokens) == plain.tokenizer.decode(other.tokens)
        assert len(split.doc_lengths) == len(other.doc_lengths)
        assert split.size[1:] == other.size[1:]
        assert split.num_targets < other.num_targets


def test_a_short_text_gives_fewer_tokens_and_a_note(tmp_path: Path):
    small = dataset(tmp_path, "ab" * 30, vocab_size=1000)
    assert small.tokenizer.vocab_size < 300
    assert small.notes[-1].startswith("data.vocab_size: 1,000 given, but the training part gives")


def test_interleaved_rows_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="equally many characters, which subword tokens are not"):
        dataset(tmp_path, split="interleaved")
    assert load_config(None, ["data.name=warpeace", "data.tokenizer=bpe"]).data.split == "tail"


def test_a_text_of_one_token_is_too_short(tmp_path: Path):
    with pytest.raises(UserError, match="has 1 tokens, and at least 2 are needed"):
        dataset(tmp_path, "the", val_fraction=0.0, vocab_size=300, tokenizer=_saved(tmp_path))


def _saved(tmp_path: Path) -> str:
    (tmp_path / "tokenizer.json").write_text(STREAM.json)
    return str(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("value", ["tokenizer", "BPE", 3, ""])
def test_other_words_for_a_tokenizer(value: Any):
    with pytest.raises(ValueError, match="must be one of char, byte, bpe, or the path of a token"):
        DataConfig.model_validate({"tokenizer": value})
