"""The feed-forward network over a fixed window of characters.

Letters: B batch, T time, N outputs, S history, C context length, E width of an embedding,
H width of a hidden layer, V vocabulary.
"""

import itertools
from typing import ClassVar, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from charjax.models.contract import FiniteModel
from charjax.models.layers import ENDS, Embedding, Readout, hidden_layer, product_dtype
from charjax.models.roles import Parameter, Role, Roles, dense
from charjax.models.taps import LOGITS, Tap, input_of, layer_of, output_of, tap_at


class MLP(FiniteModel):
    """The neural probabilistic language model (Bengio et al. 2003), without direct connections.

    The embeddings of the last C characters side by side go through hidden layers of tanh:

        x_t = [E[c_{t-C+1}], ..., E[c_t]]     h_t = tanh(x_t W1 + b1)     logits_t = h_t W2 + b2

    With norm = "batch" each hidden layer is tanh(BN(x W)), where BN (Ioffe and Szegedy 2015)
    brings each unit to mean 0 and variance 1 over batch and positions, then scales it and adds
    a bias, for which the layer gives up its own.

    With `blank` a symbol of its own stands before a text, as in makemore.py: the last row of the
    table of embeddings. The tokens hold 0 there, which is also the boundary that every line begins
    with; so all that comes before the last boundary in a window is the blank.

    Attributes:
      context_length: C; before the start of a text stands token 0, or the blank.
      d_embed: width of an embedding.
      hidden: widths of the hidden layers.
      norm: "none" or "batch".
      blank: whether the blank is a symbol of its own; for texts of lines.
      activation: "tanh", or in its place "relu" or one of the user's own.
    """

    context_length: int
    d_embed: int
    hidden: tuple[int, ...]
    norm: Literal["none", "batch"]
    blank: bool
    activation: str = "tanh"
    widens_small_products: ClassVar[bool] = True
    flops_formula: ClassVar[str] = "3 x 2 (C E H + H H' + ... + H V)"

    @property
    def roles(self) -> Roles:  # type: ignore[override]
        """The parameters' roles; a scheme may draw by the activation."""
        return (
            *ENDS,
            (
                "hidden_0/kernel",
                dense(activation=self.activation, reads_embedding=True, places=self.context_length),
            ),
            (r"hidden_[1-9]\d*/kernel", dense(activation=self.activation)),
            (r"(hidden|norm)_\d+/bias", Parameter(Role.BIAS)),
            (r"norm_\d+/scale", Parameter(Role.GAIN)),
        )

    @property
    def lookback(self) -> int:
        """C - 1."""
        return self.context_length - 1

    @property
    def forward_flops(self) -> float:
        """2 (C E H + H H' + ... + H V)."""
        widths = [self.context_length * self.d_embed, *self.hidden, self.vocab_size]
        return 2.0 * sum(a * b for a, b in itertools.pairwise(widths))

    @property
    def single_layer_sizes(self) -> tuple[int, int, int] | None:
        """C, E and the one H, without norm and blank."""
        is_plain = self.norm == "none" and not self.blank and self.activation == "tanh"
        if len(self.hidden) != 1 or not is_plain or jnp.dtype(self.dtype) != jnp.float32:
            return None
        return self.context_length, self.d_embed, self.hidden[0]

    def saved_values(self, length: int) -> int:
        """Estimate 6 numbers per hidden unit, for one target per window."""
        return 6 * sum(self.hidden)

    def activation_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """Return the vectors side by side, all units, those of the widest layer, and the logits."""
        return {
            "vectors": (length, self.context_length * self.d_embed),
            "units": (length, sum(self.hidden)),
            "layer": (length, max(self.hidden, default=0)),
            "logits": (length, self.vocab_size),
        }

    def taps(self) -> tuple[Tap, ...]:
        """Describe embedding, hidden layers and readout.

        The embedding's output is the vectors side by side, as the first hidden layer reads them.
        """
        names = [f"hidden_{i}" for i in range(len(self.hidden))]
        readers = [*names, "readout"]
        taps = [tap_at(layer_of(self.roles, "token_embedding/embedding"), input_of(readers[0]))]
        for i, name in enumerate(names):
            norm = f"norm_{i}" if self.norm == "batch" else None
            layer = layer_of(self.roles, f"{name}/kernel", reads="previous", norm=norm)
            taps.append(tap_at(layer, input_of(readers[i + 1]), output_of(norm or name)))
        readout = layer_of(self.roles, "readout/kernel", reads="previous")
        return (*taps, tap_at(readout, LOGITS))

    @nn.compact
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
        N = history_BS.shape[1] - self.lookback
        symbols = self.vocab_size + self.blank
        embedding = Embedding(symbols, self.d_embed, name="token_embedding")
        if self.blank:
            parts = [embedding(tokens_BN) for tokens_BN in self._blanked(history_BS, N)]
        else:
            # Each token is looked up once, not once for every window that it is in.
            x_BSE = embedding(history_BS)
            parts = [x_BSE[:, i : i + N] for i in range(self.context_length)]
        h_BNH = jnp.concatenate(parts, axis=-1)
        for i, width in enumerate(self.hidden):
            names = (f"hidden_{i}", f"norm_{i}")
            h_BNH = hidden_layer(
                h_BNH, width, self.dtype, self.norm, names, self.activation, train=train
            )
        dtype = product_dtype(h_BNH, self.vocab_size, self.dtype)
        readout = Readout(self.vocab_size, bias=True, dtype=dtype, name="readout")
        return readout(h_BNH), cache

    def _blanked(self, history_BS: Array, N: int) -> list[Array]:
        """Return the C tokens (B, N) of each output's window, the oldest first, with blanks."""
        tokens, is_before_BN = [], jnp.zeros((history_BS.shape[0], N), bool)
        for i in reversed(range(self.context_length)):
            token_BN = history_BS[:, i : i + N]
            tokens.append(jnp.where(is_before_BN, self.vocab_size, token_BN))
            is_before_BN |= token_BN == 0
        return tokens[::-1]
