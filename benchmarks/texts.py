"""Long texts: encoding them into the cache, and starting from there.

    python -m benchmarks.texts [--megabytes N] [--lines N] [--out FILE.json]

A text of Tiny Shakespeare again and again, and a list of random words, are loaded by new processes
with an empty cache, and then again. "above the start": peak of the resident memory over that before
the text is loaded, JAX imported. "anonymous": memory that is no file's, after loading. The last row
is `charjax train` with a bigram until its first step, and the most anonymous memory until then.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import results_file
from charjax.config import DataConfig
from charjax.data.corpora import load_corpus
from charjax.data.texts import Corpus
from charjax.hardware import in_words, machine_facts

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORDS_AT_ONCE = 100_000
_POLL_SECONDS = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")


def main(argv: list[str]) -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.texts", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--lines", type=int, default=5_000_000)
    parser.add_argument("--out", type=Path, default=results_file.RESULTS / "texts-cpu.json")
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.load:
        print(json.dumps(load(*args.load)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), args.megabytes, args.lines)
    command = " ".join(["python -m benchmarks.texts", *argv])
    tree = {"benchmark": "texts", "command": command, "hardware": machine_facts(), "rows": rows}
    results_file.write(args.out, tree)
    print(f"on {in_words(tree['hardware'])}: {args.out}")


def measure(folder: Path, megabytes: int, lines: int) -> list[dict[str, Any]]:
    """Return the rows; texts and cache are in a folder."""
    os.environ["CHARJAX_CACHE"] = str(folder / "cache")
    text, items = folder / "text.txt", folder / "list.txt"
    _write_text(text, megabytes)
    rows = [
        _loaded(f"{megabytes:,} MB of text, encoded", text, "stream"),
        _loaded(f"{megabytes:,} MB of text, second start", text, "stream"),
        _first_step(f"{megabytes:,} MB of text, first step", text, folder / "run"),
    ]
    text.unlink()
    _write_lines(items, lines)
    rows += [
        _loaded(f"{lines:,} lines, encoded", items, "lines"),
        _loaded(f"{lines:,} lines, second start", items, "lines"),
    ]
    return rows


def _write_text(path: Path, megabytes: int) -> None:
    corpus = load_corpus(DataConfig(name="shakespeare"))
    assert isinstance(corpus, Corpus)
    assert isinstance(corpus.text, str)
    raw, size = corpus.text.encode(), megabytes * 10**6
    with path.open("wb") as file:
        for begin in range(0, size, len(raw)):
            file.write(raw[: size - begin])


def _write_lines(path: Path, count: int) -> None:
    rng = random.Random(1)
    with path.open("w") as file:
        for begin in range(0, count, _WORDS_AT_ONCE):
            number = min(_WORDS_AT_ONCE, count - begin)
            words = ("".join(rng.choices(_LETTERS, k=rng.randint(4, 22))) for _ in range(number))
            file.write("".join(f"{word}\n" for word in words))


def _loaded(name: str, path: Path, layout: str) -> dict[str, Any]:
    """Load a text in a new process; return the row."""
    command = [sys.executable, "-m", "benchmarks.texts", "--load", str(path), layout]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row = {"name": name, "file_bytes": path.stat().st_size, **json.loads(done.stdout)}
    print(f"{name}: {json.dumps(row)}", flush=True)
    return row


def load(path: str, layout: str) -> dict[str, float]:
    """Load a text here; return seconds and bytes."""
    # With all that a run imports, which is no part of the text's memory.
    import charjax.run.recorder  # noqa: F401
    from charjax.data.datasets import load_dataset

    before = _memory("self", "VmHWM")
    wall, cpu = time.perf_counter(), time.process_time()
    dataset = load_dataset(DataConfig.model_validate({"path": path, "layout": layout}))
    found = {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "above_start_bytes": _memory("self", "VmHWM") - before,
        "anonymous_bytes": _memory("self", "RssAnon"),
    }
    assert dataset.splits["train"].num_targets
    return found


def _first_step(name: str, path: Path, workdir: Path) -> dict[str, Any]:
    """Train until the first step; return the row."""
    words = [f"data.path={path}", "model.kind=bigram", "train.log_every=1", "eval.every=0"]
    command = [sys.executable, "-m", "charjax.train", *words, "--workdir", str(workdir)]
    start, most, cpu = time.perf_counter(), 0, 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and not _has_step(workdir / "metrics.jsonl"):
            most = max(most, _memory(process.pid, "RssAnon"))
            cpu = _cpu_seconds(process.pid)
            time.sleep(_POLL_SECONDS)
        seconds = time.perf_counter() - start
    finally:
        process.kill()
        process.wait()
    row = {"name": name, "file_bytes": path.stat().st_size, "seconds": seconds}
    row |= {"cpu_seconds": cpu, "anonymous_bytes": most}
    print(f"{name}: {json.dumps(row)}", flush=True)
    return row


def _has_step(metrics: Path) -> bool:
    return metrics.exists() and '"split": "train"' in metrics.read_text(encoding="utf-8")


def _memory(process: int | str, field: str) -> int:
    """Return a field of /proc/PID/status in bytes; 0 of a process that has ended."""
    text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = [line for line in text.splitlines() if line.startswith(f"{field}:")]
    return int(found[0].split()[1]) * 1024 if found else 0


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


Cell = Callable[[dict[str, Any]], str]
# Columns of the table in docs/data.md.
COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("text", lambda row: str(row["name"])),
    ("file", lambda row: f"{row['file_bytes'] / 1e6:,.0f} MB"),
    ("CPU", lambda row: f"{row['cpu_seconds']:.2f} s"),
    ("above the start", lambda row: _megabytes(row.get("above_start_bytes"))),
    ("anonymous", lambda row: _megabytes(row["anonymous_bytes"])),
)


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:,.0f} MB"


if __name__ == "__main__":
    main(sys.argv[1:])
