"""The configuration: defaults, files, overrides, and error messages."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from charjax.config import (
    FAMILIES,
    Config,
    MeshConfig,
    describe_fields,
    differences,
    load_config,
    parse_config,
    resume_conflicts,
    shipped_configs,
)
from charjax.config.errors import choices
from charjax.config.sections import SECTIONS
from charjax.errors import UserError


def refusal(*overrides: str, source: str | Path | None = None) -> str:
    with pytest.raises(UserError) as error:
        load_config(source, overrides)
    return str(error.value)


# Defaults and resolution.


def test_the_default_run():
    config = load_config()
    assert config.data.name == "stdlib"
    assert (config.data.split, config.data.layout) == ("tail", "stream")
    assert config.model.kind == "transformer"
    assert config.model.context_length == 64
    assert config.optim.decay_steps == config.train.steps


@pytest.mark.parametrize(
    ("overrides", "split", "layout", "documents"),
    [
        ([], "tail", "stream", "one"),
        (["data.name=shakespeare"], "tail", "stream", "one"),
        (["data.name=names"], "shuffled_lines", "lines", "lines"),
        (["data.name=names", "data.layout=pairs"], "shuffled_lines", "pairs", "lines"),
        (["data.name=names", "data.layout=stream"], "tail", "stream", "one"),
        (["data.name=names", "data.split=tail"], "tail", "lines", "lines"),
        (["data.name=warpeace"], "interleaved", "stream", "one"),
        (["data.path=my.txt"], "tail", "stream", "one"),
        (["data.path=my.txt", "data.layout=lines"], "shuffled_lines", "lines", "lines"),
        (["data.path=my.txt", "data.layout=pairs"], "tail", "pairs", "one"),
        (["data.path=my.txt", "data.name=stdlib"], "tail", "stream", "one"),
    ],
)
def test_a_corpus_brings_its_split_and_layout(overrides, split, layout, documents):
    data = load_config(None, overrides).data
    assert (data.split, data.layout, data.documents) == (split, layout, documents)


@pytest.mark.parametrize(
    ("kind", "stream", "lines"),
    [("transformer", 64, None), ("gru", 64, None), ("bigram", 8, None), ("mlp", 8, 8)],
)
def test_context_length_where_it_is_not_given(kind: str, stream: int, lines: int | None):
    assert load_config(None, [f"model.kind={kind}"]).model.context_length == stream
    on_lines = load_config(None, [f"model.kind={kind}", "data.name=names"])
    assert on_lines.model.context_length == lines


def test_sections_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_config().train.steps = 3  # type: ignore[misc]


# Overrides.


def test_overrides_read_text_as_it_stands_and_the_rest_as_toml():
    config = load_config(
        None,
        [
            "model.hidden=[10, 20]",
            "model.kind=mlp",
            "optim.learning_rate=1e-2",
            "optim.grad_clip=1",
            'data.path="my = file.txt"',
            "runtime.deterministic=true",
            "train.steps = 5",
        ],
    )
    assert config.model.hidden == (10, 20)
    assert config.optim.learning_rate == 0.01
    assert config.optim.grad_clip == 1.0
    assert config.data.path == "my = file.txt"
    assert config.runtime.deterministic is True
    assert config.train.steps == 5


def test_the_last_of_two_overrides_counts():
    assert load_config(None, ["train.steps=5", "train.steps=7"]).train.steps == 7


def test_another_family_drops_only_the_settings_it_does_not_have(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text('[model]\nkind = "transformer"\nn_layer = 6\nn_head = 6\nd_model = 384\n')
    config = load_config(path, ["model.kind=gru", "model.d_hidden=32"])
    assert config.model.model_dump() == {
        "context_length": 64,
        "counts": (),
        "count_folds": 20,
        "count_auxiliary": 0.3,
        "count_words": 0,
        "count_temperature": 1.0,
        "kind": "gru",
        "n_layer": 6,
        "d_embed": 128,
        "d_hidden": 32,
        "dropout": 0.0,
        "norm": "none",
    }
    assert load_config(path, ["model.kind='transformer'"]).model.n_head == 6


# Files.


def test_files_with_a_bom_and_crlf(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_bytes("\ufeff[train]\r\nsteps = 3\r\n".encode())
    assert load_config(path).train.steps == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"steps = ", "cannot be read as TOML"),
        (b"\xff\xfe", "cannot be read as TOML"),
        (b"a = " + b"[" * 50_000, "cannot be read as TOML"),
        (b"[train]\nsteps = " + b"9" * 5000, "cannot be read as TOML"),
        (b"steps = 3", "steps"),
        (b"train = 3", "train: 3 given; it is a section"),
        (b"[[train]]\nsteps = 3", "train: "),
        (b"[train.steps]\na = 3", "train.steps: "),
        (b"[model]\nkind = [1]", "model.kind: [1] given; must be one of ngram"),
        (b"[model]\nkind = 3", "model.kind: 3 given"),
        (b"[train]\nsteps = 0x" + b"f" * 5000, "train.steps: a value too long to show"),
        (b"[train]\nsteps = 1979-05-27", 'train.steps: "1979-05-27" given'),
        (b"[optim]\nlearning_rate = -inf", "optim.learning_rate: -inf given; must be a fin"),
        (b"[optim]\nboundaries = [[1]]", "optim.boundaries[0]: [1] given; must be a whole number"),
    ],
)
def test_malformed_files(tmp_path: Path, data: bytes, message: str):
    path = tmp_path / "c.toml"
    path.write_bytes(data)
    assert message in refusal(source=path)
    assert len(refusal(source=path)) < 400 + len(str(path))


def test_files_that_are_no_files(tmp_path: Path):
    assert f"is a directory; to train on the text files in it give data.path={tmp_path}" in refusal(
        source=tmp_path
    )
    assert "is not a file" in refusal(source=tmp_path / "missing.toml")
    assert "is not a file" in refusal(source="a" * 5000)
    assert "is not a file" in refusal(source="a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.touch(mode=0)
    assert "cannot be read: Permission denied" in refusal(source=path)


def test_shipped_configs_load_by_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, path in shipped_configs().items():
        config = load_config(path)
        # From anywhere, even where a directory has the same name.
        (tmp_path / name).mkdir()
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            assert load_config(name) == load_config(f"{name}.toml") == config


def test_the_default_config_file_holds_the_defaults():
    if "default" not in shipped_configs():
        pytest.skip("configs/default.toml is not written yet")
    assert load_config("default") == load_config()


# Error messages.


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=abc", 'train.steps: "abc" given; must be a whole number from 1 to 214748'),
        ("train.steps=0", "train.steps: 0 given; must be a whole number from 1 to 2147483646"),
        ("train.steps=1.5", "train.steps: 1.5 given; must be a whole number"),
        ("train.steps=1e3", "train.steps: 1000.0 given; must be a whole number"),
        ("train.steps=true", "train.steps: true given; must be a whole number"),
        ("train.steps=", 'train.steps: "" given; must be a whole number'),
        ("train.steps=1\ntrain = 3", 'train.steps: "1\\ntrain = 3" given; must be a whole number'),
        ("train.steps=" + "9" * 4000, "train.steps: 999"),
        ("train.seed=-1", "train.seed: -1 given; must be a whole number of at least 0 and l"),
        ("optim.learning_rate=0", "optim.learning_rate: 0 given; must be a number greater than 0"),
        ("optim.learning_rate=nan", "optim.learning_rate: nan given; must be a finite number"),
        ("optim.learning_rate=" + "9" * 400, "must be a finite number greater than 0"),
        ("optim.beta1=1.0", "optim.beta1: 1.0 given; must be a number of at least 0 and less"),
        ("optim.grad_clip=false", "optim.grad_clip: false given; must be a number of at least 0"),
        ("model.bias=yes", 'model.bias: "yes" given; must be true or false'),
        ("model.bias=1", "model.bias: 1 given; must be true or false"),
        ("optim.boundaries=3", "optim.boundaries: 3 given; must be a list such as [200], each a"),
        ("optim.boundaries=[1, 0]", "optim.boundaries[1]: 0 given; must be a whole number from 1"),
        ("data.path=", 'data.path: "" given; must be text that is not empty'),
        ("data.path=\udcff", "data.path: "),
        ("data.tokenizer=chr", 'data.tokenizer: "chr" given; must be one of char, byte, bpe, or'),
        ("data.tokenizer=\x1b[2J", 'data.tokenizer: "\\u001b[2J" given; must be one of char, byte'),
        ("model.kind=grue", 'model.kind: "grue" given; must be one of ngram, bigram, bow, mlp'),
        ("model.kind=minGRU", "; did you mean mingru?"),
        ("model.kind=", 'model.kind: "" given; must be one of'),
        ("model.d_model=130", "model.d_model: 130 given; it must be a multiple of model.n_head (4"),
        ("data.nmae=x", "data.nmae: unknown key; [data] has: name, path,"),
        ("data.nmae=x", "; did you mean data.name?"),
        ("optim.lr=1", "; did you mean optim.learning_rate?"),
        ("train.learning_rate=1", "; did you mean optim.learning_rate?"),
        ("model.hidden=[3]", "; mlp has it: model.kind=mlp"),
        ("model.hiden=[3]", "; did you mean model.hidden?"),
        ("modle.kind=gru", '"modle" is not a section; sections: data, model,'),
        ("modle.kind=gru", "; did you mean model?"),
        ("learning_rate=1", "; did you mean optim.learning_rate?"),
        ("train.steps", "override: 'train.steps' given; write section.key=value"),
        ("=", "override: '=' given; write section.key=value"),
        (".=1", '"" is not a section'),
        ("optim.schedule=step", "optim.boundaries: none given"),
    ],
)  # fmt: skip
def test_mistakes_are_said_in_plain_words(override: str, message: str):
    assert message in refusal(override)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.kind=mlp", "model.norm=batch"], 'use data.layout = "pairs"'),
        (["data.layout=stream", "data.split=shuffled_lines"], "data.split: "),
        (["data.layout=pairs", "data.sampling=contiguous"], "data.sampling: "),
        (["data.name=names", "data.sampling=contiguous"], "data.layout: "),
        (["optim.schedule=cosine", "optim.min_learning_rate=1"], "at most optim.learning_rate"),
        (["optim.schedule=exponential", "optim.boundaries=[1, 2]"], "one at most"),
        (["model.positions=rotary", "model.d_model=12"], "rotary positions need an even width"),
    ],
)
def test_settings_that_do_not_go_together(overrides: list[str], message: str):
    assert message in refusal(*overrides)


# Properties.


def values(section: type, key: str) -> st.SearchStrategy[Any]:
    """Return a strategy of values, many of them allowed."""
    options = choices(section.model_fields[key])
    if options:
        return st.sampled_from(options)
    default = section.model_fields[key].default
    if key == "mesh":
        numbers = st.integers(-1, 8)
        return st.fixed_dictionaries({}, optional={"data": numbers, "fsdp": numbers})
    if key == "path":
        return st.text(st.characters(codec="utf-8"), min_size=1)
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, int) or key in ("context_length", "decay_steps"):
        return st.integers(1, 64)
    if isinstance(default, tuple):
        return st.lists(st.integers(1, 1000), max_size=3)
    if isinstance(default, str):
        return st.text(max_size=10)
    return st.floats(0, 1, exclude_max=True)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(list(FAMILIES)))
    tree: dict[str, Any] = {}
    for name, group in SECTIONS.items():
        section = FAMILIES[kind] if name == "model" else group[0]
        keys = draw(st.sets(st.sampled_from(list(section.model_fields)), max_size=4))
        tree[name] = {key: draw(values(section, key)) for key in sorted(keys)}
    tree["model"]["kind"] = kind
    return tree


@hypothesis.settings(max_examples=60)
@hypothesis.given(trees(), st.booleans())
def test_what_is_printed_loads_back_equal(tree: dict[str, Any], comments: bool):
    try:
        config = parse_config(tree)
    except UserError:
        return
    text = config.to_toml(comments)
    again = parse_config(tomllib.loads(text))
    assert again == config
    assert again.digest() == config.digest()
    assert parse_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("overrides", "digest"),
    [
        ([], "65477df39f6c2da0f9bb11e9e528a8540a6ce29b285ead3dbdb31ce237f46942"),
        (
            ["model.kind=rnn"],
            "3cc18ac5a7a09b2f58ca30c5c1efae7a4f107ddbcf66756613f339b3fee9a2db",
        ),
        (
            ["model.kind=rnn", "model.activation=relu"],
            "dc685c7c231bccefa8589e65640276fe5f639d956d6a911c5761d80ae4501c74",
        ),
        (
            ["model.kind=mlp"],
            "c4530aca6b74ae1f994a2b0585bfe2da1aca64493a97906ec55f2a4741f399cf",
        ),
    ],
)
def test_digests_of_saved_runs_stay_what_they_were(overrides: list[str], digest: str):
    """A setting added after the first runs counts only if it differs from its default."""
    assert load_config(None, overrides).digest() == digest


def test_the_form_of_gelu_counts_in_the_digest():
    assert load_config(None, ["model.activation=gelu"]).digest() == load_config().digest()
    assert load_config(None, ["model.activation=gelu_tanh"]).digest() != load_config().digest()


def test_a_table_is_given_whole_or_by_its_parts(tmp_path: Path):
    whole = load_config(None, ["runtime.mesh={data=4, fsdp=2}"])
    assert whole.runtime.mesh == MeshConfig(data=4, fsdp=2)
    assert load_config(None, ["runtime.mesh.fsdp=2", "runtime.mesh.data=4"]) == whole
    (tmp_path / "c.toml").write_text("[runtime.mesh]\ndata = 4\n")
    assert load_config(tmp_path / "c.toml", ["runtime.mesh.fsdp=2"]) == whole
    assert Config(runtime={"mesh": {"data": 4, "fsdp": 2}}) == whole
    assert "mesh = {data = 4, fsdp = 2}\n" in whole.to_toml()
    assert ("runtime.mesh", "{data = -1, fsdp = 1}", "{data = 4, fsdp = 2}") in differences(
        load_config(), whole
    )


def test_the_mesh_counts_in_the_digest_where_it_was_changed():
    assert load_config(None, ["runtime.mesh.fsdp=1"]).digest() == load_config().digest()
    assert load_config(None, ["runtime.mesh.fsdp=2"]).digest() != load_config().digest()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runtime.mesh=3", "runtime.mesh: 3 given; must be a table such as {data = -1, fsdp = 1}"),
        (
            "runtime.mesh.fsdp=0",
            "runtime.mesh.fsdp: 0 given; must be a number of devices of at least 1, or -1 for as "
            "many as are left",
        ),
        ("runtime.mesh.data=-2", "runtime.mesh.data: -2 given; must be a whole number from -1 to"),
        ("runtime.mesh.fsdp=1.5", "runtime.mesh.fsdp: 1.5 given; must be a whole number"),
        ("runtime.mesh={data=-1, fsdp=-1}", "runtime.mesh: data and fsdp are both -1; only one"),
        (
            "runtime.mesh.fdsp=2",
            "runtime.mesh.fdsp: unknown key; runtime.mesh has: data, fsdp; did",
        ),
        ("runtime.mesh={fdsp=2}", "runtime.mesh.fdsp: unknown key; runtime.mesh has: data, fsdp"),
    ],
)
def test_mistakes_in_a_table_are_named_by_its_part(override: str, message: str):
    assert refusal(override).startswith(message)


def test_a_choice_of_another_family_is_left_behind(tmp_path: Path):
    """Drop a choice like other settings: both families have the key, with different values."""
    (tmp_path / "rnn.toml").write_text('[model]\nkind = "rnn"\nactivation = "relu"\n')
    config = load_config(tmp_path / "rnn.toml", ["model.kind=transformer"])
    assert config.model.activation == "gelu"
    assert "must be one of gelu, gelu_tanh" in refusal("model.activation=relu")


junk = st.one_of(
    st.text(),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["[", "[1]", "{}", "''", '"', "inf", "nan", "1e999", "0x10", "true", "\x1b[0m"]
    ),
)
names = st.sampled_from(
    [f"{name}.{key}" for name, group in SECTIONS.items() for s in group for key in s.model_fields]
)


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    st.lists(st.one_of(st.text(), st.builds("{}={}".format, names, junk)), max_size=3)
)
def test_any_override_is_taken_or_refused_in_one_line(words: list[str]):
    message = refused_as(lambda: load_config(None, words))
    assert message.isprintable()
    assert len(message) < 2000


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@hypothesis.settings(max_examples=200)
@hypothesis.given(names, plain)
def test_any_value_in_a_file_is_taken_or_refused_in_one_line(name: str, value: Any):
    section, key = name.split(".")
    for tree in ({section: {key: value}}, {section: value}, {key: value}):
        assert refused_as(lambda tree=tree: parse_config(tree)).isprintable()


def refused_as(read: Callable[[], Config]) -> str:
    """Return the error message, or nothing if the settings were accepted."""
    try:
        read()
    except UserError as error:
        return str(error)
    return ""


# Resuming.


@pytest.fixture
def saved(tmp_path: Path):
    def save(*overrides: str) -> tuple[Path, Config]:
        path = tmp_path / "config.toml"
        config = load_config(None, overrides)
        path.write_text(config.to_toml())
        return path, config

    return save


@pytest.mark.parametrize(
    "schedule",
    [
        ["optim.schedule=constant"],
        ["optim.schedule=step", "optim.boundaries=[50]"],
        ["optim.schedule=cosine", "optim.decay_steps=80"],
        ["optim.schedule=exponential", "optim.decay_steps=80"],
    ],
)
def test_more_steps_where_the_schedule_does_not_depend_on_them(saved, schedule: list[str]):
    path, old = saved("train.steps=100", *schedule)
    new = load_config(path, ["train.steps=200"], saved=True)
    assert new.train.steps == 200
    assert resume_conflicts(old, new) == []
    # The same from the file that the run began with.
    new = load_config(None, [*schedule, "train.steps=200"])
    assert resume_conflicts(old, new) == []


@pytest.mark.parametrize("schedule", ["cosine", "exponential"])
def test_more_steps_where_the_schedule_would_stretch(saved, schedule: str):
    path, old = saved("train.steps=100", f"optim.schedule={schedule}")
    new = load_config(path, ["train.steps=200"], saved=True)
    assert resume_conflicts(old, new) == [("optim.decay_steps", 100, 200)]
    extended = load_config(path, ["train.steps=200", "optim.decay_steps=100"], saved=True)
    assert resume_conflicts(old, extended) == []


def test_a_saved_config_is_resumed_as_it_is(saved):
    path, old = saved("train.steps=100", "optim.schedule=cosine", "optim.decay_steps=80")
    assert load_config(path, saved=True) == old


@pytest.mark.parametrize(
    "override",
    [
        "train.log_every=7",
        "train.sample_every=7",
        "train.max_skipped=7",
        "eval.every=7",
        "eval.protocol=random",
        "checkpoint.every=7",
        "checkpoint.keep=7",
        "runtime.device=cpu",
        "runtime.mesh.fsdp=2",
    ],
)
def test_what_may_differ_on_resume(saved, override: str):
    path, old = saved()
    new = load_config(path, [override], saved=True)
    assert differences(old, new)
    assert resume_conflicts(old, new) == []


@pytest.mark.parametrize(
    "override",
    [
        "data.name=shakespeare",
        "data.val_fraction=0.2",
        "model.n_layer=2",
        "model.kind=gru",
        "init.gain=2.0",
        "optim.learning_rate=0.5",
        "optim.schedule=cosine",
        "train.seed=1",
        "train.batch_size=24",
        "runtime.dtype=bfloat16",
        "runtime.deterministic=true",
    ],
)
def test_what_may_not_differ_on_resume(saved, override: str):
    path, old = saved()
    conflicts = resume_conflicts(old, load_config(path, [override], saved=True))
    assert override.partition("=")[0] in [name for name, _, _ in conflicts]


# Help.


def test_every_field_is_described_in_one_line():
    rows = [row for _, rows in describe_fields() for row in rows]
    described = {name for name, *_ in rows}
    for name, group in SECTIONS.items():
        assert {f"{name}.{key}" for section in group for key in section.model_fields} <= described
    for row in rows:
        assert all(cell and cell.isprintable() for cell in row), row


def test_mistakes_on_resume_are_refused_before_jax_is_imported(saved):
    path, _ = saved("optim.schedule=cosine")
    code = f"""
