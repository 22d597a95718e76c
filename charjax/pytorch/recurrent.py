"""A recurrent network of torch.nn between an embedding and a readout.

Letters: B batch, T time, V vocabulary.
"""

from torch import Tensor, nn

_MODULES = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class RecurrentModel(nn.Module):
    """Tokens (B, T) to logits (B, T, V) and the state after them.

    The recurrent module is called `gru` in a GRU, else `rnn`; further options are its own, as an
    RNN's `nonlinearity`.
    """

    def __init__(
        self,
        kind: str,
        vocab_size: int,
        d_embed: int,
        d_hidden: int,
        n_layer: int = 1,
        dropout: float = 0.0,
        **options: str,
    ):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, d_embed)
        between = dropout if n_layer > 1 else 0.0
        cell = _MODULES[kind](
            d_embed, d_hidden, n_layer, batch_first=True, dropout=between, **options
        )
        self.module_name = "gru" if kind == "gru" else "rnn"
        self.add_module(self.module_name, cell)
        # torch.nn drops between layers only; the last layer's output is dropped here.
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(d_hidden, vocab_size)

    def forward(self, idx: Tensor, state: object = None) -> tuple[Tensor, object]:
        """Compute the logits of the character after each token."""
        h, state = getattr(self, self.module_name)(self.emb(idx), state)
        return self.fc(self.drop(h)), state
