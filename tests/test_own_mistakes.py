"""Mistakes in a file of the user's that show elsewhere: in a library, in charjax, or nowhere."""

from pathlib import Path

import pytest

import charjax
from tests import own
from tests.commands import Result, run

HEAD = """\
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from charjax.init import Scheme, rules_for
from charjax.init.draws import FanInNormal


"""
SCHEME = "mine = lambda init: Scheme('mine', {})"
STATE = "mine = lambda o: optax.GradientTransformation(lambda p: {}, lambda g, s, p: (g, s))"
NAMED = "error: {field}: {file}:13: 'mine' "
# The setting, the file from its line 13 on, and the message.
MISTAKES = {
    # Called by charjax, failed in a library: no line of the file is in the traceback.
    "library's activation": ("model.activation", "mine = jax.nn.glu", "fails: AssertionError"),
    "flax's layer": ("model.activation", "mine = nn.Dense(3)", "fails: CallCompactUnboundModule"),
    "another kind of draw": (
        "init.scheme",
        SCHEME.format("rules_for(jax.nn.initializers.he_normal())"),
        "fails: TypeError: 'Site' object is not iterable",
    ),
    "a number that is not given": (
        "init.scheme",
        SCHEME.format("rules_for(FanInNormal(init.std))"),
        "fails: TypeError: unsupported operand",
    ),
    "an optimiser that needs the loss": (
        "optim.kind",
        "mine = lambda optim: optax.polyak_sgd()",
        "fails: TypeError: scale_by_polyak",
    ),
    "library's optimiser": ("optim.kind", "mine = optax.scale_by_adam", "fails: TypeError: "),
    "state of text": ("optim.kind", STATE.format("'a'"), "fails: TypeError: "),
    # What would have failed only when the first checkpoint was saved.
    "state with a key": (
        "optim.kind",
        STATE.format("{'key': jax.random.key(0)}"),
        "has a state that cannot be saved: 'key' is a random key; hold jax.random.key_data(key)",
    ),
    "state with one name twice": (
        "optim.kind",
        STATE.format("{'a/b': jnp.ones(()), 'a': {'b': jnp.ones(())}}"),
        "has a state that cannot be saved: two of its arrays have the path 'a/b'",
    ),
    # What would have been accepted.
    "NumPy's draws": (
        "init.scheme",
        SCHEME.format("rules_for(lambda key, site: np.random.randn(*site.shape))"),
        "draws other numbers for 'hidden_0/kernel' with the same key; draw with jax.random",
    ),
    "NumPy's function": ("model.activation", "mine = np.tanh", "returns an array of NumPy's; "),
    "kinks that are none": (
        "model.activation",
        "def mine(x):\n    return jnp.abs(x)\n\n\nmine.kinks = 0.0",
        "has kinks = 0.0; they must be a tuple of finite numbers, as in kinks = (0.0,)",
    ),
    "rules that are none": ("init.scheme", SCHEME.format("None"), "gives rules that are a None"),
}  # fmt: skip
# What ends the process, and its line.
EXITS = {
    "activation": ("model.activation", "def mine(x):\n    sys.exit()", 14),
    "draw": (
        "init.scheme",
        SCHEME.format("rules_for(lambda key, site: sys.exit(3))"),
        13,
    ),
    "optimiser": ("optim.kind", "def mine(optim):\n    exit(0)", 14),
}
H = "h_BNH = jnp.tanh(Linear("
FAMILIES = {
    "a leak into long texts alone": (
        ("x_BSE = ", "T = tokens_BT.shape[1]\n        x_BSE = "),
        ("(history_BS)", "(history_BS[:, ::-1] if T > 8 else history_BS)"),
        ":25: 'Pair' is not causal: its logits before position 1 change",
    ),
    "a leak in training alone": (
        ("(history_BS)", "(history_BS[:, ::-1] if train else history_BS)"),
        ":25: 'Pair' is not causal in training: its logits before position 1 change",
    ),
    "a role that is none": (
        ('("hidden/bias", Parameter(Role.BIAS)),', '("hidden/bias", "bias"),'),
        ":25: 'Pair' fails: AttributeError: 'str' object has no attribute 'role'",
    ),
    "a pattern that is none": (
        ('"hidden/bias"', '"hidden/(bias"'),
        ":25: 'Pair' fails: ",
    ),
    "an annotation that is none": (
        ("d_hidden: int", "d_hidden: 'Width'"),
        ":25: 'Pair' fails: NameError: name 'Width' is not defined",
    ),
    "a setting that cannot be written": (
        ("d_hidden: int = 16", "d_hidden: int = 16\n    act: object = jnp.tanh"),
        ":25: 'Pair': its fields cannot be settings: ",
    ),
    "a setting of a section's name": (
        ("d_hidden: int = 16", "d_hidden: int = 16\n    fitted: bool = True"),
        ":25: 'Pair' has the setting 'fitted', a name that sections of charjax use",
    ),
    "a setting of the family's name": (
        ("d_hidden: int = 16", "d_hidden: int = 16\n    kind: str = 'mine'"),
        ":25: 'Pair' has the setting 'kind', a name that sections of charjax use",
    ),
    "an exit": ((H, f"raise SystemExit\n        {H}"), "mine.py:53: SystemExit"),
}


