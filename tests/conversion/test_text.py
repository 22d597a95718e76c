"""The alphabet and the text of an import: asked for, given, or in another program's reading."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from charjax.data.tokenizers import ByteTokenizer, CharTokenizer
from charjax.run.load import find_run, load_run
from tests.commands import Result, run

# With a byte order mark in the file, as some editors write, and blanks after a name.
POEM = "o my luve's like a red, red rose\nthat's newly sprung in june;\n" * 9
NAMES = "emma \nolivia\nava\nisabella\nsophia\nmia\n" * 5


@pytest.fixture
def table(tmp_path: Path):
    """Return a function that writes a bigram's table of V symbols."""

    def write(vocab_size: int) -> Path:
        path = tmp_path / f"{vocab_size}.safetensors"
        logits = np.random.default_rng(0).normal(size=(vocab_size, vocab_size))
        save_file({"logits": logits.astype(np.float32)}, path)
        return path

    return write


def bring(path: Path, *words: object) -> Result:
    return run("interop", "import", path, *words, "--workdir", path.with_name("run"))


def refused(path: Path, *words: object) -> str:
    done = bring(path, *words)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1), done
    assert not path.with_name("run").exists()
    return done.err


def test_what_the_symbols_are_is_asked(table):
    message = refused(table(20))
    assert (
        "alphabet: the file does not say what its 20 symbols stand for; give --alphabet" in message
    )
    assert "data.path=... or data.name=..." in message
    assert "does not say what" in refused(table(20), "data.layout=lines")


@pytest.mark.slow
def test_with_an_alphabet_and_no_text(table, tmp_path: Path):
    (tmp_path / "symbols.txt").write_text("\nzyx")
    done = bring(table(4), "--alphabet", tmp_path / "symbols.txt")
    assert (done.status, done.err) == (0, "")
    assert "symbols are in the order of symbols.txt" in done.out
    directory = tmp_path / "run"
    assert load_run(find_run(directory)).tokenizer == CharTokenizer("\nzyx")
    assert run("sample", directory, "--max-new-tokens", 20).status == 0
    (tmp_path / "other.txt").write_text("xyzzy\nzyx\n")
    assert run("evaluate", directory, "--text", tmp_path / "other.txt").status == 0
    for words in (
        ["evaluate", directory],
        ["evaluate", directory, "--split", "train"],
        ["train", "--resume", "--workdir", directory, "train.steps=1"],
    ):
        done = run(*words)
        assert (done.status, done.err.count("\n")) == (2, 1), done
        assert "imported with an alphabet and without a text" in done.err
    # What it can go on with is a text of its symbols.
    words = [f"data.path={tmp_path / 'other.txt'}", "train.steps=1", "train.batch_size=2"]
    words += ["model.kind=bigram", "model.context_length=2", "data.val_fraction=0"]
    done = run("train", "--init-from", directory, *words, "--workdir", tmp_path / "tuned")
    assert done.status == 0, done.err


def test_with_an_alphabet_and_a_text(table, tmp_path: Path):
    (tmp_path / "symbols.txt").write_text("\nzyx")
    (tmp_path / "text.txt").write_text("xyz\nzyx\n" * 9)
    words = ["--alphabet", tmp_path / "symbols.txt", f"data.path={tmp_path / 'text.txt'}"]
    done = bring(table(4), *words)
    assert (done.status, done.err) == (0, "")
    assert load_run(find_run(tmp_path / "run")).tokenizer == CharTokenizer("\nzyx")
    assert run("evaluate", tmp_path / "run").status == 0
    (tmp_path / "text.txt").write_text("abc\n" * 9)
    words += ["--workdir", tmp_path / "other"]
    done = run("interop", "import", table(4), *words)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "'a'" in done.err


def test_bytes_need_no_alphabet(table, tmp_path: Path):
    done = bring(table(256), "data.tokenizer=byte")
    assert (done.status, done.err) == (0, "")
    assert "symbols are bytes" in done.out
    assert load_run(find_run(tmp_path / "run")).tokenizer == ByteTokenizer()


def test_bytes_are_256(table):
    assert "has 256 symbols, but the tensors have a vocabulary of 20" in refused(
        table(20), "data.tokenizer=byte"
    )


def test_an_alphabet_of_the_other_unit(table, tmp_path: Path):
    (tmp_path / "symbols.txt").write_text("abcd")
    words = ["--alphabet", tmp_path / "symbols.txt", "data.tokenizer=byte"]
    assert "the alphabet is of chars; give data.tokenizer=char" in refused(table(4), *words)


def test_nanogpts_byte_order_mark(table, tmp_path: Path):
    """A text file as Python's open() reads it has the mark as a character."""
    (tmp_path / "poem.txt").write_text(POEM, encoding="utf-8-sig")
    count, words = len(set(POEM)) + 1, [f"data.path={tmp_path / 'poem.txt'}"]
    assert "which nanoGPT keeps, it has as many: add data.byte_order_mark=keep" in refused(
        table(count), *words
    )
    done = bring(table(count), *words, "data.byte_order_mark=keep")
    assert (done.status, done.err) == (0, "")
    loaded = load_run(find_run(tmp_path / "run"))
    assert loaded.tokenizer == CharTokenizer("".join(sorted({*POEM, "\ufeff"})))
    # The setting is the run's: its text is read in this way again.
    assert run("evaluate", tmp_path / "run", "--split", "train").status == 0


def test_makemores_stripped_blanks(table, tmp_path: Path):
    (tmp_path / "names.txt").write_text(NAMES)
    count = len(set(NAMES)) - 1
    words = [f"data.path={tmp_path / 'names.txt'}", "data.layout=lines"]
    message = refused(table(count), *words)
    assert "which makemore strips, it has as many: add data.strip_lines=true" in message
    done = bring(table(count), *words, "data.strip_lines=true")
    assert (done.status, done.err) == (0, "")
    tokenizer = load_run(find_run(tmp_path / "run")).tokenizer
    assert tokenizer == CharTokenizer("".join(sorted(set(NAMES) - {" "})), boundary=True)
    assert run("evaluate", tmp_path / "run").status == 0
