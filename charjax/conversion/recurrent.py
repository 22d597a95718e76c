"""torch.nn.RNN, GRU and LSTM between an embedding `emb` and a readout `fc`.

Letters: V vocabulary, E width of an embedding, H width of the state.
"""

import re
from collections.abc import Iterable

from charjax.config import GRUConfig, LSTMConfig, RNNConfig
from charjax.conversion.layout import (
    Arrays,
    Inferred,
    Layout,
    Question,
    Tensor,
    axis_length,
    count_layers,
    linear_weight,
    most_common,
)
from charjax.errors import UserError

_GATES = {"rnn": 1, "gru": 3, "lstm": 4}
_KINDS = {count: kind for kind, count in _GATES.items()}
# The backward half of a bidirectional module, and the projection of a state (proj_size).
_BACKWARD = re.compile(r"(?:rnn|gru|lstm)\..*_reverse")
_PROJECTION = re.compile(r"(?:rnn|lstm)\.weight_hr_l\d+")
_CELL = re.compile(r"(rnn|gru|lstm)\.(?:weight|bias)_(?:ih|hh)_l(\d{1,4})")


def _recognises(names: Iterable[str]) -> bool:
    return any(_CELL.fullmatch(name) for name in names)


def _module(tensors: Arrays) -> str | None:
    """Return the name of the recurrent module in a state dict, None without one."""
    found = [match[1] for match in map(_CELL.fullmatch, tensors) if match]
    return max(found, key=found.count) if found else None


def _infer(tensors: Arrays) -> Inferred:
    _refuse_variants(tensors)
    module = _module(tensors)
    cells = [match for match in map(_CELL.fullmatch, tensors) if match and match[1] == module]
    n_layer = count_layers(int(match[2]) for match in cells)
    states = [f"{module}.weight_hh_l{i}" for i in range(n_layer)]
    H = most_common(
        axis_length(tensors, "fc.weight", 1), *(axis_length(tensors, name, 1) for name in states)
    )
    rows = [int(tensors[match[0]].shape[0]) for match in cells if tensors[match[0]].ndim]
    gates = most_common(
        *(count // H for count in rows if H and count % H == 0 and count // H in _KINDS)
    )
    E = most_common(
        axis_length(tensors, "emb.weight", 1), axis_length(tensors, f"{module}.weight_ih_l0", 1)
    )
    settings = {
        "kind": _KINDS.get(gates or 0),
        "n_layer": n_layer or None,
        "d_embed": E,
        "d_hidden": H,
    }
    readout = axis_length(tensors, "fc.weight", 0), axis_length(tensors, "fc.bias", 0, ndim=1)
    return Inferred(settings, most_common(axis_length(tensors, "emb.weight", 0), *readout))


def _refuse_variants(tensors: Arrays) -> None:
    """Raise a UserError for a recurrent module that no family of charjax computes."""
    backward = [name for name in tensors if _BACKWARD.fullmatch(name)]
    if backward:
        raise UserError(
            f"FILE: {backward[0]} is of a bidirectional module, which would read the characters "
            "to be predicted; only bidirectional=False can be imported"
        )
    projected = [name for name in tensors if _PROJECTION.fullmatch(name)]
    if projected:
        raise UserError(
            f"FILE: {projected[0]} is of an LSTM with a projected state (proj_size), which no "
            "family has; only proj_size=0 can be imported"
        )


def _tensors(
    config: RNNConfig | GRUConfig | LSTMConfig, vocab_size: int, tensors: Arrays
) -> list[Tensor]:
    if getattr(config, "norm", "none") != "none":
        raise UserError(
            f"model.norm: layernorm in this model, but torch.nn.{config.kind.upper()} has no norm; "
            "only a model with model.norm=none has a PyTorch original"
        )
    # Without a state dict to follow: `gru` for a GRU, else `rnn`.
    module = _module(tensors) or ("gru" if config.kind == "gru" else "rnn")
    V, E, H = vocab_size, config.d_embed, config.d_hidden
    G = _GATES[config.kind] * H
    entries = [Tensor("emb.weight", "params/token_embedding/embedding", (V, E))]
    for i in range(config.n_layer):
        here = f"params/cell_{i}"
        entries += [
            linear_weight(f"{module}.weight_ih_l{i}", f"{here}/input_kernel", G, H if i else E),
            linear_weight(f"{module}.weight_hh_l{i}", f"{here}/hidden_kernel", G, H),
            Tensor(f"{module}.bias_ih_l{i}", f"{here}/input_bias", (G,)),
            Tensor(f"{module}.bias_hh_l{i}", f"{here}/hidden_bias", (G,)),
        ]
    return [
        *entries,
        linear_weight("fc.weight", "params/readout/kernel", V, H),
        Tensor("fc.bias", "params/readout/bias", (V,)),
    ]


def _original(config: RNNConfig | GRUConfig | LSTMConfig) -> str:
    if isinstance(config, RNNConfig):
        return f"torch.nn.RNN(nonlinearity='{config.activation}') with emb and fc"
    return f"torch.nn.{config.kind.upper()} with emb and fc"


RECURRENT = Layout(
    title="a torch.nn.RNN, GRU or LSTM with emb and fc",
    recognises=_recognises,
    infer=_infer,
    tensors=_tensors,
    original=_original,
    assumptions=lambda config: "a text starts from a state of zeros",
    questions={
        "activation": Question(
            "tanh (torch.nn.RNN's default) or relu (nonlinearity='relu')", placeholder="tanh"
        ),
    },
)
