"""The size of the cache of encoded texts: its limit, room for new ones, and what it holds."""

import contextlib
import shutil
from pathlib import Path
from typing import NamedTuple

from charjax.data.token_cache import (
    cache_folder,
    is_intact,
    read_record,
    remove_entry,
    write_record,
)
from charjax.errors import UserError
from charjax.files import try_lock

DEFAULT_LIMIT = 20_000_000_000


class Held(NamedTuple):
    """An entry of the cache, whole or not.

    Attributes:
      key: its name.
      text: the text's name, or "" of one that is not whole.
      size: bytes on the disk.
      used: time of its last use, in seconds since 1970.
      is_whole: it is encoded to its end.
    """

    key: str
    text: str
    size: int
    used: float
    is_whole: bool


def list_entries() -> list[Held]:
    """Return the entries of the cache, the one that was used longest ago first."""
    folder, found = cache_folder(), {}
    for path in folder.glob("*.*"):
        key = path.name.partition(".")[0]
        if path.suffix in (".tokens", ".documents", ".part") and len(key) == _KEY_LETTERS:
            found[key] = _describe(folder, key)
    return sorted(found.values(), key=lambda held: (held.used, held.key))


_KEY_LETTERS = 64


def _describe(folder: Path, key: str) -> Held:
    size, times = 0, [0.0]
    for path in folder.glob(f"{key}.*"):
        with contextlib.suppress(OSError):
            facts = path.stat()
            size += facts.st_size
            times.append(facts.st_mtime)
    record = read_record(folder / f"{key}.json")
    text = "" if record is None else str(record["facts"]["text"])
    return Held(key, text, size, max(times), record is not None)


def limit() -> int:
    """Return the largest size of the cache, in bytes."""
    record = read_record(cache_folder() / _LIMIT_FILE)
    return DEFAULT_LIMIT if record is None else int(record["bytes"])


def set_limit(size: int) -> int:
    """Set the largest size of the cache, in bytes; return the bytes that were removed for it.

    Raises:
      OSError: the cache cannot be written.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / _LIMIT_FILE, {"bytes": size})
    return sum(held.size for held in _remove_beyond(size))


_LIMIT_FILE = "limit.json"


def clear() -> int:
    """Remove all entries that no process is writing; return their bytes."""
    freed = sum(held.size for held in _remove_beyond(-1))
    with contextlib.suppress(OSError):
        shutil.rmtree(cache_folder() / "sources")
    return freed


def check() -> list[Held]:
    """Read all entries that are whole, and remove those that are damaged; return these."""
    damaged = [held for held in list_entries() if held.is_whole and not is_intact(held.key)]
    for held in damaged:
        remove_entry(held.key)
    return damaged


def make_room(key: str, needed: int, field: str) -> None:
    """Remove the entries that were used longest ago, until a new one fits in the limit.

    Args:
      key: of the new one.
      needed: its bytes, those that are written already left out.
      field: the setting or flag that names its text.

    Raises:
      UserError: it is larger than the limit, or than what is free on the disk.
    """
    allowed, folder = limit(), cache_folder()
    if needed > allowed:
        raise UserError(
            f"{field}: its tokens need {needed:,} bytes, and the cache {str(folder)!r} may hold "
            f"{allowed:,}; raise that (charjax cache --limit SIZE), or give a shorter text"
        )
    _remove_beyond(allowed - needed, keep=key)
    check_disk(needed, field)


def check_disk(needed: int, field: str) -> None:
    """Raise a UserError unless so many bytes are free on the disk of the cache."""
    free, folder = free_bytes(), cache_folder()
    if needed > free:
        raise UserError(
            f"{field}: its tokens need {needed:,} bytes or more, and {free:,} are free at "
            f"{str(folder)!r}; free some (charjax cache --clear), or set CHARJAX_CACHE to a "
            "directory with room"
        )


def free_bytes() -> int:
    """Return the bytes that are free on the disk of the cache."""
    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def _remove_beyond(size: int, keep: str | None = None) -> list[Held]:
    """Remove the entries that were used longest ago, until the others are no larger than `size`."""
    entries = list_entries()
    total = sum(held.size for held in entries)
    removed = []
    for held in entries:
        if total <= size:
            break
        if held.key == keep or not _remove(held.key):
            continue
        total -= held.size
        removed.append(held)
    return removed


def _remove(key: str) -> bool:
    """Remove an entry, unless a process is writing it."""
    path = cache_folder() / f"{key}.lock"
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        if path.exists() and not try_lock(stack.enter_context(path.open("a+b", buffering=0))):
            return False
        remove_entry(key)
    return True
