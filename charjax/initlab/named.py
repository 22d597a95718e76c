"""Choosing entries of a numbered list by the words of a command."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from charjax.errors import UserError, did_you_mean


class Named(Protocol):
    """An entry with a name and a number."""

    @property
    def name(self) -> str:
        """Name, which the command takes."""
        ...

    @property
    def number(self) -> int:
        """Place in the list, from 1; the command takes that, too."""
        ...


T = TypeVar("T", bound=Named)


def select_named(words: Sequence[str], entries: tuple[T, ...]) -> tuple[T, ...]:
    """Return the entries that the words name, in order: names, numbers, or "all".

    Raises:
      UserError: a word that is none of them.
    """
    if not words or "all" in words:
        return entries
    known = {each.name: each for each in entries}
    by_word = known | {str(each.number): each for each in entries}
    for word in words:
        if word not in by_word:
            raise UserError(
                f"NAME: {word!r} given; allowed: all, {', '.join(known)}, or their numbers"
                f"{did_you_mean(word, known)}"
            )
    chosen = {by_word[word].name for word in words}
    return tuple(each for each in entries if each.name in chosen)
