import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charjax.config import DataConfig
from charjax.data.datasets import Dataset, load_dataset, run_rules
from charjax.data.splits import Split
from charjax.data.tokenizers import ByteTokenizer, CharTokenizer
from charjax.errors import UserError

Load = Callable[..., Dataset]


def documents(dataset: Dataset, name: str) -> list[str]:
    """Return every document of a split, including its last target."""
    split = dataset.splits[name]
    return [
        dataset.tokenizer.decode(split.tokens[start : start + length + 1])
        for start, length in zip(split.doc_starts, split.doc_lengths, strict=True)
    ]


def targets(dataset: Dataset) -> dict[str, int]:
    return {name: split.num_targets for name, split in dataset.splits.items()}


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str | bytes, alphabet: Any = None, **settings: Any) -> Dataset:
        path = tmp_path / "text.txt"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_dataset(DataConfig(path=str(path), **settings), alphabet)

    return load


def test_shakespeare_is_cut_as_nanogpt_cuts_it(published: Load):
    dataset = published("shakespeare")
    assert dataset.tokenizer.vocab_size == 65
    train, val = dataset.splits["train"], dataset.splits["val"]
    assert (len(train.tokens), len(val.tokens)) == (1_003_854, 111_540)
    assert (train.num_targets, val.num_targets) == (1_003_853, 111_539)
    assert list(dataset.splits) == ["train", "val"]
    assert documents(dataset, "train")[0].startswith("First Citizen:")
    assert documents(dataset, "val")[0].endswith("Whiles thou art waking.\n")


def test_names_are_cut_as_in_the_lectures(names: Dataset):
    assert names.tokenizer.vocab_size == 27
    assert names.tokenizer.boundary
    assert [len(split.doc_starts) for split in names.splits.values()] == [25_626, 3_203, 3_204]
    assert targets(names) == {"train": 182_625, "val": 22_655, "test": 22_866}
    assert names.longest_line == 16
    words = [word.strip("\n") for name in names.splits for word in documents(names, name)]
    expected = sorted(set(words))
    assert len(words) == 32_033
    assert "emma" in expected


def test_names_are_shuffled_as_in_the_lectures(load: Load):
    words = [f"name{number}" for number in range(100)]
    dataset = load("\n".join(words), split="shuffled_lines")
    # The lines of the makemore lectures' notebooks.
    random.seed(42)
    random.shuffle(words)
    n1, n2 = int(0.8 * len(words)), int(0.9 * len(words))
    for name, part in (("train", words[:n1]), ("val", words[n1:n2]), ("test", words[n2:])):
        assert documents(dataset, name) == [f"\n{word}\n" for word in part]


def test_all_names_at_once(published: Load):
    dataset = published("names", layout="pairs", val_fraction=0.0)
    assert targets(dataset) == {"train": 228_146}


def test_names_as_pairs_are_the_same_documents(names: Dataset, published: Load):
    pairs = published("names", layout="pairs")
    for name, split in names.splits.items():
        assert (pairs.splits[name].tokens == split.tokens).all()


def test_names_as_bytes(names: Dataset, published: Load):
    dataset = published("names", tokenizer="byte")
    assert dataset.tokenizer == ByteTokenizer(boundary=True)
    assert targets(dataset) == targets(names)
    assert documents(dataset, "val") == documents(names, "val")


def test_warpeace_is_cut_as_char_rnn_cut_it(published: Load):
    dataset = published("warpeace")
    assert dataset.tokenizer.vocab_size == 87
    assert [len(split.doc_starts) for split in dataset.splits.values()] == [100, 100, 100]
    assert targets(dataset) == {"train": 2_600_000, "val": 320_000, "test": 330_000}
    assert "the last 8,246 characters" in dataset.notes[-1]


@pytest.mark.parametrize("length", [60, 61, 65])
def test_interleaved_rows_and_columns(load: Load, length: int):
    text = "".join(map(chr, range(48, 48 + length)))
    dataset = load(text, split="interleaved", rows=2, chunk=3, val_fraction=0.2)
    # Ten chunks of three columns: six to train, two to val, two to test.
    assert documents(dataset, "train") == [text[0:19], text[30:49]]
    assert documents(dataset, "val") == [text[18:25], text[48:55]]
    after = text[60] if length > 60 else text[0]
    assert documents(dataset, "test") == [text[24:31], text[54:60] + after]
    assert (len(dataset.notes) == 0) == (length == 60)


