"""Row 16: no file that is read can execute code."""

import ast
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.crafting import craft, make_older, newest, read_record
from tests.faults.histories import STEPS, Lab

ROOT = Path(__file__).resolve().parent.parent.parent
# Not one of these is needed to read arrays, texts and settings.
FORBIDDEN = {
    *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"),
    *("allow_pickle", "unpack_archive", "extractall", "extract", "yaml"),
}


def names(tree: ast.AST) -> Iterator[str]:
    """Return every name used in a file: modules, attributes, variables and keyword arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "").split(".")
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield node.attr
            if isinstance(node.value, ast.Name):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.keyword):
            yield node.arg or ""


def test_the_package_has_nothing_to_unpickle_with(faults: Any):
    sources = sorted((ROOT / "charjax").rglob("*.py"))
    row = faults(16, "the syntax tree: no pickle, torch.load, allow_pickle", few=len(sources))
    for path in sources:
        with row.case(path.name):
            found = set(names(ast.parse(path.read_text(encoding="utf-8"))))
            assert not found & (FORBIDDEN | {"torch.load", "numpy.load"}), path
    assert not row.failed, row.failed


def test_the_reader_of_the_syntax_tree_finds_them():
    for text in (
        "import pickle",
        "from torch import load as l; torch.load(f)",
        "from x import dill",
    ):
        assert set(names(ast.parse(text))) & (FORBIDDEN | {"torch.load"}), text
    assert "allow_pickle" in set(names(ast.parse("np.load(f, allow_pickle=True)")))


class Trap:
    """Object that creates a file when unpickled."""

    def __init__(self, mark: Path):
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._mark),)


def traps(mark: Path) -> dict[str, bytes]:
    """Return files that execute code when loaded by an unsafe reader."""
    bare = pickle.dumps(Trap(mark))
    objects, archive, zipped = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(objects, np.array([Trap(mark)], object), allow_pickle=True)
    np.savez(archive, counts=np.array([Trap(mark)], object))
    with zipfile.ZipFile(zipped, "w") as file:  # as torch.save lays it out
        file.writestr("archive/data.pkl", bare)
    return {
        "pickle": bare,
        "npy": objects.getvalue(),
        "npz": archive.getvalue(),
        "torch": zipped.getvalue(),
    }


def test_the_traps_are_traps(tmp_path: Path):
    held = traps(tmp_path / "mark")
    pickle.loads(held["pickle"])
    assert (tmp_path / "mark").is_dir()
    (tmp_path / "mark").rmdir()
    np.load(io.BytesIO(held["npy"]), allow_pickle=True)
    assert (tmp_path / "mark").is_dir()


def ends_well(lab: Lab, *words: object) -> Any:
    done = lab.forks.run(*words)
    assert done.status in (0, 2), (done.status, done.out, done.err)
    assert "Traceback" not in done.err, done.err
    assert done.status == 0 or len(done.err.strip().splitlines()) <= 2, done.err
    return done


def test_a_pickle_in_place_of_arrays(lab: Lab, faults: Any, tmp_path: Path):
    """Replace every file of the newest step, with valid digests."""
    mark, whole = tmp_path / "mark", lab.whole("bigram")
    step = newest(whole)
    files = sorted(p.relative_to(step) for p in step.rglob("*") if p.is_file())
    cases = [(path, kind, c) for path in files for kind in traps(mark) for c in COMMANDS]
    row = faults(16, "a pickle in place of a checkpoint's files", few=1, full=len(cases))
    for path, kind, command in row.over(cases):
        workdir = lab.copy(whole)
        with row.case((path, kind, command)):
            (newest(workdir) / path).write_bytes(traps(mark)[kind])
            if path.name != "meta.json":
                craft(newest(workdir))
            ends_well(lab, command, *COMMANDS[command](workdir))
            assert not mark.exists(), "it was run"
        shutil.rmtree(workdir)


COMMANDS: dict[str, Callable[[Path], list[object]]] = {
    "train": lambda workdir: ["--workdir", workdir, "--resume", "train.steps=620"],
    "sample": lambda workdir: [workdir, "--checkpoint", "latest", "--max-new-tokens", 5],
    "evaluate": lambda workdir: [workdir, "--checkpoint", "latest"],
}


def bomb(step: Path, kind: str) -> None:
    """Return arrays whose declared or unpacked size exceeds any memory."""
    form, _, what = kind.rpartition(" ")
    if form == "older":
        make_older(step, 2)
    array = step / "state" / ("float32" if form == "older" else "bytes-0")
    header = json.loads((array / ".zarray").read_text(encoding="utf-8"))
    if what == "stream":
        # 2 GB of zeros as zstd has them: one block of 128 KB after another.
        frame = bytes.fromhex("28b52ffd0058") + b"\x02\x00\x10\x00" * 16384
        (array / "0").write_bytes(frame)
        header["compressor"] = {"id": "zstd", "level": 1}
    else:
        for key in {"shape": ["shape"], "chunks": ["chunks"], "both": ["shape", "chunks"]}[what]:
            header[key] = [10**13]
    (array / ".zarray").write_text(json.dumps(header), encoding="utf-8")
    craft(step)


_BOMBS = ("stream", "older shape", "older chunks", "older both", "older stream", "both")


def test_bombs(lab: Lab, faults: Any):
    """Declare 40 TB; the previous step is used, or the arrays, whose header nobody reads."""
    cases = [(kind, c) for kind in _BOMBS for c in COMMANDS]
    row = faults(16, "arrays larger than any memory", few=1, full=len(cases))
    for kind, command in row.over(cases):
        workdir = lab.copy(lab.whole("bigram"))
        with row.case((kind, command)):
            bomb(newest(workdir), kind)
            done = ends_well(lab, command, *COMMANDS[command](workdir))
            assert done.status == 0, done.err
            assert (f"checkpoint {STEPS} is damaged" in done.err) == (kind != "both")
        shutil.rmtree(workdir)


def test_a_model_larger_than_any_memory(lab: Lab, faults: Any):
    """Request a table of all pairs of Unicode characters: 5 TB."""
    row = faults(16, "a model larger than any memory", few=0, full=len(COMMANDS))
    symbols = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    for command in row.over(list(COMMANDS)):
        workdir = lab.copy(lab.whole("bigram"))

        def enlarge(record: dict[str, Any]) -> None:
            del record["meta"]["tokenizer_digest"]
            record["meta"]["tokenizer"]["symbols"] = symbols
            for leaf in record["leaves"].values():
                leaf["shape"] = [len(symbols) for _ in leaf["shape"]]

        with row.case(command):
            craft(newest(workdir), enlarge)
            done = ends_well(lab, command, *COMMANDS[command](workdir))
            assert done.status == 2, done.err
        shutil.rmtree(workdir)


NOTES: list[Any] = [None, 3, "text", [], {}, [[1]], {"kind": "char"}, {"x": {"y": 1}}, -1, 1e308]


def test_crafted_notes(lab: Lab, faults: Any):
    """Replace every note, and every part of one, by another type, with valid digests."""
    whole = lab.whole("bigram")
    meta = read_record(newest(whole))["meta"]
    paths = [(key,) for key in meta]
    paths += [
        (key, inner) for key, held in meta.items() if isinstance(held, dict) for inner in held
    ]
    cases = [(path, value, c) for path in paths for value in [*NOTES, "gone"] for c in COMMANDS]
    row = faults(16, "crafted notes in a checkpoint", few=1, full=min(len(cases), 300))
    chosen = [cases[i * len(cases) // 300] for i in range(min(len(cases), 300))]
    for path, value, command in row.over(chosen):
        workdir = lab.copy(whole)
        with row.case((path, value, command)):
            craft(newest(workdir), lambda r, p=path, v=value: put(r["meta"], p, v))
            ends_well(lab, command, *COMMANDS[command](workdir))
        shutil.rmtree(workdir)


def put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree[key]
    if value == "gone":
        del tree[path[-1]]
    else:
        tree[path[-1]] = value


def test_a_pickle_in_place_of_tensors(lab: Lab, faults: Any, tmp_path: Path):
    mark = tmp_path / "mark"
    row = faults(16, "a pickle in place of a state dict", few=1, full=4)
    for kind in row.over(list(traps(mark))):
        path = tmp_path / f"{kind}.safetensors"
        path.write_bytes(traps(mark)[kind])
        with row.case(kind):
            done = lab.forks.run("interop", "import", path, "--workdir", tmp_path / "run")
            assert done.status == 2, done.err
            assert not mark.exists()
            assert not (tmp_path / "run").exists()
