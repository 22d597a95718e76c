"""Write the fault matrix of docs/durability.md from benchmarks/results/faults-cpu.json."""

import json
from pathlib import Path
from typing import Any

from benchmarks.results_file import RESULTS
from charjax.hardware import in_words

# What is done to a run, and the outcome required. The results say how often it was met.
FAULTS = {
    1: ("`kill -9` at any moment of training", "resumes, ends with the same bits"),
    2: ("`kill -9` during a save", "same bits; at most one interval lost"),
    3: (
        "SIGTERM while compiling, training, evaluating, sampling, saving",
        "everything done is saved, exit 143",
    ),
    4: ("Ctrl-C; a second signal", "saved, exit 130; the second ends the run at once"),
    5: ("disk or quota full during a save", "one line, exit 1; the previous step intact"),
    6: (
        "a file of the newest step missing, empty or truncated",
        "falls back to the previous step, named",
    ),
    7: ("one bit flipped in any file of a step", "detected; falls back to the previous step"),
    8: ("every step damaged", "refused, with the list; nothing starts over"),
    9: ("leftovers of interrupted saves", "not read; removed by the next writer"),
    10: (
        "another configuration, alphabet, shape or dtype",
        "refused before arrays are read, fields named",
    ),
    11: (
        "NaN or Inf in loss or gradients, once or repeatedly",
        "skipped, state unchanged bit for bit; run stopped, also when resumed",
    ),
    12: ("two runs into one directory", "the second refuses and names the first's process"),
    13: ("a metric that falls, rises, jumps, breaks", "best and latest are both kept"),
    14: (
        "the directory disappears, is deleted or becomes read-only",
        "one line, before another interval is lost",
    ),
    15: (
        "stopped on 1 device, resumed on 2, then on 1; compile cache corrupted or inaccessible",
        "losses within 1e-5; a warning and a normal compilation",
    ),
    16: ("crafted checkpoints, pickles for arrays", "nothing unpickled, one line"),
    17: (
        "downloads that are wrong, truncated, decompression bombs, archives",
        "no file left, none written elsewhere",
    ),
    18: (
        "`<script>` and control characters in texts and names",
        "displayed as text, never interpreted",
    ),
    19: ("random settings, prompts, texts and paths", "exit 0 or 2, never a traceback"),
    20: ("metrics.jsonl with later lines and a truncated end", "complete lines, each step once"),
    21: ("none: the same seed twice", "the same bits"),
    22: ("none: the compile cache", "private to the user (0700)"),
}


def page_parts(results: Path = RESULTS) -> dict[str, str]:
    """Return the part `faults`: a line per row, with command and hardware."""
    path = results / "faults-cpu.json"
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"parts": []}
    lines = ["| # | fault | what happens | passed | time |", "|---|---|---|---|---|"]
    for row, (fault, outcome) in FAULTS.items():
        parts = [part for part in held["parts"] if part["row"] == row]
        lines.append(f"| {row} | {fault} | {outcome} | {_passed(parts)} | {_time(parts)} |")
    lines.append("")
    if held["parts"]:
        machine, minutes = in_words(held["hardware"]), held["seconds"] / 60
        lines.append(f"Measured by `{held['command']}` on {machine}, in {minutes:.0f} minutes.")
    else:
        lines.append("Not run yet; `make faults FAULTS_OUT=benchmarks/results/faults-cpu.json`.")
    return {"faults": "\n".join(lines)}


def _passed(parts: list[dict[str, Any]]) -> str:
    if not parts:
        return "not run"
    passed, cases = (sum(part[name] for part in parts) for name in ("passed", "cases"))
    # A part may end before its last case.
    mark = "" if all(part["whole"] for part in parts) else ", failed"
    return f"{passed:,} of {cases:,}{mark}"


def _time(parts: list[dict[str, Any]]) -> str:
    return f"{sum(part['seconds'] for part in parts):,.0f} s" if parts else ""
