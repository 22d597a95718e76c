"""The comparison with another commit, as a part of docs/speed.md: `make results`."""

import json
from pathlib import Path
from typing import Any

from benchmarks import against
from benchmarks.results_file import RESULTS
from charjax.hardware import in_words, versions_in_words


def table(results: Path = RESULTS) -> str:
    """Return every workload's times on both sides, and their ratios."""
    files = sorted(results.glob("against-*.json"))
    parts = [_part(json.loads(path.read_text(encoding="utf-8"))) for path in files]
    return "\n\n".join(parts or ["Not run yet; `python -m benchmarks.against COMMIT`."])


def _part(tree: dict[str, Any]) -> str:
    heads = [head for head, _ in against.COLUMNS]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for row in tree["rows"]:
        cells = [cell(row).replace("|", "\\|") for _, cell in against.COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    sides = [
        f"- {name}: {against.side_in_words(facts)}; {versions_in_words(facts)}"
        for name, facts in tree["sides"].items()
    ]
    turns = tree["turns"]
    measured = (
        f"Measured by `{tree['command']}` on {in_words(tree['hardware'])}, {turns} turn"
        f"{'s' if turns > 1 else ''} of each; load at the start {tree['load']:.1f}."
    )
    return "\n".join([*lines, "", *sides, "", measured])
