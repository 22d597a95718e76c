"""The probe command: its output, files and errors."""

import json
import math

import pytest

from tests.commands import run, tiny

SENTENCE = "the quick brown fox jumps over the lazy dog; and then some more of the same.\n"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "[bold]text.txt"
    path.write_text(SENTENCE * 40)
    return path


def probe(*words):
    return run("initlab.__main__", "probe", *words)


@pytest.mark.slow
def test_transformer_in_tables_json_and_pictures(text, tmp_path):
    out = tmp_path / "out"
    settings = [*tiny("transformer"), f"data.path={text}", "train.seed=3", "init.scheme=gpt2"]
    done = probe(*settings, "--seeds", 2, "--out", out, "--json")
    assert (done.status, done.err) == (0, "")
    tree = json.loads(done.out)
    assert json.loads((out / "probe.json").read_text()) == tree
    for name in ("activations", "gradients", "depth"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert tree["seeds"] == [3, 4]
    loss, vocabulary = tree["initial_loss"], len(set(SENTENCE))
    assert tree["vocabulary"] == vocabulary
    assert loss["uniform"] == pytest.approx(math.log(vocabulary))
    # Logits this small: close to uniform, measured and by theory.
    assert loss["mean"] == pytest.approx(loss["uniform"], abs=0.05)
    assert loss["theory"] == pytest.approx(loss["mean"], abs=0.03)
    assert loss["mean"] == pytest.approx(sum(loss["values"]) / 2)
    layers = {layer["name"]: layer for layer in tree["layers"]}
    up = layers["block_0/mlp/up"]
    # 0.02 sqrt(8), and nearly linear: half of it after.
    assert up["preactivation_std"]["mean"] == pytest.approx(0.02 * math.sqrt(8), rel=0.2)
    assert up["theory"]["preactivation_std"] == pytest.approx(
        up["preactivation_std"]["mean"], rel=0.1
    )
    assert (up["saturated"], layers["block_0"]["kernel"]) == (None, None)
    uniform = sum(math.log(t) for t in range(1, 9)) / 8
    assert tree["attention"]["uniform"] == pytest.approx(uniform)
    assert tree["attention"]["blocks"][0]["entropy"]["mean"] == pytest.approx(uniform, rel=0.01)
    assert tree["jacobian"]["largest"]["mean"] > 0
    assert tree["hessian"]["stable_rate"]["mean"] > 0


@pytest.mark.slow
def test_bigram_says_what_is_not_for_it(text):
    done = probe("model.kind=bigram", f"data.path={text}", "train.batch_size=4", "--seeds", 2)
    assert (done.status, done.err) == (0, "")
    # A name is text, not markup.
    assert "[bold]text.txt, bigram" in done.out
    assert "attention: not applicable to this family" in done.out
    assert "Jacobian: not applicable to this family" in done.out
    assert "by theory" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.kind=ngram"], "counts have no initialisation"),
        (["init.scheme=nonesuch"], "init.scheme: 'nonesuch' given; allowed"),
        (["--seeds", "1"], "needs 2 or more"),
        (["--seeds", "x"], "--seeds: 'x' given; must be a whole number"),
        (["init.scheme=rezero"], "model.residual"),
        (["data.path=/nonexistent"], "data.path"),
        (["--sedes", "2"], "did you mean --seeds?"),
    ],
)
def test_mistakes_are_one_line(words, message):
    done = probe(*words)
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert message in done.err


def test_a_file_in_the_way_of_the_directory(tmp_path):
    path = tmp_path / "taken"
    path.write_text("mine")
    done = probe("model.kind=bigram", "--out", path)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "--out" in done.err
    assert path.read_text() == "mine"


@pytest.mark.slow
def test_the_coordinate_check(text, tmp_path):
    words = [*tiny("mlp"), f"data.path={text}", "model.norm=none", "init.scheme=mup"]
    words += ["init.base_width=8", "optim.learning_rate=0.01", "--coordinates", "8,16"]
    done = probe(*words, "--seeds", 2, "--out", tmp_path / "out")
    assert (done.status, done.err) == (0, "")
    assert "Coordinate check of mup at learning rate 0.01" in done.out
    # Two seeds of networks this narrow cannot tell, and it says what could.
    assert "cannot tell (" in done.out
    assert "unclear" in done.out
    found = json.loads((tmp_path / "out" / "probe.json").read_text())["coordinates"]
    assert (found["verdict"], found["passed"]) == ("cannot tell", False)
    assert found["seeds_needed"] is None or found["seeds_needed"] > 2
    assert (found["places"], found["seeds"]) == ([8, 16], [0, 1])
    assert {layer["layer"] for layer in found["layers"]} >= {"hidden_0", "readout"}
    assert (tmp_path / "out" / "coordinates.png").read_bytes().startswith(b"\x89PNG")


def test_widths_that_cannot_be_checked(text):
    for kind, words, message in (
        ("transformer", "8,9", "give multiples of 4"),
        ("bigram", "8,16", "of model.kind=bigram is that of its text's table"),
        ("mlp", "8", "a slope needs at least two widths"),
    ):
        done = probe(*tiny(kind), f"data.path={text}", "--coordinates", words)
        assert done.status == 2
        assert message in done.err
        assert done.err.count("\n") == 1
