"""The page of a study, in HTML and in Markdown, from its entry of results.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charjax.initlab.report import drawing
from charjax.initlab.report.drawing import Picture
from charjax.initlab.studies.study import Conclusion, Study
from charjax.pages import parts
from charjax.reproduction.check_report import CHECK_COLUMNS, cells, escape
from charjax.reproduction.report import machine, markdown_table

Entry = dict[str, Any]


def conclusion_of(study: Study, entry: Entry) -> Conclusion:
    """Return what follows from an entry's numbers."""
    module = study.load()
    return module.conclude(module.SETTINGS[entry["tier"]], entry["data"])


def pictures_of(study: Study, entry: Entry, kinds: Sequence[str] = ()) -> list[Picture]:
    """Draw an entry's numbers; `kinds`: as of `drawing.styled`."""
    module = study.load()
    with drawing.styled(kinds):
        return module.draw(module.SETTINGS[entry["tier"]], entry["data"])


def html(study: Study, entry: Entry, pictures: Sequence[Picture]) -> str:
    """Return a self-contained page."""
    found = conclusion_of(study, entry)
    return parts.render(
        "page.html.j2",
        Path(__file__).parent,
        title=study.title,
        question=study.question,
        answer=[*_trial(entry), *found.answer],
        rules=entry["rules"],
        checks=("", CHECK_COLUMNS, [cells(check) for check in entry["checks"]]),
        tables=found.tables,
        pictures=pictures,
        sources=study.sources,
        command=entry["command"],
        times=times(entry),
    )


def markdown(study: Study, entry: Entry, pictures: Sequence[tuple[str, Picture]] = ()) -> str:
    """Return the page in Markdown, without its heading; `pictures`: (address, picture)."""
    found = conclusion_of(study, entry)
    checks = [[escape(cell) for cell in cells(check)] for check in entry["checks"]]
    blocks = [
        study.question,
        *_items([*_trial(entry), *found.answer]),
        "Fixed before it ran:",
        *_items(entry["rules"]),
        "\n".join(markdown_table(CHECK_COLUMNS, checks)),
    ]
    for address, picture in pictures:
        blocks += [f"![{escape(picture.alt)}]({address})", escape(picture.caption)]
    for caption, head, rows in found.tables:
        lines = [[escape(cell) for cell in row] for row in rows]
        blocks += [f"{escape(caption)}:", "\n".join(markdown_table(head, lines))]
    blocks += ["Sources read:", *_items(study.sources)]
    blocks.append(f"`{entry['command']}`: {times(entry)}.")
    return "\n\n".join(blocks) + "\n"


def times(entry: Entry) -> str:
    """Return the time and the machine, in words."""
    return (
        f"{entry['seconds']:,.0f} s, {entry['cpu_seconds']:,.0f} s of the processor, on "
        f"{machine(entry)}"
    )


def _trial(entry: Entry) -> list[str]:
    return ["A trial, too small to answer anything."] if entry["tier"] == "trial" else []


def _items(sentences: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {escape(sentence)}" for sentence in sentences)]
