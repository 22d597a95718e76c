"""Mistakes of one process or of all: one line on each, status 2, nothing written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import commands
from tests.several import Several

FLAGS = ["--processes", "2", "--process", "1", "--coordinator", "localhost:9911"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (FLAGS[:2], "--process: not given, but --processes is"),
        (FLAGS[:4], "--coordinator: not given, but --processes is"),
        (["--processes", "2", "--process", "2", *FLAGS[4:]], "it is from 0 to 1"),
        ([*FLAGS[:5], "localhost"], "HOST:PORT"),
        ([*FLAGS[:5], "localhost:70000"], "HOST:PORT"),
        ([*FLAGS[:5], "::1:9911"], "HOST:PORT"),
        ([*FLAGS, "--dry-run"], "--dry-run checks in one process"),
        (["--processes", "0", *FLAGS[2:]], "from 1"),
    ],
)
def test_flags_that_do_not_fit_together(flags: list[str], message: str) -> None:
    result = commands.run("train", *flags)
    assert result.status == 2
    assert message in result.err
    assert result.err.count("\n") == 1


Words = Callable[[int], list[object]]
CASES: dict[str, tuple[Words, str]] = {
    "settings": (lambda i: [f"optim.learning_rate={1 + i}e-3"], "optim.learning_rate is 0.001 on"),
    "flag": (lambda i: ["--profile", "3"] * i, "--profile is null on process 0 and 3 on"),
    "text": (lambda i: [f"data.path=text{i}.txt"], "text (SHA-256) is "),
    "missing file": (lambda i: ["data.path=nowhere.txt"] * i, "nowhere.txt"),
    "batch": (lambda i: ["train.batch_size=3"], "multiple of 2"),
    "mesh": (lambda i: ["runtime.mesh.fsdp=3"], "runtime.mesh"),
    "existing": (lambda i: ["--workdir", "old"], "already holds a run"),
    "missing run": (lambda i: ["--resume"], "'new'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_process_ends_with_a_line(case: str, tmp_path: Path) -> None:
    for index in range(2):
        (tmp_path / f"text{index}.txt").write_text(f"the cat {index} sat on the mat\n" * 60)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.toml").write_text("")
    words, message = CASES[case]
    every = ["data.path=text0.txt", "model.kind=bigram", "train.steps=20", "train.batch_size=4"]
    run = [] if "--workdir" in words(0) else ["--workdir", "new"]
    before = sorted(path.name for path in tmp_path.iterdir())
    with Several(
        tmp_path, 2, lambda i: [*every, *run, *words(i)], {"JAX_NUM_CPU_DEVICES": "1"}
    ) as several:
        assert several.wait(60) == [2, 2], several.report()
        for each in several.started:
            assert len(each.errors) == 1, several.report()
            assert message in each.errors[0], several.report()
    after = {path.name for path in tmp_path.iterdir()} - {"out0", "out1", "err0", "err1"}
    assert sorted(after) == before
    assert {path.name for path in (tmp_path / "old").iterdir()} <= {".lock", "config.toml"}


@pytest.mark.slow
def test_processes_of_another_number(tmp_path: Path) -> None:
    """Those of three would train, and wait for ever for what the third does not send."""
    flags = [
        ["--processes", str(number), "--process", str(index), "--coordinator", "127.0.0.1:39913"]
        for index, number in enumerate((3, 3, 4))
    ]
    words: list[object] = ["model.kind=bigram", "--workdir", "new"]
    with Several(tmp_path, 3, words, flags=flags.__getitem__) as several:
        assert several.wait(60) == [2, 2, 2], several.report()
        for each in several.started:
            assert len(each.errors) == 1, several.report()
            assert "start every process with the same number" in each.errors[0]
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.parametrize("index", [0, 1])
def test_a_process_whose_peer_does_not_come(index: int, tmp_path: Path) -> None:
    flags = ["--processes", "2", "--process", str(index), "--coordinator", "127.0.0.1:39911"]
    words: list[object] = ["model.kind=bigram", "--workdir", "new"]
    with Several(tmp_path, 1, words, flags=lambda _: flags) as several:
        assert several.wait(60) == [2], several.report()
        assert len(several.started[0].errors) == 1
        assert "within 40 s" in several.report() or "for 40 s" in several.report()
    assert not (tmp_path / "new").exists()
