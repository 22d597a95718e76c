"""`charjax completion`: the script completes commands, flags and settings, and starts no Python."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from charjax.__main__ import COMMANDS
from tests.commands import run


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("shtab")
    done = run("commands.completion", "bash")
    assert (done.status, done.err) == (0, "")
    path = tmp_path_factory.mktemp("completion") / "charjax.bash"
    path.write_text(done.out)
    return path


def completed(script: Path, *words: str) -> list[str]:
    """Return what bash offers for the last word; there is no program to be found."""
    program = """
    source "$1"; shift
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
    PATH=/nonexistent
    _charjax
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    if (bash := shutil.which("bash")) is None:
        pytest.skip("no bash")
    done = subprocess.run(
        [bash, "--norc", "-c", program, "bash", script, "charjax", *words],
        capture_output=True,
        text=True,
        cwd=script.parent,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_every_command(script: Path) -> None:
    assert set(completed(script, "")) == set(COMMANDS)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["tra"], ["train"]),
        (["train", "--prof"], ["--profile"]),
        (["train", "nanogpt-c"], ["nanogpt-char", "nanogpt-cpu"]),
        (["train", "nanogpt-cpu", "train.epo"], ["train.epochs="]),
        (["log", "runs/a", "--to", ""], ["tensorboard", "wandb"]),
        (["interop", ""], ["import", "export"]),
        (["initlab", "probe", "--coord"], ["--coordinates"]),
        (["completion", ""], ["bash", "zsh"]),
        (["runs", "cha"], []),
        (["train", "charjax.b"], ["charjax.bash"]),
    ],
)
def test_words(words: list[str], found: list[str], script: Path) -> None:
    assert completed(script, *words) == found


def test_zsh_reads_its_script(tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    if (zsh := shutil.which("zsh")) is None:
        pytest.skip("no zsh")
    done = run("commands.completion", "zsh")
    assert done.out.startswith("#compdef charjax")
    (tmp_path / "_charjax").write_text(done.out)
    subprocess.run([zsh, "-n", tmp_path / "_charjax"], check=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: shell"),
        (["fish"], "invalid choice: 'fish'"),
        (["zsh"], 'shtab is not installed; pip install "charjax[completion]"'),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    done = run("commands.completion", *words)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
