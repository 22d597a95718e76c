"""Commands that start with stored programs do what they did without them, to the bit."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Finished

pytestmark = pytest.mark.slow

SETTINGS = (
    "model.kind=mlp",
    "model.context_length=4",
    "model.hidden=[8]",
    "eval.max_targets=50",
    "checkpoint.every=3",
)
# A start that fails if anything is traced for the loop, or for the state at step 0.
NOT_TRACED = """
import sys
from charjax.training import program, session
def fail(*_, **__): raise AssertionError("traced")
program.lower_chunks = session.seed_state = fail
from charjax import train
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.fixture
def start(tmp_path: Path, run_command) -> Callable[..., Finished]:
    """`start("train", ...)`: a command with a cache of its own, which JAX's is a part of."""
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 30)

    def run(name: str, *words: str | Path, cache: str = "cache") -> Finished:
        env = {"CHARJAX_CACHE": str(tmp_path / cache), "JAX_COMPILATION_CACHE_DIR": ""}
        return run_command(name, *words, env=env)

    return run


def train(*words: str) -> tuple[str, ...]:
    return ("data.path=text.txt", *SETTINGS, *words)


def digest(folder: Path) -> str:
    return json.loads((folder / "summary.json").read_text())["state_digest"]


def stored(tmp_path: Path) -> dict[str, list[Path]]:
    folder = next((tmp_path / "cache" / "compiled").glob("*/programs"))
    return {kind: sorted(folder.glob(f"*.{kind}")) for kind in ("program", "entry", "hint")}


def test_a_second_start_traces_nothing_and_trains_the_same(start, tmp_path: Path):
    first = start("train", *train("train.steps=6"), "--workdir", "a")
    assert (first.code, first.stderr) == (0, "")
    before = stored(tmp_path)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            NOT_TRACED,
            *train("train.steps=6", "train.seed=0"),
            "--workdir",
            "b",
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CHARJAX_CACHE": str(tmp_path / "cache"),
            "JAX_COMPILATION_CACHE_DIR": "",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert stored(tmp_path) == before
    # Without any cache, and resumed with one.
    start("train", *train("train.steps=6"), "--workdir", "c", cache="none")
    start("train", *train("train.steps=3"), "--workdir", "d")
    for _ in range(2):
        resumed = start("train", "train.steps=6", "--workdir", "d", "--resume")
        assert (resumed.code, resumed.stderr) == (0, "")
    assert {digest(tmp_path / name) for name in "cd"} == {digest(tmp_path / "a")}


def test_damaged_programs_cost_one_warning(start, tmp_path: Path):
    start("train", *train("train.steps=3"), "--workdir", "a")
    for path in stored(tmp_path)["program"]:
        path.write_bytes(path.read_bytes()[:-100])
    again = start("train", *train("train.steps=3"), "--workdir", "b")
    assert again.code == 0
    assert again.stderr.count("\n") == 1
    assert "a stored program cannot be used" in again.stderr
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert start("train", *train("train.steps=3"), "--workdir", "c").stderr == ""


def test_a_mistake_after_the_start_of_loading_is_one_line(start, tmp_path: Path):
    start("train", *train("train.steps=3"), "--workdir", "a")
    (tmp_path / "text.txt").unlink()
    failed = start("train", *train("train.steps=3"), "--workdir", "b")
    assert failed.code == 2
    assert failed.stderr.count("\n") == 1
    assert "text.txt" in failed.stderr
    assert not (tmp_path / "b").exists()


def test_samples_are_those_without_stored_programs(start, tmp_path: Path):
    start("train", *train("train.steps=3"), "--workdir", "a")
    words = ("a", "--prompt", "the", "--max-new-tokens", "40", "--seed", "5")
    found = [start("sample", *words).stdout for _ in range(2)]
    assert found == [start("sample", *words, cache="none").stdout] * 2
    assert found[0].startswith("the")


def test_nothing_is_stored_of_runs_with_code_of_the_users_own(start, tmp_path: Path):
    code = "import jax.numpy as jnp\n\n\ndef act(x):\n    return jnp.sin(x)\n"
    (tmp_path / "mine.py").write_text(code)
    words = train("train.steps=3", "model.activation=./mine.py:act")
    assert start("train", *words, "--workdir", "a").code == 0
    assert not list((tmp_path / "cache" / "compiled").glob("*/programs"))
