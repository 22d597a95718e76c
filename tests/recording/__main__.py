"""Record what the commands of charjax do, and compare two recordings.

    python -m tests.recording OUT.json [--repo DIR] [--only PATTERN] [--keep DIR]
    python -m tests.recording --compare BEFORE.json AFTER.json [--only PATTERN] [--tolerance 1e-6]

It guards changes that are meant to change nothing, however many modules they move: nothing of
charjax is imported. Every case of `cases.py` runs the commands as processes in a folder of its own,
on a text of 2.5 kB, and `reading.py` reads the files that they leave and the JSON that they print:
losses, digests of states, of tensors and of samples, configurations, checkpoints' notes, the tables
of sweeps and the lists of files. A recording holds on the machine, with the versions and with the
number of cores that made it, and there alone; two recordings of one commit are equal to the bit.

Left out, as they differ from run to run or may be reworded: times, speeds and dates; facts of the
machine and versions; the digests of orbax's own files, which hold times; pictures (only that they
are there); comments of a printed configuration, notes, messages and the page of a report, of which
the numbers stay. Exit statuses are recorded, and errors are not; where a status is not that which
`cases.py` expects, its error is printed and the script ends with status 1.

`--tolerance` is relative, for numbers; digests of arrays (`state_digest`, `sha256`) and of samples
are compared only where it is 0, and a norm stands beside a tensor's. Every difference is a line;
the exit status is 1 if there are any. `--repo` records another checkout by the same cases, `--only`
takes the cases whose name matches a pattern as of a shell, `--keep` leaves their folders in DIR.
"""

import argparse
import concurrent.futures
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.recording import reading
from tests.recording.cases import CASES, Case, write_texts
from tests.recording.compare import differences

ROOT = Path(__file__).resolve().parent.parent.parent
# What would change how the commands compute, or where they find things.
_FOREIGN = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "JAX_NUMPY_DTYPE_PROMOTION", "PYTHONWARNINGS")


def main() -> int:
    """Record, or compare; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.recording", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT.json")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("BEFORE.json", "AFTER.json"))
    parser.add_argument("--tolerance", type=float, default=0.0)
    parser.add_argument("--repo", type=Path, default=ROOT)
    parser.add_argument("--only", default="*", metavar="PATTERN")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    args = parser.parse_args()
    if (args.out is None) == (args.compare is None):
        parser.error("give OUT.json to record, or --compare BEFORE.json AFTER.json")
    if args.compare:
        before, after = (
            {name: case for name, case in _read(path).items() if fnmatch.fnmatch(name, args.only)}
            for path in args.compare
        )
        found = list(differences(before, after, args.tolerance))
        print(*found, f"{len(found)} differences in {len(before)} cases", sep="\n")
        return int(bool(found))
    chosen = {name: case for name, case in CASES.items() if fnmatch.fnmatch(name, args.only)}
    with tempfile.TemporaryDirectory() as folder:
        recording = record(chosen, args.repo.resolve(), args.keep or Path(folder), args.jobs)
    text = json.dumps(recording, indent=0, ensure_ascii=False)
    args.out.write_text(text + "\n", encoding="utf-8")
    return int(
        any(
            command["status"] != chosen[name].status
            for name, case in recording.items()
            for command in case["printed"].values()
        )
    )


def _read(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree


def record(cases: dict[str, Case], repo: Path, folder: Path, jobs: int) -> dict[str, Any]:
    """Run the cases, the longest first, and return what each has left."""
    began = time.perf_counter()
    order = sorted(cases, key=lambda name: -cases[name].cost)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        works = {
            name: pool.submit(record_case, cases[name], repo, folder / f"{place:03}", folder)
            for place, name in enumerate(order)
        }
        for count, name in enumerate(order, start=1):
            works[name].result()
            seconds = time.perf_counter() - began
            print(f"{count}/{len(order)} {name} ({seconds:.0f} s)", file=sys.stderr)
    return {name: works[name].result() for name in cases}


def record_case(case: Case, repo: Path, folder: Path, cache: Path) -> dict[str, Any]:
    """Run the commands of a case one after the other in a new folder, and read it."""
    folder.mkdir(parents=True)
    write_texts(folder)
    env = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    # LAPACK's threads would wait for each other where two processes share the cores.
    env |= {"PYTHONPATH": str(repo), "JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"}
    env.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "compiled"))
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05"}
    if case.devices:
        env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={case.devices}"
    printed = {}
    for words in case.commands:
        if words[0] == "without-header":
            reading.drop_header(folder / words[1], folder / words[2])
            continue
        command = [sys.executable, "-m", f"charjax.{words[0]}", *words[1:]]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        if done.returncode != case.status:
            print(f"{' '.join(words)}: status {done.returncode}\n{done.stderr}", file=sys.stderr)
        found = None if done.returncode else reading.read_printed(words, done.stdout)
        printed[" ".join(words)] = {"status": done.returncode, "stdout": found}
    return {"printed": printed, **reading.read_folder(folder)}


if __name__ == "__main__":
    sys.exit(main())
