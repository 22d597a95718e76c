import contextlib
import hashlib
import http.client
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from charjax.config import DataConfig
from charjax.data import corpora, download
from charjax.data.download import DownloadError, open_https
from charjax.data.reading import UTF_8
from charjax.errors import UserError

URL = "https://example.org/text.txt"
BODY = b"a text worth having\n" * 10_000
DIGEST = hashlib.sha256(BODY).hexdigest()


def serving(body: Any) -> download.Opener:
    """Return an opener that yields a body, or raises an exception."""

    @contextlib.contextmanager
    def opener(url: str) -> Iterator[Any]:
        if isinstance(body, BaseException):
            raise body
        yield io.BytesIO(body) if isinstance(body, bytes) else body

    return opener


class Broken(io.RawIOBase):
    """A body whose reading fails halfway."""

    def __init__(self, error: BaseException):
        self.chunks = [BODY[:1000], error]

    def read(self, size: int = -1) -> bytes:
        chunk = self.chunks.pop(0)
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk


def fetch(directory: Path, opener: download.Opener) -> bytes:
    target = directory / "deeper" / "text.txt"
    return download.download(URL, target, digest=DIGEST, size=len(BODY), opener=opener)


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_the_file_is_put_in_its_place(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert fetch(tmp_path, serving(BODY)) == BODY
    assert capfd.readouterr() == ("", "")
    assert files(tmp_path) == [tmp_path / "deeper" / "text.txt"]
    assert (tmp_path / "deeper" / "text.txt").read_bytes() == BODY


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (BODY[:-1], f"SHA-256 {hashlib.sha256(BODY[:-1]).hexdigest()}, not {DIGEST}"),
        (b"", "SHA-256"),
        (BODY.replace(b"worth", b"WORTH"), "SHA-256"),
        (BODY + b"more", "SHA-256"),
        (OSError("no route to host"), "no route to host"),
        (TimeoutError(), "TimeoutError"),
        (Broken(http.client.IncompleteRead(b"", 7)), "IncompleteRead"),
        (Broken(ConnectionResetError("reset by peer")), "reset by peer"),
    ],
)
def test_anything_else_leaves_nothing(tmp_path: Path, body: Any, message: str):
    with pytest.raises(DownloadError, match=message) as error:
        fetch(tmp_path, serving(body))
    assert URL in str(error.value)
    assert "\n" not in str(error.value)
    assert files(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interruption_leaves_nothing(tmp_path: Path, error: BaseException):
    with pytest.raises(type(error)):
        fetch(tmp_path, serving(Broken(error)))
    assert files(tmp_path) == []


def test_an_old_file_stays_when_a_new_one_fails(tmp_path: Path):
    old = tmp_path / "deeper" / "text.txt"
    old.parent.mkdir()
    old.write_bytes(b"old")
    with pytest.raises(DownloadError):
        fetch(tmp_path, serving(BODY[:100]))
    assert old.read_bytes() == b"old"
    assert fetch(tmp_path, serving(BODY)) == BODY
    assert old.read_bytes() == BODY


def test_no_more_is_read_than_the_file_has(tmp_path: Path):
    class Endless(io.RawIOBase):
        sent = 0

        def read(self, size: int = -1) -> bytes:
            self.sent += size
            return b"x" * size

    body = Endless()
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch(tmp_path, serving(body))
    assert body.sent <= len(BODY) + 2**16


def test_a_directory_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "deeper").write_text("a file where the directory should be")
    with pytest.raises(DownloadError, match="cannot be fetched into"):
        fetch(tmp_path, serving(BODY))


@pytest.mark.parametrize("url", ["http://example.org/a", "file:///etc/hostname", "ftp://a/b"])
def test_only_https(url: str):
    with pytest.raises(DownloadError, match="not an https address"), open_https(url):
        pass


def test_redirections_away_from_https_are_refused(monkeypatch: pytest.MonkeyPatch):
    class Response(io.BytesIO):
        def geturl(self) -> str:
            return "http://example.org/elsewhere"

    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Response(BODY))
    with pytest.raises(DownloadError, match="redirects to http://"), open_https(URL):
        pass


@pytest.fixture
def small_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], corpora.Corpus]:
    """Load `names`, here a published file of three lines, with the given opener."""
    body = b"emma\nolivia\nava"
    published = corpora._Published(
        URL, hashlib.sha256(body).hexdigest(), len(body), UTF_8, ("names.txt",)
    )
    monkeypatch.setitem(corpora._PUBLISHED, "names", published)
    monkeypatch.delenv("CHARJAX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def load(served: Any) -> corpora.Corpus:
        monkeypatch.setattr(corpora, "open_https", serving(served))
        return corpora.load_corpus(DataConfig(name="names"))

    return load


def test_downloaded_once_then_cached(tmp_path: Path, small_names: Any):
    corpus = small_names(b"emma\nolivia\nava")
    assert corpus.text == "emma\nolivia\nava"
    assert (tmp_path / "cache/charjax/names.txt").read_bytes() == b"emma\nolivia\nava"
    assert small_names(OSError("no network")) == corpus


def test_a_damaged_cache_is_fetched_again(tmp_path: Path, small_names: Any):
    cached = tmp_path / "cache/charjax/names.txt"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"emma\noliv")
    with pytest.raises(UserError, match="no network"):
        small_names(OSError("no network"))
    assert small_names(b"emma\nolivia\nava").text == "emma\nolivia\nava"
    assert cached.read_bytes() == b"emma\nolivia\nava"


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path, small_names: Any):
    with pytest.raises(UserError) as error:
        small_names(OSError("no network"))
    message = str(error.value)
    for part in (
        "data.name: 'names'",
        URL,
        "no network",
        str(tmp_path / "cache/charjax/names.txt"),
        "CHARJAX_DATA",
        "data.name=stdlib",
    ):
        assert part in message
    assert "\n" not in message


def test_the_data_directory_comes_first(
    tmp_path: Path, small_names: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CHARJAX_DATA", str(tmp_path))
    (tmp_path / "names.txt").write_bytes(b"emma\nolivia\nava")
    assert small_names(OSError("no network")).text == "emma\nolivia\nava"
    assert not (tmp_path / "cache").exists()


def test_a_data_directory_without_the_file_is_passed_over(
    tmp_path: Path, small_names: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CHARJAX_DATA", str(tmp_path))
    assert small_names(b"emma\nolivia\nava").text == "emma\nolivia\nava"


def test_another_file_in_the_data_directory_is_never_taken(
    tmp_path: Path, small_names: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CHARJAX_DATA", str(tmp_path))
    (tmp_path / "names.txt").write_bytes(b"bob\n")
    with pytest.raises(UserError) as error:
        small_names(b"emma\nolivia\nava")
    assert hashlib.sha256(b"bob\n").hexdigest() in str(error.value)
    assert hashlib.sha256(b"emma\nolivia\nava").hexdigest() in str(error.value)


def test_a_data_directory_that_is_none(
    tmp_path: Path, small_names: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CHARJAX_DATA", str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"CHARJAX_DATA: .*missing' is not a directory"):
        small_names(b"emma\nolivia\nava")


def test_without_a_home_there_is_no_cache(small_names: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(UserError, match="CHARJAX_DATA: not set"):
        small_names(b"emma\nolivia\nava")
