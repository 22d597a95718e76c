"""Settings that nothing reads: every setting declares its readers, and the declarations hold."""

import math
import tomllib
from pathlib import Path
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tomli_w
from hypothesis import strategies as st

from charjax import models
from charjax.config import (
    FAMILIES,
    Config,
    load_config,
    parse_config,
    resume_conflicts,
    shipped_configs,
)
from charjax.config.errors import choices, fields_of
from charjax.config.optimizers import KINDS
from charjax.config.reads import READ, why_unread
from charjax.config.sections import SECTIONS
from charjax.config.values import toml_text
from charjax.data.datasets import load_dataset
from charjax.errors import UserError
from charjax.init import scheme_for, scheme_numbers
from charjax.init.scheme import initialise
from charjax.init.schemes import scheme_names
from charjax.models.roles import Parameter, Role, dense
from charjax.reproduction.published import ROWS
from charjax.training.optimizer import make_optimizer, make_schedule
from tests.commands import run, tiny
from tests.config.test_loading import trees

EVERY = [f"{name}.{key}" for name in SECTIONS for key in fields_of(name)]
PAIRS = ["model.kind=mlp", "data.layout=pairs"]
# Each condition of the table holds in one of these runs and fails in another.
RUNS: list[list[str]] = [
    [],
    ["optim.schedule=cosine"],
    ["optim.schedule=step", "optim.boundaries=[3]"],
    ["optim.schedule=exponential"],
    ["optim.kind=sgd"],
    *([f"optim.kind={kind}"] for kind in KINDS if kind not in ("adamw", "sgd")),
    ["optim.weight_decay=0.1"],
    ["optim.schedule=wsd"],
    ["eval.protocol=random"],
    ["eval.every=0"],
    ["log.wandb=true"],
    ["runtime.device=cpu"],
    ["model.dropout=0.1"],
    ["model.residual=rezero"],
    ["model.residual=fixup"],
    ["model.positions=rotary"],
    ["model.n_layer=1"],
    ["model.counts=3"],
    ["data.path=x.txt"],
    ["data.path=x.txt", "data.tokenizer=byte"],
    ["data.name=names"],
    ["data.val_fraction=0.0"],
    ["data.val_path=x.txt"],
    ["data.tokenizer=bpe"],
    ["data.name=warpeace"],
    ["data.name=warpeace", "data.val_fraction=0.0"],
    ["model.kind=ngram"],
    ["model.kind=ngram", "model.smoothing=additive"],
    ["model.kind=gru"],
    ["model.kind=gru", "model.counts=3"],
    ["model.kind=gru", "eval.streams=4"],
    ["model.kind=gru", "eval.max_targets=100"],
    ["model.kind=gru", "eval.protocol=random"],
    ["model.kind=gru", "data.val_fraction=0.0"],
    ["model.kind=bigram", "init.scheme=critical"],
    PAIRS,
    [*PAIRS, "model.hidden=[]", "init.scheme=critical"],
    ["init.scheme=critical", "init.sigma_w=1.5"],
    *([f"init.scheme={scheme}"] for scheme in scheme_names()),
]


def value_of(name: str, config: Config) -> str:
    """Return a value other than the default, as text of the command line."""
    section, _, key = name.partition(".")
    field = fields_of(section, config.model.kind)[key]
    now = getattr(getattr(config, section), key)
    if name == "data.split":
        return "tail" if now == "interleaved" else "interleaved"
    if options := choices(field):
        others = (option for option in options if option not in (field.default, now))
        return next(others, str(field.default))
    if "str" in str(field.annotation) and key in ("path", "val_path"):
        return "other.txt"
    if name == "runtime.mesh":
        return "{fsdp = 2}"
    if name == "model.rotary_base":
        return "500.0"
    if name == "model.counts":
        return "3"
    if name == "model.prune":
        return "[0, 1]"
    if field.default is None or isinstance(field.default, float):
        return "0.25" if "float" in str(field.annotation) else "7"
    if isinstance(field.default, bool):
        return str(not field.default).lower()
    return {"name": "names", "scheme": "normal"}.get(key) or (
        "[7]" if isinstance(field.default, tuple) else str(field.default + 1)
    )


def refusal(words: list[str], source: Path | str | None = None) -> str:
    try:
        load_config(source, words)
    except UserError as error:
        return str(error)
    return ""


