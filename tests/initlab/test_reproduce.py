"""`python -m charjax.initlab reproduce`: what it runs, writes and says, and how it ends."""

import functools
import json
import math
import os
import signal

import pytest

from charjax.initlab import reproductions
from charjax.initlab.reproductions import Reproduction
from charjax.reproduction.checks import (
    Mean,
    at_least,
    at_most,
    geometric_mean_of,
    mean_of,
    near,
    not_run,
    shown,
    stated,
)
from tests import commands

run = functools.partial(commands.run, "initlab.commands.reproduce")
NEAR = functools.partial(near, "a size", expected=2.0, of="the mean of nets")


@pytest.fixture
def known(monkeypatch):
    """Three reproductions that take no time; how often each was run."""
    counts = {"good": 0, "bad": 0, "big": 0}

    def one(name, checks):
        def measured(tier, progress, poll):
            counts[name] += 1
            progress(1, 2)
            poll()
            return checks

        return measured

    good = [
        NEAR(Mean(2.01, 40, 0.005), within=0.02, unit="nats", theory=2.003, note="a | b <i>"),
        stated("a difference", Mean(0.1), "indistinguishable at n = 8", of=""),
        not_run("at width 2048", "it needs a GPU", expected=0.0),
    ]
    bad = [NEAR(Mean(2.03), within=0.02), NEAR(Mean(math.nan), within=0.02), good[0]]
    made = (
        Reproduction("good", 1, "a [bold] title", "a book", one("good", good)),
        Reproduction("bad", 2, "another", "a book", one("bad", bad)),
        Reproduction("big", 3, "a giant", "a book", one("big", good), larger_on_gpu=True),
    )
    monkeypatch.setattr(reproductions, "REPRODUCTIONS", made)
    return counts


def read(directory):
    tree = json.loads((directory / "results.json").read_text())
    return tree, {each["name"]: each for each in tree["reproductions"]}


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (NEAR(Mean(2.02), within=0.0201), "reproduced"),
        (NEAR(Mean(1.97), within=0.02), "out of tolerance"),
        (NEAR(Mean(1.97), percent=2.0), "reproduced"),
        (NEAR(Mean(2.05), percent=2.0), "out of tolerance"),
        (near("below 0", Mean(-2.05), -2.0, percent=2.0, of=""), "out of tolerance"),
        (near("none at all", Mean(0.0), 0.0, within=0.0, of=""), "reproduced"),
        (near("none at all", Mean(1.0), 0.0, within=0.0, of=""), "out of tolerance"),
        (NEAR(Mean(math.inf), within=0.02), "not finite"),
        (at_most("a slope", Mean(0.1), 0.1, of=""), "reproduced"),
        (at_most("a slope", Mean(0.11), 0.1, of=""), "out of tolerance"),
        (at_most("a slope", Mean(math.nan), 0.1, of=""), "not finite"),
        (at_least("a drift", Mean(2.0), 2.0, of=""), "reproduced"),
        (at_least("a drift", Mean(1.9), 2.0, of=""), "out of tolerance"),
        (shown("a > b", True, Mean(0.1), of=""), "reproduced"),
        (shown("a > b", False, Mean(0.1), of=""), "out of tolerance"),
        (stated("a - b", Mean(0.1), "they differ", of=""), "stated"),
        (not_run("a - b", "no GPU"), "not run"),
    ],
)
def test_verdicts(check, verdict):
    assert check.verdict == verdict
    assert json.loads(json.dumps(check.as_data(), allow_nan=False))["verdict"] == verdict


def test_means():
    assert mean_of([1.0, 3.0]) == (2.0, 2, pytest.approx(1.0))
    assert mean_of([1.0]) == (1.0, 1, None)
    assert geometric_mean_of([math.log(2), math.log(8)])[:2] == (pytest.approx(4.0), 2)
    assert math.isnan(geometric_mean_of([math.nan, 0.0]).value)


def test_results_as_they_are_written(known, tmp_path):
    out = tmp_path / "out"
    done = run("good", "--out", out)
    assert (done.status, done.err) == (0, "")
    assert "1/1 good: 1 reproduced, 1 stated, 1 not run" in done.out
    assert "a [bold] title" in done.out
    tree, found = read(out)
    assert tree["hardware"]["versions"]["jax"]
    # Where it was put is no part of how it is made again.
    assert tree["command"] == "python -m charjax.initlab reproduce good"
    assert found["good"]["tier"] == "cpu"
    assert found["good"]["seconds"] >= 0
    first, second, third = found["good"]["checks"]
    expected = {"expected": 2.0, "tolerance": 0.02, "measured": 2.01, "n": 40, "unit": "nats"}
    assert expected.items() <= first.items()
    assert (first["standard_error"], first["theory"], first["verdict"]) == (
        0.005,
        2.003,
        "reproduced",
    )
    assert second["expected"] is None
    assert third["measured"] is None
    page = (out / "RESULTS.md").read_text()
    assert r"| 2 ± 0.02 | 2.003 | 2.01 nats ± 0.005 | 40 | reproduced: a \| b \<i\> |" in page
    assert "| not run |" in page
    assert "Source: a book. Measured: the mean of nets." in page


