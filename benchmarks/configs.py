"""Results of shipped configurations, run through the training command.

    python -m benchmarks.configs [NAME ...] [--out benchmarks/results/configs-cpu.json]

Without names: those whose output or speed README.md or docs/ show, and those that no row of
`python -m charjax.reproduce` measures.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.results_file import RESULTS
from charjax import files
from charjax.config import shipped_configs
from charjax.hardware import machine_facts

SHOWN = (
    "default",
    "names-bigram-smoothed",
    "names-mlp-kaiming",
    "nanogpt-cpu",
    "shakespeare-bigram",
)
SAMPLE_REPEATS = 5


def main() -> None:
    """Run the configurations one by one, and merge the results into the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_RAW)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=RESULTS / "configs-cpu.json")
    args = parser.parse_args()
    known = shipped_configs()
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f"{', '.join(unknown)}: unknown; allowed: {', '.join(known)}")
    for name in args.names or SHOWN:
        print(f"{name}: ", end="", flush=True)
        result = run(name)
        results = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
        results[name] = result
        text = json.dumps(results, indent=1, sort_keys=True) + "\n"
        args.out.parent.mkdir(parents=True, exist_ok=True)
        files.replace(args.out, text)
        summary = result["summary"]
        print(f"val {summary['best_val_loss']}, {summary['seconds']:.0f} s")


_RAW = argparse.RawDescriptionHelpFormatter


def run(name: str) -> dict[str, Any]:
    """Train a configuration in a temporary directory; return summary, samples and output."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = str(Path(folder) / name)
        output = _command("charjax.train", name, "--workdir", workdir)
        summary = json.loads((Path(workdir) / "summary.json").read_text(encoding="utf-8"))
        result = {
            "command": f"python -m charjax.train {name}",
            "hardware": machine_facts(),
            "summary": summary,
        }
        if summary["best_val_loss"] is None:
            lines = (Path(workdir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            result["last_line"] = json.loads(lines[-1])
        if name == "default":
            result["sampling"] = _sampling(workdir)
            result["output"] = output.replace(workdir, "runs/stdlib-transformer")
        return result


def _sampling(workdir: str) -> dict[str, Any]:
    """Return characters per second of one text by the sampling command, without compilation."""
    flags = ("--max-new-tokens", "2000", "--json")
    rates = [
        json.loads(_command("charjax.sample", workdir, *flags, "--seed", str(seed)))[
            "characters_per_second"
        ]
        for seed in range(SAMPLE_REPEATS)
    ]
    return {
        "command": "python -m charjax.sample RUN --max-new-tokens 2000 --json",
        "characters_per_second": rates,
        "median": statistics.median(rates),
    }


def _command(module: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


if __name__ == "__main__":
    main()
