"""Sweeps, probes and pages of schemes, optimisers, activations and families of the user's own."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests import own
from tests.commands import Result, run

SMALL = ["train.batch_size=4", "model.context_length=4"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("the world is all that is the case. " * 60)
    own.write(tmp_path)
    return tmp_path


def sweep(folder: Path, *words: object) -> Result:
    text = f"data.path={folder / 'text.txt'}"
    return run("initlab.commands.sweep", text, *SMALL, *words, "--steps", 4)


@pytest.mark.slow
def test_a_sweep_compares_seed_by_seed(folder: Path) -> None:
    file, out = folder / "mine.py", folder / "sweep"
    words = [f"model.activation={file}:act", f"optim.kind={file}:make", "model.hidden=[8]"]
    words += ["--scheme", f"glorot_normal,{file}:scheme", "--seeds", 6, "--out", out]
    done = sweep(folder, *words)
    assert done.status == 0, done.err
    assert "mine.py:scheme@" in done.out
    rows = pd.read_csv(out / "runs.csv")
    assert set(rows.scheme.str.partition("@")[0]) == {"glorot_normal", "mine.py:scheme"}
    layers = pd.read_csv(out / "layers.csv")
    hidden = layers[(layers.layer == "hidden_0") & (layers.step == 0)]
    assert (hidden["std"] / hidden.theory_std).between(0.7, 1.4).all()
    assert [path.name for path in (out / "code").glob("*/*")] == ["mine.py"]
    assert (out / "report.html").exists()
    done = run("initlab.commands.report", out)
    assert "the page has its theory if --code names the file" in done.err
    done = run("initlab.commands.report", out, "--code", file)
    assert (done.status, done.err) == (0, "")
    own.write(folder, extra="\n# another line\n")
    done = sweep(folder, *words, "--resume")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "when the sweep was started" in done.err


@pytest.mark.slow
@pytest.mark.longest
def test_a_family_is_swept_over_its_width(folder: Path) -> None:
    out = folder / "sweep"
    words = ["--arch", f"{folder / 'mine.py'}:Pair", "--scheme", "pytorch,he_normal"]
    done = sweep(folder, *words, "--width", "4,8", "--seeds", 2, "--out", out)
    assert done.status == 0, done.err
    assert set(pd.read_csv(out / "runs.csv").width) == {4, 8}


@pytest.mark.slow
def test_a_probe_shows_the_theory_of_an_activation(folder: Path) -> None:
    words = [f"data.path={folder / 'text.txt'}", *SMALL, "model.kind=mlp", "model.hidden=[64,64]"]
    words += [f"model.activation={folder / 'mine.py'}:act", "init.scheme=critical"]
    done = run("initlab.commands.probe", *words, "init.sigma_b=0", "--seeds", 2, "--json")
    layers = {layer["name"]: layer for layer in json.loads(done.out)["layers"]}
    for name in ("hidden_0", "hidden_1"):
        std, theory = layers[name]["std"]["mean"], layers[name]["theory"]["std"]
        assert std == pytest.approx(theory, rel=0.15)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scheme", "pytorch,FILE:shceme"], "did you mean scheme?"),
        (["--arch", "grru"], "did you mean gru?"),
        (["--arch", "FILE:make"], "it must be a class: a subclass of"),
        (["optim.kind=FILE:Pair"], "cannot be called as make(optim): missing"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, folder: Path) -> None:
    out, file = folder / "sweep", str(folder / "mine.py")
    done = sweep(folder, *(word.replace("FILE", file) for word in words), "--out", out)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
    assert not out.exists()


def test_a_family_without_taps_says_so(folder: Path) -> None:
    own.write(folder, ("    def taps(self):", "    def other(self):"))
    done = sweep(folder, "--arch", f"{folder / 'mine.py'}:Pair", "--out", folder / "sweep")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "Pair has no taps(), which describes the layers" in done.err
