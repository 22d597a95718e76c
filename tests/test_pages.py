"""Every block of every page is executed, or says why not; what it shows is what it prints."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pages
from charjax.data import corpora
from charjax.errors import UserError
from tests import page_commands

ROOT = Path(__file__).resolve().parent.parent
LEARN = [page for page in sorted((ROOT / "docs/learn").glob("*.md")) if page.name != "index.md"]
SHELL = ("", "bash", "sh", "console")
READERS: dict[str, Callable[[str], Any]] = {"toml": tomllib.loads, "json": json.loads}
COMMAND = re.compile(r"^(\$|charjax|python|make|pip) ", re.MULTILINE)
# Files that a page's Python blocks write.
WRITTEN = re.compile(r"""Path\("([\w.]+)"\)\.write_text\('''(.*?)'''\)""", re.DOTALL)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


_FILES = [*ROOT.glob("*.md"), ROOT / "benchmarks/NOTES.md", *ROOT.glob("docs/**/*.md")]
PAGES = [page for page in sorted(_FILES) if pages.blocks(text_of(page))]
each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
each_rung = pytest.mark.parametrize("page", LEARN, ids=name_of)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with the files that pages call the reader's own; shorten the default text."""
    monkeypatch.chdir(tmp_path)
    modules = corpora._modules
    monkeypatch.setattr(corpora, "_modules", lambda root: itertools.islice(modules(root), 15))
    for name, text in page_commands.FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def problems(block: pages.Block) -> str | None:
    """Return why a block is neither executed nor excused; None for the others."""
    if block.language == "python":
        compile(block.text, f"line {block.line}", "exec")
        return None
    if block.language == "text":
        return "text holds commands: remove `text`" if COMMAND.search(block.text) else None
    if block.language in READERS:
        READERS[block.language](block.text)
        return None
    if block.language not in SHELL:
        return f"nothing runs {block.language!r}"
    if page_commands.is_synopsis(block.text):
        return None
    others = [
        " ".join(words)
        for words in page_commands.lines(block.text)
        if not page_commands.charjax_command(words)
    ]
    if others and not block.reason:
        return f"{others[0]!r} is not run: put <!-- not run: REASON --> above it"
    return None


@each_page
def test_every_block_is_executed_or_says_why_not(page: Path) -> None:
    found = [
        f"{page.name}:{block.line}: {problem}"
        for block in pages.blocks(text_of(page))
        if (problem := problems(block))
    ]
    assert not found


@each_page
def test_commands_are_accepted(page: Path, desk: Path) -> None:
    """Commands that are not run, too: the parser, and the settings that they name."""
    for name, source in WRITTEN.findall(text_of(page)):
        (desk / name).write_text(source, encoding="utf-8")
    for block in pages.blocks(text_of(page)):
        if block.language in SHELL and not page_commands.is_synopsis(block.text):
            for words in page_commands.lines(block.text):
                page_commands.check(words)


@each_page
def test_flags_of_a_synopsis_are_those_of_the_command(page: Path) -> None:
    for block in pages.blocks(text_of(page)):
        if block.language not in SHELL or not page_commands.is_synopsis(block.text):
            continue
        for words, flags in page_commands.synopses(block.text):
            command = page_commands.charjax_command(words)
            assert command is not None, words
            names: list[list[str]] = [[]]
            if command.module.endswith("interop"):
                names = [[name] for name in command.arguments[0].split("|")]
            if "|" in command.module:
                continue
            known = set().union(*(page_commands.flags_of(command.module, *n) for n in names))
            assert flags <= known, words


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in LEARN], ids=name_of)
def test_a_page_runs(page: Path, desk: Path) -> None:
    """Each page is a program: its Python blocks, and between them its commands."""
    found = pages.blocks(text_of(page))
    programs = [block.text for block in found if block.is_program]
    outputs: list[str] = []
    running = pages.run_python(page.name, programs)
    for block in found:
        if block.is_program:
            outputs.append(next(running))
        elif block.output_of is not None:
            same_output(outputs[block.output_of], block, page)
        elif block.language in SHELL and not block.reason:
            run_commands(block, page)


@pytest.mark.slow
@pytest.mark.longest
@each_rung
def test_a_rung_prints_what_it_shows(page: Path, data_dir: Path, desk: Path) -> None:
    """Run it as `make learn` does: as a reader's session, with the compiler's optimisation."""
    copy = desk / page.name
    shutil.copy(page, copy)
    tested = ("XLA_FLAGS", "JAX_NUMPY_DTYPE_PROMOTION")
    environment = {name: value for name, value in os.environ.items() if name not in tested}
    environment["PYTHONPATH"] = str(ROOT)
    subprocess.run(
        [sys.executable, "-m", "benchmarks.pages", copy], env=environment, check=True, timeout=600
    )
    printed = [block for block in pages.blocks(text_of(copy)) if block.output_of is not None]
    shown = [block for block in pages.blocks(text_of(page)) if block.output_of is not None]
    for block, expected in zip(printed, shown, strict=True):
        same_output(block.text, expected, page)
    assert {path.name for path in (desk / pages.FIGURES).iterdir()} == set(figures(page))
    for block in pages.blocks(text_of(page)):
        if block.language in SHELL:
            run_commands(block, page)


