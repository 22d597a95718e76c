"""The options of today's transformers, and layer-norm cells, as PyTorch writes them.

Functions of charjax's parameters, held as tensors in nested dictionaries.

Letters: B batch, T time, D width, H heads, J heads of keys and values, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from charjax.config import GRUConfig, LSTMConfig, MinLSTMConfig, TransformerConfig

Params = dict[str, Any]
_MLPS = {
    "swiglu": lambda gate, up: F.silu(gate) * up,
    "geglu": lambda gate, up: F.gelu(gate) * up,
    "relu2": lambda up: F.relu(up).square(),
    "gelu": F.gelu,
}


def transformer(config: TransformerConfig, params: Params, tokens_BT: Tensor) -> Tensor:
    """Compute the logits (B, T, V) of a model with pre-norm residual connections."""
    T = tokens_BT.shape[1]
    table_VD = params["token_embedding"]["embedding"]
    x_BTD = table_VD[tokens_BT]
    if config.positions == "learned":
        x_BTD = x_BTD + params["position_embedding"]["embedding"][:T]
    for i in range(config.n_layer):
        block = params[f"block_{i}"]
        x_BTD = x_BTD + _attention(
            config, block["attention"], _norm(config, block["norm_1"], x_BTD)
        )
        p, y_BTD = block["mlp"], _norm(config, block["norm_2"], x_BTD)
        names = ("gate", "up") if "gate" in p else ("up",)
        units = _MLPS[config.activation](*(_linear(p[name], y_BTD) for name in names))
        x_BTD = x_BTD + _linear(p["down"], units)
    x_BTD = _norm(config, params["final_norm"], x_BTD)
    tied = config.tie_embeddings
    logits = x_BTD @ (table_VD.T if tied else params["readout"]["kernel"])
    cap = config.final_softcap
    return cap * torch.tanh(logits / cap) if cap else logits


def _attention(config: TransformerConfig, p: Params, x_BTD: Tensor) -> Tensor:
    B, T, D = x_BTD.shape
    H = config.n_head
    J, K = config.n_kv_head or H, D // H
    if "qkv" in p:
        parts = _linear(p["qkv"], x_BTD).split(D, dim=-1)
    else:
        parts = (_linear(p["query"], x_BTD), *_linear(p["key_value"], x_BTD).split(J * K, dim=-1))
    q, k, v = (y.view(B, T, -1, K).transpose(1, 2) for y in parts)
    if config.qk_norm:
        q, k = _norm(config, p["query_norm"], q), _norm(config, p["key_norm"], k)
    if config.positions == "rotary":
        q, k = _rotated(q), _rotated(k)
    seen_TT = torch.ones(T, T).tril().bool()
    if config.window:
        seen_TT &= torch.ones(T, T).triu(1 - config.window).bool()
    if config.attn_softcap:
        # F.scaled_dot_product_attention has no cap.
        k, v = (y.repeat_interleave(H // J, dim=1) for y in (k, v))
        scores = q @ k.transpose(-1, -2) / K**0.5
        scores = config.attn_softcap * torch.tanh(scores / config.attn_softcap)
        o = scores.masked_fill(~seen_TT, -torch.inf).softmax(-1) @ v
    else:
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=seen_TT, enable_gqa=J != H)
    return _linear(p["out"], o.transpose(1, 2).reshape(B, T, D))


def _rotated(x_BHTK: Tensor) -> Tensor:
    T, K = x_BHTK.shape[-2:]
    rates = 10000.0 ** (-torch.arange(0, K, 2) / K)
    angles = torch.arange(T)[:, None] * rates
    turned = torch.polar(torch.ones_like(angles), angles)
    x = torch.complex(x_BHTK[..., : K // 2], x_BHTK[..., K // 2 :]) * turned
    return torch.cat([x.real, x.imag], dim=-1)


def _norm(config: TransformerConfig, p: Params, x: Tensor) -> Tensor:
    if config.norm == "layernorm":
        return F.layer_norm(x, p["scale"].shape, p["scale"], p.get("bias"), 1e-5)
    norm = torch.nn.RMSNorm(x.shape[-1], eps=1e-5, elementwise_affine=False)
    return norm(x) * p["scale"]


def _linear(p: Params, x: Tensor) -> Tensor:
    return F.linear(x, p["kernel"].T, p.get("bias"))


def recurrent(
    config: GRUConfig | LSTMConfig | MinLSTMConfig, params: Params, tokens_BT: Tensor
) -> Tensor:
    """Compute the logits (B, T, V), one time after the other."""
    cells = {"gru": _gru, "lstm": _lstm, "minlstm": _min_lstm}
    x_TBD = params["token_embedding"]["embedding"][tokens_BT.T]
    H = config.d_hidden
    for i in range(config.n_layer):
        h = c = torch.zeros(tokens_BT.shape[0], H)
        outputs = []
        for x in x_TBD:
            h, c = cells[config.kind](params[f"cell_{i}"], x, h, c, H)
            outputs.append(h)
        x_TBD = torch.stack(outputs)
    return _linear(params["readout"], x_TBD.transpose(0, 1))


def _normed(p: Params, name: str, x: Tensor, groups: tuple[int, ...], H: int) -> Tensor:
    """Normalise the product of each group of gates with the weight and bias of nn.LayerNorm."""
    product, parts, end = x @ p[f"{name}_kernel"], [], 0
    for gates in groups:
        part, end = slice(end, end + gates * H), end + gates * H
        weight, bias = p[f"{name}_scale"][part], p[f"{name}_bias"][part]
        parts.append(F.layer_norm(product[:, part], (gates * H,), weight, bias, 1e-5))
    return torch.cat(parts, -1)


def _gru(p: Params, x: Tensor, h: Tensor, c: Tensor, H: int) -> tuple[Tensor, Tensor]:
    x_r, x_z, x_n = _normed(p, "input", x, (2, 1), H).chunk(3, -1)
    a_r, a_z, a_n = _normed(p, "hidden", h, (2, 1), H).chunk(3, -1)
    z = torch.sigmoid(x_z + a_z)
    return (1 - z) * torch.tanh(x_n + torch.sigmoid(x_r + a_r) * a_n) + z * h, c


def _lstm(p: Params, x: Tensor, h: Tensor, c: Tensor, H: int) -> tuple[Tensor, Tensor]:
    gates = _normed(p, "input", x, (4,), H) + _normed(p, "hidden", h, (4,), H)
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    norm = p["cell_norm"]
    return torch.sigmoid(o) * torch.tanh(
        F.layer_norm(c, (H,), norm["scale"], norm["bias"], 1e-5)
    ), c


def _min_lstm(p: Params, x: Tensor, h: Tensor, c: Tensor, H: int) -> tuple[Tensor, Tensor]:
    f, i, n = _linear(p["gates"], x).chunk(3, -1)
    f, i = torch.sigmoid(f), torch.sigmoid(i)
    return (f * h + i * n) / (f + i), c
