"""Characters of a text that an alphabet does not have: their positions, and a text without them."""

import dataclasses

import numpy as np

from charjax.data.texts import Corpus
from charjax.data.tokenizers import CharTokenizer


def remove_unseen(corpus: Corpus, tokenizer: CharTokenizer) -> tuple[Corpus, int, tuple[str, ...]]:
    """Remove the characters that an alphabet does not have.

    Args:
      corpus: a text of characters.
      tokenizer: the alphabet.

    Returns:
      The corpus without them, their number, and a note about them (none without such characters).
    """
    text = corpus.text
    assert isinstance(text, str)
    count = len(_unseen_positions(text, tokenizer))
    if not count:
        return corpus, 0, ()
    kinds = sorted(set(text) - set(tokenizer.symbols))
    notes = unseen_note(kinds, count, len(text), tokenizer)
    remaining = text.translate(dict.fromkeys(map(ord, kinds)))
    return dataclasses.replace(corpus, text=remaining), count, notes


def unseen_note(
    kinds: list[str], count: int, length: int, tokenizer: CharTokenizer
) -> tuple[str, ...]:
    """Note which characters were left out.

    Args:
      kinds: the characters, sorted.
      count: how many they were.
      length: of the text with them.
      tokenizer: the alphabet that does not have them.
    """
    shown = ", ".join(f"{kind!r}" for kind in kinds[:_SHOWN_KINDS])
    ellipsis = ", ..." if len(kinds) > _SHOWN_KINDS else ""
    note = (
        f"{count:,} of {length:,} characters are not among the {tokenizer.vocab_size} symbols "
        f"of the run ({shown}{ellipsis}) and were left out: they are no targets, and what "
        "follows them is predicted as if they were not there"
    )
    if count > _MANY_UNSEEN * length:
        note += f"; that is {count / length:.1%} of the text, and raises the loss of the rest"
    return (note,)


_SHOWN_KINDS = 8
_MANY_UNSEEN = 0.01


def explain_unseen(corpus: Corpus, tokenizer: CharTokenizer) -> str:
    """Describe the first character that the alphabet does not have, and what to do."""
    text = corpus.text
    assert isinstance(text, str)
    return with_remedy(
        tokenizer.explain_unknown(text, _unseen_positions(text, tokenizer)), corpus.field
    )


def with_remedy(explanation: str, field: str) -> str:
    """Add to the explanation of an unknown character what the command offers."""
    remedy = "; or leave such characters out with --unseen skip" if field == "--text" else ""
    return explanation + remedy


def _unseen_positions(text: str, tokenizer: CharTokenizer) -> np.ndarray:
    """Return the positions (K,) of unseen characters; with lines, blank lines are not searched."""
    positions_K = tokenizer.find_unknown(text)
    kinds = set(text) - set(tokenizer.symbols)
    if tokenizer.boundary and any(kind.isspace() for kind in kinds):
        dropped_K = np.array(
            [_is_in_blank_line(text, position) for position in positions_K.tolist()]
        )
        positions_K = positions_K[~dropped_K]
    return positions_K


def _is_in_blank_line(text: str, position: int) -> bool:
    end = text.find("\n", position)
    line = text[text.rfind("\n", 0, position) + 1 : None if end < 0 else end]
    return not line.strip()
