"""Counts of n-grams, smoothed.

Letters: B batch, T time, N outputs, S history, V vocabulary, M = B N contexts.
"""

from typing import Any, ClassVar, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from charjax.data.datasets import Split
from charjax.models.contract import FiniteModel
from charjax.models.ngram_counts import fit_tables
from charjax.models.roles import Parameter


class NgramModel(FiniteModel):
    """The frequencies of what followed the last n - 1 characters, fitted in closed form.

    "kneser_ney" (Kneser and Ney 1995, interpolated as in Chen and Goodman 1999): with h
    a context, h' the same without its oldest character, and c(h w) how often w followed h,

        p(w | h) = max(c(h w) - D, 0) / c(h) + D N(h) / c(h) p(w | h')

    with N(h) the number of different characters seen after h, D = n1 / (n1 + 2 n2) for each
    length of h, and n1, n2 the n-grams of that length counted once and twice. For every h but
    the longest, c counts the different characters seen to the left of h w. Below the empty
    context stands the uniform distribution; a context never seen takes p(w | h') as it is.
    "modified_kneser_ney": three discounts, for counts of 1, 2, and 3 or more (there, too).
    "additive": p(w | h) = (c(h w) + alpha) / (c(h) + alpha V), the longest h alone.

    All three are sparse values plus a weight times the shorter context's distribution, and that
    is what is computed: from the empty context on, a level of the tree at a time. The logits are
    log-probabilities. A text's first contexts are filled up with token 0.

    Attributes:
      order: n.
      smoothing: one of the above.
      alpha: of "additive".
    """

    order: int
    smoothing: Literal["additive", "kneser_ney", "modified_kneser_ney"]
    alpha: float
    fitted: ClassVar[bool] = True
    roles: ClassVar[tuple[tuple[str, Parameter], ...]] = ()

    @property
    def lookback(self) -> int:
        """Order - 2: with the newest token that makes a context."""
        return max(self.order - 2, 0)

    def fit(self, split: Split) -> dict[str, dict[str, np.ndarray]]:
        """Count a text: the model's variables, in numpy."""
        tables = fit_tables(
            split,
            vocab_size=self.vocab_size,
            order=self.order,
            smoothing=self.smoothing,
            alpha=self.alpha,
        )
        return {"params": tables}

    def __call__(
        self,
        tokens_BT: Array,
        cache: Array | None = None,
        *,
        num_outputs: int | None = None,
        train: bool = False,
    ) -> tuple[Array, Array | None]:
        """See CharModel."""
        history_BS, cache = self.read(tokens_BT, cache, num_outputs)
        B, N, V = tokens_BT.shape[0], history_BS.shape[1] - self.lookback, self.vocab_size
        tables = {name: jnp.asarray(table) for name, table in self.variables["params"].items()}

        def lengthen(depth: Array, walk: _Walk) -> _Walk:
            back_BN = lax.dynamic_slice_in_dim(history_BS, self.order - 1 - depth, N, axis=1)
            return _mix(tables, depth, _descend(tables, depth, back_BN.reshape(B * N), walk, V))

        walk = _Walk(
            probability_MV=jnp.full((B * N, V), 1 / V),
            node_M=jnp.zeros(B * N, jnp.int32),
            seen_M=jnp.ones(B * N, bool),
            tail_M=jnp.zeros(B * N, bool),
        )
        walk = lax.fori_loop(1, self.order, lengthen, _mix(tables, jnp.int32(0), walk))
        return jnp.log(walk.probability_MV).reshape(B, N, V), cache


class _Walk(NamedTuple):
    """Where each of M contexts stands in the tree, and the distribution so far.

    `seen`: the context was seen at this length; `tail`: on the text behind a node, not at it.
    """

    probability_MV: Array
    node_M: Array
    seen_M: Array
    tail_M: Array


def _descend(tables: dict[str, Array], depth: Array, back_M: Array, walk: _Walk, V: int) -> _Walk:
    """Lengthen each context by the character before it, to `depth` characters."""
    ends_M = tables["tail"][walk.node_M]
    on_tail_M = ends_M >= 0
    # Negative places (no tail) are not used.
    goes_on_M = tables["text"][jnp.maximum(ends_M - depth, 0)].astype(jnp.int32) == back_M
    first_M, end_M = tables["first_child"][walk.node_M], tables["first_child"][walk.node_M + 1]
    child_M = _lower_bound(tables["symbol"], first_M, end_M, back_M, V)
    found_M = (child_M < end_M) & (tables["symbol"][child_M].astype(jnp.int32) == back_M)
    return walk._replace(
        node_M=jnp.where(walk.seen_M & ~on_tail_M & found_M, child_M, walk.node_M),
        seen_M=walk.seen_M & jnp.where(on_tail_M, goes_on_M, found_M),
        tail_M=on_tail_M,
    )


def _lower_bound(symbols: Array, low_M: Array, high_M: Array, sought_M: Array, V: int) -> Array:
    """The first place from low to high whose symbol is not less than the one sought."""
    for _ in range(V.bit_length()):
        middle_M = (low_M + high_M) // 2
        less_M = (low_M < high_M) & (symbols[middle_M].astype(jnp.int32) < sought_M)
        low_M = jnp.where(less_M, middle_M + 1, low_M)
        high_M = jnp.where(less_M, high_M, middle_M)
    return low_M


def _mix(tables: dict[str, Any], depth: Array, walk: _Walk) -> _Walk:
    """Weigh the distribution so far and add the entries of the nodes reached."""
    V = walk.probability_MV.shape[1]
    backoff_M = tables["backoff"][walk.node_M]
    backoff_M = jnp.where(walk.tail_M, tables["tail_backoff"][depth], backoff_M)
    kept_MV = jnp.where(walk.seen_M, backoff_M, 1.0)[:, None] * walk.probability_MV
    first_M, end_M = tables["first_entry"][walk.node_M], tables["first_entry"][walk.node_M + 1]
    # A node has at most V entries; places past its last are sent out of bounds, and dropped.
    entry_MV = first_M[:, None] + jnp.arange(V)
    taken_MV = walk.seen_M[:, None] & (entry_MV < end_M[:, None])
    follower_MV = jnp.where(taken_MV, tables["follower"][entry_MV].astype(jnp.int32), V)
    value_MV = jnp.where(
        walk.tail_M[:, None], tables["tail_value"][depth], tables["value"][entry_MV]
    )
    rows_M1 = jnp.arange(kept_MV.shape[0])[:, None]
    added_MV = kept_MV.at[rows_M1, follower_MV].add(value_MV, mode="drop")
    return walk._replace(probability_MV=added_MV)
