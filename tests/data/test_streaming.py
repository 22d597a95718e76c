"""Texts that are not read into memory: the same tokens, splits, notes and mistakes as in memory."""

import gzip
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax.config import DataConfig
from charjax.data import blocks, cache_writing, line_table, streaming
from charjax.data.cache_limits import clear, limit, list_entries, set_limit
from charjax.data.datasets import Dataset, load_dataset, load_other_text
from charjax.data.tokenizers import CharTokenizer
from charjax.errors import UserError
from tests.commands import run, tiny


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache, and small blocks."""
    monkeypatch.setenv("CHARJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CHARJAX_STREAM_BYTES", "0")
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 7)
    return tmp_path / "cache" / "texts"


def described(dataset: Dataset) -> list[Any]:
    """Return all of a dataset, as values that can be compared."""
    splits = [
        (
            name,
            split.name,
            split.tokens.dtype,
            split.tokens.tolist(),
            split.doc_starts.dtype,
            split.doc_starts.tolist(),
            split.doc_lengths.dtype,
            split.doc_lengths.tolist(),
            split.size,
        )
        for name, split in dataset.splits.items()
    ]
    return [*(getattr(dataset, name) for name in FIELDS), splits]


FIELDS = ("name", "tokenizer", "digest", "notes", "longest_line", "long_line", "files")


def outcome(streamed: bool, load: Callable[[], Any]) -> Any:
    """Return what a function returns, or the message of its mistake, in memory or streamed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARJAX_STREAM_BYTES", "0" if streamed else "1000000000")
        try:
            return load()
        except UserError as error:
            return str(error)


def assert_alike(config: DataConfig, tokenizer: Any = None) -> Any:
    """Check that a dataset is the same in memory and streamed, and streamed from the cache."""

    def load() -> list[Any]:
        return described(load_dataset(config, tokenizer))

    in_memory = outcome(False, load)
    assert outcome(True, load) == in_memory
    assert outcome(True, load) == in_memory
    return in_memory


# Blocks are cut within characters, line ends and byte order marks.
PIECES = ["a", "b", "ab ", "\n", "\r\n", "\r", "é", "漢", "\U0001f600", "\ufeff", " ", "\t", "\0"]
LAYOUTS: list[dict[str, Any]] = [
    {},
    {"val_fraction": 0.0},
    {"tokenizer": "byte"},
    {"byte_order_mark": "keep", "layout": "pairs"},
    {"layout": "lines"},
    {"layout": "lines", "split": "tail", "strip_lines": True},
    {"layout": "lines", "tokenizer": "byte"},
    {"layout": "pairs", "split": "shuffled_lines", "val_fraction": 0.3},
    {"split": "interleaved", "rows": 2, "chunk": 3, "val_fraction": 0.2},
]
TEXTS = st.lists(st.sampled_from(PIECES), min_size=0, max_size=30).map("".join)
RAW = TEXTS.map(str.encode) | st.lists(
    st.sampled_from([b"a", b"\n", b"\r", b"\xe2", b"\x82", b"\xff", b"\xc3\xa9", b"ab"]),
    max_size=20,
).map(b"".join)


def compare_texts(folder: Path, raws: list[bytes], values: dict[str, Any], size: int) -> None:
    paths = [folder / f"{number}.txt" for number in range(len(raws))]
    for path, raw in zip(paths, raws, strict=True):
        path.write_bytes(raw)
    given_path = str(paths[0]) if len(paths) == 1 else tuple(map(str, paths))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", size)
        patch.setenv("CHARJAX_CACHE", str(folder / "cache"))
        assert_alike(DataConfig.model_validate({"path": given_path, **values}))


@given(
    st.lists(RAW, min_size=1, max_size=3), st.sampled_from(LAYOUTS), st.sampled_from([1, 2, 3, 8])
)
@settings(max_examples=30)
def test_any_text_is_the_same_as_in_memory(tmp_path_factory: Any, raws, values, size):
    compare_texts(tmp_path_factory.mktemp("texts"), raws, values, size)


@pytest.mark.slow
@given(
    st.lists(RAW, min_size=1, max_size=4), st.sampled_from(LAYOUTS), st.sampled_from([1, 2, 3, 8])
)
@settings(max_examples=300)
def test_many_texts_are_the_same_as_in_memory(tmp_path_factory: Any, raws, values, size):
    compare_texts(tmp_path_factory.mktemp("texts"), raws, values, size)