def test_every_setting_declares_its_readers():
    assert set(READ) == set(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_a_setting_is_read_or_refused(name: str):
    seen: set[Any] = set()
    for words in RUNS:
        config = load_config(None, words)
        if any(word.startswith(f"{name}=") for word in words) or name == "model.kind":
            continue
        if name.startswith("model.") and not hasattr(config.model, name[6:]):
            continue
        reason = why_unread(config, name)
        word = f"{name}={value_of(name, config)}"
        if reason is None:
            seen.add("read")
            # Settings that exclude each other have a different message.
            assert not refusal([*words, word]).endswith(f"leave {name} out")
            continue
        seen.add(next(w for w in READ[name] if not w.holds(config)))
        message = refusal([*words, word])
        assert message.startswith(f"{name}: ")
        assert reason.clause in message
        assert message.endswith(f"leave {name} out")
        section, _, key = name.partition(".")
        default = getattr(getattr(config, section), key)
        if default is not None:
            shown = default if isinstance(default, str) else toml_text(default)
            assert load_config(None, [*words, f"{name}={shown}"]) == config
    if name != "model.kind" and (not name.startswith("model.") or READ[name]):
        assert "read" in seen
    assert seen >= set(READ[name]), "a condition that no run of this test fails"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["optim.min_learning_rate=1e-4"],
            "optim.min_learning_rate: 0.0001 given; only optim.schedule=cosine or wsd or "
            "exponential reads it, and optim.schedule is constant: change that, or leave "
            "optim.min_learning_rate out",
        ),
        (["optim.schedule=cosine", "optim.boundaries=[5]"], "only optim.schedule=step or exp"),
        (
            ["optim.momentum=0.9"],
            "only optim.kind=sgd or rmsprop or adafactor or lars or muon or signum or sm3 reads "
            "it, and optim.kind is adamw",
        ),
        (["optim.kind=sgd", "optim.beta1=0.8"], "only optim.kind=adamw or adabelief or"),
        (["optim.alpha=2.0"], "only optim.kind=ademamix reads it, and optim.kind is adamw"),
        (["optim.cautious_decay=true"], "only a decay reads it, and optim.weight_decay is 0.0"),
        (
            ["optim.kind=schedule_free_adamw", "optim.ema=0.9"],
            "optim.ema: 0.9 given; optim.kind=schedule_free_adamw averages its parameters itself: "
            "change that, or leave optim.ema out",
        ),
        (["optim.tail=cosine"], "only optim.schedule=wsd reads it"),
        (["eval.batches=20"], "only eval.protocol=random reads it, and eval.protocol is exact"),
        (
            ["eval.streams=8"],
            "eval.streams: 8 given; only families that carry a state read it (rnn, gru, lstm, "
            "mingru, minlstm), and model.kind is transformer: change that, or leave eval.streams "
            "out",
        ),
        (["eval.protocol=random", "eval.max_targets=9"], "only eval.protocol=exact reads it"),
        (["model.kind=gru", "eval.warmup=9"], "before them, and eval.streams is 1"),
        (
            ["model.kind=ngram", "model.smoothing=additive", "model.prune=[0, 1]"],
            "only model.smoothing=kneser_ney or modified_kneser_ney reads it",
        ),
        (["data.rows=7"], "only data.split=interleaved reads it, and data.split is tail"),
        (["init.std=0.1"], "only init.scheme=normal reads it"),
        (["init.scheme=lsuv", "init.gain=2.0"], "would undo it"),
        (["data.path=a.txt", "data.name=names"], "data.path is read instead"),
        (["model.kind=ngram", "optim.learning_rate=0.1"], "model.kind=ngram counts"),
        (["model.kind=ngram", "train.batch_size=4"], "model.kind=ngram counts"),
        (["runtime.device=cpu", "runtime.deterministic=true"], "only a GPU reads it"),
        (["runtime.device=tpu", "runtime.deterministic=true"], "only a GPU reads it"),
    ],
)
def test_the_reader_is_named(words: list[str], message: str, tmp_path: Path):
    assert message in refusal(words)
    # The same in a file.
    tree: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        section, _, key = name.partition(".")
        try:
            tree.setdefault(section, {})[key] = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            tree.setdefault(section, {})[key] = text
    path = tmp_path / "c.toml"
    path.write_text(tomli_w.dumps(tree))
    assert message in refusal([], path)


# Values of a file that the command line leaves unread.


