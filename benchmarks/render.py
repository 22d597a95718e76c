"""Writes the measured numbers into README.md and the headers of configs/ (`make results`).

Everything between `<!-- begin NAME -->` and `<!-- end NAME -->` in the README, and every line of
a config that begins with `# Measured`, is made here from benchmarks/results/*.json.
"""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.configs import RESULTS
from charjax.hardware import in_words

ROOT = Path(__file__).resolve().parent.parent
# What is published for each configuration, and where (nats; validation unless said otherwise).
PUBLISHED = {
    "names-bigram": "2.4533 (counts)",
    "names-bigram-smoothed": "2.4818 on all names, penalty included",
    "names-kneser-ney": "1.997 (counts, measured apart)",
    "names-mlp-naive": "2.168",
    "names-mlp-readout": "2.131",
    "names-mlp-hidden": "2.103",
    "names-mlp-kaiming": "2.107",
    "names-mlp-batchnorm": "2.105",
    "nanogpt-char": "1.4697 (200 random batches)",
    "nanogpt-cpu": "1.88 (20 random batches); 1.8982 exact",
    "shakespeare-kneser-ney": "1.558 (counts, measured apart)",
}


def main() -> None:
    """Rewrite the marked places; print what was written."""
    results = json.loads((RESULTS / "configs-cpu.json").read_text(encoding="utf-8"))
    for path in sorted((ROOT / "configs").glob("*.toml")):
        write_header(path, results.get(path.stem))
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, part in readme_parts(results).items():
        text = replace_part(text, name, part)
    readme.write_text(text, encoding="utf-8")
    print(f"README.md and configs/ written from {len(results)} results")


def write_header(path: Path, result: dict[str, Any] | None) -> None:
    """Put the command, the time and the score into a configuration's header."""
    lines = path.read_text(encoding="utf-8").splitlines()
    body = [line for line in lines if not line.startswith("# Measured")]
    at = next(index for index, line in enumerate(body) if not line.startswith("#"))
    path.write_text("\n".join(body[:at] + header(path.stem, result) + body[at:]) + "\n")


def header(name: str, result: dict[str, Any] | None) -> list[str]:
    """The lines that say what was measured."""
    if result is None:
        return [f"# Measured: not run yet; python -m charjax.train {name} (a GPU finishes it)."]
    return [
        f"# Measured: {result['command']}",
        f"# Measured: {score(result)}; {result['summary']['seconds']:.0f} s on",
        f"# Measured: {in_words(result['hardware'])}.",
    ]


def score(result: dict[str, Any]) -> str:
    """The losses of a result, in words."""
    summary = result["summary"]
    if summary["best_val_loss"] is None:
        last = result["last_line"]
        told = f"train {last['loss']:.4f}"
        if "l2_penalty" in last:
            told += f", {last['loss'] + last['l2_penalty']:.4f} with the penalty"
        return told
    told = f"val {summary['best_val_loss']:.4f}"
    return told + (f", test {summary['test_loss']:.4f}" if summary["test_loss"] else "")


def readme_parts(results: dict[str, Any]) -> dict[str, str]:
    """The generated parts of the README, by name."""
    parts = {"configs": configs_table(results), "speed": speed_table(results)}
    if "default" in results:
        parts["run"] = run_excerpt(results["default"])
    return parts


def configs_table(results: dict[str, Any]) -> str:
    """Published and measured scores, with the command of each row."""
    rows = ["| command | published | measured | time |", "|---|---|---|---|"]
    for path in sorted((ROOT / "configs").glob("*.toml")):
        name, result = path.stem, results.get(path.stem)
        measured = score(result) if result else "not run (a GPU's job)"
        seconds = f"{result['summary']['seconds']:.0f} s" if result else ""
        rows.append(
            f"| `python -m charjax.train {name}` | {PUBLISHED.get(name, '')} | {measured} | "
            f"{seconds} |"
        )
    return "\n".join(rows) + "\n\n" + _from(results)


def speed_table(results: dict[str, Any]) -> str:
    """Steps a second of the small models and the sampler, through the real commands."""
    rows = ["| command | speed |", "|---|---|"]
    for name in ("shakespeare-bigram", "names-mlp-kaiming", "nanogpt-cpu"):
        if name in results:
            summary = results[name]["summary"]
            rows.append(
                f"| `{results[name]['command']}` | {summary['tokens_per_second']:,.0f} targets/s, "
                f"{_steps_a_second(name, summary):,.0f} steps/s |"
            )
    if "default" in results:
        sampling = results["default"]["sampling"]
        rows.append(
            f"| `{sampling['command']}` (the default model) | {sampling['median']:,.0f} "
            f"characters/s, median of {len(sampling['characters_per_second'])} |"
        )
    return "\n".join(rows) + "\n\n" + _from(results)


def _steps_a_second(name: str, summary: dict[str, Any]) -> float:
    from charjax.config import load_config

    config = load_config(name)
    window = 1 if config.data.layout == "pairs" else config.model.context_length
    return summary["tokens_per_second"] / (config.train.batch_size * window)


def run_excerpt(result: dict[str, Any]) -> str:
    """What the default run printed, its table of parameters left out."""
    lines = result["output"].splitlines()
    kept = [line for line in lines if not re.match(r"(parameter|block_|\w+_embedding)", line)]
    text = "\n".join(line.rstrip() for line in kept).strip()
    return (
        f"```\n$ python -m charjax.train\n{text}\n```\n\n"
        "![training and validation loss](benchmarks/results/default-curves.png)\n\n"
        f"({in_words(result['hardware'])})"
    )


def _from(results: dict[str, Any]) -> str:
    machines = sorted({in_words(result["hardware"]) for result in results.values()})
    return f"Measured by `python -m benchmarks.configs` on {'; '.join(machines)}."


def replace_part(text: str, name: str, part: str) -> str:
    """Replace what stands between a part's markers."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"README.md has no part {name!r}: put {begin} and {end} where it belongs")
    return f"{before}{begin}\n{part}\n{end}{after}"


if __name__ == "__main__":
    main()
