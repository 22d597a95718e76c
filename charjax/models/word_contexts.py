"""The words around each character of a text, as numbers, in numpy.

A text is a sequence of runs, by turns of letters and of other characters: words, and what separates
them. A run is known by its characters without their case: it is a node of a tree (a trie), the
child of the run without its last character.

Letters: N targets, T tokens, V vocabulary, K nodes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# A longer run is as good as unknown, so that a text without any spaces needs no deeper tree.
LONGEST = 32
# The characters right before a target that come before its words among what it depends on.
CHARACTERS = 3
EMPTY = 0
UNKNOWN = -1


def fold_symbols(symbols: Sequence[str]) -> np.ndarray:
    """Return (V,) int32: equal numbers for a letter in both cases, negative ones for no letters.

    Args:
      symbols: of the vocabulary; of bytes, those above 127 are letters of any alphabet.
    """
    number: dict[str, int] = {}
    folded = [number.setdefault(symbol.lower(), len(number) + 1) for symbol in symbols]
    is_letter = [symbol == "'" or symbol.isalpha() for symbol in symbols]
    return np.where(is_letter, folded, np.negative(folded)).astype(np.int32)


def lengths(words: int) -> int:
    """Return how many lengths contexts of so many whole words have, from none on."""
    return 1 + CHARACTERS + 2 + words


class Tree(NamedTuple):
    """The runs of a text and all their beginnings; node 0 is the empty one.

    Attributes:
      symbol_K: the last character's number (`fold_symbols`); the children of a node follow one
        another, ascending.
      first_child_K: of each node; one more, the number of nodes.
    """

    symbol_K: np.ndarray
    first_child_K: np.ndarray


class TextRuns(NamedTuple):
    """The runs that end at each token of a text.

    Attributes:
      node_T: of the run up to the token, or UNKNOWN.
      run_T: the number of the run.
      end_R: the node of each run, whole.
      first_T: the first run of the token's document.
      is_word_T: the run is a word.
      tree: all runs.
    """

    node_T: np.ndarray
    run_T: np.ndarray
    end_R: np.ndarray
    first_T: np.ndarray
    is_word_T: np.ndarray
    tree: Tree

    def before(self, turns: int, place_N: np.ndarray) -> np.ndarray:
        """Return the node of the run so many before that of each place; EMPTY if there is none."""
        run_N = self.run_T[place_N] - turns
        return np.where(run_N < self.first_T[place_N], EMPTY, self.end_R[np.maximum(run_N, 0)])


def find_runs(tokens: np.ndarray, begins: np.ndarray, fold_V: np.ndarray) -> TextRuns:
    """Divide a text into runs.

    Args:
      tokens: (T,).
      begins: (T,) bool, the first token of each document, which no run goes across.
      fold_V: `fold_symbols`.
    """
    folded_T = fold_V[tokens]
    is_word_T = folded_T > 0
    starts_T = begins.copy()
    starts_T[0] = True
    starts_T[1:] |= is_word_T[1:] != is_word_T[:-1]
    run_T = np.cumsum(starts_T) - 1
    start_R = np.flatnonzero(starts_T)
    begins_at = np.where(begins, np.arange(tokens.size), 0)
    first_T = run_T[np.maximum.accumulate(begins_at)]

    node_T = np.full(tokens.size, UNKNOWN, np.int64)
    base = 2 * fold_V.size + 3
    symbols, firsts, count, parents = [np.zeros(1, np.int64)], [], 1, np.zeros(1, np.int64)
    at = start_R
    for _ in range(LONGEST):
        above = np.full(at.size, EMPTY) if at is start_R else node_T[at - 1]
        keys, place = np.unique(above * base + folded_T[at] + base // 2, return_inverse=True)
        node_T[at] = count + place
        firsts.append(count + np.searchsorted(keys // base, parents))
        parents = count + np.arange(keys.size)
        symbols.append(keys % base - base // 2)
        count += keys.size
        at = at[at + 1 < tokens.size] + 1
        at = at[~starts_T[at]]
        if not at.size:
            break
    firsts.append(np.full(parents.size + 1, count))
    tree = Tree(np.concatenate(symbols).astype(np.int32), np.concatenate(firsts).astype(np.int32))
    end_R = node_T[np.append(start_R[1:], tokens.size) - 1]
    return TextRuns(node_T, run_T, end_R, first_T, is_word_T, tree)


def contexts(
    tokens: np.ndarray, target_N: np.ndarray, runs: TextRuns, words: int, vocab_size: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield what each target depends on, the nearest first.

    The three characters before it, the run so far, the separators before that run if it is a word,
    the last whole word, and those before that one.

    Args:
      tokens: (T,), with at least CHARACTERS tokens before each target.
      target_N: places of the targets.
      runs: of the text.
      words: whole words.
      vocab_size: V.

    Yields:
      (N,) numbers of one kind, and how many there may be.
    """
    for back in range(1, CHARACTERS + 1):
        yield tokens[target_N - back].astype(np.int64), vocab_size
    place_N = target_N - 1
    is_word_N, numbers = runs.is_word_T[place_N], runs.tree.symbol_K.size + 1
    yield runs.node_T[place_N] - UNKNOWN, numbers
    yield np.where(is_word_N, runs.before(1, place_N), EMPTY) - UNKNOWN, numbers
    for word in range(1, words + 1):
        nodes_N = np.where(
            is_word_N, runs.before(2 * word, place_N), runs.before(2 * word - 1, place_N)
        )
        yield nodes_N - UNKNOWN, numbers