@pytest.mark.parametrize(
    ("source", "words", "message"),
    [
        ("nanogpt-char", ["optim.kind=sgd"], ["with optim.kind=sgd nothing", "optim.beta2 = 0.99"]),
        ("nanogpt-char", ["data.path=a.txt"], ['data.name = "shakespeare"']),
        ("nanogpt-char", ["eval.protocol=exact"], []),
        ("nanogpt-char", ["model.kind=gru"], ["model.n_head = 6, model.d_model = 384"]),
        (
            "nanogpt-char",
            ["optim.kind=sgd", "optim.schedule=constant"],
            ["with optim.kind=sgd, optim.schedule=constant", "optim.min_learning_rate = 0.0001"],
        ),
        ("shakespeare-gru", ["model.kind=ngram"], ["train.batch_size = 128", "train.steps = 500"]),
        ("warpeace-lstm", ["init.scheme=pytorch"], ["init.scale = 0.08"]),
        ("default", ["train.steps=50"], []),
        ("default", ["model.kind=gru", "data.path=a.txt", "optim.kind=sgd"], []),
    ],
)
def test_a_choice_of_the_command_line_is_noted_once(source, words, message, tmp_path):
    notes: list[str] = []
    config = load_config(source, words, note=notes.append)
    assert len(notes) == bool(message)
    assert all(part in notes[0] for part in message)
    for name in EVERY:
        section, _, key = name.partition(".")
        if hasattr(getattr(config, section), key) and why_unread(config, name):
            value = getattr(getattr(config, section), key)
            default = fields_of(section, config.model.kind)[key].default
            assert value == (config.train.steps if key == "decay_steps" else default), name
    reads_back(config, tmp_path)


def reads_back(config: Config, folder: Path) -> None:
    """Check that a configuration written with and without comments loads equal, without notes."""
    for comments in (False, True):
        path = folder / "config.toml"
        path.write_text(config.to_toml(comments))
        notes: list[str] = []
        again = load_config(path, note=notes.append)
        assert again == config
        assert again.digest() == config.digest()
        assert not notes


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configs_hold_nothing_unread_and_read_back(name: str, tmp_path: Path):
    notes: list[str] = []
    config = load_config(name, note=notes.append)
    assert not notes
    reads_back(config, tmp_path)


def test_overrides_of_published_rows_are_read():
    for row in ROWS:
        notes: list[str] = []
        load_config(row.config, row.overrides, note=notes.append)
        # A family of counts or of another network, over the file of one.
        assert all(word.startswith("with model.kind=") for word in notes), (row.name, notes)


CHOICES = [
    *(f"model.kind={kind}" for kind in FAMILIES),
    "optim.kind=sgd",
    "optim.schedule=constant",
    "optim.schedule=cosine",
    "data.path=a.txt",
    "data.split=tail",
    "data.val_fraction=0.0",
    "eval.protocol=exact",
    "init.scheme=default",
    "train.steps=7",
]


@hypothesis.settings(
    max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(trees(), st.lists(st.sampled_from(CHOICES), max_size=3))
def test_any_config_that_loads_reads_back(tmp_path: Path, tree: Any, words: list[str]):
    path = tmp_path / "random.toml"
    path.write_text(tomli_w.dumps(tree))
    try:
        config = load_config(path, words)
    except UserError:
        return
    reads_back(config, tmp_path)


# Runs that were saved before.


def test_a_saved_run_may_hold_what_nothing_reads(tmp_path: Path):
    config = parse_config({"optim": {"momentum": 0.9, "decay_steps": 7}, "data": {"rows": 7}})
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert load_config(path, saved=True) == config
    longer = load_config(path, ["train.steps=3000"], saved=True)
    assert (longer.optim.momentum, longer.data.rows, longer.train.steps) == (0.9, 7, 3000)
    assert resume_conflicts(config, longer) == resume_conflicts(config, load_config()) == []
    assert "data.rows: 7 given" in refusal([], path)
    with pytest.raises(UserError, match=r"optim\.momentum: 0\.8 given"):
        load_config(path, ["optim.momentum=0.8"], saved=True)


def test_digests_are_those_of_earlier_runs():
    old = {
        "": "65477df39f6c2da0f9bb11e9e528a8540a6ce29b285ead3dbdb31ce237f46942",
        "nanogpt-char": "d6e442a2768f916f193d43199f310945ae2d074227fb0ebf1b7f612321767a09",
    }
    for name, digest in old.items():
        assert load_config(name or None).digest() == digest


def test_a_run_with_unread_values_resumes(tmp_path: Path):
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 60)
    workdir = tmp_path / "run"
    words = [f"data.path={tmp_path / 'text.txt'}", *tiny("bigram")]
    assert run("train", *words, "train.steps=5", "--workdir", workdir).status == 0
    config = workdir / "config.toml"
    config.write_text(config.read_text().replace("momentum = 0.0", "momentum = 0.9"))
    done = run("train", "--workdir", workdir, "--resume", "train.steps=7")
    assert done.status == 0, done.err
    assert "momentum = 0.9" in config.read_text()


