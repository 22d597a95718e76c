"""The published numbers on initialisation, each measured by a file of its own.

A file holds `run(tier, progress, poll) -> list[Check]` (checks.py), and is imported when it is
run: nothing here needs JAX.
"""

import difflib
import importlib
from collections.abc import Sequence

from charjax.errors import UserError
from charjax.initlab.reproductions.checks import Check, Poll, Progress, Reproduction, Run, Tier


def _from_file(module: str) -> Run:
    """The `run` of a file in this directory."""

    def run(tier: Tier, progress: Progress, poll: Poll) -> Sequence[Check]:
        file = importlib.import_module(f"charjax.initlab.reproductions.{module}")
        checks: Sequence[Check] = file.run(tier, progress, poll)
        return checks

    return run


REPRODUCTIONS: tuple[Reproduction, ...] = ()


def select(words: Sequence[str]) -> tuple[Reproduction, ...]:
    """The reproductions that the command's words name, in order: names, numbers, or "all".

    Raises:
      UserError: a word that is none of them.
    """
    if not words or "all" in words:
        return REPRODUCTIONS
    known = {each.name: each for each in REPRODUCTIONS}
    by_word = known | {str(each.number): each for each in REPRODUCTIONS}
    for word in words:
        if word not in by_word:
            near = difflib.get_close_matches(word, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(
                f"NAME: {word!r} given; allowed: all, {', '.join(known)}, or their numbers{hint}"
            )
    chosen = {by_word[word].name for word in words}
    return tuple(each for each in REPRODUCTIONS if each.name in chosen)