def test_a_number_that_fails_is_status_1_and_named(known, tmp_path):
    done = run("--out", tmp_path / "out")
    assert done.status == 1
    assert done.err == "error: out of tolerance: bad (2 of 3)\n"
    _, found = read(tmp_path / "out")
    assert list(found) == ["good", "bad", "big"]
    assert [c["verdict"] for c in found["bad"]["checks"]] == [
        "out of tolerance",
        "not finite",
        "reproduced",
    ]
    assert found["bad"]["checks"][1]["measured"] is None


def test_without_a_gpu_its_tier_is_not_run(known, tmp_path):
    done = run("good", "big", "--tier", "gpu", "--out", tmp_path / "out")
    assert done.status == 0
    assert (known["good"], known["big"]) == (1, 0)
    (check,) = read(tmp_path / "out")[1]["big"]["checks"]
    assert (check["verdict"], check["measured"]) == ("not run", None)
    assert "needs a GPU" in check["note"]


def test_names_numbers_and_all(known, tmp_path):
    assert run("2", "good", "--out", tmp_path / "a").status == 1
    assert read(tmp_path / "a")[1].keys() == {"good", "bad"}
    assert run("all", "--out", tmp_path / "b").status == 1
    assert known == {"good": 2, "bad": 2, "big": 1}
    listed = run("--list")
    assert listed.out == " 1  good                 a [bold] title\n" + (
        " 2  bad                  another\n 3  big                  a giant\n"
    )
    assert known["good"] == 2


def test_resumed_it_keeps_what_is_done(known, tmp_path):
    out = tmp_path / "out"
    run("good", "--out", out)
    first = read(out)[1]["good"]
    refused = run("--out", out)
    assert refused.status == 2
    assert "already holds results" in refused.err
    assert run("--out", out, "--resume").status == 1
    assert read(out)[1]["good"] == first
    assert known == {"good": 1, "bad": 1, "big": 1}
    # What failed has been measured, too: it fails again, and is not run again.
    assert run("--out", out, "--resume").status == 1
    # Another tier is another measurement.
    run("good", "--tier", "gpu", "--out", out, "--resume")
    assert known == {"good": 2, "bad": 1, "big": 1}


def test_stopped_it_tells_how_to_go_on(known, tmp_path, monkeypatch):
    def stop(tier, progress, poll):
        os.kill(os.getpid(), signal.SIGTERM)
        poll()

    good, bad, _ = reproductions.REPRODUCTIONS
    stopped = Reproduction(bad.name, 2, bad.title, bad.source, stop)
    monkeypatch.setattr(reproductions, "REPRODUCTIONS", (good, stopped))
    out = tmp_path / "out"
    done = run("--out", out)
    assert done.status == 143
    assert f"python -m charjax.initlab reproduce --out {out} --resume" in done.err
    assert read(out)[1].keys() == {"good"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["goood"], "NAME: 'goood' given; allowed: all, good, bad, big, or their numbers; did you"),
        (["4"], "NAME: '4' given; allowed: all, good"),
        (["--tier", "tpu"], "--tier: invalid choice: 'tpu'"),
        (["--resume"], "--resume: no --out given"),
        (["--teir", "cpu"], "did you mean --tier?"),
    ],
)
def test_mistakes_are_one_line(known, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.status == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    assert sum(known.values()) == 0


def test_results_that_are_none_are_left_alone(known, tmp_path):
    path = tmp_path / "results.json"
    path.write_text("[]")
    done = run("good", "--out", tmp_path, "--resume")
    assert done.status == 2
    assert "cannot be read as results" in done.err
    assert path.read_text() == "[]"


def test_the_real_ones_are_listed_in_order(run_command):
    listed = run_command("initlab", "reproduce", "--list")
    assert (listed.code, listed.stderr) == (0, "")
    numbers = [int(line.split()[0]) for line in listed.stdout.splitlines()]
    assert numbers == sorted(set(numbers))
    assert numbers[:8] == [1, 2, 3, 4, 5, 6, 7, 8]
    refused = run_command("initlab", "reproduce", "jacobean")
    assert (refused.code, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: NAME: 'jacobean' given; allowed: all, initial-loss,")
    assert refused.stderr.endswith("did you mean jacobian?\n")