def test_interleaved_needs_enough_text(load: Load):
    with pytest.raises(UserError, match=r"data.split: interleaved given.* 3 chunks of 2 x 3"):
        load("abcdefghijklmnopqrst", split="interleaved", rows=2, chunk=3)


def test_tail(load: Load):
    dataset = load("abcdefghij", val_fraction=0.3)
    assert documents(dataset, "train") == ["abcdefg"]
    assert documents(dataset, "val") == ["hij"]
    assert targets(dataset) == {"train": 6, "val": 2}
    assert dataset.splits["val"].name == "val"


@pytest.mark.parametrize("split", ["tail", "interleaved", "shuffled_lines"])
def test_nothing_held_out(load: Load, split: str):
    dataset = load("ab\ncd\n", split=split, val_fraction=0.0)
    assert list(dataset.splits) == ["train"]
    assert targets(dataset) == {"train": 6 if split == "shuffled_lines" else 5}


def test_lines_in_their_order(load: Load):
    items = [f"{number:04b}" for number in range(10)]
    dataset = load("\n".join(items), layout="lines", split="tail", val_fraction=0.2)
    assert documents(dataset, "train") == [f"\n{item}\n" for item in items[:8]]
    assert documents(dataset, "val") == [f"\n{item}\n" for item in items[8:]]
    assert dataset.tokenizer == CharTokenizer("\n01", boundary=True)


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_blank_lines_are_dropped_and_said_so(load: Load, tokenizer: str):
    text = "one\n\n  \ntwo\n\nthree\n"
    dataset = load(text, layout="lines", split="tail", val_fraction=0.0, tokenizer=tokenizer)
    assert documents(dataset, "train") == ["\none\n", "\ntwo\n", "\nthree\n"]
    assert dataset.notes == ("3 blank lines were dropped",)


def test_long_and_equal_lines(load: Load):
    dataset = load("a\n" * 10 + "b" * 5000 + "\n" + "a\n" * 9, layout="lines", val_fraction=0.1)
    assert dataset.longest_line == 5001
    assert sum(targets(dataset).values()) == 19 * 2 + 5001


