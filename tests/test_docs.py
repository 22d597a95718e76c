"""The pages of README.md and docs/: links and names lead somewhere, and everything has a page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "benchmarks/NOTES.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
COMMANDS = {"train", "sample", "evaluate", "reproduce", "interop"}


def named(page: Path) -> set[str]:
    """Return the modules that a page renders from their docstrings."""
    return set(re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file(page: Path):
    targets = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_the_readme_stays_an_overview():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 180


def test_every_file_of_the_map_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Map\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| .* \| (.*) \|$", section, re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        first, *others = re.findall(r"`([^`]+)`", row) or [""]
        places = [ROOT / first, *(_beside(ROOT / first, other) for other in others)]
        assert row == "open" or all(place.exists() for place in places), row


def _beside(first: Path, name: str) -> Path:
    return ROOT / name if "/" in name else first.parent / name


def test_every_package_and_module_has_a_page_of_the_reference():
    packages = {path.parent.name for path in ROOT.glob("charjax/*/__init__.py")}
    modules = {path.stem for path in ROOT.glob("charjax/*.py") if not path.stem.startswith("__")}
    wanted = {f"charjax.{name}" for name in (packages - {"commands"}) | (modules - COMMANDS)}
    found = set().union(*(named(page) for page in ROOT.glob("docs/api/*.md")))
    assert found == wanted


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert pages <= set(re.findall(r"\S+\.md", navigation))
