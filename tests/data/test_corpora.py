import hashlib
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from charjax.config import DataConfig
from charjax.data import corpora
from charjax.data.corpora import Corpus, load_corpus
from charjax.errors import UserError


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
        (b"abc\x00def", "zero byte at offset 3.*data.tokenizer=byte"),
        (b"caf\xe9 au lait", "not UTF-8: byte 0xE9 at offset 3.*data.tokenizer=byte"),
        (b"\xef\xbb\xbfab\xff", "byte 0xFF at offset 5"),
    ],
)
def test_files_that_are_no_text(file: Path, content: bytes, message: str):
    with pytest.raises(UserError, match=f"data.path: .*{message}") as error:
        read(file, content)
    assert "\n" not in str(error.value)


def test_an_empty_file_has_no_bytes_either(file: Path):
    with pytest.raises(UserError, match="is empty"):
        read(file, b"", tokenizer="byte")


def test_paths_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"data.path: .*missing.txt' does not exist"):
        load_corpus(DataConfig(path=str(tmp_path / "missing.txt")))
    with pytest.raises(UserError, match=r"data.path: .* is a directory"):
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
    kept = {
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
    for name, content in (kept | left_out).items():
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
