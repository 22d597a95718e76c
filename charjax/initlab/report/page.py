"""One self-contained page: all that a sweep found, verdicts first."""

import base64
import hashlib
import html
import shlex
from collections.abc import Sequence
from pathlib import Path

from charjax.errors import UserError, printable
from charjax.initlab.report import (
    at_init,
    drawing,
    histograms,
    losses,
    phase,
    tellings,
)
from charjax.initlab.report.drawing import Picture
from charjax.initlab.report.tables import Sweep, read_sweep
from charjax.initlab.report.verdicts import Cell, headlines, judge, ranked_schemes

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --faint: #5d646c; --ground: #ffffff;
  --card: #f4f5f7; --line: #d7dbe0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --faint: #a0a8b0;
  --ground: #15181b; --card: #20252a; --line: #3a424a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
p.note, figcaption, caption { color: var(--faint); font-size: .88rem; }
caption { text-align: left; padding-bottom: .3rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; background: #fff;
  border-radius: 4px; }
pre { background: var(--card); padding: .7rem; overflow-x: auto; font-size: .85rem; }
li { overflow-wrap: anywhere; }
"""


def write_report(directory: Path, out: Path | None = None) -> Path:
    """Write a finished sweep's page, and its pictures as PNGs in `directory`/figures.

    The same tables give the same bytes. Every file is replaced in one move.

    Args:
      directory: of the sweep.
      out: the page; by default `directory`/report.html.

    Returns:
      the page's path.

    Raises:
      UserError: no finished sweep there, or `out` is no place for a file.
    """
    return write_page(read_sweep(directory), out)


def write_page(sweep: Sweep, out: Path | None = None) -> Path:
    """As `write_report`, of a sweep that has been read."""
    out = sweep.directory / "report.html" if out is None else out
    if out.is_dir():
        raise UserError(f"--out: {str(out)!r} is a directory; give a file, as in report.html")
    if not out.parent.is_dir():
        raise UserError(f"--out: there is no directory {str(out.parent)!r}; make it first")
    page, pictures = document(sweep)
    figures = sweep.directory / "figures"
    figures.mkdir(exist_ok=True)
    for picture in pictures:
        _replace(figures / f"{picture.name}.png", picture.png)
    _replace(out, page.encode())
    return out


def document(sweep: Sweep) -> tuple[str, list[Picture]]:
    """The page, and the pictures in it."""
    title = f"Initialisation sweep: {sweep.facts['arch']}"
    cells = judge(sweep)
    shown = ranked_schemes(sweep, cells, drawing.MOST_PANELS)
    found = losses.transfers(sweep, shown)
    with drawing.styled():
        drawn = [
            ("Before the first step, with theory", [
                at_init.draw_layers(sweep, cells), at_init.draw_initial_loss(sweep, cells)]),
            ("Activations and gradients by layer", [
                histograms.draw_histograms(sweep, cells, "activation"),
                histograms.draw_histograms(sweep, cells, "gradient")]),
            ("Updates beside weights", [histograms.draw_updates(sweep, cells)]),
            ("Loss over steps", [losses.draw_curves(sweep, cells)]),
            ("Phase map", [phase.draw_phases(sweep, cells)]),
            ("Learning-rate transfer", [losses.draw_transfer(sweep, found)]),
            ("Loss by gain", [losses.draw_gains(sweep, cells)]),
        ]  # fmt: skip
    body = [
        f"<h1>{_text(title)}</h1>",
        paragraph(tellings.summary(sweep)),
        *_verdicts(sweep, cells),
    ]
    pictures = []
    for heading, made in drawn:
        some = [one for one in made if one is not None]
        if some:
            body += [f"<h2>{_text(heading)}</h2>", *map(figure, some)]
            pictures += some
        if some and heading == "Learning-rate transfer":
            body.append(table(*tellings.transfer_table(sweep, found)))
    body += _origin(sweep)
    return _html(title, body), pictures


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{_text(text)}</p>' if kind else f"<p>{_text(text)}</p>"


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text."""
    top = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    lines = ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="wide"><table><caption>{_text(caption)}</caption>\n<thead><tr>{top}</tr>'
        f"</thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def figure(picture: Picture) -> str:
    """A picture, inline, with its caption."""
    data = base64.b64encode(picture.png).decode()
    return (
        f'<figure><img alt="{_text(picture.alt)}" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{_text(picture.caption)}</figcaption></figure>"
    )


def _verdicts(sweep: Sweep, cells: list[Cell]) -> list[str]:
    parts = ["<h2>Verdicts</h2>"]
    lines = headlines(sweep, cells)
    parts.append("<ul>\n" + "\n".join(f"<li>{_text(line)}</li>" for line in lines) + "\n</ul>")
    parts += [paragraph(note, "note") for note in tellings.notes(sweep, cells)]
    parts.append("<h2>Ranking</h2>")
    parts += [table(*tellings.ranking_table(sweep, cell)) for cell in cells]
    pairs = [table(*tellings.pair_table(sweep, cell)) for cell in cells if cell.pairs]
    if pairs:
        parts += ["<details><summary>All comparisons</summary>", *pairs, "</details>"]
    return parts


def _origin(sweep: Sweep) -> list[str]:
    again = f"python -m charjax.initlab report {shlex.quote(str(sweep.directory))}"
    return [
        "<h2>How it was made</h2>",
        paragraph(tellings.machine(sweep)),
        "<h3>To run it again</h3>",
        _lines(sweep.facts["command"]),
        "<h3>To make this page again</h3>",
        _lines(again),
        "<h3>Configuration</h3>",
        _lines(sweep.facts["config_toml"]),
    ]


def _lines(text: str) -> str:
    """Preformatted text; its line breaks are kept, other control characters shown."""
    return f"<pre>{html.escape(chr(10).join(map(printable, text.strip().split(chr(10)))))}</pre>"


def _text(text: str) -> str:
    return html.escape(printable(text))


def _html(title: str, body: Sequence[str]) -> str:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def _replace(path: Path, data: bytes) -> None:
    """Write a file in one move: a reader sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
