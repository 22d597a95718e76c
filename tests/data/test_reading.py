"""A run's reading rules, applied to later texts and prompts."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax.config import DataConfig
from charjax.data.datasets import load_dataset, load_other_text, run_rules
from charjax.data.reading import BYTES, BYTES_TO_LF, LATIN_1, UTF_8, ReadingRules, read_prompt
from charjax.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from charjax.errors import UserError

CHARACTERS, BINARY = CharTokenizer("\nabc"), ByteTokenizer()


@pytest.mark.parametrize(
    ("config", "tokenizer", "rules"),
    [
        ({}, CHARACTERS, UTF_8),
        ({"name": "shakespeare"}, CHARACTERS, UTF_8),
        ({"name": "names"}, CHARACTERS, UTF_8),
        ({"name": "warpeace"}, CHARACTERS, LATIN_1),
        ({"path": "a.txt"}, CHARACTERS, UTF_8),
        # A path beats a name.
        ({"path": "a.txt", "name": "warpeace"}, CHARACTERS, UTF_8),
        ({"path": "a.txt", "tokenizer": "byte"}, BINARY, BYTES),
        ({"name": "warpeace", "tokenizer": "byte"}, BINARY, BYTES),
        ({"tokenizer": "byte"}, BINARY, BYTES_TO_LF),
        # A run that was fine-tuned has the tokenizer of the first.
        ({"path": "a.txt"}, BINARY, BYTES),
        ({"path": "a.txt", "tokenizer": "byte"}, CHARACTERS, UTF_8),
    ],
)
def test_the_rules_follow_from_a_saved_run(config: Any, tokenizer: Tokenizer, rules: ReadingRules):
    assert run_rules(DataConfig(**config), tokenizer) == rules


ENDS = "2 line ends were CRLF and were converted to LF"
MARK = "the byte order mark at the start of the text was dropped"
LATIN = "the prompt was read as latin-1, as the run's text was"
# An alphabet as that of War and Peace: the bytes of its UTF-8.
MANGLED = CharTokenizer("\n\rabcÃ©")


@pytest.mark.parametrize(
    ("prompt", "rules", "tokenizer", "expected", "notes"),
    [
        ("\ufeffa\r\nb\r\n", UTF_8, CHARACTERS, "a\nb\n", (MARK, ENDS)),
        (b"\xef\xbb\xbfa\r\nb\r\n", UTF_8, CHARACTERS, "a\nb\n", (MARK, ENDS)),
        ("a\rb", UTF_8, CHARACTERS, "a\rb", ()),
        ("", UTF_8, CHARACTERS, "", ()),
        ("a\r\n", LATIN_1, MANGLED, "a\r\n", ()),
        ("aé", LATIN_1, MANGLED, "aÃ©", (LATIN,)),
        ("aé".encode(), LATIN_1, MANGLED, "aÃ©", ()),
        # Pasted from a sample; and what is not known in either reading.
        ("aÃ©", LATIN_1, MANGLED, "aÃ©", ()),
        ("a漢", LATIN_1, MANGLED, "a漢", ()),
        ("é\r\n", BYTES, BINARY, "é\r\n", ()),
        (b"\xef\xbb\xbf\xff\r\n", BYTES, BINARY, "\ufeff\udcff\r\n", ()),
        ("a\r\n\r\n", BYTES_TO_LF, BINARY, "a\n\n", (ENDS,)),
    ],
)
def test_prompts(
    prompt: str | bytes,
    rules: ReadingRules,
    tokenizer: Tokenizer,
    expected: str,
    notes: tuple[str, ...],
):
    assert read_prompt(prompt, rules, tokenizer, "--prompt") == (expected, notes)


def test_a_prompt_file_that_is_not_utf8():
    with pytest.raises(UserError, match=r"^--prompt-file: 'x' is not UTF-8: .* offset 2"):
        read_prompt(b"ab\xff", UTF_8, CHARACTERS, "--prompt-file: 'x'")


@given(st.binary(min_size=2, max_size=60))
@settings(max_examples=60, deadline=None)
def test_bytes_come_through_as_they_are(tmp_path_factory: Any, raw: bytes):
    path = tmp_path_factory.mktemp("bytes") / "text"
    path.write_bytes(raw)
    config = DataConfig(path="a.txt", tokenizer="byte")
    other = load_other_text(str(path), config, BINARY, field="--text")
    assert other.split.tokens.tobytes() == raw
    prompt, _ = read_prompt(raw, BYTES, BINARY, "--prompt-file")
    assert BINARY.encode(prompt).tobytes() == raw


@given(
    st.text("ab\r\n\ufeff é", min_size=1, max_size=40).map(lambda text: f"ab{text}"),
    st.sampled_from(["char", "byte"]),
    st.sampled_from(["stream", "lines"]),
)
@settings(max_examples=80, deadline=None)
def test_a_runs_own_file_is_read_as_it_was_for_training(
    tmp_path_factory: Any, text: str, tokenizer: str, layout: str
):
    path = tmp_path_factory.mktemp("original") / "text"
    path.write_bytes(text.encode())
    values = {"path": str(path), "tokenizer": tokenizer, "layout": layout, "val_fraction": 0.0}
    config = DataConfig.model_validate(values | ({"split": "tail"} if layout == "lines" else {}))
    original = load_dataset(config)
    other = load_other_text(str(path), config, original.tokenizer, field="--text")
    train = original.splits["train"]
    assert (other.split.tokens == train.tokens).all()
    assert (other.split.doc_starts == train.doc_starts).all()
    assert (other.split.doc_lengths == train.doc_lengths).all()


@given(st.text("ab é\n\u2003漢", min_size=1, max_size=60), st.booleans())
@settings(max_examples=80, deadline=None)
def test_unseen_characters_are_left_out_as_if_they_were_not_there(
    tmp_path_factory: Any, text: str, lines: bool
):
    folder = tmp_path_factory.mktemp("unseen")
    tokenizer = CharTokenizer("\nab", boundary=lines)
    config = DataConfig(path="a.txt", layout="lines" if lines else "stream")
    # Never too short.
    text = f"ab\n{text}"
    (folder / "text").write_text(text)
    (folder / "known").write_text("".join(char for char in text if char in "\nab"))

    def load(name: str, unseen: Any) -> Any:
        return load_other_text(str(folder / name), config, tokenizer, field="--text", unseen=unseen)

    skipped, plain = load("text", "skip"), load("known", "error")
    assert (skipped.split.tokens == plain.split.tokens).all()
    assert (skipped.split.doc_lengths == plain.split.doc_lengths).all()
    rows = [row for row in text.split("\n") if row.strip()] if lines else [text]
    assert skipped.unseen == sum(char not in "\nab" for row in rows for char in row)
    if skipped.unseen:
        with pytest.raises(UserError, match=r"^--text: the character .*--unseen skip$"):
            load("text", "error")


def test_a_text_of_unseen_characters_alone(tmp_path: Path):
    (tmp_path / "text").write_text("漢字")
    with pytest.raises(UserError, match=r"^--text: none of the 2 characters of"):
        load_other_text(
            str(tmp_path / "text"), DataConfig(), CHARACTERS, field="--text", unseen="skip"
        )
