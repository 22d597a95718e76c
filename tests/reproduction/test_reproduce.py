"""`python -m charjax.reproduce`: its runs, files, output and exit status."""

import json
import os
import signal

import numpy as np
import pytest

from charjax import reproduce
from charjax.reproduction import published
from charjax.reproduction.rows import Figure, Ordering, Row
from tests.commands import run

FAST = ("train.steps=20", "eval.every=10", "train.batch_size=4", "model.context_length=4")


def figure(quantity, value, mark="seen"):
    return Figure(quantity, value, "a book", mark, 0.5, 0.5, "because")


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Rows on a small text of ten equally likely symbols, whose loss is near ln 10."""
    text = tmp_path / "text.txt"
    rng = np.random.default_rng(0)
    text.write_text("".join("abcdefgh \n"[i] for i in rng.integers(0, 10, 1200)))
    data = f"data.path={text}"
    good, bad = figure("val", 2.3), figure("val", 1.2)
    made = (
        Row("counts", "counted", "Text", "shakespeare-kneser-ney", (good,), (data,)),
        Row("good", "a bigram", "Text", "shakespeare-bigram", (good,), (data, *FAST), seeds=2),
        Row("bad", "another", "Text", "shakespeare-bigram", (bad,), (data, *FAST), seeds=2),
        Row("big", "a giant", "Text", "nanogpt-char", (figure("random", 1.4),), tier="gpu"),
    )
    monkeypatch.setattr(published, "ROWS", made)
    monkeypatch.setattr(reproduce, "ROWS", made)
    monkeypatch.setattr(reproduce, "ORDERINGS", (Ordering("bad", "good", "a claim"),))
    return made


def read(directory):
    tree = json.loads((directory / "results.json").read_text())
    return tree, {row["name"]: row for row in tree["rows"]}


def test_within_tolerance(rows, tmp_path):
    out = tmp_path / "out"
    done = run("reproduce", "--only", "counts", "--only", "good", "--out", out)
    assert (done.status, done.err) == (0, "")
    _, found = read(out)
    assert found.keys() == {"counts", "good"}
    assert len(found["counts"]["runs"]) == 1
    good = found["good"]
    assert [r["seed"] for r in good["runs"]] == [0, 1]
    values = [r["losses"]["val"] for r in good["runs"]]
    assert good["figures"][0]["measured"]["mean"] == pytest.approx(np.mean(values))
    assert [point[0] for point in good["runs"][0]["curve"]] == [10, 20]
    assert good["hardware"]["versions"]["jax"]
    assert (out / "curves" / "good.png").stat().st_size > 1000
    page = (out / "RESULTS.md").read_text()
    assert f"{np.mean(values):.4f}" in page
    assert "| reproduced |" in page
    assert found["good"]["hardware"]["date"] in page


def test_out_of_tolerance_is_status_1_and_named(rows, tmp_path):
    done = run("reproduce", "--only", "[gb]*d", "--seeds", 3, "--out", tmp_path / "out")
    assert done.status == 1
    assert done.err == "error: out of tolerance: bad, bad > good\n"
    tree, found = read(tmp_path / "out")
    assert found["bad"]["figures"][0]["verdict"] == "out of tolerance"
    assert len(found["bad"]["runs"]) == 3
    # The same config and seeds: the difference is exactly none, so the order does not hold.
    assert tree["orders"][0]["difference"]["mean"] == 0.0
    assert tree["orders"][0]["verdict"] == "does not hold"


@pytest.mark.parametrize("asked", [("--only", "big"), ("--tier", "gpu")])
def test_without_a_gpu_its_rows_are_not_run(rows, asked, tmp_path):
    done = run("reproduce", *asked, "--out", tmp_path / "out")
    assert done.status == 0
    assert "need an accelerator" in done.err
    assert read(tmp_path / "out")[1] == {}
    line = next(
        x for x in (tmp_path / "out" / "RESULTS.md").read_text().splitlines() if "giant" in x
    )
    assert line.count("not run") == 2


def test_resumed_it_keeps_what_is_done(rows, tmp_path):
    out = tmp_path / "out"
    run("reproduce", "--only", "good", "--out", out)
    first = read(out)[1]["good"]
    refused = run("reproduce", "--only", "good", "--out", out)
    assert refused.status == 2
    assert "already holds results" in refused.err
    done = run("reproduce", "--only", "good", "--only", "counts", "--out", out, "--resume")
    assert done.status == 0
    assert read(out)[1]["good"] == first
    assert "counts" in read(out)[1]
    assert run("reproduce", "--only", "good", "--seeds", 1, "--out", out, "--resume").status == 0
    assert len(read(out)[1]["good"]["runs"]) == 1


def test_a_directory_of_something_else_is_not_resumed(rows, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.toml").write_text("")
    refused = run("reproduce", "--only", "good", "--out", out, "--resume")
    assert refused.status == 2
    assert "holds no results" in refused.err
    assert [path.name for path in out.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--only", "goood"],
            "--only: 'goood' given, and no row has that name; did you mean good?",
        ),
        (["--tier", "tpu"], "--tier: invalid choice: 'tpu'"),
        (["--seeds", "0"], "--seeds: '0' given; must be a whole number from 1"),
        (["--resume"], "--resume: no --out given"),
    ],
)
def test_mistakes_are_one_line(rows, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("reproduce", *arguments)
    assert done.status == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_the_published_counts_from_outside(run_command, data_dir, tmp_path):
    out = tmp_path / "out"
    done = run_command("reproduce", "--only", "names-counts-split", "--out", out)
    assert (done.code, done.stderr) == (0, "")
    losses = read(out)[1]["names-counts-split"]["runs"][0]["losses"]
    assert {name: round(x, 4) for name, x in losses.items()} == {
        "train": 2.4548,
        "val": 2.4533,
        "test": 2.4584,
    }


def test_stopped_it_tells_how_to_go_on(rows, tmp_path, monkeypatch):
    from charjax.reproduction import measure

    real = measure.run_row

    def stop_at_bad(row, seeds, report, poll):
        if row.name == "bad":
            os.kill(os.getpid(), signal.SIGTERM)
        return real(row, seeds, report, poll)

    monkeypatch.setattr(measure, "run_row", stop_at_bad)
    out = tmp_path / "out"
    done = run("reproduce", "--only", "good", "--only", "bad", "--out", out)
    assert done.status == 143
    assert f"--only good --only bad --out {out} --resume" in done.err
    assert read(out)[1].keys() == {"good"}
