"""Row 19: for any input, commands end with 0, or with 2 and one line, never with a traceback.

Nothing runs in pytest's process. Configurations, overrides, and paths that are refused before JAX
is needed, are a process each, in which nothing is left out but Python's taking itself apart.
Settings, prompts and texts, and the paths that need a model, share one process (series.py), for
each would start JAX anew; training, counting, generating and scoring are left out there. The text,
the tokens, the model, the devices and what is written on the standard outputs are real.
"""

import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import tomli_w
from hypothesis import strategies as st

from charjax.config import FAMILIES, describe_fields, shipped_configs
from charjax.config.errors import choices, fields_of
from tests.commands import Result, tiny
from tests.faults.histories import Lab
from tests.faults.series import Series

FIELDS = sorted({row[0] for _, rows in describe_fields() for row in rows})

# What a command line can hold: no zero byte, and bytes that are no UTF-8 as Python escapes them.
ARGUMENTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
    st.binary(max_size=20).map(
        lambda raw: raw.replace(b"\0", b"").decode("utf-8", "surrogateescape")
    ),
    st.text(string.printable, max_size=30),
)
ODD = st.sampled_from(
    [
        *["", " ", "nan", "inf", "-inf", "1e400", "-0", "0x10", "1_0", "9" * 5000, "[", "[1, 2"],
        *["[]", "[[1]]", "[" * 2000, "{a = 1}", "'''", '"""x', "true", "1979-05-27", '"\\n"'],
        *['"\\u0000"', "=", "#", "\\", "~", "~nobody", "/", "/dev/null", "..", "a" * 5000],
        *["\x1b[31m", "[bold]", "a/" * 3000, "runs\n", "--", "-"],
    ]
)
VALUES = st.one_of(
    ARGUMENTS, ODD, st.integers().map(str), st.floats().map(repr), st.lists(st.integers()).map(str)
)
PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
        st.dates(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def world(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder with texts and two runs."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "text.txt").write_text("the cat sat on a mat\nand ran off\n" * 40)
    data = f"data.path={folder / 'text.txt'}"
    for name, layout in (("stream", []), ("lines", ["data.layout=lines"])):
        options = [*tiny("bigram"), "train.steps=1", *layout]
        done = lab.forks.run("train", data, *options, "--workdir", folder / name)
        assert done.status == 0, done.err
    return folder


@pytest.fixture(scope="module")
def series(lab: Lab, world: Path) -> Iterator[Series]:
    """Start one process in that folder for many commands."""
    one = Series(lab.forks, lab.new(), world)
    yield one
    one.close()


@pytest.fixture
def alone(lab: Lab, tmp_path: Path) -> Callable[..., Result]:
    """Run a command as a separate process."""

    def run(command: str, *arguments: object, folder: Path = tmp_path) -> Result:
        done = lab.forks.run(command, *arguments, folder=folder, leave_early=True)
        result = Result(done.wait(), done.out, done.err)
        # There will be thousands.
        done.out_path.unlink()
        done.err_path.unlink()
        return result

    return run


def check_end(done: Result) -> None:
    assert done.status in (0, 2), (done.status, done.err)
    assert "Traceback" not in done.err + done.out
    if done.status == 2:
        assert done.err.startswith("error: ")
        assert done.err.endswith("\n")
        assert done.err[:-1].isprintable(), done.err


def search(
    faults: Any, what: str, few: int, full: int, cases: st.SearchStrategy[Any], check: Callable
) -> None:
    """Search for a failing case and show the smallest."""
    row = faults(19, what, few=few, full=full)
    count, run_cases = len(list(row)), 0

    @hypothesis.settings(max_examples=count, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(cases)
    def each(case: Any) -> None:
        nonlocal run_cases
        run_cases += 1
        check(case)

    failure = None
    try:
        each()
    except Exception as error:
        failure = error
    with row.case(what, run_cases):
        if failure is not None:
            raise failure
    assert not row.failed, "\n".join(row.failed)


def some_toml(draw: Any) -> bytes:
    """Draw a config, valid or not: a table of fields, a shipped file, or bytes; maybe damaged."""
    kind = draw(st.sampled_from(["tree", "tree", "shipped", "bytes", "text"]))
    if kind == "bytes":
        return draw(st.binary(max_size=60))
    if kind == "text":
        return draw(st.text(max_size=60)).encode("utf-8", "surrogatepass")
    if kind == "shipped":
        raw = draw(st.sampled_from(sorted(shipped_configs().values()))).read_bytes()
    else:
        tree: dict[str, Any] = {}
        for name in draw(st.lists(st.sampled_from(FIELDS), max_size=4)):
            section, _, key = name.partition(".")
            tree.setdefault(section, {})[key] = draw(plausible(name) | PLAIN)
        if draw(st.booleans()):
            tree[draw(st.sampled_from(["data", "model", "more", ""]))] = draw(PLAIN)
        raw = tomli_w.dumps(tree).encode()
    if draw(st.booleans()) and raw:
        begin = draw(st.integers(0, len(raw) - 1))
        raw = raw[:begin] + draw(st.binary(max_size=3)) + raw[begin + draw(st.integers(0, 3)) :]
    return raw


def plausible(name: str) -> st.SearchStrategy[Any]:
    """Return a strategy of plausible values of a field."""
    section, _, key = name.partition(".")
    if name == "model.kind":
        return st.sampled_from(sorted(FAMILIES))
    field = fields_of(section)[key]
    if words := choices(field):
        return st.sampled_from(words)
    if key in ("n_layer", "n_head", "order"):
        return st.integers(0, 4)
    return st.one_of(
        st.sampled_from([0, 1, 2, 3, 7, 64, 1000, 2**31 - 2, 2**31, -1]),
        st.sampled_from([0.0, 1e-30, 0.1, 0.5, 0.99, 1.0, 1e30]),
        st.booleans(),
        st.sampled_from([[], [1], [3, 2]]),
        st.sampled_from(["default", "normal", "he_normal", "gpt2", "mup", "lsuv", "zeros"]),
    )


@st.composite
def configs(draw: Any) -> bytes:
    return some_toml(draw)


def test_configs(faults: Any, tmp_path: Path, alone: Callable[..., Result]):
    path = tmp_path / "config.toml"

    def check(raw: bytes) -> None:
        path.write_bytes(raw)
        check_end(alone("train", path, "--print-config"))

    search(faults, "configs", 20, 4000, configs(), check)


@st.composite
def overrides(draw: Any) -> list[str]:
    words = []
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(FIELDS) | ARGUMENTS)
        value = draw(VALUES)
        if name in FIELDS and draw(st.booleans()):
            value = str(draw(plausible(name)))
        words.append(draw(st.sampled_from([f"{name}={value}", name, value])))
    if draw(st.booleans()):
        flag = draw(st.sampled_from(["--workdir", "--resume", "--init-from", "--seed", "-x"]))
        words += [flag, draw(VALUES)]
    return words


def test_overrides(faults: Any, alone: Callable[..., Result]):
    check = lambda words: check_end(alone("train", *words, "--print-config"))  # noqa: E731
    search(faults, "overrides", 20, 4000, overrides(), check)


@st.composite
def sessions(draw: Any) -> list[str]:
    """Draw almost valid settings, which reach the text and the model."""
    kind = draw(st.sampled_from(sorted(FAMILIES)))
    fields = [name for name in FIELDS if name.partition(".")[2] in fields_of("model", kind)]
    skipped = ("data.name", "data.path", "runtime.device", "model.kind")
    names = [n for n in FIELDS if not n.startswith("model.") or n in fields]
    chosen = draw(st.lists(st.sampled_from([n for n in names if n not in skipped]), max_size=3))
    values = [draw(plausible(name)) for name in chosen]
    words = [f"{n}={str(v).lower()}" for n, v in zip(chosen, values, strict=True)]
    return [f"model.kind={kind}", *words]


def test_settings_up_to_the_first_step(faults: Any, series: Series):
    check = lambda words: check_end(series.run("train", "data.path=text.txt", *words))  # noqa: E731
    search(faults, "settings, up to the first step", 40, 2000, sessions(), check)


def test_prompts(world: Path, faults: Any, tmp_path: Path, series: Series):
    path = tmp_path / "prompt.txt"

    def check(case: tuple[str, str, bytes, list[str], bool]) -> None:
        name, prompt, raw, flags, from_file = case
        path.write_bytes(raw)
        prompt_words = ["--prompt-file", path] if from_file else [f"--prompt={prompt}"]
        check_end(series.run("sample", world / name, *prompt_words, *flags))

    raw = st.binary(max_size=30) | st.text(max_size=20).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    )
    flags = st.lists(
        st.sampled_from(["--json", "--greedy", "--top-k=2", "--temperature=0.5", "--top-p=0.1"])
        | st.tuples(
            st.sampled_from(["--top-k", "--top-p", "--seed", "--checkpoint", "--num-samples"]),
            st.sampled_from(["0", "1", "-1", "1e400", "nan", "x", "", "2147483648", "²", "latest"]),
        ).map("=".join),
        max_size=2,
    )
    cases = st.tuples(
        st.sampled_from(["stream", "lines"]), st.text("the cat") | VALUES, raw, flags, st.booleans()
    )
    search(faults, "prompts", 50, 2000, cases, check)


@st.composite
def texts(draw: Any) -> bytes:
    piece = draw(
        st.binary(max_size=80)
        | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
        | st.text("ab\n\r\ufeff \0", max_size=40).map(str.encode)
    )
    return piece * draw(st.sampled_from([1, 1, 2, 50]))


def test_texts(world: Path, faults: Any, tmp_path: Path, series: Series):
    path = tmp_path / "text.txt"

    def check(case: tuple[bytes, str, list[str]]) -> None:
        raw, command, words = case
        path.write_bytes(raw)
        if command == "train":
            done = series.run("train", f"data.path={path}", "model.kind=bigram", *words)
        else:
            done = series.run("evaluate", world / command, "--text", path)
        check_end(done)

    words = st.lists(
        st.sampled_from(
            [
                *["data.tokenizer=byte", "data.layout=lines", "data.layout=pairs"],
                *["data.split=tail", "data.split=shuffled_lines", "data.split=interleaved"],
                *["data.rows=2", "data.chunk=3", "data.val_fraction=0", "data.val_fraction=0.4"],
                *["data.sampling=epoch", "data.sampling=contiguous"],
                *["model.context_length=1", "train.batch_size=1"],
            ]
        ),
        max_size=4,
    )
    cases = st.tuples(texts(), st.sampled_from(["train", "train", "stream", "lines"]), words)
    search(faults, "texts", 50, 3000, cases, check)


# A word that names a file or a directory, in every command; none of these may come to be written.
PLACES: list[Callable[[str, Path], list[object]]] = [
    lambda word, world: ["train", word, "--print-config"],
    lambda word, world: ["train", "--workdir", word, "--resume"],
    lambda word, world: ["train", f"data.path={world}/text.txt", "--init-from", word],
    lambda word, world: ["sample", word],
    lambda word, world: ["evaluate", word],
    lambda word, world: ["interop", "import", word, "--workdir", world / "imported"],
    lambda word, world: ["interop", "export", word, world / "out.safetensors"],
    lambda word, world: ["initlab.__main__", word],
    lambda word, world: ["initlab.__main__", "report", word],
    lambda word, world: ["initlab.__main__", "probe", word],
]
# What is read after JAX has started, or a model.
LATE_PLACES: list[Callable[[str, Path], list[object]]] = [
    lambda word, world: ["train", f"data.path={word}"],
    lambda word, world: ["sample", world / "stream", "--prompt-file", word],
    lambda word, world: ["evaluate", world / "stream", "--text", word],
]


def test_paths(world: Path, faults: Any, alone: Callable[..., Result], series: Series):
    def check(case: tuple[int, str]) -> None:
        place, word = case
        if place < len(PLACES):
            command, *words = PLACES[place](word, world)
            done = alone(str(command), *words, folder=world)
        else:
            command, *words = LATE_PLACES[place - len(PLACES)](word, world)
            done = series.run(str(command), *words)
        check_end(done)

    cases = st.tuples(st.integers(0, len(PLACES) + len(LATE_PLACES) - 1), VALUES)
    search(faults, "paths", 20, 3000, cases, check)
