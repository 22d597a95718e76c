"""References to an object in a file, as settings hold them."""

import pytest

from charjax.extensions import Reference, is_reference, parse_reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("./mine.py:scheme", ("./mine.py", "scheme", None)),
        ("mine.py:scheme@0123456789ab", ("mine.py", "scheme", "0123456789ab")),
        ("/a/b c/mine.py:Family", ("/a/b c/mine.py", "Family", None)),
        ("mine.py", ("mine.py", "", None)),
    ],
)
def test_a_file_and_a_name_in_it(text: str, expected: tuple[str, str, str | None]) -> None:
    assert parse_reference(text) == Reference(*expected)


@pytest.mark.parametrize("text", ["adamw", "", "py", "mine:scheme", "mine.pyc:x", None, 3])
def test_other_values_are_none(text: object) -> None:
    assert not is_reference(text)


def test_the_file_has_no_folders() -> None:
    reference = parse_reference("../there/mine.py:x")
    assert reference is not None
    assert reference.file == "mine.py"
