"""Levels of the tree of contexts, counted plainly: dictionaries of tuples, a level at a time."""

import collections

import numpy as np

from charjax.data.splits import Split
from charjax.models.ngram_levels import Level


def plain_levels(split: Split, order: int) -> list[Level]:
    """Return the levels of a split's tree, the root first, as `ngram_levels.levels` defines them.

    Places in the text are those in the documents, each after order - 2 zeros.
    """
    pad = max(order - 2, 0)
    text: list[int] = []
    targets: list[int] = []
    for start, length in zip(split.doc_starts, split.doc_lengths, strict=True):
        text += [0] * pad + split.tokens[start : start + length + 1].tolist()
        targets += range(len(text) - length, len(text))
    total, above, levels = len(targets), {(): 0}, []
    # A context is a tuple of its characters, the newest first.
    for depth in range(order):
        places = collections.defaultdict(list)
        for at in targets:
            places[tuple(text[at - depth : at][::-1])].append(at)
        nodes = {context: number for number, context in enumerate(sorted(places))}
        entries = collections.Counter(
            (nodes[context], text[at]) for context in nodes for at in places[context]
        )
        lefts = collections.defaultdict(set)
        for context in nodes:
            for at in places[context]:
                lefts[nodes[context], text[at]].add(text[at - depth - 1])
        # The oldest characters of the longest contexts may lie before the text.
        is_last = depth == order - 1
        ordered = sorted(entries)
        columns = [
            [above[context[:-1]] for context in nodes] if depth else [0],
            [context[-1] for context in nodes] if depth else [0],
            [at[0] if len(at) == 1 else -1 for _, at in sorted(places.items())],
            [node for node, _ in ordered],
            [follower for _, follower in ordered],
            [entries[entry] for entry in ordered],
            [entries[entry] if is_last else len(lefts[entry]) for entry in ordered],
        ]
        arrays = [np.array(column, np.int64) for column in columns]
        levels.append(Level(depth, *arrays, tails=total - len(targets)))
        targets = [at for at in targets if len(places[tuple(text[at - depth : at][::-1])]) > 1]
        above = nodes
    return levels
