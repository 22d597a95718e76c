import bz2
import gzip
import hashlib
import lzma
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from charjax.config import DataConfig, load_config
from charjax.data import corpora
from charjax.data.corpora import load_corpus
from charjax.data.texts import Corpus
from charjax.errors import UserError

PROSE = "Plain text, of some length, in several lines.\n" * 20


def read(path: Path, content: bytes, **settings: Any) -> Corpus:
    path.write_bytes(content)
    return load_corpus(DataConfig(path=str(path), **settings))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "text.txt"


def test_a_text_file(file: Path):
    corpus = read(file, "Grüße, 漢字\n".encode())
    assert corpus.text == "Grüße, 漢字\n"
    assert corpus.name == "text.txt"
    assert corpus.digest == hashlib.sha256("Grüße, 漢字\n".encode()).hexdigest()
    assert corpus.notes == ()


def test_a_byte_order_mark_and_crlf_are_removed_and_said_so(file: Path):
    corpus = read(file, b"\xef\xbb\xbfone\r\ntwo\r\n\rthree\n")
    assert corpus.text == "one\ntwo\n\rthree\n"
    mark, ends = corpus.notes
    assert "byte order mark" in mark
    assert "2 line ends were CRLF" in ends


def test_bytes_are_taken_as_they_are(file: Path):
    content = b"\xef\xbb\xbfone\r\n\x00\xff"
    corpus = read(file, content, tokenizer="byte")
    assert corpus.text == content
    assert corpus.notes == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"a\nc\x00d\x00", r"zero byte at offset 3 \(line 2; 2 in all\); remove.*tokenizer=byte"),
        (b"caf\xe9 au lait", "not UTF-8: byte 0xE9 at offset 3.*data.tokenizer=byte"),
        (b"\xef\xbb\xbf\nb\xff", r"byte 0xFF at offset 5 \(line 2\)"),
        (PROSE.encode("utf-16"), "is UTF-16: convert it to UTF-8, or .*=byte .iconv -f UTF-16 -t"),
        (PROSE.encode("utf-16-be"), "is UTF-16BE: convert it to UTF-8"),
        (PROSE.encode("utf-16-le"), "is UTF-16LE: convert it to UTF-8"),
        (PROSE.encode("utf-32"), "is UTF-32: convert it to UTF-8"),
        (
            gzip.compress(PROSE.encode(), mtime=0),
            "is compressed by gzip; decompress it first .gunzip",
        ),
        (bz2.compress(PROSE.encode()), "is compressed by bzip2; decompress it first"),
        (lzma.compress(PROSE.encode()), "is compressed by xz; decompress it first"),
    ],
)
def test_files_that_are_no_text(file: Path, content: bytes, message: str):
    with pytest.raises(UserError, match=f"data.path: .*{message}") as error:
        read(file, content)
    assert "\n" not in str(error.value)


def test_a_mark_within_the_text_stays_and_is_counted(file: Path):
    mark = "\ufeff".encode()
    corpus = read(file, mark + b"one\n" + mark + b"two\n" + mark + b"three\n")
    # Runs that were saved have it in their alphabets.
    assert corpus.text == "one\n\ufefftwo\n\ufeffthree\n"
    dropped, within = corpus.notes
    assert "at the start" in dropped
    assert within.startswith("byte order marks within the text, as in files joined by cat: 2, ")


def test_lines_ended_by_cr_alone_are_noted(file: Path):
    corpus = read(file, b"one\rtwo\rthree\r")
    assert corpus.text == "one\rtwo\rthree\r"
    (note,) = corpus.notes
    assert "no LF and 3 CR" in note
    assert read(file, b"one\rtwo\rthree\r\n").notes == (
        "1 line ends were CRLF and were converted to LF",
    )


def test_compressed_bytes_are_read_with_a_note(file: Path):
    content = gzip.compress(PROSE.encode(), mtime=0)
    corpus = read(file, content, tokenizer="byte")
    assert corpus.text == content
    assert "compressed by gzip" in corpus.notes[0]


def test_a_file_that_is_too_large_is_not_read(file: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path) -> bytes:
        raise AssertionError("it was read")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    file.touch()
    os.truncate(file, 2_000_000_001)
    # Others are streamed.
    with pytest.raises(UserError, match=r"data.path: .* 2,000,000,001 bytes, and at most"):
        load_corpus(DataConfig(path=str(file), tokenizer="bpe"))


