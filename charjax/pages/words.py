"""The sentences of the page, and characters as it shows them."""

from typing import Any

from charjax.errors import printable
from charjax.pages.facts import Facts
from charjax.pages.texts import Studied
from charjax.units import bits_per_character, perplexity

# Characters that would not be seen, and what stands for them.
_SEEN = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


def headline(facts: list[Facts], studied: list[Studied]) -> list[str]:
    """Return a sentence for each text: the best run, the others, and counts."""
    groups: dict[str, list[int]] = {}
    for place, found in enumerate(studied):
        groups.setdefault(found.key, []).append(place)
    return [
        _sentence([facts[place] for place in places], studied[places[0]])
        for places in groups.values()
    ]


def _sentence(facts: list[Facts], studied: Studied) -> str:
    scored = [(run.best["loss"], run) for run in facts if run.best is not None]
    if not scored:
        return f"{', '.join(run.name for run in facts)}: no validation loss yet."
    scored.sort(key=lambda pair: pair[0])
    loss, best = scored[0]
    assert best.best is not None
    words = [
        f"{best.name}: {'lowest' if len(scored) > 1 else 'best'} validation loss "
        f"{loss:.4f} nats per character ({bits_per_character(loss):.4f} bpc, perplexity "
        f"{perplexity(loss):.2f}), at step {best.best['step']:,}{_coverage(best.best)}"
    ]
    if len(scored) > 1:
        others = ", ".join(f"{run.name} +{other - loss:.4f}" for other, run in scored[1:])
        words.append(f"the others: {others}")
    references = studied.lines()
    if references:
        listed = ", ".join(
            f"{abs(loss - reference):.4f} {'below' if loss < reference else 'above'} {name}"
            for name, reference in references.items()
        )
        words.append(f"it is {listed}")
    counted = studied.counted
    if counted is not None and (counted.counted < counted.train or counted.scored < counted.val):
        words.append(
            f"Kneser-Ney counts the first {counted.counted:,} of {counted.train:,} training "
            f"characters and scores the first {counted.scored:,} of {counted.val:,}"
        )
    return "; ".join(words) + "."


def _coverage(line: dict[str, Any]) -> str:
    """Describe the targets behind a loss, where they are not all of the split."""
    numbers = line.get("targets"), line.get("of")
    if not all(isinstance(number, int) for number in numbers):
        return ""
    return " (over {:,} of {:,} targets)".format(*numbers)


def show_character(text: str) -> str:
    """Return characters of the passage so that they can be seen; a line break stays one."""
    return "".join("⏎\n" if one == "\n" else _SEEN.get(one, one) for one in text)


def show_prediction(text: str) -> str:
    """Return a predicted token as a list shows it."""
    return "space" if text == " " else printable("".join(_SEEN.get(one, one) for one in text))