# The declarations hold: an unread setting changes nothing, a setting that is read does.

OPTIM = {
    "learning_rate": 0.5,
    "warmup_steps": 3,
    "decay_steps": 7,
    "min_learning_rate": 0.05,
    "boundaries": (4,),
    "factor": 0.5,
    "staircase": True,
    "weight_decay": 0.1,
    "beta1": 0.5,
    "beta2": 0.9,
    "eps": 0.1,
    "rms_decay": 0.5,
    "momentum": 0.5,
    "cautious_decay": True,
    "decay_fraction": 0.9,
    "tail": "1-sqrt",
    "beta3": 0.5,
    "alpha": 1.0,
    "trust_coefficient": 0.5,
    "consistent_rms": 0.5,
    "adam_learning_rate": 0.5,
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "cosine": {},
    "step": {"boundaries": (2,)},
    "exponential": {"decay_steps": 3},
    "wsd": {},
}


ROLES = (("w", dense()), ("b", Parameter(Role.BIAS)))


def use(config: Config) -> np.ndarray:
    """Return the learning rates of ten steps, and the parameters after as many steps."""
    optimizer = make_optimizer(config.optim, ROLES)
    rates = jax.vmap(make_schedule(config.optim))(jnp.arange(10))
    params = {"w": jnp.ones((2, 2)), "b": jnp.full(2, 0.5)}
    state, rng = optimizer.init(params), np.random.default_rng(0)
    # Some so small that an epsilon counts; enough steps for RAdam to divide by a moment.
    sizes = jnp.asarray([1.0, 0.03])
    for _ in range(10):
        draws = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32) * sizes
        grads = {"w": draws[:2], "b": draws[2]}
        updates, state = optimizer.update(
            grads,
            state,
            params,
            learning_rate=jnp.float32(0.1),
            scale=jnp.float32(1.0),
            finite=jnp.bool_(True),
        )
        params = optax.apply_updates(params, updates)
    leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(params)]
    return np.concatenate([np.asarray(rates), *leaves])


@pytest.mark.parametrize(
    ("kind", "schedule"),
    [
        ("adamw", "constant"),
        ("sgd", "cosine"),
        ("rmsprop", "step"),
        ("adamw", "exponential"),
        ("muon", "wsd"),
        *((kind, "constant") for kind in KINDS if kind not in ("adamw", "sgd", "rmsprop", "muon")),
    ],
)
@pytest.mark.quick("sgd-cosine")
def test_optimisers_and_schedules_use_what_they_read(kind: str, schedule: str):
    start = {"kind": kind, "schedule": schedule, "learning_rate": 0.1, **SCHEDULES[schedule]}
    tree = {"optim": start, "train": {"steps": 10}}
    config = parse_config(tree)
    before = use(config)
    for key, value in OPTIM.items():
        other = parse_config(tree | {"optim": start | {key: value}})
        same = np.array_equal(use(other), before)
        assert same == (why_unread(config, f"optim.{key}") is not None), key


DRAWN = {
    "bigram": {},
    "bow": {"d_embed": 4},
    "mlp": {"hidden": (4,), "d_embed": 4},
    "mlp, none hidden": {"hidden": (), "d_embed": 4},
    "gru": {"d_embed": 4, "d_hidden": 4},
    "transformer": {"d_model": 4, "n_layer": 1, "n_head": 1},
}


def draw(config: Config) -> list[np.ndarray]:
    model = models.build(config.model, 5, jnp.float32)
    tokens_BT = jnp.zeros((1, model.lookback + 1), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
    drawn = initialise(scheme_for(config), shapes, model.roles, jax.random.key(0), 1)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(drawn.params)]


