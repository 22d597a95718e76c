"""Corpora: find or download a text, read it, and check its digest."""

import dataclasses
import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from charjax.config import DataConfig
from charjax.data.download import DownloadError, download, open_https
from charjax.data.lists import looks_like_list
from charjax.data.reading import (
    BYTES,
    BYTES_TO_LF,
    LATIN_1,
    UTF_8,
    ReadingRules,
    decode_file,
    read_bytes,
)
from charjax.data.streaming import StreamedText
from charjax.data.texts import Corpus, read_text
from charjax.errors import UserError
from charjax.files import user_cache


@dataclasses.dataclass(frozen=True)
class _Published:
    """A published file, identified by its digest.

    Attributes:
      url: its public address.
      digest: its SHA-256.
      size: in bytes.
      rules: how it is read, and every later text and prompt of its runs.
      file_names: its possible names in $CHARJAX_DATA.
      symbols: different characters, without the newlines of a list.
      longest_line: characters of the longest, where its lines are documents.
      lines: their number there.
    """

    url: str
    digest: str
    size: int
    rules: ReadingRules
    file_names: tuple[str, ...]
    symbols: int = 0
    longest_line: int = 0
    lines: int = 0


_PUBLISHED = {
    "shakespeare": _Published(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        1_115_394,
        UTF_8,
        ("shakespeare.txt", "tinyshakespeare.txt", "tinyshakespeare/input.txt"),
        symbols=65,
    ),
    "names": _Published(
        "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",
        "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
        228_145,
        UTF_8,
        ("names.txt",),
        symbols=26,
        longest_line=15,
        lines=32_033,
    ),
    "warpeace": _Published(
        "https://cs.stanford.edu/people/karpathy/char-rnn/warpeace_input.txt",
        "fb66ba999dafe24017cdd59e04c56d385a9c8466993d374fd4c6f08b2142985e",
        3_258_246,
        # Its published results count bytes, so the byte order mark and the CRLFs are kept.
        LATIN_1,
        ("warpeace.txt", "warpeace_input.txt"),
        symbols=87,
    ),
}


def load_corpus(config: DataConfig) -> Corpus | StreamedText:
    """Find and read the text that a config names.

    A long text of the user's is not read into memory, unless its tokens are subwords. A published
    corpus is looked for in $CHARJAX_DATA, then in the user's cache, then downloaded.

    Raises:
      UserError: the text is missing, cannot be read, or has another digest than the published one.
    """
    rules = reading_rules(config)
    if config.path is not None:
        corpus = read_text(config.path, rules, "data.path", whole=config.subwords)
        return _with_list_note(corpus) if config.documents == "one" else corpus
    if config.name == "stdlib":
        return _read_stdlib(rules)
    published = _PUBLISHED[config.name]
    raw = _find(config.name, published)
    text, notes = decode_file(raw, rules, config.name, "data.name")
    return Corpus(config.name, text, published.digest, notes)


def load_validation(config: DataConfig) -> Corpus | StreamedText | None:
    """Read the validation text of data.val_path; None without one.

    Raises:
      UserError: it cannot be read.
    """
    if config.val_path is None:
        return None
    rules = reading_rules(config)
    return read_text(config.val_path, rules, "data.val_path", whole=config.subwords)


def reading_rules(config: DataConfig) -> ReadingRules:
    """Return the rules by which a run's text, and every later text and prompt, is read."""
    name = None if config.path is not None else config.name
    if config.tokenizer == "byte":
        return BYTES_TO_LF if name == "stdlib" else BYTES
    if name is None:
        return dataclasses.replace(UTF_8, drop_mark=config.byte_order_mark == "drop")
    published = _PUBLISHED.get(name)
    return UTF_8 if published is None else published.rules


def _with_list_note(corpus: Corpus | StreamedText) -> Corpus | StreamedText:
    if isinstance(corpus, StreamedText):
        is_list = corpus.facts.is_list
    else:
        is_list = looks_like_list(corpus.text)
    if not is_list:
        return corpus
    note = (
        "the text looks like a list with one item per line and is read as one text; with "
        "data.layout=lines each line is one document"
    )
    return dataclasses.replace(corpus, notes=(*corpus.notes, note))


