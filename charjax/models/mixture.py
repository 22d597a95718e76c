"""A network and counts that predict together.

Letters: B batch, T time, N outputs, S history, V vocabulary, O experts that count, F features.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from charjax.data.splits import Split
from charjax.models.contract import AUXILIARY, CharModel, FiniteModel, Memory
from charjax.models.ngram import NgramModel
from charjax.models.ngram_words import WordModel
from charjax.models.roles import Parameter, Role, Roles
from charjax.models.taps import Tap

# The collection of the counts' tables, and the smoothing that they have.
COUNTS = "counts"
SMOOTHING = "modified_kneser_ney"
# Weights of the network and of all counts together before anything is learned: about the best pair
# of constants for a network and counts that were fitted each by itself.
NETWORK_WEIGHT, COUNT_WEIGHT = 0.6, 0.5
# Numbers on which the weights depend: of the network, and of each expert beside it.
NETWORK_FEATURES, COUNT_FEATURES = 2, 5


class Mixture(CharModel):
    """A network beside counts of n-grams: a product of experts (Hinton 2002), trained jointly.

        logits(w) = a(h) log p(w | h) + sum over n of b_n(h) log q_n(w | h)

    The counts q are of n-grams, and the last of them, if there are `words`, of what followed the
    same words (`ngram_words.WordModel`). The network p learns what they leave over. The weights are
    at first 0.6 of the network and 0.5 of all counts together, and linear in numbers that say how
    sure the experts are and how far they agree (`_features`). The parameters are the network's,
    under its own names, and of the weights `network_scale` (), `network_gate` (F,), `count_scale`
    (O,) and `count_gate` (F, O). So that the network also predicts by itself, its own loss is
    trained beside the mixture's.

    The counts are tables, not parameters. While it trains, the caller gives what counts of the rest
    of the text predict (`ngram_cross_fit`); else the tables of the whole text are read, from the
    collection "counts". Without either, as at initialisation and where a network alone is measured,
    it is the network alone.

    Attributes:
      network: any trained family.
      orders: n of each of the counts, modified Kneser-Ney, ascending.
      folds: parts of the training split, for `ngram_cross_fit`.
      auxiliary: weight of the network's own loss in what is trained.
      words: whole words of the longest context of counts of words; 0: there are none.
      temperature: divides the logits where the model does not train. It has seen the text that it
        is trained on, so it trusts itself too much on any other.
    """

    network: CharModel
    orders: tuple[int, ...]
    folds: int
    auxiliary: float = 0.0
    words: int = 0
    temperature: float = 1.0

    def setup(self) -> None:
        """Give the network's parameters the names that they have without counts."""
        nn.share_scope(self, self.network)
        ones, experts = nn.initializers.ones_init(), self.num_counts
        num_features = NETWORK_FEATURES + COUNT_FEATURES * experts
        # As gains these are 1 at first whatever the scheme; 1 is taken off a gate again.
        self.network_scale = self.param("network_scale", ones, ())
        self.network_gate = self.param("network_gate", ones, (num_features,))
        self.count_scale = self.param("count_scale", ones, (experts,))
        self.count_gate = self.param("count_gate", ones, (num_features, experts))

    def __call__(
        self,
        tokens_BT: Array,
        cache: Any = None,
        *,
        num_outputs: int | None = None,
        train: bool = False,
        count_log_probs: Array | None = None,
    ) -> tuple[Array, Any]:
        """See CharModel.

        Args:
          tokens_BT: as there.
          cache: the network's, and the last tokens.
          num_outputs: as there.
          train: as there.
          count_log_probs: (B, N, O, V), in place of what the tables have.
        """
        network_cache, histories = (None, None) if cache is None else (cache[0], cache[1:])
        logits_BNV, new_cache = self.network(
            tokens_BT, network_cache, num_outputs=num_outputs, train=train
        )
        if histories is None and self.memory == "carried":
            histories = self._no_histories(tokens_BT.shape[0])
        tables = self.variables.get(COUNTS)
        if count_log_probs is None and tables is not None:
            count_log_probs, histories = self._counted(tables, tokens_BT, histories, num_outputs)
        elif histories is not None:
            # Nothing reads the words of a text whose counts are given.
            histories = (_lengthened(histories[0], tokens_BT), *histories[1:])
        if count_log_probs is not None:
            if train and self.auxiliary:
                self.sow(AUXILIARY, "logits", logits_BNV)
            logits_BNV = self._product(logits_BNV, count_log_probs.astype(jnp.float32))
            if not train and self.temperature != 1:
                logits_BNV = logits_BNV / self.temperature
        return logits_BNV, None if histories is None else (new_cache, *histories)

    def experts(self, variables: dict[str, Any]) -> dict[str, tuple[CharModel, dict[str, Any]]]:
        """Return the experts, each a model with variables of its own.

        Args:
          variables: the mixture's, its tables included.

        Returns:
          by name: "network", "counts of n-grams" for each n, and "counts of words".
        """
        params = without_weights(variables["params"])
        others = {name: leaf for name, leaf in variables.items() if name not in ("params", COUNTS)}
        found: dict[str, tuple[CharModel, dict[str, Any]]] = {
            "network": (self.network, {"params": params, **others})
        }
        for order in self.orders:
            tables = _of_order(variables[COUNTS], order)
            found[f"counts of {order}-grams"] = self._counts(order), {"params": tables}
        if self.words:
            tables = _of_words(variables[COUNTS])
            found["counts of words"] = self._word_counts(), {"params": tables}
        return found

    def _product(self, logits_BNV: Array, counts_BNOV: Array) -> Array:
        """Weigh the experts' log-probabilities, (B, N, V) and (B, N, O, V) float32."""
        network_BNV = jax.nn.log_softmax(logits_BNV)
        features_BNF = _features(network_BNV, counts_BNOV)
        a_BN = NETWORK_WEIGHT * self.network_scale + features_BNF @ (self.network_gate - 1)
        b_O = COUNT_WEIGHT / self.num_counts * self.count_scale
        b_BNO = b_O + features_BNF @ (self.count_gate - 1)
        counted_BNV = jnp.sum(b_BNO[..., None] * counts_BNOV, axis=-2)
        return a_BN[..., None] * network_BNV + counted_BNV

    def count(self, split: Split, fold_V: np.ndarray) -> dict[str, np.ndarray]:
        """Count a text: the tables of the collection "counts", in numpy.

        Args:
          split: the text, which the tables of all n-grams share.
          fold_V: the vocabulary's letters (`word_contexts.fold_symbols`).
        """
        found = {}
        for order in self.orders:
            # The zeros of the longest contexts.
            tables = self._counts(order).fit(split, pad=self.orders[-1] - 2)["params"]
            found[_TEXT] = tables.pop(_TEXT)
            found |= {_PREFIX.format(order) + name: table for name, table in tables.items()}
        if self.words:
            of_words = self._word_counts().fit(split, fold_V)
            found |= {_OF_WORDS + name: table for name, table in of_words.items()}
        return found

    def _counted(
        self, tables: Any, tokens_BT: Array, histories: Any, num_outputs: int | None
    ) -> tuple[Array, Any]:
        """Return what the tables predict, (B, N, O, V), and the histories after the tokens."""
        experts, history_BS = [], None if histories is None else histories[0]
        for order in self.orders:
            history_BK = None
            if history_BS is not None:
                history_BK = history_BS[:, self.orders[-1] - order :]
            logs_BNV, _ = self._counts(order).apply(
                {"params": _of_order(tables, order)}, tokens_BT, history_BK, num_outputs=num_outputs
            )
            experts.append(logs_BNV)
        others: tuple[Any, ...] = ()
        if self.words:
            logs_BNV, state = self._word_counts().apply(
                {"params": _of_words(tables)}, tokens_BT, histories[1], num_outputs=num_outputs
            )
            experts.append(logs_BNV)
            others = (state,)
        if histories is not None:
            histories = (_lengthened(histories[0], tokens_BT), *others)
        return jnp.stack(experts, axis=-2), histories

    @property
    def num_counts(self) -> int:
        """O, the experts that count."""
        return len(self.orders) + bool(self.words)

    def _counts(self, order: int) -> NgramModel:
        return NgramModel(self.vocab_size, jnp.float32, order, SMOOTHING, alpha=1.0, parent=None)

    def _word_counts(self) -> WordModel:
        return WordModel(self.vocab_size, jnp.float32, self.words, parent=None)

    def _after(self, before_BL: Array) -> tuple[Any, ...]:
        """Return what the counts know after the tokens before a window; of words, none yet."""
        tokens_BL = before_BL.astype(jnp.int32)
        words: tuple[Any, ...] = ()
        if self.words:
            state = self._word_counts().init_cache(before_BL.shape[0])
            words = (state._replace(recent_BS=_lengthened(state.recent_BS, tokens_BL)),)
        return tokens_BL, *words

    def _no_histories(self, batch_size: int) -> tuple[Any, ...]:
        """Return what the counts know before a text: its last tokens, and its words."""
        history_BS = jnp.zeros((batch_size, self.orders[-1] - 2), jnp.int32)
        words = (self._word_counts().init_cache(batch_size),) if self.words else ()
        return history_BS, *words

    def init_cache(self, batch_size: int) -> Any:
        """Return the network's cache, and token 0 in the place of the last tokens."""
        return self.network.init_cache(batch_size), *self._no_histories(batch_size)

    def short_cache(self, batch_size: int, length: int) -> Any:
        """Return the network's shorter cache, and token 0 in the place of the last tokens."""
        return self.network.short_cache(batch_size, length), *self._no_histories(batch_size)

    def cache_after(self, before_BL: Array) -> Any:
        """Return the network's cache, and the last tokens, which counts alone read."""
        return self.network.init_cache(before_BL.shape[0]), *self._after(before_BL)

    def window_logits(self, tokens_BS: Array, num_outputs: int) -> Array:
        """See CharModel. Counts also read the tokens before the window."""
        tables, logs = self.variables.get(COUNTS), None
        if tables is not None:
            histories = self._after(tokens_BS[:, :-num_outputs])
            logs, _ = self._counted(tables, tokens_BS[:, -num_outputs:], histories, num_outputs)
        logits_BNV, _ = self(tokens_BS[:, -num_outputs:], count_log_probs=logs)
        return logits_BNV

    @property
    def memory(self) -> Memory:  # type: ignore[override]
        """The network's."""
        return self.network.memory

    @property
    def lookback(self) -> int:
        """The longer of the network's and the counts', where memory is finite."""
        if not isinstance(self.network, FiniteModel):
            return self.network.lookback
        return max(self.network.lookback, self.orders[-1] - 2)

    @property
    def window_lookback(self) -> int:
        """The counts', where the network reads windows alone."""
        return 0 if isinstance(self.network, FiniteModel) else self.orders[-1] - 2

    @property
    def roles(self) -> Roles:  # type: ignore[override]
        """The network's, and a gain."""
        return (*self.network.roles, ("(network|count)_(scale|gate)", Parameter(Role.GAIN)))

    def taps(self) -> tuple[Tap, ...]:
        """Describe the network's layers."""
        return self.network.taps()

    def attention_weights(self, qkv_BTE: Array, params: Any = None) -> Array:
        """See CharModel."""
        return self.network.attention_weights(qkv_BTE, params)

    def saved_values(self, length: int) -> int:
        """Estimate the network's, and arrays of the product of experts.

        Their number is that of programs compiled for a CPU, of a GRU beside one and three counts.
        """
        arrays = 8 + 3 * self.num_counts
        return self.network.saved_values(length) + arrays * length * self.vocab_size

    def activation_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """Return the network's."""
        return self.network.activation_shapes(length)

    def library_values(self, length: int) -> int:
        """Count the network's."""
        return self.network.library_values(length)

    @property
    def capacity(self) -> int | None:
        """The network's."""
        return self.network.capacity

    @property
    def has_attention(self) -> bool:  # type: ignore[override]
        """The network's."""
        return self.network.has_attention

    @property
    def n_layer(self) -> int:
        """The network's blocks or cells; 0 where it has none."""
        return getattr(self.network, "n_layer", 0)

    @property
    def forward_flops(self) -> float | None:
        """Those of the network: the counts multiply no matrices."""
        return self.network.forward_flops

    @property
    def flops_formula(self) -> str:  # type: ignore[override]
        """The network's."""
        return self.network.flops_formula

    @property
    def tabled_flops(self) -> float:
        """The network's."""
        return self.network.tabled_flops

    @property
    def matrix_weights(self) -> int:
        """The network's."""
        return self.network.matrix_weights

    @property
    def widest_product(self) -> tuple[int, int] | None:
        """The network's."""
        return self.network.widest_product

    @property
    def embedding_scale(self) -> float:
        """The network's."""
        return self.network.embedding_scale

    @property
    def widens_small_products(self) -> bool:  # type: ignore[override]
        """The network's."""
        return self.network.widens_small_products

    @property
    def auxiliary_weight(self) -> float:
        """Return the weight of the network's own loss."""
        return self.auxiliary

    @property
    def is_plain(self) -> bool:
        """No formula of memory was fitted to mixtures."""
        return False