def run_commands(block: pages.Block, page: Path) -> None:
    if page_commands.is_synopsis(block.text):
        return
    for words in page_commands.lines(block.text):
        command = page_commands.charjax_command(words)
        assert command is not None
        done = page_commands.run(command)
        assert done.status == 0, f"{page.name}:{block.line}: {' '.join(words)}: {done.err}"


def same_output(printed: str, block: pages.Block, page: Path) -> None:
    """Compare words exactly, and numbers with a point to 2 %: they differ between machines."""
    shown, printed = block.text.rstrip("\n"), printed.rstrip("\n")
    where = f"{page.name}:{block.line}: run make learn; printed:\n{printed}"
    assert NUMBER.sub("#", shown).split() == NUMBER.sub("#", printed).split(), where
    for expected, got in zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True):
        is_rounded = "." in expected or "e" in expected
        a, b = (float(number.replace(",", "")) for number in (expected, got))
        unit = 10.0 ** -len(expected.partition(".")[2]) if "e" not in expected else 0.5 * abs(a)
        assert a == b or (is_rounded and abs(a - b) <= max(0.02 * abs(a), 1.01 * unit)), where


def figures(page: Path) -> list[str]:
    return re.findall(rf"\]\({pages.FIGURES}/(\S+)\)", text_of(page))


@each_rung
def test_figures_are_checked_in(page: Path) -> None:
    for name in figures(page):
        assert (page.parent / pages.FIGURES / name).stat().st_size < 100_000


def test_every_figure_belongs_to_a_page() -> None:
    used = {name for page in LEARN for name in figures(page)}
    assert used == {path.name for path in (ROOT / "docs/learn" / pages.FIGURES).iterdir()}


@each_rung
def test_numbers_in_the_text_come_from_a_block(page: Path) -> None:
    """Find numbers of three digits or more, or with a point."""
    text = text_of(page)
    inside = "".join(block.text for block in pages.blocks(text))
    prose = text.splitlines()
    for block in pages.blocks(text):
        prose[block.line - 1 : block.end] = [""] * (block.end - block.line + 1)
    plain = re.sub(r"`[^`]*`|\]\([^)]*\)|<[^>]*>|arXiv:\S+|\b[12]\d\d\d\b", "", "\n".join(prose))
    numbers = re.findall(r"\d[\d,]*\.\d+|\d[\d,]{2,}\b", plain)
    known = inside.replace("_", "").replace(",", "")
    assert [number for number in numbers if number.replace(",", "") not in known] == []


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("```\nls -l\n```", "is not run"),
        ("```\nmake test\n```", "is not run"),
        ("```text\ncharjax train my.txt\n```", "holds commands"),
        ("```ruby\nputs 1\n```", "nothing runs"),
    ],
)
def test_a_block_that_is_skipped_is_a_failure(block: str, problem: str) -> None:
    assert problem in (problems(pages.blocks(block)[0]) or "")


@pytest.mark.parametrize(
    "block",
    [
        "```\ncharjax train my.txt\n```",
        "<!-- not run: installs packages -->\n<!-- begin x -->\n  ```\n  make test\n  ```",
        "<!-- not run: needs PyTorch -->\n```python\nimport torch\n```",
        "```toml\na = 1\n```",
        "```text\na -> b\n```",
    ],
)
def test_a_block_that_is_run_or_says_why_not(block: str) -> None:
    assert problems(pages.blocks(block)[0]) is None


@pytest.mark.parametrize(
    "words",
    [
        "charjax train --no-such-flag",
        "charjax train nanogpt-cpu model.n_layers=2",
        "charjax fly",
        "make no-such-target",
        "pip install charjax[nothing]",
        "python -m benchmarks.nothing",
        "ls",
    ],
)
def test_a_command_that_is_not_accepted_is_a_failure(words: str, desk: Path) -> None:
    with pytest.raises((AssertionError, ValueError, UserError)):
        page_commands.check(words.split())


def test_outputs_are_compared() -> None:
    page = Path("page.md")
    text = '```python\nprint("loss", 2.5)\n```\n\n```text\nloss 2.51\n```\n'
    skipped = "<!-- not run: slow -->\n```python\nwait()\n```\n"
    assert [block.output_of for block in pages.blocks(skipped + text)] == [None, None, 0]
    python, output = pages.blocks(text)
    assert (python.output_of, output.output_of) == (None, 0)
    same_output("loss 2.5\n", output, page)
    for other in ("loss 2.7", "lost 2.51", "loss 2.51 2"):
        with pytest.raises(AssertionError, match="make learn"):
            same_output(other, output, page)
    assert pages.with_outputs(text, ["loss 2.5\n"]) == text.replace("2.51", "2.5")


def test_there_are_such_pages() -> None:
    assert {ROOT / "docs" / "python.md", ROOT / "README.md"} <= {*PAGES}
    assert len({*LEARN} & {*PAGES}) == len(LEARN) == 8
