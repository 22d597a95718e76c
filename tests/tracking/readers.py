"""Read back what trackers have written, independently of their writers."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def events(folder: Path) -> list[Any]:
    """Return the events of all files that TensorBoard would read, with checksums verified."""
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    found = []
    for path in sorted(folder.rglob("*tfevents*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            record = data[12 : 12 + length]
            check = struct.unpack("<I", data[8:12]), struct.unpack("<I", data[12 + length :][:4])
            assert check == ((masked_crc32c(data[:8]),), (masked_crc32c(record),))
            found.append(event_pb2.Event.FromString(record))
            data = data[16 + length :]
    return found


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """Return tag, step and value of each scalar of event files, in their order."""
    return [
        (value.tag, event.step, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
        if value.WhichOneof("value") == "simple_value"
    ]


def texts(folder: Path, tag: str) -> dict[int, list[str]]:
    """Return the texts of a tag of event files by step, without the indentation."""
    found: dict[int, list[str]] = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.tag == tag:
                assert event.step not in found
                rows = [row.decode() for row in value.tensor.string_val]
                assert all(line.startswith("    ") for row in rows for line in row.split("\n"))
                found[event.step] = [row[4:].replace("\n    ", "\n") for row in rows]
    return found


def offline_file(folder: Path) -> Path:
    """Return the one offline file of Weights & Biases in a folder."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    return path


def records(path: Path) -> Iterator[Any]:
    """Yield the records of an offline file: LevelDB's log format after a header of 7 bytes.

    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        # No record begins in the last 6 bytes of a block of 32 KiB.
        if (rest := 32768 - at % 32768) < 7:
            at += rest
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        # 1: whole; 2, 3, 4: first, middle, last.
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def history(path: Path) -> list[dict[str, Any]]:
    """Return the rows of an offline file."""
    rows = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows
