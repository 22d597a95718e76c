"""Counts of what followed the same words.

Letters: B batch, T time, N outputs, S recent characters, R runs, V vocabulary, M = B N contexts,
L lengths of contexts.
"""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from charjax.data.splits import Split
from charjax.models.contract import CharModel, Memory
from charjax.models.ngram import Walk, find, mix_all
from charjax.models.ngram_cross_fit import Length, discounted, lefts, word_lengths
from charjax.models.ngram_text import padded_text
from charjax.models.roles import Roles
from charjax.models.word_contexts import CHARACTERS, EMPTY, UNKNOWN


class WordState(NamedTuple):
    """State of a text so far: what its next characters depend on by words, for each of B texts.

    Attributes:
      recent_BS: its last characters but one, token 0 before its beginning.
      kind_B: the last character: 1 a letter, -1 none, 0 there is no character.
      runs_BR: the nodes of the newest runs, the newest first.
    """

    recent_BS: Array
    kind_B: Array
    runs_BR: Array


class WordModel(CharModel):
    """Modified Kneser-Ney counts whose contexts are words, fitted in closed form.

    A character is predicted given, the nearest first: the three characters before it, the word so
    far, what separates that from the word before, and the last whole words (`word_contexts`). Each
    of these lengthens the context, and the counts of a context take the place of the shorter one's
    as in `NgramModel`. A word is known by its letters without their case.

    Attributes:
      words: whole words of the longest context.
    """

    words: int
    fitted: ClassVar[bool] = True
    memory: ClassVar[Memory] = "carried"
    roles: ClassVar[Roles] = ()

    def fit(self, split: Split, fold_V: np.ndarray) -> dict[str, np.ndarray]:
        """Count a text.

        Args:
          split: the text.
          fold_V: the vocabulary's letters (`word_contexts.fold_symbols`).

        Returns:
          fold (V,); run_symbol, run_first_child: the words met, a tree
          symbol, first_child: the contexts, another, length after length
          first_entry, follower, value, backoff: as of `NgramModel`
        """
        text = padded_text(split, CHARACTERS - 1)
        lengths, tree = word_lengths(text, self.vocab_size, self.words, fold_V)
        return {
            "fold": fold_V,
            "run_symbol": tree.symbol_K,
            "run_first_child": tree.first_child_K,
            **_tables(list(lengths), text.tokens.dtype),
        }

    def __call__(
        self,
        tokens_BT: Array,
        cache: WordState | None = None,
        *,
        num_outputs: int | None = None,
        train: bool = False,
    ) -> tuple[Array, WordState | None]:
        """See CharModel."""
        tables = {name: jnp.asarray(table) for name, table in self.variables["params"].items()}
        B, T = tokens_BT.shape
        outputs = num_outputs or T
        before = self.init_cache(B) if cache is None else cache
        state, (kind_BT, runs_BTR) = self._read(tables, tokens_BT.astype(jnp.int32), before)
        text_BS = jnp.concatenate([before.recent_BS, tokens_BT.astype(jnp.int32)], axis=1)
        back = [text_BS[:, CHARACTERS - 1 - i :][:, :T] for i in range(CHARACTERS)]
        sought_LBT = jnp.stack([*back, *self._contexts(kind_BT, runs_BTR)])
        sought_LM = sought_LBT[:, :, T - outputs :].reshape(len(sought_LBT), -1)
        logs_BNV = jnp.log(self._walk(tables, sought_LM)).reshape(B, outputs, -1)
        return logs_BNV, None if cache is None else state

    def _read(self, tables: dict[str, Array], tokens_BT: Array, state: WordState) -> Any:
        """Return the state after a text, and kinds (B, T) and runs (B, T, R) after each token."""

        def step(carry: tuple[Array, Array], token_B: Array) -> Any:
            kind_B, runs_BR = carry
            folded_B = tables["fold"][token_B]
            same_B = jnp.sign(folded_B) == kind_B
            turned_BR = jnp.roll(runs_BR, 1, axis=1).at[:, 0].set(EMPTY)
            runs_BR = jnp.where(same_B[:, None], runs_BR, turned_BR)
            node_B = runs_BR[:, 0]
            symbols, firsts = tables["run_symbol"], tables["run_first_child"]
            child_B, found_B = find(symbols, firsts, jnp.maximum(node_B, EMPTY), folded_B)
            found_B = found_B & (node_B != UNKNOWN)
            runs_BR = runs_BR.at[:, 0].set(jnp.where(found_B, child_B, UNKNOWN))
            carry = jnp.sign(folded_B), runs_BR
            return carry, carry

        last, (kind_TB, runs_TBR) = lax.scan(step, (state.kind_B, state.runs_BR), tokens_BT.T)
        text_BS = jnp.concatenate([state.recent_BS, tokens_BT], axis=1)
        recent_BS = text_BS[:, tokens_BT.shape[1] :]
        return WordState(recent_BS, *last), (kind_TB.T, runs_TBR.transpose(1, 0, 2))

    def _contexts(self, kind_BT: Array, runs_BTR: Array) -> list[Array]:
        """Return the numbers (B, T) of the run so far, the separators and the whole words."""
        is_word_BT = kind_BT > 0

        def run(number: int) -> Array:
            return runs_BTR[:, :, number] - UNKNOWN

        numbers = range(1, self.words + 1)
        return [
            run(0),
            jnp.where(is_word_BT, run(1), EMPTY - UNKNOWN),
            *(jnp.where(is_word_BT, run(2 * word), run(2 * word - 1)) for word in numbers),
        ]

    def _walk(self, tables: dict[str, Array], sought_LM: Array) -> Array:
        """Mix the M contexts' probabilities, (M, V), from the empty context on."""
        M = sought_LM.shape[1]

        def lengthen(depth: Array, walk: Walk) -> Walk:
            child_M, found_M = find(
                tables["symbol"], tables["first_child"], walk.node_M, sought_LM[depth]
            )
            seen_M = walk.seen_M & found_M
            node_M = jnp.where(seen_M, child_M, walk.node_M)
            return mix_all(tables, depth, walk._replace(node_M=node_M, seen_M=seen_M))

        walk = Walk(
            probability=jnp.full((M, self.vocab_size), 1 / self.vocab_size),
            node_M=jnp.zeros(M, jnp.int32),
            seen_M=jnp.ones(M, bool),
            tail_M=jnp.zeros(M, bool),
        )
        # No context ends in a tail.
        tables |= {name: jnp.zeros(1) for name in ("tail_value", "tail_backoff")}
        walk = mix_all(tables, jnp.int32(0), walk)
        return lax.fori_loop(0, len(sought_LM), lengthen, walk).probability

    def init_cache(self, batch_size: int) -> WordState:
        """Return the state before a text."""
        return WordState(
            jnp.zeros((batch_size, CHARACTERS - 1), jnp.int32),
            jnp.zeros(batch_size, jnp.int32),
            jnp.full((batch_size, 2 * self.words + 1), EMPTY, jnp.int32),
        )


def _tables(lengths: list[Length], symbols: Any) -> dict[str, np.ndarray]:
    """Return the tables of the contexts of all lengths, each after the shorter ones."""
    nodes = np.cumsum([0, *(length.parent_K.size for length in lengths)])
    entries = np.cumsum([0, *(length.count_U.size for length in lengths)])
    first_child, first_entry, values, weights = [], [], [], []
    for number, length in enumerate(lengths):
        is_longest = number + 1 == len(lengths)
        children = np.zeros(0, np.int64) if is_longest else lengths[number + 1].parent_K
        places = np.searchsorted(children, np.arange(length.parent_K.size))
        first_child.append(nodes[number + 1] + places)
        first_entry.append(entries[number] + length.first_K[:-1])
        count_U = length.count_U
        if not is_longest:
            longer = lengths[number + 1]
            count_U = lefts(longer, longer.count_U, count_U.size)
        value_U, weight_K = discounted(length, count_U, modified=True)
        values.append(value_U)
        weights.append(weight_K)
    return {
        "symbol": np.concatenate([length.symbol_K for length in lengths]).astype(np.int32),
        "first_child": np.append(np.concatenate(first_child), nodes[-1]).astype(np.int32),
        "first_entry": np.append(np.concatenate(first_entry), entries[-1]).astype(np.int32),
        "follower": np.concatenate([length.follower_U for length in lengths]).astype(symbols),
        "value": np.concatenate(values).astype(np.float32),
        "backoff": np.concatenate(weights).astype(np.float32),
    }