ITEMS = [*"abcdefg", "ab", "a\r", " a", "b ", "é", "", "  "]


@given(st.lists(st.sampled_from(ITEMS), min_size=3, max_size=60), st.sampled_from(LAYOUTS[4:8]))
@settings(max_examples=12)
def test_lists_are_the_same_as_in_memory(tmp_path_factory: Any, items, values):
    compare_texts(tmp_path_factory.mktemp("lists"), ["\n".join(items).encode()], values, 5)


def text_file(tmp_path: Path, raw: bytes | str, name: str = "text.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(raw.encode() if isinstance(raw, str) else raw)
    return path


@pytest.mark.quick("70-values2", "600-values0")
@pytest.mark.parametrize("values", LAYOUTS[4:8])
@pytest.mark.parametrize("many", [70, 600])
def test_lines_of_many_symbols_and_pieces(values, many, tmp_path, monkeypatch):
    monkeypatch.setattr(line_table, "_TOKENS_AT_ONCE", 11)
    monkeypatch.setattr(line_table, "_LINES_AT_ONCE", 5)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 50)
    symbols = [chr(0x4E00 + number) for number in range(many)]
    lines = ["".join(symbols[k % many : k % many + k % 17]) for k in range(0, 3 * many, 7)]
    path = text_file(tmp_path, "\n".join(lines * 2) + "\n" + "x" * 40)
    found = assert_alike(DataConfig(path=str(path), **values))
    assert "also occur in the train part" in str(found)


def test_lines_are_the_same_if_they_are_equal_not_if_their_hashes_are(tmp_path, monkeypatch):
    monkeypatch.setattr(line_table, "_hash_all", lambda values: np.zeros(len(values), np.int64))
    path = text_file(tmp_path, "\n".join(f"name{number % 80}" for number in range(100)))
    assert "of 10 test lines also occur" in str(
        assert_alike(DataConfig(path=str(path), **LAYOUTS[4]))
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"a\n\xff" + b"b\n" * 20 + b"\xfe" + b"c" * 20,
        b"a\n\0" + b"b\n" * 20 + b"\0" + b"c" * 20,
        b"a\n\xff" + b"b\n" * 20 + b"\0" + b"c" * 20 + b"\0",
        "text\n".encode("utf-16") * 9,
        "text\n".encode("utf-16-be") * 9,
        b"PK\x03\x04" + b"b" * 20,
    ],
)
def test_the_first_mistake_of_a_file(raw, tmp_path):
    (tmp_path / "folder").mkdir()
    path = text_file(tmp_path / "folder", raw)
    assert "data.path: " in assert_alike(DataConfig(path=str(path)))
    assert "out of the folder" in assert_alike(DataConfig(path=str(path.parent)))
    assert_alike(DataConfig(path=str(path), tokenizer="byte"))


def test_another_runs_alphabet(tmp_path):
    path = text_file(tmp_path, "ab\n\nba\r\nabx\n x\n\t\nb\n" * 3)
    for tokenizer, values in (
        (CharTokenizer("\n\t abcx"), {}),
        (CharTokenizer("\nab"), {}),
        (CharTokenizer("\n abx", boundary=True), {"layout": "lines"}),
        (CharTokenizer("\nab", boundary=True), {"layout": "lines"}),
        (CharTokenizer("\n\t abx"), {"layout": "lines", "split": "tail"}),
        (CharTokenizer("ab"), {"layout": "lines"}),
        (CharTokenizer("\nab"), {"split": "interleaved", "rows": 2, "chunk": 3}),
    ):
        assert_alike(DataConfig(path=str(path), **values), tokenizer)


def test_a_validation_text(tmp_path):
    path, val = text_file(tmp_path, "abba\nbaab\n" * 5), text_file(tmp_path, "caba\nx\n", "val.txt")
    for values in ({}, {"layout": "lines"}, {"tokenizer": "byte"}):
        found = assert_alike(DataConfig(path=str(path), val_path=str(val), **values))
        assert found[0] == "text.txt"


@given(st.text("ab é\n\u2003漢", min_size=1, max_size=60), st.booleans(), st.booleans())
@settings(max_examples=10)
def test_other_texts(tmp_path_factory: Any, text: str, lines: bool, skip: bool):
    path = text_file(tmp_path_factory.mktemp("other"), f"ab\n{text}")
    tokenizer = CharTokenizer("\nab", boundary=lines)
    config = DataConfig(path="a.txt", layout="lines" if lines else "stream")

    def load() -> list[Any]:
        other = load_other_text(
            str(path), config, tokenizer, field="--text", unseen="skip" if skip else "error"
        )
        split = other.split
        arrays = (split.tokens, split.doc_starts, split.doc_lengths)
        return [*(each.tolist() for each in arrays), split.size, other.notes, other.unseen]

    assert outcome(True, load) == outcome(False, load)


