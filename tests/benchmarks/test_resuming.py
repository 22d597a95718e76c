"""A benchmark's --resume: rows that are done are kept, the others are measured."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness, resuming
from benchmarks.section import Section, TooLate
from charjax.errors import UserError


def section_of(path: Path, **settings: Any) -> Section:
    section = Section("cpu", path=path, **settings)
    section.facts["hardware"] = {"processor": "P", "versions": {}}
    with section.attempt("good"):
        section.add("good, ours", median=1.0)
        section.add("good, theirs", median=2.0)
        section.leave_out("good, compiled", "no compiler", failed=True)
    with section.attempt("too large"):
        raise MemoryError
    with section.attempt("broken"):
        section.add("broken, ours", median=1.0)
        raise ValueError("the losses differ")
    with section.attempt("cut short"):
        raise TooLate("not reached in the time left")
    section.leave_out("never begun", "the 300 s of one device were over", late=True)
    return section


def crash(section: Section, name: str) -> None:
    """Leave what a process leaves that is killed while it measures a row."""
    with contextlib.suppress(SystemExit), section.attempt(name):
        section.add(f"{name}, ours", median=3.0)
        raise SystemExit


def read(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.read_text())
    return tree


def test_rows_that_are_done_are_kept_and_the_others_are_open(tmp_path: Path):
    section = section_of(tmp_path / "part.json")
    crash(section, "crashed")
    again = resuming.reopened(read(tmp_path / "part.json"))
    assert [row["name"] for row in again["rows"]] == ["good, ours", "good, theirs"]
    assert [each["what"] for each in again["left_out"]] == ["good, compiled", "too large"]
    (tmp_path / "part.json").write_text(json.dumps(again))
    second = Section("cpu", path=tmp_path / "part.json")
    second.load()
    wanted = {
        name: second.wants(name)
        for name in ("good", "too large", "broken", "cut short", "never begun", "crashed")
    }
    assert [name for name, is_wanted in wanted.items() if not is_wanted] == ["good", "too large"]


def test_a_row_that_fails_or_ends_its_process_twice_stays_left_out(tmp_path: Path):
    path = tmp_path / "part.json"
    for _ in range(2):
        section = Section("cpu", path=path)
        section.load()
        with section.attempt("broken"):
            raise ValueError("the losses differ")
        crash(section, "crashed")
        path.write_text(json.dumps(resuming.reopened(read(path))))
    tree = read(path)
    assert tree["rows"] == []
    assert {each["what"]: each["why"] for each in tree["left_out"]} == {
        "broken": "ValueError: the losses differ",
        "crashed": "its process ended or was stopped 2 times",
    }
    last = Section("cpu", path=path)
    last.load()
    assert not last.wants("broken")
    assert not last.wants("crashed")


def test_the_file_of_a_killed_process_comes_before_the_result(tmp_path: Path):
    out, part = tmp_path / "x.json", tmp_path / "x-cpu.part.json"
    assert resuming.earlier(out, part, "cpu") is None
    section = section_of(part).as_data()
    lost = section.pop("left_out")
    out.write_text(json.dumps({"devices": [section], "left_out": lost}))
    crash(section_of(part), "crashed")
    found = resuming.earlier(out, part, "cpu")
    assert found is not None
    assert "crashed" in found["attempts"]
    part.unlink()
    found = resuming.earlier(out, part, "cpu")
    assert found is not None
    assert [row["name"] for row in found["rows"]] == ["good, ours", "good, theirs"]
    assert resuming.earlier(out, part, "gpu") is None
    assert not resuming.is_complete(read(out))


def test_rows_of_another_machine_are_not_kept(tmp_path: Path):
    hardware = {"processor": "P", "cores": 2, "accelerator": None, "python": "3.13"}
    here = {"hardware": hardware | {"versions": {"jax": "1"}}}
    # PyTorch's version is added later.
    section = {"hardware": hardware | {"versions": {"jax": "1", "torch": "2"}}}
    assert resuming.is_same_machine(section, here)
    assert resuming.is_same_machine({}, here)
    for name, value in (("processor", "Q"), ("versions", {"jax": "2"})):
        other = {"hardware": section["hardware"] | {name: value}}
        assert not resuming.is_same_machine(other, here)
    first = section_of(tmp_path / "part.json")
    first.start_anew("earlier rows", "of another machine")
    assert (first.rows, first.attempts) == ([], {})
    assert [each["what"] for each in first.left_out] == ["earlier rows"]


def test_a_resumed_command_keeps_its_rows_and_measures_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    measured = []

    def measure(section: Section) -> None:
        for name in ("one", "two", "three"):
            if section.wants(name):
                with section.attempt(name):
                    measured.append(name)
                    section.add(name, median=1.0)
                if measured == ["one", "two"]:
                    raise SystemExit

    benchmark = harness.Benchmark(
        "fake", "rows", None, measure, (("", lambda row: row["name"]),), print, has_roofline=False
    )

    def in_this_process(command: list[str], *_: Any) -> str | None:
        try:
            harness.main(benchmark, command[3:])
        except SystemExit:
            return "the process ended with status 137"
        return None

    hardware = {"processor": "P", "cores": 2, "accelerator": None, "python": "3.13"}
    facts = {"hardware": hardware | {"versions": {"jax": "1"}, "date": "2026-01-01"}}
    monkeypatch.setattr(harness, "_start_device", lambda *_, **__: facts | {"flags": {}})
    monkeypatch.setattr(harness, "_run", in_this_process)
    monkeypatch.setattr(harness, "draw", lambda *_: None)
    out = tmp_path / "fake.json"
    words = ["--devices", "cpu", "--out", str(out)]
    assert harness.main(benchmark, words) == 1
    assert not resuming.is_complete(read(out))
    assert harness.main(benchmark, [*words, "--resume"]) == 0
    assert measured == ["one", "two", "three"]
    (section,) = read(out)["devices"]
    assert [row["name"] for row in section["rows"]] == measured
    assert resuming.is_complete(read(out))
    assert read(out)["command"] == "python -m benchmarks.fake --devices cpu"
    assert list(tmp_path.glob(f"*{resuming.PART}")) == []
    assert harness.main(benchmark, words) == 0
    assert measured == ["one", "two", "three", "one", "two", "three"]
    with pytest.raises(UserError, match="no --out given"):
        harness.main(benchmark, ["--resume"])
