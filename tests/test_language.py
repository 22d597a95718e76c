"""Plain English: words with a standard term in their place stay out of code and pages.

`python tests/test_language.py [PATH ...]` lists what is found.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = ("charjax", "benchmarks", "tests")
PAGES = ("README.md", "RESULTS.md", "DEVELOPERS.md", "CHANGELOG.md", "docs", "configs", "findings")
UNIT = (
    r"(?:nats|bits|bytes|characters|tokens|targets|steps|samples|updates|numbers|runs|rows|seeds|"
    r"seconds|times|products|calls|lines|draws|windows)"
)
COUNTED = (
    r"(?:character|step|second|token|target|device|core|run|row|call|batch|line|layer|scheme|seed|"
    r"file|process|chunk|weight|parameter|matrix|head|gate|block|size|window|micro-batch)"
)
# Pattern, and what to write in its place.
WORDS = {
    r"\b(?:un)?told\b|\btells?\b|\btellings?\b": "report, describe, return, show",
    r"\bdoors?\b": "tap point",
    r"\bslopes\b": "gradients",
    r"\bthe way back\b|\bforth and back\b": "backward pass; forward and backward",
    rf"\b{UNIT} an? {COUNTED}\b": "per",
    r"\bthat there is not\b|\bthat there are not\b": "not available",
    r"\bwatch(?:ed|ing)\b": "record",
    r"\bpushes\b": "perturbations",
    r"\bon its own\b|\beach its\b": "per device; name the thing",
    # Karpathy's "Neural Networks: Zero to Hero", named once.
    r"(?<!makemore )\blectures\b": "the makemore lectures",
    r"\barms?\b": "variant",
}
NAMES = {
    *("told", "door", "doors", "taken", "given", "begun", "kept", "own", "more", "slopes"),
    *("weighed", "watched", "watching", "pushes", "tellings", "arms", "arm", "on_its_own"),
    *("effective", "own_key", "each_its_rows", "Stack", "Runs", "Numbers", "Taken", "AdamStep"),
    *("begin_state", "deciding", "apart"),
}
BEGINNINGS = ("What ", "Whether ", "The same ", "Of ", "That ", "How ", "Which ", "Where ", "Why ")
# Path -> words of that file which mean something else there.
ALLOWED: dict[str, tuple[str, ...]] = {
    # Regression slopes of a coordinate check, and its verdict "cannot tell".
    "charjax/initlab/probes/coordinates.py": ("slopes", "tell"),
    "charjax/initlab/probes/tables.py": ("tell",),
    "charjax/initlab/commands/probe.py": ("tell",),
    # The verdict "cannot tell" of its JSON, and the name of the reproduction `names-arms`.
    "docs/initlab.md": ("tell", "arms"),
    "benchmarks/render_verdicts.py": ("tell",),
    "benchmarks/coordinates.py": ("tell",),
    "tests/initlab/test_coordinates.py": ("slopes", "Slopes", "tell"),
    "tests/initlab/test_probe.py": ("tell",),
    "charjax/initlab/reproductions/__init__.py": ("arms",),
    "benchmarks/gpu_steps.py": ("arms",),
    "benchmarks/gpu_trial.py": ("arms",),
    # A contestant's name in the results.
    "docs/speed.md": ("lectures",),
    "benchmarks/peers.py": ("lectures",),
}


def texts(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_file():
            yield path
        else:
            for suffix in ("*.py", "*.md", "*.toml", "*.sh", "*.j2", "*.html"):
                yield from sorted(path.rglob(suffix))


def findings(path: Path) -> list[str]:
    """Return `PATH:LINE: word: what to write instead` for each word that is out of place."""
    name = path.relative_to(ROOT).as_posix()
    text = path.read_text(encoding="utf-8")
    allowed = ALLOWED.get(name, ())
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, instead in WORDS.items():
            found += [
                f"{name}:{number}: {match.group()!r}: {instead}"
                for match in re.finditer(pattern, line, re.IGNORECASE)
                if match.group() not in allowed
            ]
    if path.suffix == ".py":
        found += [
            f"{name}:{number}: {word}" for number, word in names_and_docstrings(text, allowed)
        ]
    return found


def names_and_docstrings(text: str, allowed: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        bound = []
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound = [node.id]
        elif isinstance(node, ast.arg):
            bound = [node.arg]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound = [node.name]
        for name in bound:
            if name in NAMES and name not in allowed:
                yield node.lineno, f"name {name!r}: name the thing itself"
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            doc = ast.get_docstring(node) or ""
            if doc.startswith(BEGINNINGS):
                line = getattr(node, "lineno", 1)
                yield line, f"docstring {doc.split(chr(10))[0]!r}: begin with a verb or a noun"


def sources() -> list[Path]:
    places = [ROOT / place for place in (*CODE, *PAGES) if (ROOT / place).exists()]
    # This file holds all of them.
    return [
        path for path in texts(places) if "results" not in path.parts and path != Path(__file__)
    ]


def test_words_are_the_standard_terms() -> None:
    assert [found for path in sources() for found in findings(path)] == []


def test_a_planted_word_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    planted = tmp_path / "planted.py"
    planted.write_text('"""Whether it is told, in nats a character."""\nkept = 1\n')
    assert len(findings(planted)) == 4


if __name__ == "__main__":
    chosen = [Path(name).resolve() for name in sys.argv[1:]]
    for each in texts(chosen) if chosen else sources():
        print(*findings(each), sep="\n", end="\n" if findings(each) else "")
