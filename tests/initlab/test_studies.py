"""`python -m charjax.initlab study`: what it runs, keeps and writes, and how it ends."""

import base64
import dataclasses
import functools
import json
import math
import os
import re
import signal

import numpy as np
import pytest

from charjax.initlab import studies
from charjax.initlab.report import drawing
from charjax.initlab.studies.pieces import Pieces
from charjax.initlab.studies.study import TIERS, Conclusion, Study, as_json
from charjax.reproduction.checks import Mean, near
from tests import commands

run = functools.partial(commands.run, "initlab.commands.study")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Number and places of points."""

    points: int
    places: tuple[float, ...] = (0.5,)


class Made:
    """A study without a network, of two pieces; it may stop after the first."""

    def __init__(self, *, stops=False):
        self.SETTINGS = {"cpu": Settings(40), "trial": Settings(4)}
        self.made, self.stops = [], stops

    def rules(self, settings):
        return [f"{settings.points} points"]

    def measure(self, settings, pieces, progress, poll):
        def make(name):
            self.made.append(name)
            return {"x": np.arange(settings.points) + (name == "second")}

        first = pieces.get("first", lambda: make("first"))
        progress(1, 2)
        if self.stops:
            self.stops = False
            os.kill(os.getpid(), signal.SIGINT)
        poll()
        second = pieces.get("second", lambda: make("second"))
        return {"x": first["x"] + second["x"], "missing": math.nan}

    def conclude(self, settings, data):
        assert data["missing"] is None
        mean = Mean(float(np.mean(data["x"])))
        check = near("a mean", mean, 4.0, within=0.5, of="the points")
        return Conclusion(
            [f"It is <{mean.value:g}>."], [check], [("all", ("x",), [[str(x)] for x in data["x"]])]
        )

    def draw(self, settings, data):
        panels = drawing.panels(1)
        panels.main[0].plot(data["x"])
        return [panels.picture("points", alt="points", caption="the points")]


@pytest.fixture
def made(monkeypatch):
    """Replace the studies by one without a network."""
    module = Made()
    known = (Study("made", 1, "A made study", "How large is it?", ("a book",)),)
    monkeypatch.setattr(studies, "STUDIES", known)
    monkeypatch.setattr(Study, "load", lambda self: module)
    return module


def read(directory):
    return json.loads((directory / "results.json").read_text())["studies"]


def test_a_study_ends_in_its_numbers_its_answer_and_its_page(tmp_path, made):
    result = run("made", "--tier", "trial", "--out", tmp_path / "out")
    assert result.status == 0, result.err
    assert "It is <4>." in result.out
    (entry,) = read(tmp_path / "out")
    assert entry["data"] == {"x": [1, 3, 5, 7], "missing": None}
    assert entry["settings"] == {"points": 4, "places": [0.5]}
    assert entry["checks"][0]["verdict"] == "reproduced"
    assert entry["command"] == "python -m charjax.initlab study made --tier trial"
    page = (tmp_path / "out" / "made.html").read_text()
    for text in ("How large is it?", "It is &lt;4&gt;.", "4 points", "A trial", "a book"):
        assert text in page
    assert (tmp_path / "out" / "figures" / "points.png").read_bytes() in _images(page)


def _images(page):
    return [base64.b64decode(text) for text in re.findall(r"image/png;base64,([^\"]+)", page)]


def test_a_study_that_is_stopped_goes_on_after_its_last_piece(tmp_path, made):
    made.stops = True
    out = tmp_path / "out"
    stopped = run("made", "--tier", "trial", "--out", out)
    assert stopped.status == 130
    assert f"--out {out} --resume" in stopped.err
    assert made.made == ["first"]
    assert run("made", "--tier", "trial", "--out", out, "--resume").status == 0
    assert made.made == ["first", "second"]
    again = run("made", "--tier", "trial", "--out", out, "--resume")
    assert again.status == 0
    assert made.made == ["first", "second"]


def test_pieces_of_other_settings_are_made_anew(tmp_path, made):
    out = tmp_path / "out"
    assert run("made", "--tier", "trial", "--out", out).status == 0
    made.SETTINGS = {"trial": Settings(6)}
    assert run("made", "--tier", "trial", "--out", out, "--resume").status == 0
    assert made.made == ["first", "second"] * 2
    assert len(read(out)[0]["data"]["x"]) == 6


def test_a_damaged_piece_is_made_anew(tmp_path):
    for damage in (b"", b"PK\3\4", None):
        Pieces(tmp_path, 1).get("one", lambda: {"x": np.ones(3)})
        (path,) = tmp_path.rglob("one.npz")
        path.write_bytes(path.read_bytes()[:-30] if damage is None else damage)
        made = Pieces(tmp_path, 1).get("one", lambda: {"x": np.zeros(3)})
        np.testing.assert_array_equal(made["x"], np.zeros(3))
        path.unlink()


def test_the_time_of_kept_pieces_is_counted(tmp_path):
    Pieces(tmp_path, 1).get("one", lambda: {"x": np.linalg.inv(np.eye(500))})
    again = Pieces(tmp_path, 1)
    again.get("one", lambda: pytest.fail("made twice"))
    assert again.seconds_before > 0
    assert again.cpu_seconds_before > 0
    assert Pieces(tmp_path, 1).seconds_before == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mode",), "NAME: 'mode' given; allowed: all, made, or their numbers; did you mean made?"),
        (("--resume",), "--resume: no --out given"),
        (("--tier", "gpu"), "--tier"),
    ],
)
def test_mistakes_are_one_line(made, arguments, message):
    result = run(*arguments)
    assert result.status == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_the_questions_are_listed():
    result = run("--list")
    assert [line.split()[0] for line in result.out.splitlines()] == ["1", "2", "3", "4"]
    assert all(line.endswith("?") for line in result.out.splitlines())


def test_what_is_not_finite_becomes_null():
    tree = {"a": np.array([1.0, np.inf]), 2: (np.float64("nan"), "x", True, 3)}
    assert as_json(tree) == {"a": [1.0, None], "2": [None, "x", True, 3]}


@pytest.mark.parametrize("study", studies.STUDIES, ids=lambda study: study.name)
@pytest.mark.slow
@pytest.mark.ci("muon", "trainability")
def test_every_study_runs_as_a_trial(study, tmp_path):
    result = run(study.name, "--tier", "trial", "--out", tmp_path)
    assert result.status == 0, result.err
    (entry,) = read(tmp_path)
    assert entry["answer"]
    assert entry["checks"]
    assert entry["rules"]
    assert study.sources
    assert list((tmp_path / "figures").glob("*.png"))
    assert set(study.load().SETTINGS) == set(TIERS)
