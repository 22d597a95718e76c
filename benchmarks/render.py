"""Write the measured numbers into README.md, docs/ and the headers of configs/.

`make results`. Everything between `<!-- begin NAME -->` and `<!-- end NAME -->` in README.md and
docs/, every line of a config that begins with `# Measured`, the pictures in docs/figures and
charjax/performance/*.json are made here from benchmarks/results/*.json.
"""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import (
    mixtures,
    render_against,
    render_aot,
    render_benchmark,
    render_faults,
    render_initlab,
    render_optimizers,
    render_picture,
    render_plan,
    render_speed,
    render_studies,
    render_verdicts,
)
from benchmarks.results_file import RESULTS
from charjax.hardware import in_words
from charjax.reproduction import report
from charjax.reproduction.measure import compare
from charjax.reproduction.output import read_results
from charjax.reproduction.published import ORDERINGS, ROWS
from charjax.reproduction.report import draw_row
from charjax.reproduction.rows import LONG, Row

# The rows whose curves docs/results.md shows.
PICTURED = ("shakespeare-gru",)
ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# The rows that the README shows; docs/results.md has all.
HEADLINES = (
    "names-bigram",
    "names-mlp-kaiming",
    "names-wavenet-76k",
    "names-beyond-200k",
    "shakespeare-modified-kneser-ney-7",
    "nanogpt-cpu",
    "nanogpt-char",
    "warpeace-gru-beyond",
)


def main() -> None:
    """Rewrite what is made from the results; print what was written."""
    measured = reproduced()
    for path, text in pages(measured).items():
        path.write_text(text, encoding="utf-8")
    for name in PICTURED:
        if name in measured:
            draw_row(measured[name], _picture(name))
    render_picture.draw(DOCS / "figures" / "overview.svg")
    render_studies.draw(DOCS / "figures")
    print(f"README.md, docs/ and configs/ written; {len(measured)} reproduced rows")


def pages(measured: dict[str, report.Result], folder: Path = RESULTS) -> dict[Path, str]:
    """Return every text that is made, whole or in part, from the results in a folder."""
    results = json.loads((folder / "configs-cpu.json").read_text(encoding="utf-8"))
    made = {
        path: with_header(path, results.get(path.stem), measured)
        for path in sorted((ROOT / "configs").glob("*.toml"))
    }
    parts = {
        ROOT / "README.md": {
            "reproduced": headlines([row for row in ROWS if row.name in HEADLINES], measured),
            "speed": render_speed.summary(folder),
        },
        DOCS / "guide.md": {"run": run_excerpt(results["default"])},
        DOCS / "results.md": {"results": tables(measured)},
        DOCS / "speed.md": {
            "commands": speed_table(results),
            "time-to-quality": render_speed.goals(folder),
            "counting": render_speed.counting(folder),
            "against": render_against.table(folder),
            "benchmarks": render_speed.benchmarks(folder),
        },
        DOCS / "accelerators.md": render_aot.page_parts(),
        DOCS / "optimizers.md": render_optimizers.page_parts(),
        DOCS / "benchmark.md": render_benchmark.page_parts(),
        DOCS / "options.md": {"mixtures": mixtures.table(folder)},
        DOCS / "data.md": {"texts": render_speed.texts(folder)},
        DOCS / "distributed.md": {"scaling": render_speed.scaling(folder)},
        DOCS / "durability.md": render_faults.page_parts(),
        DOCS / "plan.md": render_plan.page_parts(),
        DOCS / "initlab.md": render_initlab.page_parts(folder) | render_verdicts.page_parts(),
        DOCS / "studies.md": render_studies.page_parts(folder),
    }
    for page, made_of in parts.items():
        text = page.read_text(encoding="utf-8")
        for name, part in made_of.items():
            text = replace_part(page.name, text, name, part)
        made[page] = text
    return made | render_plan.package_files()


def tables(measured: dict[str, report.Result]) -> str:
    """Return the tables of docs/results.md: rows by text, orderings, tolerances; and curves."""
    orders = [
        compare(order, measured)
        for order in ORDERINGS
        if order.worse in measured and order.better in measured
    ]
    page = report.document(ROWS, measured, orders, "make results")
    # The page has a head of its own.
    text = "## " + page.partition("\n## ")[2]
    for name in PICTURED:
        if name in measured:
            where = f"../{_picture(name).relative_to(ROOT).as_posix()}"
            text += f"\n## Curve of {name}\n\n![validation loss of {name} by step]({where})\n"
    return text.strip()


def _picture(name: str) -> Path:
    return RESULTS / f"{name}-curve.png"


def reproduced(folder: Path = RESULTS) -> dict[str, report.Result]:
    """Return the newest result of every row, from all files that `charjax.reproduce` wrote."""
    found: dict[str, report.Result] = {}
    for path in sorted(folder.glob("reproduce-*.json")):
        for name, result in read_results(path, "rows").items():
            if name not in found or found[name]["finished"] < result["finished"]:
                found[name] = result
    return {row.name: found[row.name] for row in ROWS if row.name in found}


def with_header(
    path: Path, result: dict[str, Any] | None, measured: dict[str, report.Result]
) -> str:
    """Return a configuration with the command, the time and the score in its header."""
    text = path.read_text(encoding="utf-8")
    body = [line for line in text.splitlines() if not line.startswith("# Measured")]
    at = next(index for index, line in enumerate(body) if not line.startswith("#"))
    row = next((row for row in measured.values() if _is_of(row, path.stem)), None)
    lines = mixtures.header(path.stem) or (
        header(path.stem, result) if row is None else row_header(row)
    )
    return "\n".join(body[:at] + lines + body[at:]) + "\n"


