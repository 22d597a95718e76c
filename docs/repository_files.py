"""Put more files on the site: README.md as its index, notes, changelog, pictures, notebooks.

A hook of MkDocs. The pages keep links that work on GitHub; here each is made relative to the site.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# A file of the repository, and what it is called on the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "DEVELOPERS.md": "developers.md",
    "benchmarks/NOTES.md": "notes.md",
}
PICTURES = "benchmarks/results"
NOTEBOOK = ".ipynb"
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and pictures, and a page for each notebook."""
    for path in sorted((ROOT / "docs").rglob(f"*{NOTEBOOK}")):
        place = path.relative_to(ROOT / "docs").with_suffix(".md").as_posix()
        files.append(File.generated(config, place, content=notebook_page(path)))
    found = {path: place for path, place in PAGES.items() if (ROOT / path).exists()}
    found |= {
        f"{PICTURES}/{path.name}": f"figures/{path.name}"
        for path in (ROOT / PICTURES).glob("*.png")
    }
    for path, place in found.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def notebook_page(path: Path) -> str:
    """Return the cells of a notebook without outputs as a page that links to the file."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    blocks = [text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in texts]
    return "\n\n".join([*blocks, f"[Download this notebook]({path.name})"])


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make each link relative to the site; one that leaves the site stays, and fails the build."""
    place = page.file.src_uri
    origin = next((path for path, name in PAGES.items() if name == place), f"docs/{place}")

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), match[1]))
        if target in PAGES:
            target = PAGES[target]
        elif posixpath.dirname(target) == PICTURES:
            target = f"figures/{posixpath.basename(target)}"
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            return match[1]
        # Its own page links to the file.
        if target.endswith(NOTEBOOK) and target != f"{posixpath.splitext(place)[0]}{NOTEBOOK}":
            target = f"{posixpath.splitext(target)[0]}.md"
        return posixpath.relpath(target, posixpath.dirname(place) or ".")

    return _LINK.sub(moved, markdown)