def test_line_separators_of_unicode_are_characters(load: Load):
    dataset = load("a\u2028b\x0bc\nd\n", layout="lines", split="tail", val_fraction=0.0)
    assert documents(dataset, "train") == ["\na\u2028b\x0bc\n", "\nd\n"]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("a", {}, "data.path: the text is too short.*train part has 0 characters"),
        ("abc", {}, "data.path: the text is too short.*val part has 1 characters"),
        ("a", {"val_fraction": 0.0}, "data.path: the text is too short: it has 1 char"),
        ("one", {"layout": "lines"}, "the text is one line, of 3 .*use data.layout=stream$"),
        ("one", {"layout": "pairs", "split": "shuffled_lines"}, "use data.split=tail$"),
        ("a\rb\rc", {"layout": "lines"}, "is one line.*make its line ends LF"),
        ("a\nb\nc", {"layout": "lines"}, "leaves none for val"),
        ("a\nb", {"layout": "lines", "split": "tail", "val_fraction": 1e-18}, "none for val"),
        ("\n\n", {"layout": "lines"}, "data.path: every line of the text is blank"),
    ],
)
def test_texts_that_are_too_short(load: Load, text: str, settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        load(text, **settings)


def test_lines_that_are_held_out_and_trained_on_are_counted(load: Load):
    lines = [f"name{number % 80}" for number in range(100)]
    dataset = load("\n".join(lines), layout="lines")
    parts = {name: documents(dataset, name) for name in dataset.splits}
    repeated = [
        sum(item in parts["train"] for item in parts["val"]),
        sum(item in parts["train"] for item in parts["test"]),
    ]
    assert min(repeated) > 0
    note = f"{repeated[0]} of 10 val lines and {repeated[1]} of 10 test lines also occur in"
    assert dataset.notes == (f"{note} the train part",)
    assert load("\n".join(lines), tokenizer="byte", layout="lines").notes == dataset.notes
    assert load("\n".join(dict.fromkeys(lines)), layout="lines").notes == ()
    tail = load("a\nb\nc\na\n", layout="lines", split="tail", val_fraction=0.4)
    assert tail.notes == ("1 of 2 val lines also occur in the train part",)


def test_names_repeat_themselves(names: Dataset):
    note = "424 of 3,203 val lines and 377 of 3,204 test lines also occur in the train part"
    assert names.notes == (note,)


def test_the_99th_percentile_of_the_lines(load: Load):
    # Of few lines the longest is above it, too.
    text = "ab\n" * 20 + "c" * 500 + "\n"
    dataset = load(text, layout="lines", val_fraction=0.0)
    assert (dataset.longest_line, dataset.long_line) == (501, 3)
    text = "".join("a" * (number + 1) + "\n" for number in range(101))
    dataset = load(text, layout="lines")
    assert (dataset.longest_line, dataset.long_line) == (102, 101)


def test_another_runs_alphabet(load: Load):
    tokenizer = CharTokenizer("abcdef")
    dataset = load("fade", tokenizer, val_fraction=0.0)
    assert dataset.tokenizer == tokenizer
    assert dataset.splits["train"].tokens.tolist() == [5, 0, 3, 4]
    with pytest.raises(UserError, match=r"data.path: the character 'x' \(U\+0078\) at line 1, col"):
        load("dax", tokenizer, val_fraction=0.0)


def test_an_unknown_character_is_found_in_the_file_not_in_the_shuffled_lines(load: Load):
    text = " \n\n" + "ab\n" * 50 + "abxb\n" + "ba\n" * 50 + "x\ny\n"
    with pytest.raises(
        UserError,
        match=r"'x' \(U\+0078\) at line 53, column 3 \(found 2 times; 3 unknown in all\)",
    ):
        load(text, CharTokenizer("\nab", boundary=True), layout="lines")
    # A blank line is dropped, whatever it is made of; in a stream it is not.
    with pytest.raises(UserError, match=r"' ' \(U\+0020\) at line 1, column 1 \(found once; 4 unk"):
        load(text, CharTokenizer("\nab"))


def test_another_runs_bytes(load: Load):
    dataset = load(b"\xff\x00\n", ByteTokenizer(), val_fraction=0.0)
    assert dataset.splits["train"].tokens.tolist() == [255, 0, 10]


def test_lines_in_another_runs_alphabet(load: Load):
    settings = {"layout": "lines", "split": "tail", "val_fraction": 0.0}
    dataset = load("ab\nb", CharTokenizer("\nab"), **settings)
    assert dataset.tokenizer == CharTokenizer("\nab", boundary=True)
    assert documents(dataset, "train") == ["\nab\n", "\nb\n"]
    for tokenizer in (CharTokenizer("\t\nab"), ByteTokenizer()):
        with pytest.raises(UserError, match=r"data.layout: .*no newline as its token 0"):
            load("ab\nb", tokenizer, **settings)
    stream = load("ab\nb", dataset.tokenizer, val_fraction=0.0)
    assert stream.tokenizer == CharTokenizer("\nab")


def test_a_byte_order_mark_is_kept_as_nanogpt_keeps_it(load: Load, tmp_path: Path):
    text = "\ufeffa text\r\n"
    dropped = load(text, val_fraction=0.0)
    marked = load(text, val_fraction=0.0, byte_order_mark="keep")
    assert targets(marked)["train"] == targets(dropped)["train"] + 1
    assert marked.tokenizer == CharTokenizer("\n aetx\ufeff")
    # A mark that is meant is not reported as a mistake.
    assert len(marked.notes) == len(dropped.notes) - 1
    # Later texts and prompts are read in the same way.
    config = DataConfig(path="text.txt", byte_order_mark="keep")
    assert not run_rules(config, marked.tokenizer).drop_mark
    assert run_rules(DataConfig(path="text.txt"), marked.tokenizer).drop_mark


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_lines_are_stripped_as_makemore_strips_them(load: Load, tokenizer: str):
    settings = {"layout": "lines", "split": "tail", "val_fraction": 0.0, "tokenizer": tokenizer}
    text = " ab \na b\t\n  \n"
    assert documents(load(text, **settings), "train") == ["\n ab \n", "\na b\t\n"]
    stripped = load(text, **settings, strip_lines=True)
    assert documents(stripped, "train") == ["\nab\n", "\na b\n"]


def test_the_digest_is_that_of_the_file(load: Load):
    first, second = load("some longer text"), load("some longer test")
    assert first.digest != second.digest
    assert first.digest == load("some longer text", layout="pairs").digest


def test_documents_share_their_boundaries(names: Dataset):
    split: Split = names.splits["train"]
    assert len(split.tokens) == split.num_targets + 1
    assert (split.tokens[split.doc_starts] == 0).all()
    assert (split.doc_starts[1:] == (split.doc_starts + split.doc_lengths)[:-1]).all()
    assert split.tokens.dtype == np.uint8
