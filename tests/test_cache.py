"""`charjax cache`: encoded texts, their limit, and what damages them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from charjax.config import DataConfig
from charjax.data.datasets import load_dataset
from tests.commands import Result, run


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Encode two texts, of 900 and 1,800 characters."""
    monkeypatch.setenv("CHARJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CHARJAX_STREAM_BYTES", "0")
    for number in (1, 2):
        path = tmp_path / f"{number}.txt"
        path.write_text("some text\n" * 90 * number)
        load_dataset(DataConfig(path=str(path)))
    return tmp_path / "cache" / "texts"


def command(*words: str) -> Result:
    return run("commands.cache", *words)


def listed(*words: str) -> Any:
    done = command("--json", *words)
    assert (done.status, done.err) == (0, "")
    return json.loads(done.out)


def test_the_texts_are_listed(cache: Path):
    tree = listed()
    assert sorted(text["text"] for text in tree["texts"]) == ["1.txt", "2.txt"]
    assert all(text["whole"] for text in tree["texts"])
    assert tree["bytes"] == sum(text["bytes"] for text in tree["texts"]) > 2700
    assert (tree["limit"], tree["directory"]) == (20_000_000_000, str(cache))
    shown = command().out.splitlines()
    assert len(shown) == 3
    assert shown[-1] == f"{tree['bytes'] / 1e3:.1f} kB of at most 20,000.0 MB in {cache}"


def test_the_limit_is_kept(cache: Path):
    assert listed("--limit", "1.5KB")["texts"] == []
    assert listed()["limit"] == 1500


def test_clearing(cache: Path):
    tree = listed("--clear")
    assert (tree["texts"], tree["bytes"]) == ([], 0)
    assert tree["freed"] > 2700
    assert not list(cache.glob("*.tokens"))
    assert "freed 0.0 kB" in command("--clear").out


def test_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHARJAX_CACHE", str(tmp_path / "none"))
    assert listed("--clear", "--check")["texts"] == []
    assert not (tmp_path / "none").exists()


def test_damage_is_found_when_it_is_looked_for(cache: Path):
    assert command("--check").out.splitlines()[2] == "nothing is damaged"
    (path, *_) = cache.glob("*.tokens")
    facts = path.stat()
    raw = bytearray(path.read_bytes())
    raw[7] ^= 1
    path.write_bytes(raw)
    # As if the disk had changed it: length and time are the same.
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert len(listed()["texts"]) == 2
    tree = listed("--check")
    assert len(tree["damaged"]) == len(tree["texts"]) == 1


@pytest.mark.parametrize("size", ["5 apples", "-1", "", "GB"])
def test_sizes_that_are_none(size: str):
    done = command(f"--limit={size}")
    assert done.status == 2
    assert "must be a number of bytes, or of KB, MB, GB or TB, such as 5GB" in done.err