def _is_of(result: report.Result, config: str) -> bool:
    """Return true for a row of this configuration unchanged (except `eval.every`)."""
    extra = [word for word in result["overrides"] if not word.startswith("eval.every=")]
    if result["config"].endswith("-kneser-ney"):
        # Each order of the counts is a row; choose the one whose settings are the file's own.
        return result["config"] == config and result["name"] == _own_count(config)
    return result["config"] == config and not extra


def _own_count(config: str) -> str:
    from charjax.config import load_config

    return f"{config}-{load_config(config).model.order}"


def row_header(result: report.Result) -> list[str]:
    """Return the header lines that give what a row measured."""
    first = result["figures"][0]
    losses = [f"{report.QUANTITIES[first['quantity']]} {report.mean_in_words(first['measured'])}"]
    losses += [
        f"{report.QUANTITIES[name]} {report.mean_in_words(numbers)}"
        for name, numbers in result["shown"].items()
    ]
    runs = len(result["runs"])
    return [
        f"# Measured: {result['command']}",
        f"# Measured: {', '.join(losses)} ({runs} seed{'s' if runs > 1 else ''}); "
        f"{result['seconds']:.0f} s in all on",
        f"# Measured: {in_words(result['hardware'])}.",
    ]


def header(name: str, result: dict[str, Any] | None) -> list[str]:
    """Return the header lines of a configuration that no row uses."""
    if result is None:
        used = [row for row in ROWS if row.config == name]
        command = f"reproduce --only {used[0].name}" if used else f"train {name}"
        command += f" --tier {LONG}" if used and used[0].is_in(LONG) else ""
        return [f"# Measured: not run yet; python -m charjax.{command}"]
    return [
        f"# Measured: {result['command']}",
        f"# Measured: {score(result)}; {result['summary']['seconds']:.0f} s on",
        f"# Measured: {in_words(result['hardware'])}.",
    ]


def score(result: dict[str, Any]) -> str:
    """Return the losses of a result, in words."""
    summary = result["summary"]
    if summary["best_val_loss"] is None:
        last = result["last_line"]
        words = f"train {last['loss']:.4f}"
        if "l2_penalty" in last:
            words += f", {last['loss'] + last['l2_penalty']:.4f} with the penalty"
        return words
    words = f"val {summary['best_val_loss']:.4f}"
    return words + (f", test {summary['test_loss']:.4f}" if summary["test_loss"] else "")


def headlines(rows: list[Row], measured: dict[str, report.Result]) -> str:
    """Return a table with the first figure of each row."""
    lines = ["| text | row | loss | published | measured | seeds | verdict |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        title, _, *rest = report.cells(row, measured.get(row.name))[0]
        lines.append(f"| {' | '.join([row.text, title, *rest])} |")
    shown = [measured[row.name] for row in rows if row.name in measured]
    for machine in sorted({in_words(result["hardware"]) for result in shown}):
        lines += ["", f"Measured by `python -m charjax.reproduce` on {machine}."]
    return "\n".join(lines)


def speed_table(results: dict[str, Any]) -> str:
    """Return a table of steps per second of the small models and of the sampler."""
    rows = ["| command | per second |", "|---|---|"]
    for name in ("shakespeare-bigram", "names-mlp-kaiming", "nanogpt-cpu"):
        if name in results:
            summary = results[name]["summary"]
            rows.append(
                f"| `{results[name]['command']}` | {summary['tokens_per_second']:,.0f} targets, "
                f"{_steps_per_second(name, summary):,.0f} steps |"
            )
    if "default" in results:
        sampling = results["default"]["sampling"]
        rows.append(
            f"| `{sampling['command']}` (the default model) | {sampling['median']:,.0f} "
            f"characters, median of {len(sampling['characters_per_second'])} |"
        )
    return "\n".join(rows) + "\n\n" + _from(results)


def _steps_per_second(name: str, summary: dict[str, Any]) -> float:
    from charjax.config import load_config

    config = load_config(name)
    window = 1 if config.data.layout == "pairs" else config.model.context_length
    return summary["tokens_per_second"] / (config.train.batch_size * window)


def run_excerpt(result: dict[str, Any]) -> str:
    """Return what the default run printed, its table of parameters left out."""
    output = re.sub(r"^parameter .*?^(?=note: |text: )", "", result["output"], flags=re.M | re.S)
    text = "\n".join(line.rstrip() for line in output.splitlines()).strip()
    return (
        f"```\n$ python -m charjax.train\n{text}\n```\n\n"
        f"Measured by `python -m benchmarks.configs default` on {in_words(result['hardware'])}."
    )


def _from(results: dict[str, Any]) -> str:
    machines = sorted({in_words(result["hardware"]) for result in results.values()})
    return f"Measured by `python -m benchmarks.configs` on {'; '.join(machines)}."


def replace_part(page: str, text: str, name: str, part: str) -> str:
    """Replace the text between the markers of a part."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{page} has no part {name!r}: put {begin} and {end} where it belongs")
    return f"{before}{begin}\n{part}\n{end}{after}"


if __name__ == "__main__":
    main()
