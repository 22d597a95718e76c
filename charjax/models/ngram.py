"""Counts of n-grams, smoothed.

Letters: B batch, T time, N outputs, S history, V vocabulary, M = B N contexts.
"""

import functools
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from charjax.data.splits import Split
from charjax.models.contract import FiniteModel
from charjax.models.ngram_counts import fit_tables
from charjax.models.roles import Roles

# Entries of a node that are added to a distribution at once: most nodes have far fewer than V.
_ENTRIES = 512


class NgramModel(FiniteModel):
    """The frequencies of what followed the last n - 1 characters, fitted in closed form.

    "kneser_ney" (Kneser and Ney 1995, interpolated as by Chen and Goodman 1998): with h a
    context, h' the same without its oldest character, and c(h w) how often w followed h,

        p(w | h) = max(c(h w) - D, 0) / c(h) + D N(h) / c(h) p(w | h')

    with N(h) the number of different characters seen after h, D = n1 / (n1 + 2 n2) for each
    length of h, and n1, n2 the n-grams of that length counted once and twice. For every h but
    the longest, c counts the different characters seen to the left of h w. Below the empty
    context stands the uniform distribution; a context never seen takes p(w | h') as it is.
    "modified_kneser_ney": three discounts, for counts of 1, 2, and 3 or more (there).
    "additive": p(w | h) = (c(h w) + alpha) / (c(h) + alpha V), the longest h alone.

    All three are sparse values plus a weight times the shorter context's distribution, and that
    is what is computed: from the empty context on, a level of the tree at a time. The logits are
    log-probabilities. A text's first contexts are filled up with token 0.

    Attributes:
      order: n.
      smoothing: one of the above.
      alpha: of "additive".
      prune: n-grams of length k seen at most prune[k - 1] times are left out (the last holds for
        the longer ones), as by KenLM's lmplz --prune (github.com/kpu/kenlm): their probability
        goes to the shorter context's distribution, and the discounts stay those of all n-grams.
        It begins with 0 and never decreases.
    """

    order: int
    smoothing: Literal["additive", "kneser_ney", "modified_kneser_ney"]
    alpha: float
    prune: tuple[int, ...] = ()
    fitted: ClassVar[bool] = True
    looks_up_targets: ClassVar[bool] = True
    roles: ClassVar[Roles] = ()

    @property
    def lookback(self) -> int:
        """Order - 2: with the newest token that makes a context."""
        return max(self.order - 2, 0)

    def fit(
        self, split: Split, poll: Callable[[], None] = lambda: None, pad: int | None = None
    ) -> dict[str, dict[str, np.ndarray]]:
        """Count a text: the model's variables, in numpy.

        Args:
          split: the text.
          poll: called between the lengths of contexts; may raise to stop.
          pad: as of `fit_tables`.
        """
        tables = fit_tables(
            split,
            poll,
            vocab_size=self.vocab_size,
            order=self.order,
            smoothing=self.smoothing,
            alpha=self.alpha,
            prune=self.prune,
            pad=pad,
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
        V = self.vocab_size
        probability_MV = self._walk(history_BS, (V,), mix_all)
        return jnp.log(probability_MV).reshape(tokens_BT.shape[0], -1, V), cache

    def target_log_probs(self, tokens_BT: Array, targets_BN: Array) -> Array:
        """See CharModel. Each level of the tree is searched for the target alone."""
        history_BS, _ = self.read(tokens_BT, None, targets_BN.shape[1])
        target_M = targets_BN.reshape(-1).astype(jnp.int32)
        probability_M = self._walk(history_BS, (), functools.partial(_mix_target, target_M))
        return jnp.log(probability_M).reshape(targets_BN.shape)

    def _walk(self, history_BS: Array, shape: tuple[int, ...], mix: "_Mix") -> Array:
        """Mix the M contexts' probabilities, each of a shape, from the empty context on."""
        B, N = history_BS.shape[0], history_BS.shape[1] - self.lookback
        tables = {name: jnp.asarray(table) for name, table in self.variables["params"].items()}

        def lengthen(depth: Array, walk: Walk) -> Walk:
            back_BN = lax.dynamic_slice_in_dim(history_BS, self.order - 1 - depth, N, axis=1)
            return mix(tables, depth, _descend(tables, depth, back_BN.reshape(B * N), walk))

        walk = Walk(
            probability=jnp.full((B * N, *shape), 1 / self.vocab_size),
            node_M=jnp.zeros(B * N, jnp.int32),
            seen_M=jnp.ones(B * N, bool),
            tail_M=jnp.zeros(B * N, bool),
        )
        walk = lax.fori_loop(1, self.order, lengthen, mix(tables, jnp.int32(0), walk))
        return walk.probability


class Walk(NamedTuple):
    """The place of each of M contexts in the tree, and its probabilities so far.

    `probability`: (M, V), or (M,) of the targets alone.
    `seen`: the context was seen at this length; `tail`: on the text behind a node, not at it.
    """

    probability: Array
    node_M: Array
    seen_M: Array
    tail_M: Array


_Tables = dict[str, Array]
_Mix = Callable[[_Tables, Array, Walk], Walk]


def _descend(tables: _Tables, depth: Array, back_M: Array, walk: Walk) -> Walk:
    """Lengthen each context by the character before it, to `depth` characters."""
    ends_M = tables["tail"][walk.node_M]
    on_tail_M = ends_M >= 0
    # Negative places (no tail) are not used.
    goes_on_M = tables["text"][jnp.maximum(ends_M - depth, 0)].astype(jnp.int32) == back_M
    child_M, found_M = find(tables["symbol"], tables["first_child"], walk.node_M, back_M)
    return walk._replace(
        node_M=jnp.where(walk.seen_M & ~on_tail_M & found_M, child_M, walk.node_M),
        seen_M=walk.seen_M & jnp.where(on_tail_M, goes_on_M, found_M),
        tail_M=on_tail_M,
    )


def find(symbols: Array, firsts: Array, node_M: Array, sought_M: Array) -> tuple[Array, Array]:
    """Search the part of `symbols` that is a node's, ascending, for one.

    Returns:
      the first place whose symbol is not less than the one sought, and whether it is that one.
    """
    first_M, end_M = firsts[node_M], firsts[node_M + 1]

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low_M, high_M = bounds
        middle_M = (low_M + high_M) // 2
        less_M = (low_M < high_M) & (symbols[middle_M].astype(jnp.int32) < sought_M)
        return jnp.where(less_M, middle_M + 1, low_M), jnp.where(less_M, high_M, middle_M)

    # As many halvings as the longest part needs: its length in bits.
    halvings = 32 - lax.clz(jnp.max(end_M - first_M))
    place_M, _ = lax.fori_loop(0, halvings, halve, (first_M, end_M))
    return place_M, (place_M < end_M) & (symbols[place_M].astype(jnp.int32) == sought_M)


def mix_all(tables: _Tables, depth: Array, walk: Walk) -> Walk:
    """Weigh the distributions so far and add the entries of the nodes reached."""
    V = walk.probability.shape[1]
    first_M, end_M = tables["first_entry"][walk.node_M], tables["first_entry"][walk.node_M + 1]
    end_M = jnp.where(walk.seen_M, end_M, first_M)
    rows_M1, width = jnp.arange(walk.node_M.size)[:, None], min(V, _ENTRIES)

    def add(block: Array, sums_MV: Array) -> Array:
        entry_ME = first_M[:, None] + block * width + jnp.arange(width)
        # Places past a node's last entry are sent out of bounds, and dropped.
        is_entry_ME = entry_ME < end_M[:, None]
        follower_ME = jnp.where(is_entry_ME, tables["follower"][entry_ME].astype(jnp.int32), V)
        value_ME = jnp.where(
            walk.tail_M[:, None], tables["tail_value"][depth], tables["value"][entry_ME]
        )
        return sums_MV.at[rows_M1, follower_ME].add(value_ME, mode="drop")

    weighted_MV = _backoff(tables, depth, walk)[:, None] * walk.probability
    if width == V:
        return walk._replace(probability=add(jnp.int32(0), weighted_MV))
    blocks = (jnp.max(end_M - first_M) + width - 1) // width
    return walk._replace(probability=lax.fori_loop(0, blocks, add, weighted_MV))


def _mix_target(target_M: Array, tables: _Tables, depth: Array, walk: Walk) -> Walk:
    """Weigh the targets' probabilities so far and add the entries of the nodes reached."""
    entry_M, found_M = find(tables["follower"], tables["first_entry"], walk.node_M, target_M)
    value_M = jnp.where(walk.tail_M, tables["tail_value"][depth], tables["value"][entry_M])
    weighted_M = _backoff(tables, depth, walk) * walk.probability
    return walk._replace(probability=weighted_M + jnp.where(walk.seen_M & found_M, value_M, 0.0))


def _backoff(tables: _Tables, depth: Array, walk: Walk) -> Array:
    """Return the weight (M,) of the shorter context: 1 where a context is not known."""
    backoff_M = tables["backoff"][walk.node_M]
    backoff_M = jnp.where(walk.tail_M, tables["tail_backoff"][depth], backoff_M)
    return jnp.where(walk.seen_M, backoff_M, 1.0)
