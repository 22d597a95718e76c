"""Row 17: whatever a server answers, no wrong or partial file stays in the cache.

A real server on this machine, real sockets, a real process that asks; only the address and https
are replaced in it.
"""

import contextlib
import gzip
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from charjax.data import download
from tests.faults.crafting import contents
from tests.faults.histories import Lab
from tests.faults.processes import Process

BODY = b"emma\nolivia\nava\nisabella\nsophia\n" * 300
OUT = "../../escaped.txt"


def answer(handler: Any, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in ({"Content_Length": str(len(body))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def endless(handler: Any) -> None:
    answer(handler, b"", Content_Length=str(10**12))
    # The reader hangs up when it has seen one byte too many.
    for _ in range(10_000):
        handler.wfile.write(b"x" * 65536)
    raise AssertionError("a gigabyte was read")


def tar_of(*members: tuple[str, dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, fields in members:
            info = tarfile.TarInfo(name)
            info.size = 0 if "linkname" in fields else len(BODY)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, None if "linkname" in fields else io.BytesIO(BODY))
    return out.getvalue()


def zip_of(name: str, body: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, body)
    return out.getvalue()


def redirect(where: str) -> Callable[[Any], None]:
    return lambda handler: answer(handler, b"", 302, Location=where)


def bodies(elsewhere: Path) -> dict[str, Callable[[Any], None]]:
    """Return wrong answers of a server in place of the file."""
    link = {"type": tarfile.SYMTYPE, "linkname": str(elsewhere)}
    hard = {"type": tarfile.LNKTYPE, "linkname": OUT}
    files = {
        "another text": BODY.replace(b"ava", b"eva"),
        "one byte more": BODY + b"x",
        "one byte less": BODY[:-1],
        "nothing": b"",
        "a page": b"<html><script>alert(1)</script></html>",
        "tar with ..": tar_of((OUT, {})),
        "tar with an absolute path": tar_of((str(elsewhere / "escaped.txt"), {})),
        "tar with a link": tar_of(("names.txt", link), ("names.txt/escaped.txt", {})),
        "tar with a hard link": tar_of(("names.txt", hard)),
        "zip with ..": zip_of(OUT, BODY),
        "zip with an absolute path": zip_of(str(elsewhere / "escaped.txt"), BODY),
        "zip bomb": zip_of("names.txt", b"\0" * 30_000_000),
        "the right file, compressed": gzip.compress(BODY),
    }
    answers = {name: lambda h, body=body: answer(h, body) for name, body in files.items()}
    return {
        **answers,
        "gzip bomb as an encoding": lambda h: answer(
            h, gzip.compress(b"\0" * 30_000_000), Content_Encoding="gzip"
        ),
        "cut short": lambda h: answer(h, BODY[:5000], Content_Length=str(len(BODY))),
        "a wrong length": lambda h: answer(h, BODY, Content_Length="7"),
        "endless": endless,
        "not found": lambda h: answer(h, b"gone\x1b[31m", 404),
        "an error": lambda h: answer(h, b"", 500),
        "to a file": redirect("file:///etc/passwd"),
        "to itself": redirect("/"),
        "to nowhere": redirect("http://127.0.0.1:1/"),
        "a name with ..": lambda h: answer(
            h, BODY[:-1], Content_Disposition=f'attachment; filename="{OUT}"'
        ),
        "no answer": lambda h: h.connection.close(),
        "no headers": lambda h: h.wfile.write(b"\x00\xff" * 500 + b"\r\n\r\n"),
    }


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    """Start a server; its `answer` is the response."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                self.server.answer(self)  # type: ignore[attr-defined]

        def log_message(self, *arguments: Any) -> None:
            """Write no log."""

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
    thread.start()
    yield serving
    serving.shutdown()
    thread.join()
    serving.server_close()


@pytest.fixture
def fetch(server: Any, lab: Lab, tmp_path: Path) -> Callable[[], Process]:
    """Train on the names, which only the server has."""
    url = f"http://127.0.0.1:{server.server_address[1]}/names.txt"
    hook = ("publish_names", url, hashlib.sha256(BODY).hexdigest(), len(BODY))
    where = {"CHARJAX_DATA": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    options = ["data.name=names", "model.kind=ngram", "model.order=2"]
    words = [*options, "--workdir", tmp_path / "run"]
    return lambda: lab.forks.run("train", *words, hook=hook, folder=tmp_path, **where)


def test_no_answer_gets_out_of_the_cache(
    server: Any, fetch: Callable[[], Process], tmp_path: Path, faults: Any
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    served = bodies(elsewhere)
    row = faults(17, "a download that is not what it should be", few=4, full=2 * len(served))
    for name, has_file in row.over([(n, has_file) for n in served for has_file in (False, True)]):
        server.answer = served[name]
        cached = tmp_path / "cache/charjax/names.txt"
        if has_file:
            # A cached file with another digest is neither used nor lost.
            cached.parent.mkdir(parents=True, exist_ok=True)
            cached.write_bytes(b"old")
        with row.case((name, has_file)):
            done = fetch()
            assert done.status == 2, (done.status, done.err)
            assert done.err.startswith("error: data.name: 'names' is not on this machine")
            assert done.err[:-1].isprintable(), done.err
            assert contents(tmp_path) == ({"cache/charjax/names.txt": b"old"} if has_file else {})
        cached.unlink(missing_ok=True)


def test_the_right_file_is_kept_and_used(server: Any, fetch: Callable[[], Process], tmp_path: Path):
    server.answer = lambda handler: answer(handler, BODY)
    done = fetch()
    assert done.status == 0, done.err
    assert (tmp_path / "cache/charjax/names.txt").read_bytes() == BODY
    assert [path.name for path in (tmp_path / "cache/charjax").iterdir() if path.is_file()] == [
        "names.txt"
    ]


def test_only_https_is_opened_really():
    for url in ("http://example.org/", "file:///etc/passwd", "ftp://example.org/", "data:,x"):
        with (
            pytest.raises(download.DownloadError, match="not an https address"),
            download.open_https(url),
        ):
            raise AssertionError("opened")
