"""Row 18: control characters and markup of texts, prompts and names are shown, not interpreted.

The commands are processes on terminals of their own; what comes out there is looked at.
"""

import html.parser
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import tiny
from tests.faults.histories import Lab
from tests.faults.processes import Process
from tests.initlab.synthetic import write_sweep

# What would be acted upon: by a browser, by a terminal, by rich, and by who reads from the right.
EVILS = {
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "title": "\x1b]0;owned\x07",
    "colour": "\x1b[31mred\x1b[2J",
    "c1": "\x9b31m\x90q\x9c",
    "backspace": "x\x08\x7f\r",
    "markup": "[red]x[/red][link=http://example.org]y[/link]",
    "reversed": "\u202egpj.txt\u2066",
    "invisible": "a\u200b\u00ad\ufeff",
    "line": "one\u2028two",
}
# What of these may stand nowhere in an output.
RAW = re.compile(
    "[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u200b\u00ad\ufeff\u2028\u202a-\u202e\u2066]"
)
OWN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(lab: Lab, folder: Path, command: str, *arguments: object) -> Process:
    """Run a command on a terminal without colours."""
    return lab.forks.run(command, *arguments, folder=folder, terminal=True, NO_COLOR="1")


def check_shown(done: Any, evil: str) -> None:
    for text in (done.out, done.err):
        # Rich moves the cursor for its bars; nothing of the evil's may be among that.
        left = OWN.sub("", text).replace("\r", "")
        assert "\x1b" not in left, left
        assert not RAW.search(left), repr(RAW.search(left))
        assert "\x1b[31m" not in text
        assert "\x1b[2J" not in text
    assert "Traceback" not in done.err


@pytest.fixture(scope="module")
def model(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run on a text with all of these, so that its samples contain them."""
    folder = tmp_path_factory.mktemp("escaping")
    everything = "".join(EVILS.values()) + "\n"
    (folder / "text.txt").write_bytes((everything * 40).encode())
    options = [f"data.path={folder / 'text.txt'}", "model.kind=ngram", "model.order=6"]
    done = on_terminal(lab, folder, "train", *options, "--workdir", folder / "run")
    assert done.status == 0, done.err
    check_shown(done, everything)
    return folder / "run"


def safe_name(evil: str) -> str:
    """Return the part of it that a file name can hold."""
    return evil.replace("/", "\u2215")


WAYS: dict[str, Callable[[Path, Path, str], list[object]]] = {
    "prompt": lambda model, here, evil: ["sample", model, "--prompt", evil],
    "prompts": lambda m, here, evil: ["sample", m, "--prompt", evil, "--num-samples", 3],
    "unknown prompt": lambda m, here, evil: ["sample", m, "--prompt", evil + "\U0001f600\x01"],
    "no run": lambda m, here, evil: ["sample", here / safe_name(evil)],
    "no text": lambda m, here, evil: ["evaluate", m, "--text", here / safe_name(evil)],
    "text": lambda m, here, evil: ["evaluate", m, "--text", text_named(m, here, evil)],
    "run": lambda m, here, evil: ["train", *small(m), "--workdir", here / safe_name(evil)],
    "name": lambda m, here, evil: [
        *("train", f"data.path={text_named(m, here, evil)}", *tiny("ngram")),
        *("--workdir", here / "run"),
    ],
    "setting": lambda m, here, evil: ["train", f"train.steps={evil}"],
    "field": lambda m, here, evil: ["train", f"train.{evil}=1"],
    "flag": lambda m, here, evil: ["train", f"--{evil}"],
    "checkpoint": lambda m, here, evil: ["sample", m, "--checkpoint", evil],
    "export": lambda m, here, evil: ["interop", "export", m, here / f"{safe_name(evil)}.st"],
    "import": lambda m, here, evil: ["interop", "import", here / safe_name(evil), "--workdir", "x"],
    "report": lambda m, here, evil: ["initlab.__main__", "report", here / safe_name(evil)],
    "probe": lambda m, here, evil: ["initlab.__main__", "probe", here / safe_name(evil)],
}


def small(model: Path) -> list[object]:
    return [f"data.path={model.parent / 'text.txt'}", *tiny("ngram")]


def text_named(model: Path, here: Path, evil: str) -> Path:
    path = here / f"{safe_name(evil)}.txt"
    shutil.copyfile(model.parent / "text.txt", path)
    return path


@pytest.mark.slow
def test_every_command_shows_it(model: Path, tmp_path: Path, faults: Any, lab: Lab):
    cases = [(way, name) for way in WAYS for name in EVILS]
    row = faults(18, "markup and control characters on the terminal", few=6, full=len(cases))
    for number, (way, name) in enumerate(row.over(cases)):
        here = tmp_path / str(number)
        here.mkdir()
        with row.case((way, name)):
            command, *words = WAYS[way](model, here, EVILS[name])
            done = on_terminal(lab, here, str(command), *words)
            assert done.status in (0, 2), (done.status, done.err)
            check_shown(done, EVILS[name])
        shutil.rmtree(here)


class Tags(html.parser.HTMLParser):
    """Parser of a page's elements and their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_a_page_shows_it(tmp_path: Path, faults: Any, lab: Lab):
    row = faults(18, "markup and control characters in initlab's pages", few=0, full=len(EVILS))
    for name in row.over(list(EVILS)):
        evil = EVILS[name]
        directory = tmp_path / safe_name(evil)
        with row.case(name):
            schemes = {evil: (1.0, 0.0), f"{evil}2": (1.5, 0.3)}
            write_sweep(directory, schemes=schemes, command=f"python {evil}", seeds=2)
            result = json.loads((directory / "sweep.json").read_text())
            result |= {"arch": evil, "finished": evil, "config_toml": f'x = "{evil}"\n'}
            (directory / "sweep.json").write_text(json.dumps(result | {"hardware": {"cpu": evil}}))
            done = on_terminal(lab, tmp_path, "initlab.__main__", "report", directory)
            assert done.status == 0, done.err
            check_shown(done, evil)
            page = (directory / "report.html").read_text(encoding="utf-8")
            assert not RAW.search(page), repr(RAW.search(page))
            for tag, attributes in Tags(page).found:
                assert tag not in ("script", "iframe", "object", "svg", "base", "link", "form"), tag
                assert not [key for key in attributes if key.startswith("on")], attributes
                assert (attributes.get("src") or "data:").startswith("data:")
                assert "href" not in attributes