import sys
from charjax import train
for word in ("optim.momentum=0.9", "train.steps=4000", "train.stpes=3", "block_size=3"):
    try:
        train.main(["--resume", "--workdir", {str(path.parent)!r}, word])
    except Exception as error:
        print(type(error).__name__, "jax" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "UserError False\n" * 4, done.stderr


def test_reading_a_config_does_not_import_jax():
    code = "import sys, charjax.config, charjax.cli; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("text", "value"), [(".1", 0.1), ("-.5", -0.5), ("1.", 1.0), ("2.e-1", 0.2), (".5e-1", 0.05)]
)
def test_numbers_may_leave_out_the_digit_beside_the_point(text, value):
    if value < 0:
        with pytest.raises(UserError, match=r"-0\.5 given"):
            load_config(None, [f"optim.weight_decay={text}"])
    else:
        assert load_config(None, [f"optim.weight_decay={text}"]).optim.weight_decay == value


def test_of_another_family_only_the_kind_is_a_conflict():
    old, new = (parse_config({"model": {"kind": kind}}) for kind in ("transformer", "mingru"))
    assert resume_conflicts(old, new) == [("model.kind", "transformer", "mingru")]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"stepz": 2}}, "train.stepz: unknown key; .*did you mean train.steps"),
        ({"trian": {}}, "trian: .* is not a section"),
        ({"train": 5}, "train: 5 given; it is a section: give a dict of its settings"),
        ({"model": None}, "model: unset given; it is a section"),
        ({"model": {"kind": "bigrm"}}, "model.kind: .*did you mean bigram"),
        ({"model": {"n_layer": 2}}, "model.kind: unset given; must be one of"),
        ({"train": {"steps": "x"}}, 'train.steps: "x" given; must be a whole number'),
        ({"optim": {"schedule": "step"}}, "optim.boundaries: none given"),
    ],
)
def test_a_config_made_in_python_is_refused_in_one_line(sections, message: str):
    with pytest.raises(UserError, match=message):
        Config(**sections)


def test_a_config_made_in_python_may_have_lists():
    made = Config(data={"path": ["a", "b"]}, model={"kind": "gru"}, train={"steps": 3})
    assert made == parse_config(
        {"data": {"path": ["a", "b"]}, "model": {"kind": "gru"}, "train": {"steps": 3}}
    )
    assert made.data.path == ("a", "b")
