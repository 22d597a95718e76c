"""`charjax runs` and `charjax compare`: what is known of runs without loading them."""

import json
import shutil
from pathlib import Path

import pytest

from charjax.run.lock import Lock
from tests.commands import Result, run, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs of one text, one of them with three checkpoints, and one of another."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text("what is the case is what is. " * 80)
    (folder / "other.txt").write_text("EVERYTHING ELSE. " * 80)
    for name, file, *words in (
        ("a", "text.txt", "checkpoint.keep=3", "optim.learning_rate=0.1"),
        ("deep/b", "text.txt", "train.seed=7"),
        ("c", "other.txt"),
    ):
        settings = [f"data.path={folder / file}", *tiny("bigram"), "train.steps=30", *words]
        done = run("train", *settings, "--workdir", folder / name)
        assert done.status == 0, done.err
    return folder


@pytest.fixture
def runs(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "runs"))


def listed(*words: object) -> dict[str, dict[str, object]]:
    done = run("commands.runs", *words, "--json")
    assert (done.status, done.err) == (0, "")
    return {Path(str(each["directory"])).name: each for each in json.loads(done.out)["runs"]}


def compare(*words: object) -> Result:
    return run("commands.compare", *words)


class TestRuns:
    """The list, by path."""

    def test_finished_runs(self, folder: Path) -> None:
        found = listed(folder)
        assert list(found) == ["a", "c", "b"]
        summary = json.loads((folder / "a" / "summary.json").read_text())
        assert found["a"]["state"] == "finished"
        assert (found["a"]["step"], found["a"]["steps"]) == (30, 30)
        assert found["a"]["best_val_loss"] == summary["best_val_loss"]
        assert found["a"]["best_step"] == summary["best_step"]
        files = [path for path in (folder / "a").rglob("*") if path.is_file()]
        assert found["a"]["size"] == sum(path.stat().st_size for path in files)
        text = run("commands.runs", folder).out
        assert "30/30" in text
        assert f"{summary['best_val_loss']:.4f}" in text

    def test_states(self, runs: Path) -> None:
        (runs / "a" / "summary.json").unlink()
        (runs / "c" / "config.toml").write_text("[mode")
        lock = Lock(runs / "deep" / "b")
        lock.acquire()
        try:
            found = listed(runs)
        finally:
            lock.release()
        assert {name: each["state"] for name, each in found.items()} == {
            "a": "stopped", "b": "training", "c": "damaged",
        }  # fmt: skip
        shutil.rmtree(runs / "a" / "checkpoints")
        assert listed(runs / "a")["a"]["state"] == "not saved"

    def test_prune_keeps_the_best_and_the_latest(self, runs: Path) -> None:
        before = listed(runs)["a"]
        assert before["saved"] == [10, 20, 30]
        done = run("commands.runs", runs / "a", "--prune")
        after = listed(runs)["a"]
        assert after["saved"] == sorted({before["best_step"], 30})
        assert after["size"] < before["size"]
        assert "freed" in done.out
        assert run("evaluate", runs / "a").status == 0
        assert run("train", "--workdir", runs / "a", "--resume").status == 0

    def test_prune_leaves_what_is_being_written_and_what_is_damaged(self, runs: Path) -> None:
        lock = Lock(runs / "a")
        lock.acquire()
        try:
            done = run("commands.runs", runs / "a", "--prune")
        finally:
            lock.release()
        assert "nothing removed: a process writes there" in done.err
        record = next((runs / "a" / "checkpoints" / "30").glob("*.json"))
        record.write_text("{")
        done = run("commands.runs", runs / "a", "--prune")
        assert "nothing removed" in done.err
        assert listed(runs)["a"]["saved"] == [10, 20, 30]

    def test_nothing_to_list(self, tmp_path: Path) -> None:
        done = run("commands.runs", tmp_path)
        assert (done.status, done.out) == (0, f"no runs in {tmp_path}\n")
        done = run("commands.runs", tmp_path / "missing")
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
        assert "is not a directory; give one that holds runs" in done.err


class TestCompare:
    """Scores and settings side by side."""

    def test_settings_that_differ(self, folder: Path, tmp_path: Path) -> None:
        done = compare(folder / "a", folder / "deep/b", "--json", "--out", tmp_path / "x.png")
        tree = json.loads(done.out)
        settings = tree["settings"]
        assert settings[str(folder / "a")]["optim.learning_rate"] == 0.1
        assert {"optim.learning_rate", "train.seed", "checkpoint.keep"} == set(
            settings[str(folder / "deep/b")]
        )
        summary = json.loads((folder / "a" / "summary.json").read_text())
        scores = tree["scores"][str(folder / "a")]
        assert scores["best_val_loss"] == summary["best_val_loss"]
        assert scores["params"] == summary["params"]
        assert scores["test_loss"] is None
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")

    def test_the_table(self, folder: Path) -> None:
        done = compare(folder / "a", folder / "deep/b")
        lines = done.out.splitlines()
        assert any(line.split()[:3] == ["train.seed", "0", "7"] for line in lines)

    @pytest.mark.slow
    def test_another_text_of_the_same_alphabet_is_noted(self, runs: Path) -> None:
        assert json.loads(compare(runs / "a", runs / "deep/b", "--json").out)["notes"] == []
        text = (runs / "text.txt").read_text()
        (runs / "turned.txt").write_text(text[::-1])
        for name, *words in (
            ("text", f"data.path={runs / 'turned.txt'}"),
            ("cut", f"data.path={runs / 'text.txt'}", "data.val_fraction=0.3"),
        ):
            settings = [*words, *tiny("bigram"), "train.steps=2"]
            assert run("train", *settings, "--workdir", runs / name).status == 0
        done = compare(runs / "a", runs / "text")
        assert (done.status, done.err.count("\n")) == (0, 1)
        assert "note: these runs are not all of one text" in done.err
        assert "split their text in different ways" in compare(runs / "a", runs / "cut").err

    def test_a_setting_that_a_run_does_not_read_is_left_empty(self, runs: Path) -> None:
        words = [f"data.path={runs / 'text.txt'}", *tiny("bigram"), "train.steps=2"]
        words += ["optim.kind=sgd", "optim.momentum=0.5", "--workdir", runs / "sgd"]
        assert run("train", *words).status == 0
        settings = json.loads(compare(runs / "a", runs / "sgd", "--json").out)["settings"]
        assert settings[str(runs / "sgd")]["optim.momentum"] == 0.5
        assert settings[str(runs / "a")]["optim.momentum"] is None

    def test_a_summary_that_was_changed_by_hand(self, runs: Path) -> None:
        changed = {"params": "x", "tokens_per_second": [], "test_loss": {}, "seconds": True}
        (runs / "a" / "summary.json").write_text(json.dumps(changed))
        for words in ([], ["--json"]):
            done = compare(runs / "a", runs / "deep/b", *words)
            assert (done.status, done.err) == (0, "")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["a"], "1 runs given; at least two are needed"),
            (["a", "a"], "is given twice"),
            (["a", "c"], "losses are comparable within one vocabulary"),
            (["a", "nothing"], "is not a directory"),
            (["a", "deep/b", "--out", "x.svg"], "its name must end with .png"),
            (["a", "deep/b", "--out", "x/y.png"], "there is no directory 'x'; make it first"),
        ],
    )
    def test_mistakes_are_one_line(self, words: list[str], message: str, folder: Path) -> None:
        paths = [folder / word if not word.startswith(("-", "x")) else word for word in words]
        done = compare(*paths)
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
        assert message in done.err
