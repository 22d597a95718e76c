"""Download a published file atomically and check its SHA-256."""

import contextlib
import hashlib
import http.client
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import DownloadColumn, TransferSpeedColumn

from charjax.files import replacing
from charjax.progress import ProgressBar

_TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 1 << 16

Opener = Callable[[str], contextlib.AbstractContextManager[BinaryIO]]


class DownloadError(Exception):
    """A file could not be downloaded or has the wrong digest; the message is one line."""


@contextlib.contextmanager
def open_https(url: str) -> Iterator[BinaryIO]:
    """Open an https address; a redirection must lead to https too.

    Raises:
      DownloadError: the address, or the target of its redirection, is not https.
      OSError: no network, no such page, or no response within 30 seconds.
    """
    if not url.startswith("https://"):
        raise DownloadError(f"{url} is not an https address")
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
        if not response.geturl().startswith("https://"):
            raise DownloadError(f"{url} redirects to {response.geturl()}, which is not https")
        yield response


def download(url: str, target: Path, *, digest: str, size: int, opener: Opener) -> bytes:
    """Fetch a file into its place, with a progress bar on stderr where that is a terminal.

    The bytes go into a temporary file beside `target`, which takes its name only once all of them
    are there and have the digest; on any failure, Ctrl-C included, it is removed.

    Args:
      url: where the file is.
      target: where it is put; directories are made.
      digest: its SHA-256.
      size: its length in bytes; no more than that is read.
      opener: how an address is opened: `open_https`, or a test's own.

    Returns:
      The file's bytes.

    Raises:
      DownloadError: it cannot be fetched or written, or has another digest.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target, shared=True) as temporary, temporary.open("wb") as file:
            raw = _copy(url, file, size, opener, target.name)
            found = hashlib.sha256(raw).hexdigest()
            if found != digest:
                raise DownloadError(f"{url} gave a file with SHA-256 {found}, not {digest}")
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise DownloadError(f"{url} cannot be fetched into {target.parent}: {reason}") from None
    return raw


def _copy(url: str, file: BinaryIO, size: int, opener: Opener, label: str) -> bytes:
    columns = (DownloadColumn(), TransferSpeedColumn())
    bar = ProgressBar(Console(stderr=True), f"downloading {label}", *columns, total=size)
    raw = bytearray()
    with bar, opener(url) as response:
        # One byte more than there should be is enough to fail the digest.
        while len(raw) <= size and (chunk := response.read(_CHUNK_BYTES)):
            raw += chunk
            file.write(chunk)
            bar.update(completed=len(raw))
    return bytes(raw)
