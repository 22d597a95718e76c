"""The comparison of two commits: their files, their turns, what cannot be run, mistakes."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import against, against_trees, against_workloads, processes, render_against
from benchmarks.against_trees import Side
from benchmarks.against_workloads import Size, Time, Workload
from charjax.errors import UserError
from charjax.performance.failures import LeftOut

SIZE = Size(1.0, 1)
PROJECT = '[project]\nrequires-python = ">=3.11"\ndependencies = ["b", "a>=1"]\n'


@pytest.fixture
def repository(tmp_path):
    """Return a repository of one commit, whose working tree has a change of each kind."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git = ("git", "-c", "user.name=A", "-c", "user.email=a@b", "-C", str(folder))
    run = functools.partial(subprocess.run, check=True, capture_output=True)
    run([*git, "init", "--quiet", "--initial-branch=trunk"])
    for name, text in {
        "pyproject.toml": PROJECT,
        "kept": "1",
        "gone": "1",
        ".gitignore": "no",
    }.items():
        (folder / name).write_text(text)
    run([*git, "add", "."])
    run([*git, "commit", "--quiet", "--message", "first"])
    (folder / "kept").write_text("2")
    (folder / "gone").unlink()
    (folder / "sub").mkdir()
    (folder / "sub" / "new").write_text("1")
    (folder / "no").write_text("ignored")
    return folder


def test_a_commit_is_cloned_and_the_working_tree_is_copied_as_it_is(repository, tmp_path):
    commit = against_trees.find_commit("trunk", repository)
    assert len(commit) == 40
    assert against_trees.find_commit(commit[:8], repository) == commit
    then, now = tmp_path / "then", tmp_path / "now"
    against_trees.clone(commit, then, repository)
    assert (then / "kept").read_text() == (then / "gone").read_text() == "1"
    assert not (then / "sub").exists()
    assert against_trees.copy_working_tree(now, repository) == ["gone", "kept", "sub/new"]
    assert (now / "kept").read_text() == "2"
    assert (now / "sub" / "new").exists()
    assert not (now / "gone").exists()
    assert not (now / "no").exists()
    # Neither has left anything in the repository.
    assert not (repository / ".git" / "worktrees").exists()