def stand_in(config: DataConfig) -> Corpus | None:
    """Return a text as large as a published one, with as many symbols, where that is not here.

    For what depends on sizes alone. None if a run would not have to download its text, or if its
    tokens depend on it.
    """
    if config.subwords:
        return None
    published = None if config.path is not None else _PUBLISHED.get(config.name)
    if published is None or _find_here(config.name, published) is not None:
        return None
    alphabet = "".join(map(chr, range(ord("!"), ord("!") + published.symbols)))
    if published.lines:
        text = _stand_in_lines(published, alphabet)
    else:
        text = (alphabet * (published.size // len(alphabet) + 1))[: published.size]
    note = (
        f"{config.name} is not on this machine and was not downloaded: its size "
        f"({published.size:,} bytes) and its {published.symbols} symbols are known"
    )
    is_bytes = config.tokenizer == "byte"
    return Corpus(
        config.name, text.encode("latin-1") if is_bytes else text, published.digest, (note,)
    )


def _stand_in_lines(published: _Published, alphabet: str) -> str:
    """Return as many lines, one as long as the longest, the others alike."""
    longest = (alphabet * published.longest_line)[: published.longest_line]
    rest = published.size - published.longest_line - (published.lines - 1)
    short, one_longer = divmod(rest, published.lines - 1)
    lines = [alphabet[: short + (index < one_longer)] for index in range(published.lines - 1)]
    # Every symbol is in some line.
    lines[: len(alphabet)] = [
        (alphabet[index:] + alphabet)[: len(line)]
        for index, line in enumerate(lines[: len(alphabet)])
    ]
    return "\n".join([*lines, longest])


def _find_here(name: str, published: _Published) -> bytes | None:
    """Return the bytes of a published file from $CHARJAX_DATA or the cache."""
    raw = _from_data_directory(name, published)
    folder = user_cache()
    if raw is not None or folder is None:
        return raw
    cached = folder / f"{name}.txt"
    if cached.is_file():
        raw = read_bytes(cached, "data.name")
        if hashlib.sha256(raw).hexdigest() == published.digest:
            return raw
    return None


def _find(name: str, published: _Published) -> bytes:
    """Return the bytes of a published file from $CHARJAX_DATA, the cache or the network."""
    raw = _find_here(name, published)
    if raw is not None:
        return raw
    cached = _cache_directory() / f"{name}.txt"
    try:
        return download(
            published.url, cached, digest=published.digest, size=published.size, opener=open_https
        )
    except DownloadError as error:
        raise UserError(
            f"data.name: {name!r} is not on this machine, and {error}; put the file at {cached} "
            f"(or set CHARJAX_DATA to a directory that holds {published.file_names[0]}), or use "
            "data.name=stdlib, which needs no download"
        ) from None


def _from_data_directory(name: str, published: _Published) -> bytes | None:
    value = os.environ.get("CHARJAX_DATA")
    if not value:
        return None
    directory = Path(os.path.expanduser(value))
    if not directory.is_dir():
        raise UserError(
            f"CHARJAX_DATA: {value!r} is not a directory; set it to the one that holds "
            f"{published.file_names[0]}, or unset it"
        )
    for path in (directory / file_name for file_name in published.file_names):
        if not path.is_file():
            continue
        raw = read_bytes(path, "CHARJAX_DATA")
        digest = hashlib.sha256(raw).hexdigest()
        if digest != published.digest:
            raise UserError(
                f"CHARJAX_DATA: {str(path)!r} has SHA-256 {digest}, but {name} is "
                f"{published.digest}; replace it by {published.url}, or read your own file with "
                "data.path"
            )
        return raw
    return None


def _cache_directory() -> Path:
    folder = user_cache()
    if folder is None:
        raise UserError(
            "CHARJAX_DATA: not set, and no home directory for downloads exists; set it to a "
            "directory that holds the file, or use data.name=stdlib, which needs no download"
        )
    return folder


# Left out: tests, installed packages, the build's configuration (it holds paths of the machine)
# and sitecustomize (it belongs to the distribution).
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_LEFT_OUT_FILES = {"sitecustomize.py", "usercustomize.py"}
_LEFT_OUT_PREFIXES = ("_sysconfigdata", "config-")


def _read_stdlib(rules: ReadingRules) -> Corpus:
    """Read the source of Python's standard library: its ASCII modules, sorted by path."""
    root = Path(sysconfig.get_path("stdlib"))
    pieces = []
    for path in sorted(_modules(root), key=lambda path: path.relative_to(root).parts):
        raw = read_bytes(path, "data.name").replace(b"\r\n", b"\n")
        if raw.isascii() and raw.strip():
            pieces.append(raw if raw.endswith(b"\n") else raw + b"\n")
    if not pieces:
        raise UserError(
            f"data.name: 'stdlib' has no source in {root} on this machine; give a text file "
            "with data.path"
        )
    joined = b"".join(pieces)
    digest = hashlib.sha256(joined).hexdigest()
    note = (
        f"stdlib is {len(pieces):,} modules of Python {platform.python_version()}, "
        f"SHA-256 {digest[:12]}..."
    )
    return Corpus(
        "stdlib", joined.decode(rules.encoding) if rules.encoding else joined, digest, (note,)
    )


def _modules(root: Path) -> Iterator[Path]:
    for directory, folders, files in os.walk(root):
        folders[:] = [name for name in folders if _belongs(name)]
        paths = (Path(directory, name) for name in files if _belongs(name))
        yield from (path for path in paths if path.suffix == ".py" and path.is_file())


def _belongs(name: str) -> bool:
    left_out = name in _LEFT_OUT or name in _LEFT_OUT_FILES
    return not left_out and not name.startswith(_LEFT_OUT_PREFIXES)