def without_weights(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of the network alone."""
    return {name: leaf for name, leaf in params.items() if name not in _WEIGHTS}


_WEIGHTS = {f"{expert}_{kind}" for expert in ("network", "count") for kind in ("scale", "gate")}
_PREFIX, _TEXT, _OF_WORDS = "order_{}_", "text", "words_"


def _of_order(tables: Any, order: int) -> dict[str, Any]:
    """Return the tables of one of the counts, under their own names, and the text."""
    # Those of an earlier version each have a text.
    shared = {_TEXT: tables[_TEXT]} if _TEXT in tables else {}
    return {**shared, **_named(tables, _PREFIX.format(order))}


def _of_words(tables: Any) -> dict[str, Any]:
    """Return the tables of counts of words, under their own names."""
    return _named(tables, _OF_WORDS)


def _named(tables: Any, prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): table
        for name, table in tables.items()
        if name.startswith(prefix)
    }


def _lengthened(history_BS: Array, tokens_BT: Array) -> Array:
    """Return the last S tokens of a text."""
    text_BS = jnp.concatenate([history_BS, tokens_BT.astype(jnp.int32)], axis=1)
    return text_BS[:, tokens_BT.shape[1] :]


def _features(network_BNV: Array, counts_BNOV: Array) -> Array:
    """Return (B, N, 2 + 5 O) numbers on the network's distribution p and each count's q, in nats.

    Of p: log max p and its entropy. Of each q: log max q, its entropy, E_q[log p], E_p[log q] and
    log E_q[q].

    Args:
      network_BNV: log p.
      counts_BNOV: log q.
    """
    p_BNV, q_BNOV = jnp.exp(network_BNV), jnp.exp(counts_BNOV)
    of_network_BN2 = jnp.stack(
        [jnp.max(network_BNV, axis=-1), -jnp.sum(p_BNV * network_BNV, axis=-1)], axis=-1
    )
    of_counts_BNO5 = jnp.stack(
        [
            jnp.max(counts_BNOV, axis=-1),
            -jnp.sum(q_BNOV * counts_BNOV, axis=-1),
            jnp.sum(q_BNOV * network_BNV[..., None, :], axis=-1),
            jnp.sum(p_BNV[..., None, :] * counts_BNOV, axis=-1),
            jnp.log(jnp.sum(jnp.square(q_BNOV), axis=-1)),
        ],
        axis=-1,
    )
    flat_BNF = of_counts_BNO5.reshape(*of_counts_BNO5.shape[:2], -1)
    return jnp.concatenate([of_network_BN2, flat_BNF], axis=-1)
