"""Files compressed by gzip or zstd, read as the text that was compressed."""

import gzip
import importlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from charjax.data.reading import MOST_BYTES, cannot_read, too_large
from charjax.errors import UserError, one_line

Packing = Literal["gzip", "zstd"]
_FORMATS: dict[str, tuple[bytes, Packing]] = {
    ".gz": (b"\x1f\x8b", "gzip"),
    ".zst": (b"\x28\xb5\x2f\xfd", "zstd"),
}
_CHUNK = 1 << 18
# Four bytes of a zstd frame stand for up to 128 KiB, so at most 32 MiB are unpacked at once.
_ZSTD_CHUNK = 1 << 10
_UNPACK = {"gzip": "gunzip -k", "zstd": "zstd -d"}


def packing_of(path: Path) -> Packing | None:
    """Return how a file is compressed, by its name and its first bytes; None if it is not.

    A compressed file with another name is no text, and is not unpacked.

    Raises:
      OSError: it cannot be read.
    """
    start, packing = _FORMATS.get(path.suffix.lower(), (b"", None))
    if packing is None:
        return None
    with path.open("rb") as file:
        return packing if file.read(len(start)) == start else None


def raw_chunks(path: Path, field: str, start: int = 0) -> Iterator[bytes]:
    """Yield the bytes of a file, those that were compressed if it is; none of them is empty.

    Args:
      path: a regular file.
      field: the setting or flag that names it.
      start: offset of the first byte.

    Raises:
      UserError: it cannot be read, is cut short or damaged, or zstd is not installed.
    """
    try:
        packing = packing_of(path)
        if packing is None:
            yield from _plain(path, start)
            return
    except OSError as error:
        raise cannot_read(path, field, error) from None
    unpacked = _gzip(path) if packing == "gzip" else _zstd(path, _zstd_library(path, field))
    try:
        for chunk in unpacked:
            if start < len(chunk):
                yield chunk[start:]
            start = max(0, start - len(chunk))
    except _damages(packing) as error:
        raise UserError(
            f"{field}: {str(path)!r} is compressed by {packing}, and is cut short or damaged "
            f"({one_line(error)}); give the whole file, or what `{_UNPACK[packing]}` makes of it"
        ) from None


def read_unpacked(path: Path, field: str) -> bytes:
    """Read the bytes of a compressed file into memory; errors as of `raw_chunks`.

    Raises:
      UserError: it expands to more than MOST_BYTES.
    """
    raw = bytearray()
    for chunk in raw_chunks(path, field):
        raw += chunk
        if len(raw) > MOST_BYTES:
            raise too_large(path, field, len(raw))
    return bytes(raw)


def _plain(path: Path, start: int) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while chunk := file.read(_CHUNK):
            yield chunk


def _gzip(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _zstd(path: Path, library: Any) -> Iterator[bytes]:
    """Yield what one or several frames hold.

    `zstandard`'s readers of files end without an error where a file is cut short
    (findings/zstandard-truncated-file.sh), so the frames' ends are checked here.
    """
    with path.open("rb") as file:
        frame, is_whole = library.new(), True
        while chunk := file.read(_ZSTD_CHUNK):
            while chunk:
                if is_whole:
                    frame, is_whole = library.new(), False
                if unpacked := frame.decompress(chunk):
                    yield unpacked
                chunk, is_whole = (frame.unused_data, True) if frame.eof else (b"", False)
        if not is_whole:
            raise EOFError("the last frame has no end")


class _Standard:
    """compression.zstd of Python 3.14."""

    def __init__(self) -> None:
        zstd = importlib.import_module("compression.zstd")
        self.new, self.error = zstd.ZstdDecompressor, zstd.ZstdError


class _Package:
    """The package zstandard."""

    def __init__(self) -> None:
        import zstandard

        self.new = lambda: zstandard.ZstdDecompressor().decompressobj()
        self.error = zstandard.ZstdError


def _zstd_library(path: Path, field: str) -> Any:
    for kind in (_Standard, _Package):
        try:
            return kind()
        except ImportError:
            continue
    raise UserError(
        f"{field}: {str(path)!r} is compressed by zstd, which this Python does not read; pip "
        'install "charjax[zstd]", or decompress it first (zstd -d)'
    )


def _damages(packing: Packing) -> tuple[type[BaseException], ...]:
    """Return the errors of damaged files."""
    if packing == "gzip":
        return EOFError, zlib.error, OSError
    return EOFError, OSError, *(kind().error for kind in (_Standard, _Package) if _works(kind))


def _works(kind: Any) -> bool:
    try:
        kind()
    except ImportError:
        return False
    return True
