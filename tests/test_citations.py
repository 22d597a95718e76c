"""Numbers of sections, equations, tables and figures are cited only if read in the source."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from charjax.config import InitConfig
from charjax.init import find_scheme, scheme_names

ROOT = Path(__file__).resolve().parent.parent


class Read(NamedTuple):
    """A number cited in this repository, and where it was read.

    Attributes:
      place: the file that has it.
      words: as it stands there; at the end of a line, what follows is on the next.
      source: where it was read, with what it is the number of.
    """

    place: str
    words: str
    source: str


_COMPLETEP = "README.md of EleutherAI/nanoGPT-mup, branch completep"
_TABLE_8 = "github.com/microsoft/mup/issues/7: the package follows it, and tied embeddings suit it"
READ = (
    Read("charjax/init/widths.py", "table 1", f"{_COMPLETEP}: what it implements"),
    Read("charjax/init/widths.py", "equation 40", f"{_COMPLETEP}: Adam's epsilon"),
    Read("charjax/init/widths.py", "table 8", _TABLE_8),
    Read("docs/initlab.md", "table 1", "charjax/init/widths.py"),
    Read("docs/initlab.md", "table 8", "charjax/init/widths.py"),
    Read(
        "charjax/initlab/report/swaps.py",
        "algorithm 2.8",
        "R/MTP.R of the R package coin: the free step-down resampling method, page 66",
    ),
    Read(
        "tests/models/test_chen_goodman.py",
        "equation 26",
        "lm/builder/adjust_counts.cc of kenlm: the discounts",
    ),
)
_NUMBER = re.compile(
    r"""
    (?: \b (?: eqs? | equations? | sec | secs | sections? | tables? | algorithms? | alg | figs?
             | figures? | app | appendix | appendices | theorem | lemma | corollary | chapter
             | propositions? | parametri[sz]ation | param ) \b \.? \s* \(? (?: [A-Z]\. )? \d
      | \b (?: app \. | appendix ) \s [A-Z] \b
      | \b lines? \s \d+ \s (?: to | and | - ) \s \d
      | § \s* \d
    ) [\d.,()A-Z-]*
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A year and perhaps an arXiv number close by make it a number of a source.
_SOURCE = re.compile(r"\b(?:1[89]|20)\d\d\b|arXiv|\bthere\b|\bpaper\b", re.IGNORECASE)
_SUFFIXES = {".py", ".md", ".toml"}
_FOLDERS = ("charjax", "benchmarks", "docs", "configs", "tests", "findings")
_NEAR = 200


def texts() -> list[tuple[str, str]]:
    """Read every text of the repository except the results' tables and this file, by path."""
    found = [path for folder in _FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    found += sorted(ROOT.glob("*.md"))
    return [
        (path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in found
        if path.suffix in _SUFFIXES and path != Path(__file__).resolve()
    ]


def cited(text: str) -> list[tuple[int, str]]:
    """Yield the line and words of each number next to the name of a source."""
    found = []
    for match in _NUMBER.finditer(text):
        start = max(0, match.start() - _NEAR)
        if _SOURCE.search(text[start : match.end() + _NEAR]):
            words = " ".join(match[0].split()).rstrip(".,);:")
            found.append((text.count("\n", 0, match.start()) + 1, words))
    return found


def test_numbers_of_sources_were_read():
    known = {(entry.place, entry.words.lower()) for entry in READ}
    unread = [
        f"{place}:{line}: {words!r}"
        for place, text in texts()
        for line, words in cited(text)
        if (place, words.lower()) not in known
    ]
    assert not unread, (
        "these numbers are not among those read in their source; read them there and add them to "
        f"READ, or leave them out: {', '.join(unread)}"
    )


def test_what_was_read_still_stands():
    there = {(place, words.lower()) for place, text in texts() for _, words in cited(text)}
    gone = [entry for entry in READ if (entry.place, entry.words.lower()) not in there]
    assert not gone


@pytest.mark.parametrize(
    "text",
    [
        "He et al. 2015, eq. 10: N(0, 2/n)",
        "(Poole et al.\n    2016, eqs. 9-10)",
        "Su et al. 2021, equation (15)",
        "Saxe et al. 2014, sec. 3",
        "Hesterberg 2015, section 3.3.3",
        "Loshchilov and Hutter 2019, algorithm 2",
        "Mishkin and Matas 2016, lines 3 to 8",
        "Yang et al. 2022, app. D.2",
        "Chowdhery et al. 2022, appendix B",
        "Schoenholz et al. 2017, figure 1",
        "Yang, Simon and Bernstein 2023, param. 1",
        "(arXiv:1502.01852), § 2.2",
    ],
)
def test_a_number_from_memory_is_found(text):
    assert len(cited(text)) == 1


@pytest.mark.parametrize(
    "text", ["He et al. 2015 (arXiv:1502.01852)", "a table of 12 rows", "lines 3 to 8 of the file"]
)
def test_what_is_no_number_of_a_source(text):
    assert not cited(text)


@pytest.mark.parametrize("name", scheme_names())
def test_every_scheme_says_where_it_is_from(name):
    source: Any = find_scheme(InitConfig(scheme=name)).source
    link = r"arXiv:\d{4}\.\d{4,5}|\b(?:[a-z-]+\.)+(?:com|org|press|io)/\S+"
    assert re.search(link, source), source
    assert len(source) < 260


def test_the_lectures_have_their_own_names():
    wrong = re.compile(r"zero-to-hero'?s?,?\s+parts?\s+\d", re.IGNORECASE)
    found = [place for place, text in texts() if wrong.search(text)]
    assert not found
