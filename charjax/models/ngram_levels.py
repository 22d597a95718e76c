"""The n-grams of a text, sorted: the levels of the tree of its contexts, in numpy.

Each target is packed with the characters before it into one number of 64 bits, the newest character
first and the target itself last. In the sorted distinct keys, contexts that end alike are
neighbours: a node of any level is a run of keys with equal first digits, and what is counted is
counted on distinct keys, of which a long text has far fewer than targets.

Where a context has more characters than fit, the tree is made in stages: the nodes of the deepest
level are numbered, and their number is the first digit of the next stage's keys.

Letters: N targets, M distinct keys, K nodes, E entries (an entry is a character seen after a node's
context).
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from charjax.errors import UserError
from charjax.models.ngram_text import BLOCK, PaddedText

# The products by which keys are divided stay below this, too.
_KEYS = 1 << 64


@dataclasses.dataclass(frozen=True)
class Level:
    """The nodes whose contexts are `depth` long, in the order of (parent, symbol).

    Attributes:
      depth: length of the contexts.
      parent_K: each node's parent, counted within the level above.
      symbol_K: the character furthest back in the context.
      tail_K: where in the text the one target seen after this context stands; -1 if more were.
      entry_node_E: node of each entry, ascending.
      follower_E: its character.
      count_E: how often it was seen there.
      lefts_E: how many different characters stood before context and follower together; `count_E`
        of the longest contexts, whose characters before are not known.
      tails: targets whose contexts of this length have no node, as a shorter one was unique.
    """

    depth: int
    parent_K: np.ndarray
    symbol_K: np.ndarray
    tail_K: np.ndarray
    entry_node_E: np.ndarray
    follower_E: np.ndarray
    count_E: np.ndarray
    lefts_E: np.ndarray
    tails: int


def levels(
    text: PaddedText, vocab_size: int, order: int, poll: Callable[[], None] = lambda: None
) -> Iterator[Level]:
    """Yield the levels from the root to contexts of `order` - 1 characters, not in order of depth.

    Args:
      text: after at least order - 2 zeros each.
      vocab_size: V.
      order: n.
      poll: called between parts of the work; may raise to stop.

    Raises:
      UserError: the contexts are too many to be numbered.
    """
    is_target, total = text.is_target, int(np.count_nonzero(text.is_target))
    first = np.zeros(1, np.int64)
    tail_K = np.flatnonzero(is_target) if total == 1 else first - 1
    stage = _Stage(text.tokens, is_target, None, vocab_size, 0, 0, poll)
    nodes = _Nodes(first, first, tail_K)
    while True:
        further = _characters_that_fit(nodes.parent_K.size, vocab_size, order - 1 - stage.depth)
        stage = dataclasses.replace(stage, further=further)
        is_last = stage.depth + further == order - 1
        above, following = yield from stage.levels(nodes, total, is_last)
        if following is None:
            return
        nodes, stage = above, following


def _characters_that_fit(nodes: int, vocab_size: int, most: int) -> int:
    """Return how many characters of a context go into a key, beside a node and the target."""
    further = 0
    while further < most and max(nodes, 1) * vocab_size ** (further + 2) < _KEYS:
        further += 1
    if not further and most:
        raise UserError(
            f"model.order: the text has {nodes:,} contexts of {vocab_size:,} symbols, too many to "
            "count longer ones; lower model.order, or data.vocab_size"
        )
    return further


class _Nodes(NamedTuple):
    """The nodes of a level: columns of `Level`."""

    parent_K: np.ndarray
    symbol_K: np.ndarray
    tail_K: np.ndarray


class _Runs(NamedTuple):
    """The contexts of a length in a stage, each a run of its keys.

    A context has a node unless a shorter one was seen only once.

    Attributes:
      starts: first key of each.
      seen: targets after it.
      parent: the context without its oldest character, as a place in the runs of that length.
      has_node: (bool).
      node: its number among those that have one.
      symbol: its oldest character.
    """

    starts: np.ndarray
    seen: np.ndarray
    parent: np.ndarray
    has_node: np.ndarray
    node: np.ndarray
    symbol: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Stage:
    """The part of the tree below the nodes of one level.

    Attributes:
      tokens: the text.
      is_target: the targets whose context of `depth` characters has a node.
      node_N: its number, for each of these targets; None: 0.
      vocab_size: V.
      depth: the level.
      further: characters of the context in a key, beside the node and the target.
      poll: called between parts of the work.
    """

    tokens: np.ndarray
    is_target: np.ndarray
    node_N: np.ndarray | None
    vocab_size: int
    depth: int
    further: int
    poll: Callable[[], None]

    def levels(self, nodes: _Nodes, total: int, is_last: bool) -> Any:
        """Yield the levels of the stage, whose first has these nodes.

        Returns:
          the nodes of the next stage's first level, and that stage; None after the last.
        """
        keys_M, count_M = self._distinct_keys()
        runs = self._runs(keys_M, count_M)
        found, following = self._find_tails(keys_M, runs, is_last)
        levels = [nodes]
        for run, tail in zip(runs[1:], found, strict=True):
            above = runs[len(levels) - 1].node[run.parent[run.has_node]]
            levels.append(_Nodes(above, run.symbol[run.has_node], tail))
        pairs, count, lefts = keys_M, count_M, count_M
        for further in range(self.further, -1, -1):
            if further < self.further:
                pairs, count, lefts = _without_oldest(pairs, count, self.vocab_size)
            self.poll()
            if further < self.further or is_last:
                yield self._level(
                    further, levels[further], runs[further], total, pairs, count, lefts
                )
        return levels[-1], following

    def _level(
        self,
        further: int,
        nodes: _Nodes,
        runs: _Runs,
        total: int,
        pairs: np.ndarray,
        count: np.ndarray,
        lefts: np.ndarray,
    ) -> Level:
        """Return a level: of the entries, those whose context has a node."""
        run_E = np.cumsum(_begins(pairs // np.uint64(self.vocab_size))) - 1
        counts_E = runs.has_node[run_E]
        return Level(
            self.depth + further,
            *nodes,
            entry_node_E=runs.node[run_E[counts_E]],
            follower_E=(pairs[counts_E] % np.uint64(self.vocab_size)).astype(np.int64),
            count_E=count[counts_E],
            lefts_E=lefts[counts_E],
            tails=total - int(runs.seen[runs.has_node].sum()),
        )

    def _blocks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield parts of the targets: their places among these, those in the text, and keys."""
        done, V = 0, np.uint64(self.vocab_size)
        for begin in range(0, self.tokens.size, BLOCK):
            at = begin + np.flatnonzero(self.is_target[begin : begin + BLOCK])
            here = slice(done, done + at.size)
            keys = np.zeros(at.size, np.uint64)
            if self.node_N is not None:
                keys += self.node_N[here]
            for back in (*range(1, self.further + 1), 0):
                keys *= V
                keys += self.tokens[at - (self.depth + back if back else 0)]
            done += at.size
            yield here, at, keys
            self.poll()

    def _distinct_keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the distinct keys, ascending, and how often each occurs."""
        keys_N = np.empty(int(np.count_nonzero(self.is_target)), np.uint64)
        for here, _, keys in self._blocks():
            keys_N[here] = keys
        keys_N.sort()
        starts = np.flatnonzero(_begins(keys_N))
        return keys_N[starts], np.diff(starts, append=keys_N.size)

    def _runs(self, keys_M: np.ndarray, count_M: np.ndarray) -> list[_Runs]:
        """Return the contexts of each length of the stage."""
        runs: list[_Runs] = []
        for further in range(self.further + 1):
            prefix_M = keys_M // np.uint64(self.vocab_size ** (self.further - further + 1))
            starts = np.flatnonzero(_begins(prefix_M))
            seen = np.add.reduceat(count_M, starts) if starts.size else count_M
            parent, has_node = np.arange(starts.size), np.ones(starts.size, bool)
            if runs:
                parent = np.searchsorted(runs[-1].starts, starts, side="right") - 1
                has_node = runs[-1].seen[parent] > 1
            symbol = (prefix_M[starts] % np.uint64(self.vocab_size)).astype(np.int64)
            runs.append(_Runs(starts, seen, parent, has_node, np.cumsum(has_node) - 1, symbol))
        return runs

    def _find_tails(
        self, keys_M: np.ndarray, runs: list[_Runs], is_last: bool
    ) -> tuple[list[np.ndarray], "_Stage | None"]:
        """Find the places in the text of the targets seen after a context seen only once.

        Returns:
          for each level but the first, `tail_K`; and the next stage, None after the last.
        """
        once = [run.starts[(run.seen == 1) & run.has_node] for run in runs[1:]]
        sought = np.sort(np.concatenate([np.zeros(0, np.int64), *once]))
        place = self._places(keys_M[sought])
        tails = []
        for run, starts in zip(runs[1:], once, strict=True):
            tail = np.full(run.starts.size, -1)
            tail[np.searchsorted(run.starts, starts)] = place[np.searchsorted(sought, starts)]
            tails.append(tail[run.has_node])
        return tails, None if is_last else self._following(keys_M, runs[-1])

    def _places(self, keys: np.ndarray) -> np.ndarray:
        """Return the place in the text of each of these keys, ascending, that occur once."""
        place = np.full(keys.size, -1)
        # Most keys of a text are not among them: a table of bits of their products says so.
        bits = min(64, max(10, (16 * keys.size).bit_length()))
        factor, shift = np.uint64(0x9E3779B97F4A7C15), np.uint64(64 - bits)
        may_be = np.zeros(1 << bits, bool)
        may_be[(keys * factor) >> shift] = True
        for _, at, here in self._blocks():
            candidate = np.flatnonzero(may_be[(here * factor) >> shift])
            at, here = at[candidate], here[candidate]
            index = np.searchsorted(keys, here)
            found = keys[np.minimum(index, keys.size - 1)] == here
            place[index[found]] = at[found]
        return place

    def _following(self, keys_M: np.ndarray, deepest: _Runs) -> "_Stage":
        """Return the next stage: the targets whose context has a node in the deepest level."""
        remaining, nodes = np.zeros_like(self.is_target), [np.zeros(0, np.uint64)]
        for _, at, here in self._blocks():
            run = np.searchsorted(deepest.starts, np.searchsorted(keys_M, here), side="right") - 1
            goes_on = deepest.has_node[run]
            remaining[at[goes_on]] = True
            nodes.append(deepest.node[run[goes_on]].astype(np.uint64))
        depth = self.depth + self.further
        return dataclasses.replace(
            self, is_target=remaining, node_N=np.concatenate(nodes), depth=depth
        )


def _without_oldest(
    pairs: np.ndarray, count: np.ndarray, vocab_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the entries of contexts without their oldest character.

    Args:
      pairs: (context, follower) of the entries, each as one number, ascending.
      count: of each.
      vocab_size: V.

    Returns:
      pairs and counts likewise; and how many of the longer ones come to each.
    """
    V = np.uint64(vocab_size)
    shorter = pairs // (V * V) * V + pairs % V
    ascending = np.sort(shorter)
    ascending = ascending[_begins(ascending)]
    index = np.searchsorted(ascending, shorter)
    # Sums of whole numbers below 2^53 are exact.
    total = np.bincount(index, count, ascending.size).astype(np.int64)
    return ascending, total, np.bincount(index, minlength=ascending.size)


def _begins(ascending: np.ndarray) -> np.ndarray:
    """Return true where a value differs from the one before it."""
    begins = np.ones(ascending.size, bool)
    np.not_equal(ascending[1:], ascending[:-1], out=begins[1:])
    return begins