@pytest.mark.parametrize("name", ["0123abc", "no-such-branch", "--help", ""])
def test_a_commit_that_does_not_exist_is_one_line(repository, name):
    with pytest.raises(UserError, match=r"^COMMIT: '[^\n]* no such commit; [^\n]*$"):
        against_trees.find_commit(name, repository)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["HEAD", "--only", "sampl-1"], "did you mean sample-1?"),
        (["HEAD", "--out", "x.txt"], "must end with .json"),
        (["HEAD", "--turns", "0"], "--turns: '0' given"),
        (["no-such-commit"], "no such commit"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(argv, words, monkeypatch):
    monkeypatch.setattr(against, "make_sides", lambda *arguments: pytest.fail("made"))
    with pytest.raises(UserError) as raised:
        against.main(argv)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_one_python_serves_sides_of_the_same_requirements(repository, tmp_path, monkeypatch):
    needed = against_trees.requirements(repository)
    assert needed == ["python >=3.11", "a>=1", "b"]
    assert against_trees.find_python(needed, needed)[0] == sys.executable
    monkeypatch.setenv("CHARJAX_CACHE", str(tmp_path / "cache"))
    made = []

    def install(folder, packages, pins):
        made.append((packages, pins))
        folder.mkdir(parents=True)

    monkeypatch.setattr(against_trees, "_install", install)
    python, how = against_trees.find_python(needed, ["python >=3.12"])
    assert Path(python).is_relative_to(tmp_path / "cache" / "against")
    assert how == "a virtual environment with the versions of this one"
    # The second time it is there; other requirements have another.
    assert against_trees.find_python(needed, ["python >=3.12"])[0] == python
    assert against_trees.find_python([*needed, "c"], needed)[0] != python
    assert [packages for packages, _ in made] == [["a>=1", "b"], ["a>=1", "b", "c"]]
    assert any(pin.startswith("jax==") for pin in made[0][1])
    assert not any(pin.startswith("charjax==") for pin in made[0][1])


def test_an_environment_that_was_not_finished_is_made_again(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("CHARJAX_CACHE", str(tmp_path))

    def install(folder, packages, pins):
        assert not folder.exists()
        folder.mkdir(parents=True)
        raise UserError("no network")

    monkeypatch.setattr(against_trees, "_install", install)
    for _ in range(2):
        with pytest.raises(UserError, match="no network"):
            against_trees.find_python(["python", "a"], ["python"])


def sides(folder=Path("/nowhere")):
    facts = {
        "commit": "0" * 40,
        "changed": [],
        "environment": "this",
        "python": "3",
        "versions": {},
    }
    return {
        name: Side(folder / name, sys.executable, folder / f"cache-{name}", dict(facts))
        for name in ("then", "now")
    }


def test_the_sides_take_turns_and_the_ratio_is_that_of_each_turn():
    both, calls = sides(), []
    seconds = {"then": iter([4.0, 9.0, 2.0]), "now": iter([2.0, 3.0, 2.0])}

    def turn(side):
        name = side.tree.name
        calls.append(name)
        return Time(next(seconds[name]), 1.0 if name == "then" else 4.0)

    row = against.measure(Workload("w", "Work", "step", lambda sides, size: turn), both, SIZE, 3)
    assert calls == ["then", "now"] * 3
    assert row["ratio"]["repeats"] == [2.0, 3.0, 1.0]
    assert row["ratio"]["median"] == 2.0
    assert row["processor_ratio"]["median"] == 0.25
    assert row["then"]["seconds"]["median"] == 4.0
    assert "why" not in row


def test_what_one_side_cannot_run_is_one_line_and_the_other_is_measured():
    def prepare(sides, size):
        if "then" in sides:
            raise LeftOut("model.kind: 'moe' given; allowed: gru")
        return lambda side: Time(2.0, 3.0)

    row = against.measure(Workload("w", "Work", "", prepare), sides(), SIZE, 2)
    assert row["why"] == {"then": "model.kind: 'moe' given; allowed: gru"}
    assert row["now"]["seconds"]["median"] == 2.0
    assert "ratio" not in row

    def fail(side):
        if side.tree.name == "now":
            raise ValueError("two\nlines")
        return Time(1.0, 1.0)

    row = against.measure(Workload("w", "Work", "", lambda *both: fail), sides(), SIZE, 2)
    assert row["why"] == {"now": "ValueError: two"}
    assert row.keys() >= {"then"}
    assert "now" not in row


def test_a_signal_is_no_reason():
    def stop(side):
        raise processes.Stopped

    with pytest.raises(processes.Stopped):
        against.measure(Workload("w", "Work", "", lambda *both: stop), sides(), SIZE, 1)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Return what replaces charjax: a package whose `train` is the given program."""

    def make(program):
        package = tmp_path / "then" / "charjax"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        (package / "train.py").write_text(program)
        return sides(tmp_path)["then"]

    return make


WRITER = """
import json, os, pathlib, sys, time
directory = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
directory.mkdir(parents=True)
with (directory / "metrics.jsonl").open("w") as file:
    for step in range(1, 1000):
        for part in (json.dumps({"step": step})[:5], json.dumps({"step": step})[5:] + "\\n"):
            file.write(part)
            file.flush()
        time.sleep(0.005)
"""


def test_training_is_timed_between_two_lines_and_ended(command):
    side = command(WRITER)
    lines, processor = against_workloads._follow(side, (), lambda line: line.step >= 60)
    assert lines[-1].step >= 60
    assert lines[-1].step < 999
    assert 0 < processor < 5
    time = against_workloads._train((), 60, side)
    assert 0.005 < time.seconds < 0.5


def test_a_refusal_of_the_other_commit_is_its_own_message(command):
    side = command("import sys; sys.exit('error: model.kind: moe given; allowed: gru')")
    with pytest.raises(LeftOut, match=r"^model\.kind: moe given; allowed: gru$"):
        against_workloads._first_step(("model.kind=moe",), {"then": side}, SIZE)


def test_a_page_shows_both_sides_or_that_nothing_was_run(tmp_path):
    assert render_against.table(tmp_path).startswith("Not run yet; `python -m benchmarks.against")
    one = {"repeats": [2e-3], "median": 2e-3, "q1": 2e-3, "q3": 2e-3}
    times = {"seconds": one, "processor_seconds": one}
    ratio = {"repeats": [1.5], "median": 1.5, "q1": 1.5, "q3": 1.5}
    rows = [
        {"name": "w", "title": "Work", "unit": "step", "then": times, "now": times}
        | {"ratio": ratio, "processor_ratio": ratio},
        {"name": "x", "title": "Other", "unit": "", "now": times, "why": {"then": "a|b"}},
    ]
    facts = {"processor": "A Processor", "cores": 2, "accelerator": None, "python": "3.13"}
    facts |= {"versions": {"jax": "1.2.3"}, "date": "2026-01-01"}
    then, now = (side.facts | {"versions": {"jax": "1.2.3"}} for side in sides().values())
    now["changed"] = ["a.py", "b.py"]
    tree = {"command": "python -m benchmarks.against 0000", "turns": 5, "load": 0.1, "rows": rows}
    tree |= {"hardware": facts, "sides": {"then": then, "now": now}}
    (tmp_path / "against-cpu.json").write_text(json.dumps(tree))
    page = render_against.table(tmp_path)
    assert "| Work (w) | 2.00 ms per step | 2.00 ms per step | 1.50 (1.50 to 1.50) |" in page
    assert "| Other (x) | not run: a\\|b | 2.00 ms |  |  | 2.00 ms |  |" in page
    assert "- now: 0000000 and 2 changed files (this)" in page
    assert "2 cores of A Processor, jax 1.2.3, 2026-01-01, 5 turns of each" in page


def test_every_workload_has_a_name_of_its_own():
    names = [workload.name for workload in against_workloads.WORKLOADS]
    assert len(set(names)) == len(names) == 16
    assert [workload.name for workload in against.select("sample-1,default")] == [
        "default",
        "sample-1",
    ]