@pytest.mark.parametrize(
    "which",
    [
        pytest.param(which, marks=[] if which in ("bigram", "mlp") else [pytest.mark.slow])
        for which in DRAWN
    ],
)
def test_draws_use_what_they_read(which: str):
    kind = which.partition(",")[0]
    section = {"kind": kind, "context_length": 4, **DRAWN[which]}
    for init, key in (
        ({"scheme": "default"}, "gain"),
        ({"scheme": "he_normal"}, "gain"),
        ({"scheme": "critical", "sigma_b": 0.3}, "sigma_w"),
        ({"scheme": "critical", "sigma_w": 1.5}, "sigma_b"),
    ):
        tree = {"model": section, "init": init}
        config = parse_config(tree)
        other = parse_config(tree | {"init": init | {key: 3.0}})
        same = all(map(np.array_equal, draw(config), draw(other)))
        if init["scheme"] == "critical" and key == "sigma_w":
            assert same == (why_unread(other, f"init.{key}") is not None), (key, init)
        else:
            assert same == (why_unread(config, f"init.{key}") is not None), (key, init)


def test_numbers_of_schemes_are_those_of_the_registry():
    for scheme in scheme_names():
        config = load_config(None, [f"init.scheme={scheme}"])
        for key in fields_of("init"):
            if key not in ("scheme", "gain"):
                reads = why_unread(config, f"init.{key}") is None
                assert reads == (key in scheme_numbers(scheme)), (scheme, key)


def test_cuts_use_what_they_read(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("".join("abcdefghij\n"[i * i % 11] for i in range(600)))

    def cut(**data: Any) -> list[list[int]]:
        config = parse_config({"data": {"path": str(path), **data}})
        splits = load_dataset(config.data).splits
        return [[len(s.tokens), *s.tokens, *s.doc_starts] for s in splits.values()]

    for data in (
        {},
        {"split": "interleaved", "rows": 5, "chunk": 5},
        {"split": "interleaved", "val_fraction": 0.0},
        {"val_fraction": 0.0},
        {"layout": "lines", "val_fraction": 0.0},
    ):
        config = parse_config({"data": {"path": str(path), **data}})
        for key, value in (("rows", 6), ("chunk", 6), ("name", "names")):
            unread = why_unread(config, f"data.{key}") is not None
            assert (cut(**data | {key: value}) == cut(**data)) == unread, (data, key)
        split = {"interleaved": "tail", "shuffled_lines": "tail", "tail": "interleaved"}
        if config.data.split is not None and data.get("layout") is None and data:
            other = data | {"split": split[config.data.split], "rows": 5, "chunk": 5}
            unread = why_unread(config, "data.split") is not None
            assert (cut(**other) == cut(**data)) == unread, data


def test_counts_use_nothing_of_training(tmp_path: Path):
    from charjax.training.session import open_session
    from charjax.training.validation import score_split

    path = tmp_path / "text.txt"
    path.write_text("to be or not to be\n" * 40)
    words = [f"data.path={path}", *tiny("ngram")]
    config = load_config(None, words)
    tree = config.model_dump(exclude_none=True)
    changed = 0
    for name in EVERY:
        section, _, key = name.partition(".")
        if key in tree[section] and section != "model" and why_unread(config, name):
            if name in ("data.name", "data.rows", "data.chunk", "optim.schedule"):
                continue
            text = value_of(name, config)
            try:
                tree[section][key] = tomllib.loads(f"v = {text}")["v"]
            except tomllib.TOMLDecodeError:
                tree[section][key] = text
            tree[section][key] = tuple(v) if isinstance(v := tree[section][key], list) else v
            changed += 1
    assert changed > 20
    results = []
    for one in (config, parse_config(tree)):
        session = open_session(one)
        variables = session.model.fit(session.dataset.splits["train"])
        score = score_split(session, session.dataset.splits["val"], variables, lambda: None)
        assert math.isfinite(score.loss)
        results.append((jax.tree.map(np.asarray, variables), score))
    (first, score), (second, other) = results
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert (score.loss, score.targets) == (other.loss, other.targets)


def test_families_without_a_setting_are_not_asked():
    for kind in FAMILIES:
        config = parse_config({"model": {"kind": kind}})
        for key in fields_of("model", kind):
            # Raises where a condition asks for what the family does not have.
            why_unread(config, f"model.{key}")


def test_values_that_followed_an_unread_one_return_with_it(tmp_path):
    """Reset optim.decay_steps of a saved file with train.steps, which counts do not read."""
    saved = tmp_path / "saved.toml"
    saved.write_text(load_config(None, ["train.steps=30"]).to_toml())
    notes: list[str] = []
    counts = load_config(saved, ["model.kind=ngram"], note=notes.append)
    assert len(notes) == 1
    again = tmp_path / "again.toml"
    again.write_text(counts.to_toml())
    assert load_config(again) == counts
