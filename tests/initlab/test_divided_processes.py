"""A sweep over real processes: the bytes of one; a stop or a death leaves what a resume needs."""

import signal
from pathlib import Path

import pytest

from tests.commands import start, tiny
from tests.initlab.test_divided import assert_equal
from tests.several import Several

GRID = ("--scheme", "pytorch,normal", "--lr", "0.01,0.1", "--seeds", "4", "--steps", "2000")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the cat sat on the mat and ran off\n" * 40)
    return [*tiny("mlp"), f"data.path={path}", *GRID]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    process = start("initlab", "sweep", *words, "--out", str(out))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out


def pair(folder: Path, words: list[str], *flags: str) -> Several:
    out = folder / "out"
    return Several(folder, 2, [*words, "--out", out, *flags], command="initlab", subcommand="sweep")


@pytest.mark.slow
@pytest.mark.longest
def test_a_pair_writes_what_one_process_writes(words, whole, tmp_path):
    with pair(tmp_path, words) as several:
        assert several.wait(200) == [0, 0], several.report()
        first, second = several.started
    assert "report: " in first.out.read_text()
    assert second.out.read_text() == ""
    assert_equal(tmp_path / "out", whole)


@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_pair_that_ends_early_is_resumed(process, number, words, whole, tmp_path):
    """SIGTERM to either stops both; where one dies, the other ends with a reason."""
    parts = tmp_path / "out" / "parts"
    with pair(tmp_path, words) as several:
        several.until(lambda: list(parts.glob("*.now")))
        several.started[process].process.send_signal(number)
        statuses = several.wait(60)
        other = several.started[1 - process]
        if number == signal.SIGTERM:
            assert statuses == [143, 143], several.report()
        else:
            assert statuses[process] == -signal.SIGKILL
            assert statuses[1 - process] == 1, several.report()
            assert f"process {process}" in other.errors[-1]
    assert not (tmp_path / "out" / "sweep.json").exists()
    if process == 0:
        # In one process.
        resumed = start("initlab", "sweep", *words, "--out", str(tmp_path / "out"), "--resume")
        _, errors = resumed.communicate(timeout=300)
        assert resumed.returncode == 0, errors
    else:
        with pair(tmp_path, words, "--resume") as several:
            assert several.wait(200) == [0, 0], several.report()
    assert_equal(tmp_path / "out", whole)


@pytest.mark.slow
@pytest.mark.longest
def test_processes_that_differ_end_with_a_line_each(words, tmp_path):
    def each(index: int) -> list[object]:
        seeds = ["--seeds", "5"] if index else []
        return [*words, *seeds, "--out", tmp_path / "out"]

    with Several(tmp_path, 2, each, command="initlab", subcommand="sweep") as several:
        assert several.wait(60) == [2, 2], several.report()
        for started in several.started:
            assert "seeds (grid) is" in started.errors[-1]
    assert not (tmp_path / "out").exists()