HAS_ZSTD = sys.version_info >= (3, 14) or importlib.util.find_spec("zstandard") is not None
needs_zstd = pytest.mark.skipif(not HAS_ZSTD, reason="no zstd in this Python, and no zstandard")


def zstd(raw: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd as library

        return library.compress(raw)
    import zstandard

    return zstandard.compress(raw)


PACKINGS = [
    pytest.param(".gz", gzip.compress, id="gzip"),
    pytest.param(".zst", zstd, id="zstd", marks=needs_zstd),
]


@pytest.mark.parametrize(("suffix", "pack"), PACKINGS)
def test_compressed_files_are_the_text_that_was_compressed(suffix, pack, tmp_path):
    raw = "one é\r\ntwo\nthree".encode()
    plain = assert_alike(DataConfig(path=str(text_file(tmp_path, raw))))
    # Two members, as `cat` joins them.
    packed = pack(raw[:9]) + pack(raw[9:])
    path = text_file(tmp_path, packed, f"text.txt{suffix}")
    found = assert_alike(DataConfig(path=str(path)))
    # The digest is the same; name and file are not.
    assert found[1:6] == plain[1:6]
    assert (found[6][0].size, found[6][0].digest) == (plain[6][0].size, plain[6][0].digest)
    assert_alike(DataConfig(path=str(path), tokenizer="byte"))
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(3):
        text_file(shards, pack(b"part %d" % number), f"{number}.txt{suffix}")
    dataset = load_dataset(DataConfig(path=str(shards), val_fraction=0))
    assert dataset.tokenizer.decode(dataset.splits["train"].tokens) == "part 0\npart 1\npart 2\n"
    assert_alike(DataConfig(path=(str(shards), str(path), str(tmp_path / "text.txt"))))


@pytest.mark.parametrize(("suffix", "pack"), PACKINGS)
def test_compressed_files_that_are_cut_short_or_altered(suffix, pack, tmp_path):
    packed = pack(bytes(range(48, 123)) * 40)
    path = tmp_path / f"text.txt{suffix}"
    for harmed in (packed[: len(packed) // 2], packed[:-1], packed[:9] + b"????" + packed[13:]):
        path.write_bytes(harmed)
        message = assert_alike(DataConfig(path=str(path)))
        assert "is cut short or damaged" in message
        assert "\n" not in message


def test_zstd_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    path = text_file(tmp_path, b"\x28\xb5\x2f\xfd and so on", "text.zst")
    with pytest.raises(UserError, match=r'data.path: .*pip install "charjax\[zstd\]"'):
        load_dataset(DataConfig(path=str(path)))


def test_a_name_alone_does_not_make_a_file_compressed(tmp_path):
    assert_alike(DataConfig(path=str(text_file(tmp_path, "a plain text\n", "text.gz"))))
    path = text_file(tmp_path, gzip.compress(b"a text"), "text.txt")
    assert "decompress it first" in assert_alike(DataConfig(path=str(path)))


def test_a_small_file_that_unpacks_to_more_than_the_disk_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "_CHECK_DISK_EVERY", 1000)
    monkeypatch.setattr("charjax.data.cache_limits.free_bytes", lambda: 5000)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 500)
    path = text_file(tmp_path, gzip.compress(b"a" * 100_000), "text.gz")
    with pytest.raises(
        UserError, match=r"data.path: its tokens need [56],\d+ bytes or more, and 5"
    ):
        load_dataset(DataConfig(path=str(path), tokenizer="byte"))


# The cache.


def tokens_of(path: Path, **values: Any) -> np.ndarray:
    dataset = load_dataset(DataConfig(path=str(path), val_fraction=0.0, **values))
    return dataset.splits["train"].tokens


def old(path: Path) -> Path:
    """Make a file one that was written long ago."""
    os.utime(path, (1e9, 1e9))
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record each pass over a text."""
    found: list[str] = []
    scan, pieces = streaming.scan, streaming.StreamedText.pieces
    monkeypatch.setattr(streaming, "scan", lambda *a: found.append("scan") or scan(*a))
    monkeypatch.setattr(
        streaming.StreamedText, "pieces", lambda *a: found.append("encode") or pieces(*a)
    )
    # Its time of change is now.
    monkeypatch.setattr(streaming, "_RACY_NANOSECONDS", -(10**12))
    return found


def test_a_text_is_read_and_encoded_once(tmp_path, reads):
    path = text_file(tmp_path, "some text\n" * 9)
    first = tokens_of(path)
    assert isinstance(first, np.memmap)
    assert reads == ["scan", "encode"]
    assert (tokens_of(path) == first).all()
    assert reads == ["scan", "encode"]
    # Another time, the same digest: the tokens are those that are there.
    old(path)
    tokens_of(path)
    assert reads == ["scan", "encode", "scan"]
    path.write_text("some next\n" * 9)
    assert CharTokenizer("\n emnostx").decode(tokens_of(path)) == "some next\n" * 9
    assert reads == ["scan", "encode", "scan", "scan", "encode"]


def test_a_file_that_was_just_written_is_read_again(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(streaming, "_RACY_NANOSECONDS", 10**9)
    path = text_file(tmp_path, "some text\n" * 9)
    tokens_of(path)
    tokens_of(path)
    assert reads == ["scan", "encode", "scan"]


def test_small_texts_leave_no_file(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("CHARJAX_STREAM_BYTES", "10")
    path = text_file(tmp_path, "0123456789")
    assert not isinstance(tokens_of(path), np.memmap)
    assert not cache.exists()
    path.write_text("0123456789a")
    assert isinstance(tokens_of(path), np.memmap)
    monkeypatch.setenv("CHARJAX_STREAM_BYTES", "many")
    with pytest.raises(UserError, match="CHARJAX_STREAM_BYTES: 'many' given; must be a number"):
        tokens_of(path)


def test_a_text_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = text_file(tmp_path, "some text\n" * 9)
    scan = streaming.scan

    def scan_and_write(*args: Any) -> Any:
        facts = scan(*args)
        path.write_text("other text\n" * 9)
        return facts

    monkeypatch.setattr(streaming, "scan", scan_and_write)
    with pytest.raises(UserError, match=r"data.path: .*text.txt' changed while it was read; start"):
        tokens_of(path)


@pytest.mark.parametrize("after", ["some test\n" * 9, "some text\n" * 8, "some text\n" * 10])
def test_a_text_that_changes_while_it_is_encoded(after, tmp_path, cache, monkeypatch):
    path = text_file(tmp_path, "some text\n" * 9)
    encode = streaming.encode_streamed

    def write_and_encode(*args: Any) -> Any:
        path.write_text(after)
        return encode(*args)

    monkeypatch.setattr("charjax.data.streamed_splits.encode_streamed", write_and_encode)
    with pytest.raises(UserError, match=r"data.path: .*text.txt' changed while it was read; start"):
        tokens_of(path)
    assert list_entries() == []
    # Nothing of it is believed afterwards.
    monkeypatch.undo()
    monkeypatch.setenv("CHARJAX_CACHE", str(cache.parent))
    monkeypatch.setenv("CHARJAX_STREAM_BYTES", "0")
    dataset = load_dataset(DataConfig(path=str(path), val_fraction=0.0))
    assert dataset.tokenizer.decode(dataset.splits["train"].tokens) == after


def half(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def altered(raw: bytes) -> bytes:
    return raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:]


@pytest.mark.parametrize("harm", [half, altered, lambda raw: b""], ids=["half", "altered", "empty"])
@pytest.mark.parametrize("suffix", [".tokens", ".documents", ".json"])
def test_a_damaged_cache_is_made_again_with_a_note(harm, suffix, tmp_path, cache, capsys):
    path = text_file(tmp_path, "one\ntwo\nthree\n" * 3)
    values = {"layout": "lines", "split": "tail"}
    whole = tokens_of(path, **values).tolist()
    for file in cache.glob(f"*{suffix}"):
        file.write_bytes(harm(file.read_bytes()))
        old(file)
    assert tokens_of(path, **values).tolist() == whole
    assert capsys.readouterr().err.count("is damaged, and is made again") in (1, 2)
    assert tokens_of(path, **values).tolist() == whole
    assert capsys.readouterr().err == ""


def test_a_cache_that_was_copied_is_checked_and_used(tmp_path, cache, reads, capsys):
    path = text_file(tmp_path, "some text\n" * 9)
    tokens_of(path)
    for file in cache.glob("*.tokens"):
        old(file)
    tokens_of(path)
    assert reads == ["scan", "encode"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("values", "room"), [({}, 0), ({}, 60), ({"layout": "lines", "split": "tail"}, 140)]
)
def test_a_full_disk_leaves_nothing_that_is_not_whole(values, room, tmp_path, cache, monkeypatch):
    path, left = text_file(tmp_path, "some text\n" * 9), room
    append = cache_writing.Writer.append

    def fill(self: Any, tokens: np.ndarray) -> None:
        nonlocal left
        left -= len(tokens)
        if left < 0:
            raise OSError(28, "No space left on device")
        append(self, tokens)

    monkeypatch.setattr(cache_writing.Writer, "append", fill)
    with pytest.raises(UserError, match=r"cannot be written to .* \(No space left on device; \d+"):
        tokens_of(path, **values)
    assert not list(cache.glob("*.part*"))
    # The tokens of the text, from which those of its lines are made, are whole.
    assert [held.is_whole for held in list_entries()] == [True] * bool(values)


def test_too_little_room_is_found_before_anything_is_written(tmp_path, cache, monkeypatch):
    path = text_file(tmp_path, "some text\n" * 9)
    monkeypatch.setattr("charjax.data.cache_limits.free_bytes", lambda: 89)
    with pytest.raises(UserError, match=r"data.path: its tokens need 90 bytes or more, and 89 are"):
        tokens_of(path)
    assert list_entries() == []


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_not_be_written(tmp_path, cache):
    cache.mkdir(parents=True, mode=0o500)
    with pytest.raises(UserError, match=r"data.path: .*cannot be written \(Permission denied\)"):
        tokens_of(text_file(tmp_path, "some text\n" * 9))


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.setenv("CHARJAX_CACHE", str(text_file(tmp_path, "", "file")))
    with pytest.raises(UserError, match=r"data.path: .*cannot be written \(.*set CHARJAX_CACHE"):
        tokens_of(text_file(tmp_path, "some text\n" * 9))


class Killed(BaseException):
    """Stands for a signal."""


def test_a_killed_encoding_is_continued(tmp_path, cache, monkeypatch):
    path = text_file(tmp_path, "some text, é\r\n" * 40)
    monkeypatch.setattr(cache_writing, "_RECORDED_EVERY", 50)
    monkeypatch.setattr(streaming, "_RACY_NANOSECONDS", -(10**12))
    append, encoded = cache_writing.Writer.append, []

    def killed_at_200(self: Any, tokens: np.ndarray) -> None:
        if self.written > 200:
            raise Killed
        append(self, tokens)

    monkeypatch.setattr(cache_writing.Writer, "append", killed_at_200)
    with pytest.raises(Killed):
        tokens_of(path)
    assert [held.is_whole for held in list_entries()] == [False]
    # What was written after the last record does not count, whatever it is.
    with next(cache.glob("*.part")).open("ab") as file:
        file.write(b"\xff" * 2000)

    def counted(self: Any, tokens: np.ndarray) -> None:
        encoded.append(len(tokens))
        append(self, tokens)

    monkeypatch.setattr(cache_writing.Writer, "append", counted)
    dataset = load_dataset(DataConfig(path=str(path), val_fraction=0.0))
    found = dataset.tokenizer.decode(dataset.splits["train"].tokens)
    assert found == "some text, é\n" * 40
    assert 0 < sum(encoded) < len(found) - 100
    assert not list(cache.glob("*.part*"))


def test_two_processes_encode_a_text_once(tmp_path, reads, capsys, monkeypatch):
    path = text_file(tmp_path, "some text\n" * 9)
    append, waiting = cache_writing.Writer.append, threading.Event()
    found: list[Any] = []

    def slow(self: Any, tokens: np.ndarray) -> None:
        # Until the other one waits.
        waiting.wait(20)
        append(self, tokens)

    monkeypatch.setattr(cache_writing.Writer, "append", slow)
    monkeypatch.setattr("charjax.data.token_cache.remark", lambda line: waiting.set())
    others = [threading.Thread(target=lambda: found.append(tokens_of(path))) for _ in range(2)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    assert reads.count("encode") == 1
    assert found[0].tolist() == found[1].tolist()
    assert waiting.is_set()


def test_the_oldest_entries_make_room(tmp_path, cache):
    paths = [
        text_file(tmp_path, f"text number {number}\n" * 100, str(number)) for number in range(3)
    ]
    for path in paths[:2]:
        tokens_of(path)
    both = sum(held.size for held in list_entries())
    assert limit() == 20_000_000_000
    assert set_limit(both + 100) == 0
    for number, held in enumerate(list_entries()):
        os.utime(cache / f"{held.key}.json", (1e9 + number, 1e9 + number))
        for suffix in (".tokens", ".lock"):
            os.utime(cache / f"{held.key}{suffix}", (1e9, 1e9))
    first = tokens_of(paths[0])
    tokens_of(paths[2])
    assert sorted(held.text for held in list_entries()) == ["0", "2"]
    # A process that has it open keeps it.
    assert clear() > 0
    assert list_entries() == []
    assert len(first) == 1400
    set_limit(1000)
    with pytest.raises(
        UserError, match=r"need 1,400 bytes, and the cache .* may hold 1,000; raise"
    ):
        tokens_of(paths[0])


def test_subwords_are_read_into_memory(tmp_path):
    pytest.importorskip("tokenizers")
    path = text_file(tmp_path, "some text of words\n" * 30)
    assert_alike(DataConfig(path=str(path), tokenizer="bpe", vocab_size=256))
    assert not isinstance(tokens_of(path, tokenizer="bpe", vocab_size=256), np.memmap)


@pytest.mark.slow
def test_a_killed_process_is_continued_by_another(tmp_path, cache):
    path = text_file(tmp_path, "some longer text, é\r\n" * 400_000)
    script = (
        "import sys\n"
        "from charjax.config import DataConfig\n"
        "from charjax.data import cache_writing\n"
        "from charjax.data.datasets import load_dataset\n"
        "import os, signal\n"
        "cache_writing._RECORDED_EVERY = 1 << 20\n"
        "append = cache_writing.Writer.append\n"
        "def kill(self, tokens):\n"
        "    append(self, tokens)\n"
        "    if self.written > 5_000_000 and sys.argv[2:]:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "cache_writing.Writer.append = kill\n"
        "dataset = load_dataset(DataConfig(path=sys.argv[1], val_fraction=0.0))\n"
        "import hashlib\n"
        "print(hashlib.sha256(dataset.splits['train'].tokens).hexdigest())\n"
    )
    words = [sys.executable, "-c", script, str(path)]
    assert subprocess.run([*words, "kill"], check=False).returncode == -9
    assert list(cache.glob("*.part.json"))
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    env = {**os.environ, "CHARJAX_STREAM_BYTES": "1000000000"}
    expected = subprocess.run(words, check=True, capture_output=True, text=True, env=env)
    assert done.stdout == expected.stdout


def test_records_are_json_that_has_its_digest(tmp_path, cache):
    tokens_of(text_file(tmp_path, "some text\n" * 9))
    (record,) = cache.glob("*.json")
    tree = json.loads(record.read_text())
    assert tree["format"] == 1
    assert tree["dtype"] == "uint8"
    assert tree["marks"][-1][0] == 90
    assert tree["facts"] == {"text": "text.txt"}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["stream", "lines"])
def test_a_run_of_a_streamed_text_is_that_of_the_text_in_memory(layout, tmp_path, monkeypatch):
    path = text_file(tmp_path, gzip.compress(b"a text of words\r\nand lines\n" * 40), "a.gz")
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    settings = [f"data.layout={layout}", *tiny("bigram"), "train.steps=3"]
    summaries = []
    for name, size in (("memory", "1000000"), ("streamed", "0")):
        monkeypatch.setenv("CHARJAX_STREAM_BYTES", size)
        workdir = tmp_path / name
        trained = run("train", f"data.path={path}", *settings, "--workdir", workdir)
        assert trained.status == 0, trained.err
        summaries.append(json.loads((workdir / "summary.json").read_text()))
    memory, streamed = summaries
    for key in ("state_digest", "val_loss", "files", "notes"):
        assert memory.get(key) == streamed.get(key)
    # Moved and unpacked, it is the same text; a text in memory and a streamed one, too.
    moved = text_file(tmp_path, gzip.decompress(path.read_bytes()), "moved.txt")
    path.unlink()
    for name in ("memory", "streamed"):
        words = [f"data.path={moved}", "train.steps=5", "--resume", "--workdir", tmp_path / name]
        resumed = run("train", *words)
        assert resumed.status == 0, resumed.err
    found = [
        json.loads(run("evaluate", tmp_path / name, "--json", f"data.path={moved}").out)
        for name in ("memory", "streamed")
    ]
    assert found[0]["loss"] == found[1]["loss"]
