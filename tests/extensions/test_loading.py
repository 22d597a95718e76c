"""Files of the user's own: named, executed once, refused with their line."""

import hashlib
from pathlib import Path

import pytest

from charjax.errors import UserError
from charjax.extensions import (
    accepting_changes,
    bind,
    check_callable,
    find_object,
    name_file,
    name_word,
    refuse_unnamed,
    separate_names,
)


@pytest.fixture(autouse=True)
def _names():
    with separate_names():
        yield


def write(folder: Path, source: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(source, encoding="utf-8")
    return path


def test_a_word_becomes_a_name_with_its_version(tmp_path: Path) -> None:
    path = write(tmp_path, "def scheme(init): return 7\n")
    word = name_word("init.scheme", f"{path}:scheme")
    assert word == f"mine.py:scheme@{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    assert find_object("init.scheme", word)(None) == 7
    assert name_word("init.scheme", "default") == "default"


def test_a_file_is_executed_once_and_only_if_named(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    lines = (f"p = pathlib.Path({str(marker)!r})", "p.write_text(p.exists() * 'x' + 'x')")
    path = write(tmp_path, "\n".join(("import pathlib", *lines, "def act(x): return x\n")))
    version = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    for text in ("mine.py:act", f"mine.py:act@{version}", f"{path}:act"):
        with pytest.raises(UserError, match="such files are not executed"):
            find_object("model.activation", text)
    assert not marker.exists()
    word = name_word("model.activation", f"{path}:act")
    find_object("model.activation", word)
    find_object("model.activation", word)
    assert marker.read_text() == "x"
    with separate_names(), pytest.raises(UserError, match=r"add --code PATH/mine\.py"):
        refuse_unnamed("model.activation", word)


def test_a_configuration_is_bound_to_the_file_that_was_named(tmp_path: Path) -> None:
    path = write(tmp_path, "def make(optim): return 1\n")
    assert bind("optim.kind", "mine.py:make") == "mine.py:make"
    source = name_file(path)
    bound = f"mine.py:make@{source.version}"
    assert bind("optim.kind", "elsewhere/mine.py:make") == bound
    assert bind("optim.kind", bound) == bound
    assert bind("optim.kind", "adamw") == "adamw"
    with pytest.raises(UserError, match="has changed since: its SHA-256 began with 0123456789ab"):
        bind("optim.kind", "mine.py:make@0123456789ab")
    with accepting_changes():
        assert bind("optim.kind", "mine.py:make@0123456789ab") == bound


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    name_file(write(tmp_path, "x = 1\n"))
    name_file(write(tmp_path / "other", "x = 1\n"))
    with pytest.raises(UserError, match="by their name: rename one"):
        name_file(write(tmp_path / "other", "x = 2\n"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ndef f(:\n", r"mine\.py:2: SyntaxError: "),
        (
            "import math\nimport no_such_package\n",
            r"mine\.py:2: ModuleNotFoundError: No module.*in",
        ),
        ("\n\n1 / 0\n", r"mine\.py:3: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", r"mine\.py:2: SystemExit: 3"),
        ("def g():\n    raise ValueError('so\\nand so')\ng()\n", r"mine\.py:2: ValueError: so$"),
        ("x\0 = 1\n", r"null byte"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(source: str, message: str, tmp_path: Path) -> None:
    word = name_word("init.scheme", f"{write(tmp_path, source)}:f")
    with pytest.raises(UserError, match=message) as caught:
        find_object("init.scheme", word)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("missing.py:x", r"missing\.py: is not a file; give the Python file"),
        ("folder.py:x", r"folder\.py: is a directory"),
        ("mine.py", r"name a scheme in the file, as in init\.scheme=.*mine\.py:NAME"),
        ("mine.py:", "name a scheme in the file"),
        ("mine.py:a.b", "name a scheme in the file"),
        ("mine.py:shceme", r"has no 'shceme'; it has: scheme, Other; did you mean scheme\?"),
    ],
)
def test_names_that_do_not_exist(text: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, "import math\ndef scheme(init): ...\nclass Other: ...\n_hidden = 1\n")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(UserError, match=message):
        find_object("init.scheme", name_word("init.scheme", f"{tmp_path}/{text}"))


def test_an_object_must_be_callable_in_its_form() -> None:
    with pytest.raises(UserError, match="is of type int; it must be a function: act"):
        check_callable("model.activation", "mine.py:x", 3, 1, "act(x)")
    with pytest.raises(UserError, match=r"cannot be called as act\(x\): missing a required"):
        check_callable("model.activation", "mine.py:x", lambda x, y: x, 1, "act(x)")
    check_callable("model.activation", "mine.py:x", lambda x, y=1: x, 1, "act(x)")


def test_a_file_that_is_no_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its name must end with \.py"):
        name_file(write(tmp_path, "", "mine.txt"))


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves `init.scheme=~/mine.py:scheme` as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path, "scheme = 7\n")
    word = name_word("init.scheme", "~/mine.py:scheme")
    assert word == name_word("init.scheme", f"{path}:scheme")
    assert find_object("init.scheme", word) == 7
