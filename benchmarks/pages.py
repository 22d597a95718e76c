"""Run the Python blocks of Markdown pages; write their outputs and figures into docs/learn/.

    python -m benchmarks.pages [PAGE.md ...]        # make learn: by default all of docs/learn/

A page is one program. Its blocks run in the order in which they stand, in an empty folder. A `text`
block right after a Python block is what that block prints, and is written here. Pictures that a
block saves go to figures/ beside the page.
"""

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LEARN = ROOT / "docs" / "learn"
FIGURES = "figures"
_FENCE = re.compile(r"^( *)```(\S*)\s*$")
_COMMENT = re.compile(r"^ *<!--(.*)-->\s*$")
_NOT_RUN = re.compile(r"^\s*not run: (.*\S)\s*$")
# The same picture has the same bytes.
_STYLE = {"svg.hashsalt": "charjax", "svg.fonttype": "none", "font.size": 9}


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
      line: number of its first line, that of the fence.
      end: number of its last line.
      language: after the opening fence; "" without one.
      text: without the fences and their indentation.
      reason: of a comment `<!-- not run: REASON -->` above it, or None.
      output_of: number of the Python block whose output it is, counted from 0, or None.
    """

    line: int
    end: int
    language: str
    text: str
    reason: str | None = None
    output_of: int | None = None

    @property
    def is_program(self) -> bool:
        """Return true for Python that is run."""
        return self.language == "python" and self.reason is None


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page's text, in order.

    Raises:
      ValueError: the last block has no end.
    """
    found: list[Block] = []
    lines = page.splitlines()
    comments: list[str] = []
    python, after_python = -1, False
    number = 0
    while number < len(lines):
        line = lines[number]
        if fence := _FENCE.match(line):
            indent, language = fence.groups()
            end = next(
                (i for i in range(number + 1, len(lines)) if lines[i].rstrip() == f"{indent}```"),
                None,
            )
            if end is None:
                raise ValueError(f"line {number + 1}: the block has no end")
            text = "".join(f"{each.removeprefix(indent)}\n" for each in lines[number + 1 : end])
            output_of = python if after_python and language == "text" else None
            reasons = [match[1] for each in comments if (match := _NOT_RUN.match(each))]
            reason = reasons[-1] if reasons else None
            after_python = language == "python" and reason is None
            python += after_python
            found.append(Block(number + 1, end + 1, language, text, reason, output_of))
            comments, number = [], end
        elif comment := _COMMENT.match(line):
            comments.append(comment[1])
        elif line.strip():
            comments, after_python = [], False
        number += 1
    return found


def run_python(name: str, programs: list[str]) -> Iterator[str]:
    """Run the Python blocks of a page as one program, in the current folder; yield their output.

    Args:
      name: of the page, for tracebacks.
      programs: the blocks.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    for number, program in enumerate(programs, start=1):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(program, f"{name}, block {number}", "exec"), names)
        yield out.getvalue()


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draw figures without a screen, and close them at the end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Read by matplotlib: the date in a picture.
    os.environ["SOURCE_DATE_EPOCH"] = "0"
    with matplotlib.rc_context(_STYLE):
        yield
    pyplot.close("all")
    del os.environ["SOURCE_DATE_EPOCH"]


def with_outputs(page: str, outputs: list[str]) -> str:
    """Return the text of a page in which each `text` block is what the block above it prints."""
    lines = page.splitlines(keepends=True)
    for block in reversed(blocks(page)):
        if block.output_of is not None:
            lines[block.line : block.end - 1] = [outputs[block.output_of].rstrip("\n") + "\n"]
    return "".join(lines)


def write(page: Path) -> list[str]:
    """Run a page, write its outputs and figures; return the names of the figures."""
    text = page.read_text(encoding="utf-8")
    programs = [block.text for block in blocks(text) if block.is_program]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), drawing():
        outputs = list(run_python(page.name, programs))
        page.write_text(with_outputs(text, outputs), encoding="utf-8")
        pictures = sorted([*Path().glob("*.svg"), *Path().glob("*.png")])
        for picture in pictures:
            (page.parent / FIGURES).mkdir(exist_ok=True)
            shutil.copy(picture, page.parent / FIGURES / picture.name)
    return [picture.name for picture in pictures]


def main(argv: list[str]) -> None:
    """Write the pages that are named, or all of docs/learn/."""
    for page in [Path(name).resolve() for name in argv] or sorted(LEARN.glob("*.md")):
        print(page.name, *write(page), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
