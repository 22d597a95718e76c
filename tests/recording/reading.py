"""Read what commands print and leave in a folder, without what differs from run to run."""

import csv
import hashlib
import io
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

# Times, speeds, the machine, and what the digests of orbax's files (which hold times) enter.
_LEFT_OUT = re.compile(
    r"(^|_)seconds$|_per_second$|^(hardware|versions|device|cores|environment|date|files|notes)$"
)
_NUMBER = re.compile(r"(?<![\w.])[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def read_folder(folder: Path) -> dict[str, Any]:
    """Return the paths of all files, and by path the contents of those to compare."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [str(path.relative_to(folder)) for path in paths]
    contents = {name: read_file(path) for name, path in zip(names, paths, strict=True)}
    return {"files": names, **{name: found for name, found in contents.items() if found}}


def read_file(path: Path) -> Any:
    """Return the contents of a file as JSON values; None for one that only has to exist."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: _array(arrays[name]) for name in arrays.files}
    if path.suffix == ".safetensors":
        return _tensors(path)
    if "checkpoints" in path.parts and path.name != "meta.json":
        return None
    if path.suffix in (".png", ".md") or path.name == ".lock":
        return None
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return stripped(json.loads(text))
    if path.suffix == ".jsonl":
        return [stripped(json.loads(line)) for line in text.splitlines()]
    if path.suffix == ".csv":
        return [[_number(cell) for cell in row] for row in csv.reader(io.StringIO(text))]
    if path.suffix == ".html":
        cells = re.findall(r"<td[^>]*>(.*?)</td>", text, re.S)
        return sorted(number for cell in cells for number in numbers(re.sub(r"<.*?>", "", cell)))
    if path.name == "config.toml":
        return text.splitlines()
    return {"sample" if path.name == "samples.txt" else "text": _digest(text.encode())}


def read_printed(words: list[str], text: str) -> Any:
    """Parse JSON and configurations as trees, text as lines, and the numbers of verdicts."""
    if "--json" in words:
        return stripped(json.loads(text))
    if "--print-config" in words:
        return tomllib.loads(text)
    if "--list" in words:
        return text.splitlines()
    return numbers(text) if words[0] == "initlab" and words[1] != "reproduce" else None


def stripped(tree: Any) -> Any:
    """Return a tree without entries that differ from run to run, with shortened digests."""
    if isinstance(tree, dict):
        return {
            key: stripped(value)
            for key, value in tree.items()
            if not _LEFT_OUT.search(key)
            # Of a checkpoint's notes as a whole; of a leaf it stays.
            and not (key == "sha256" and "leaves" in tree)
            # When, of a sweep; whether, of a sample.
            and not (key == "finished" and isinstance(value, str))
        }
    if isinstance(tree, list):
        return [stripped(value) for value in tree]
    is_digest = isinstance(tree, str) and re.fullmatch("[0-9a-f]{64}", tree)
    return tree[:16] if is_digest else tree


def numbers(text: str) -> list[float]:
    """Return the numbers in a text, in order."""
    found = (number.replace(",", "").replace("−", "-") for number in _NUMBER.findall(text))
    return [float(number) for number in found]


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def drop_header(source: Path, target: Path) -> None:
    """Copy a safetensors file without its metadata, as other programs write it."""
    header, data = _parts(source)
    header.pop("__metadata__", None)
    text = json.dumps(header).encode()
    target.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _tensors(path: Path) -> dict[str, Any]:
    header, data = _parts(path)
    found: dict[str, Any] = {"__metadata__": header.pop("__metadata__", None)}
    for name, entry in sorted(header.items()):
        first, last = entry["data_offsets"]
        assert entry["dtype"] == "F32"
        found[name] = _array(np.frombuffer(data[first:last], "<f4").reshape(entry["shape"]))
    return found


def _parts(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def _array(array: np.ndarray) -> dict[str, Any]:
    found = {"shape": list(array.shape), "dtype": str(array.dtype)}
    norm = float(np.linalg.norm(array.astype(np.float64))) if array.dtype.kind in "fiu" else None
    return {**found, "sha256": _digest(np.ascontiguousarray(array).tobytes()), "norm": norm}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
