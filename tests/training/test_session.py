"""The context length that follows from a list of lines."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charjax.config import parse_config
from charjax.data.datasets import Dataset
from charjax.data.splits import Split
from charjax.data.tokenizers import CharTokenizer
from charjax.training.session import with_context
from tests.commands import run, tiny

NAMES = [f"{a}{b}{c}" for a in "bdklmnst" for b in "aeiou" for c in ("n", "ra", "lo", "mi")]


def context(longest: int, long: int, length: int | None = None) -> int | None:
    model = {"kind": "bigram"} | ({"context_length": length} if length else {})
    config = parse_config({"model": model, "data": {"path": "a.txt", "layout": "lines"}})
    split = Split(np.zeros(2, np.uint8), np.zeros(1, np.int64), np.ones(1, np.int64))
    tokenizer = CharTokenizer("\na", boundary=True)
    dataset = Dataset("a.txt", tokenizer, {"train": split}, "", (), longest, long)
    return with_context(config, dataset).model.context_length


@pytest.mark.parametrize(
    ("longest", "long", "expected"),
    [
        (16, 11, 16),
        (44, 11, 44),
        (45, 11, 11),
        (6001, 11, 11),
        (5, 5, 5),
        (2000, 600, 1024),
        (9000, 2000, 1024),
    ],
)
def test_the_longest_line_unless_it_is_over_4_times_the_percentile(
    longest: int, long: int, expected: int
):
    assert context(longest, long) == expected


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 9000))
@settings(max_examples=40, deadline=None)
def test_a_context_that_is_given_is_kept(longest: int, long: int, length: int):
    assert context(max(longest, long), long, length) == length


def test_one_long_line_does_not_make_every_step_dear(tmp_path: Path):
    text = tmp_path / "list.txt"
    text.write_text("\n".join([*NAMES, "ab" * 3000]) + "\n")
    words = [f"data.path={text}", "data.layout=lines", "model.kind=bigram", "train.batch_size=4"]
    words.append("train.sample_every=0")
    workdir = tmp_path / "run"

    def saved() -> int:
        model = tomllib.loads((workdir / "config.toml").read_text())["model"]
        return int(model["context_length"])

    done = run("train", *words, "train.steps=2", "--workdir", workdir)
    assert done.status == 0, done.err
    assert saved() == max(map(len, NAMES)) + 1 == 5
    note = "note: the longest line has 6,001 characters, over 4 times the 99th percentile: "
    assert note + "model.context_length is that percentile, 5, and longer lines" in done.out
    # Every character is still trained on or scored.
    assert sum(len(line) + 1 for line in NAMES) + 6001 == _targets(done.out)


@pytest.mark.slow
def test_a_saved_run_keeps_its_context(tmp_path: Path):
    text = tmp_path / "list.txt"
    text.write_text("\n".join([*NAMES, "ab" * 3000]) + "\n")
    words = [f"data.path={text}", "data.layout=lines", *tiny("bigram"), "train.sample_every=0"]
    workdir = tmp_path / "run"
    # As it was saved when the longest line alone counted.
    old = [*words, "model.context_length=1024"]
    assert run("train", *old, "train.steps=1", "--workdir", workdir).status == 0
    (tmp_path / "same.toml").write_text(
        f'[data]\npath = "{text}"\nlayout = "lines"\n[model]\nkind = "bigram"\n'
        "[train]\nsteps = 3\nbatch_size = 4\nlog_every = 5\nsample_every = 0\n"
        "[eval]\nevery = 10\n[checkpoint]\nevery = 10\n"
    )
    for extra in (["train.steps=2"], [tmp_path / "same.toml"]):
        done = run("train", *extra, "--workdir", workdir, "--resume")
        assert done.status == 0, done.err
        assert "percentile" not in done.out
    assert tomllib.loads((workdir / "config.toml").read_text())["model"]["context_length"] == 1024


def _targets(out: str) -> int:
    """Return the targets of all splits, as the run prints them."""
    line = next(line for line in out.splitlines() if line.startswith("text: "))
    parts = line.partition("targets: ")[2].split(", ")
    return sum(int(part.split()[1].replace(",", "")) for part in parts)