@pytest.fixture
def words(tmp_path: Path) -> list[object]:
    (tmp_path / "text.txt").write_text("the world is all that is the case. " * 60)
    short = ["train.steps=4", "train.batch_size=4", "model.context_length=8"]
    return [f"data.path={tmp_path / 'text.txt'}", *short, "--workdir", tmp_path / "run"]


MLP = ["model.kind=mlp", "model.hidden=[16]"]


def assert_refused(done: Result, message: str, folder: Path) -> None:
    assert (done.status, done.err.count("\n")) == (2, 1), done
    assert message in done.err
    assert not (folder / "run").exists()


def write(folder: Path, source: str) -> Path:
    path = folder / "mine.py"
    path.write_text(HEAD + source + "\n")
    return path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_the_line_of_the_object(
    mistake: str, words: list, tmp_path: Path
) -> None:
    field, source, message = MISTAKES[mistake]
    file = write(tmp_path, source)
    done = run("train", *MLP, f"{field}={file}:mine", *words)
    assert_refused(done, NAMED.format(field=field, file=file) + message, tmp_path)


@pytest.mark.parametrize("what", EXITS)
def test_an_exit_is_a_mistake(what: str, words: list, tmp_path: Path) -> None:
    """It ended the command with status 0, and nothing was trained."""
    field, source, line = EXITS[what]
    file = write(tmp_path, source)
    done = run("train", *MLP, f"{field}={file}:mine", *words)
    assert_refused(done, f"error: {file}:{line}: SystemExit", tmp_path)
    with pytest.raises(charjax.UserError, match=f"mine.py:{line}: SystemExit"):
        charjax.fit(*MLP, f"{field}={file}:mine", words[0], workdir=tmp_path / "run")


@pytest.mark.parametrize("mistake", FAMILIES)
def test_a_family(mistake: str, words: list, tmp_path: Path) -> None:
    *changes, message = FAMILIES[mistake]
    file = own.write(tmp_path, *changes)
    done = run("train", f"model.kind={file}:Pair", *words)
    assert_refused(done, message, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        (H, "h_BNH = nn.Dropout(0.5, deterministic=not train)(Linear("),
        # Statistics of the batch are not causal in training.
        (H, "h_BNH = nn.BatchNorm(not train, use_bias=False, use_scale=False)(Linear("),
    ],
    ids=["dropout", "batch norm"],
)
@pytest.mark.slow
def test_a_causal_family_is_not_refused(change: tuple, words: list, tmp_path: Path) -> None:
    file = own.write(tmp_path, change)
    done = run("train", f"model.kind={file}:Pair", *words, "--dry-run")
    assert (done.status, done.err) == (0, "")


def test_null_bytes_have_a_place(words: list, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_bytes(b"mine = 1\n\0")
    done = run("train", *MLP, f"init.scheme={tmp_path / 'mine.py'}:mine", *words)
    assert_refused(done, f"init.scheme: {tmp_path / 'mine.py'}:1: SyntaxError: ", tmp_path)


def test_what_a_file_prints_is_not_the_commands_output(words: list, tmp_path: Path) -> None:
    file = write(tmp_path, "print('loaded')\nmine = Scheme('mine', rules_for(FanInNormal(1.0)))")
    asked = [*MLP, f"init.scheme={file}:mine", *words[:-2], "--print-config"]
    done = run("train", *asked)
    assert done.status == 0, done.err
    assert done.out.startswith("[data]")
    assert "loaded" in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('input_of("hidden")', 'input_of("hiden")'),
            "taps() of Pair has the input of 'hiden', and the model computes no such module",
        ),
        (("    def taps(self):", "    def layers(self):"), "Pair has no taps(), which describes"),
    ],
)
def test_taps(change: tuple, message: str, words: list, tmp_path: Path) -> None:
    file = own.write(tmp_path, change)
    asked = [f"model.kind={file}:Pair", *words[:1], "--seeds", "2", "--out", tmp_path / "run"]
    done = run("initlab.__main__", "probe", *asked)
    assert_refused(done, f"error: model.kind: {message}", tmp_path)


@pytest.mark.slow
def test_a_sweep_of_a_benchmark_ends_as_the_benchmark_of_one_point(
    words: list, tmp_path: Path
) -> None:
    file = write(tmp_path, "mine = jnp.sqrt")
    asked = [*MLP, f"model.activation={file}:mine", *words[:1], "--devices", "cpu"]
    done = run("commands.benchmark", *asked, "--sweep", "batch=4,8")
    assert done.status == 2
    assert f"batch=8: model.activation: {file}:13: 'mine' has a value" in done.err