WORDS = [f"{a}{b}{c}" for a in "bdklmnst" for b in "aeiou" for c in ("n", "ra", "lo")]
LISTS = {
    "names": WORDS,
    "towns": [f"{a.title()} {b}" for a, b in zip(WORDS, reversed(WORDS), strict=True)],
    "words of five letters": [f"{word}xyz"[:5] for word in WORDS],
    "few": WORDS[:99],
    "indented": [f"    {word}" for word in WORDS],
    "sentences": [f"the {word} sat on a mat" for word in WORDS],
    "paragraphs": [line for word in WORDS for line in (word, "")],
    "wrapped": ["acgt" * 12] * 200,
    "code": ["import a", "", "def f(x):", "    return x", ""] * 50,
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_that_is_read_as_one_text_is_noted(file: Path, kind: str):
    content = "\n".join(LISTS[kind]).encode() + b"\n"
    is_list = kind in ("names", "towns", "words of five letters")
    for settings in ({}, {"tokenizer": "byte"}):
        notes = read(file, content, **settings).notes
        assert ["data.layout=lines" in note for note in notes] == [True] * is_list
    assert read(file, content, layout="lines").notes == ()


def test_an_empty_file_has_no_bytes_either(file: Path):
    with pytest.raises(UserError, match="is empty"):
        read(file, b"", tokenizer="byte")


def test_paths_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"data.path: .*missing.txt' does not exist"):
        load_corpus(DataConfig(path=str(tmp_path / "missing.txt")))
    with pytest.raises(UserError, match=r"data.path: the folder '.*' holds no files"):
        load_corpus(DataConfig(path=str(tmp_path)))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"data.path: .* is not a regular file"):
        load_corpus(DataConfig(path=str(tmp_path / "pipe")))


def test_a_file_that_may_not_be_read(file: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    file.write_text("secret")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"data.path: .* cannot be read \(Permission denied\)"):
        load_corpus(DataConfig(path=str(file)))


def test_the_home_directory_may_be_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.txt").write_text("mine")
    assert load_corpus(DataConfig(path="~/mine.txt")).text == "mine"


def test_stdlib_is_pythons_own_source():
    corpus = load_corpus(DataConfig())
    assert isinstance(corpus.text, str)
    assert corpus.text.isascii()
    assert 5e6 < len(corpus.text) < 20e6
    assert 95 <= len(set(corpus.text)) <= 100
    assert "def namedtuple(typename, field_names" in corpus.text
    assert corpus.digest == hashlib.sha256(corpus.text.encode()).hexdigest()
    assert corpus.digest[:12] in corpus.notes[0]
    # No path of this machine, and nothing that was installed beside the library.
    assert sys.base_prefix == "/usr" or sys.base_prefix not in corpus.text
    assert sysconfig.get_path("stdlib") not in corpus.text
    assert load_corpus(DataConfig()) == corpus
    raw = load_corpus(DataConfig(tokenizer="byte"))
    assert raw.text == corpus.text.encode()
    assert raw.digest == corpus.digest


def test_what_stdlib_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    included = {
        "b.py": b"b = 1\n",
        "a/z.py": b"z = 1",
        "a/crlf.py": b"c = 1\r\n",
        "a.py": b"a = 1\n",
    }
    left_out = {
        "latin.py": "é = 1\n".encode(),
        "empty.py": b"\n",
        "notes.txt": b"text\n",
        "sitecustomize.py": b"s = 1\n",
        "_sysconfigdata__linux_.py": b"p = '/home'\n",
        "config-3.11-x86_64/python-config.py": b"p = '/home'\n",
        "site-packages/module.py": b"m = 1\n",
        "dist-packages/module.py": b"m = 1\n",
        "test/test_a.py": b"t = 1\n",
        "a/tests/test_a.py": b"t = 1\n",
        "idlelib/idle_test/test_a.py": b"t = 1\n",
        "a/__pycache__/c.py": b"c = 1\n",
    }
    for name, content in (included | left_out).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(corpora.sysconfig, "get_path", lambda name: str(tmp_path))
    corpus = load_corpus(DataConfig())
    assert corpus.text == "c = 1\nz = 1\na = 1\nb = 1\n"
    assert "4 modules" in corpus.notes[0]


def test_a_python_without_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpora.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match=r"data.name: 'stdlib' has no source.*data.path"):
        load_corpus(DataConfig())


def test_warpeace_is_read_as_it_is(published: Any):
    published("warpeace")
    corpus = load_corpus(DataConfig(name="warpeace"))
    assert len(corpus.text) == 3_258_246
    assert corpus.text[:4] == "\xef\xbb\xbf\x22"
    assert "\r\n" in corpus.text


def test_reading_a_text_needs_no_jax():
    import subprocess

    code = "import sys, charjax.data.datasets; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", ["shakespeare", "names", "warpeace"])
def test_a_stand_in_has_the_sizes_and_symbols_of_the_published_text(
    name: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = load_config(None, [f"data.name={name}"]).data
    assert corpora.stand_in(config) is None
    published = load_corpus(config)
    monkeypatch.delenv("CHARJAX_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = corpora.stand_in(config)
    assert found is not None
    assert len(found.text) == len(published.text)
    assert len(set(found.text)) == len(set(published.text))
    lines, here = (str(text).split("\n") for text in (published.text, found.text))
    if name == "names":
        assert (len(here), max(map(len, here))) == (len(lines), max(map(len, lines)))
    assert "was not downloaded" in found.notes[0]
    assert corpora.stand_in(config.model_copy(update={"path": "my.txt"})) is None
    assert corpora.stand_in(config.model_copy(update={"name": "stdlib"})) is None
