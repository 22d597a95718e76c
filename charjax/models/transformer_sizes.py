"""The operations and the memory of a transformer, by formula.

Letters: L blocks, D width of the residual stream, H heads, K width of a head, J heads of keys and
values, F width within the MLP, T context, W window, V vocabulary.
"""

from typing import Any

import jax.numpy as jnp

from charjax.models import attention
from charjax.models.attention import GATES
from charjax.models.transformer_packing import KernelForm
from charjax.ops.choice import LONGEST_UNROLLED


def mlp_width(model: Any) -> int:
    """Return F: `d_ff`, or what follows from D."""
    return model.d_ff or attention.mlp_width(model.d_model, model.activation)


def block_weights(model: Any) -> int:
    """Count the weights of a block's kernels: 12 D D in GPT-2.

    Attention has D (D + 2 J K) and D D, the MLP 2 D F, or 3 D F if it is gated.
    """
    D, H = model.d_model, model.n_head
    J, K = model.n_kv_head or H, D // H
    kernels = 3 if model.activation in GATES else 2
    return int(D * (D + 2 * J * K) + D * D + kernels * D * mlp_width(model))


def forward_flops(model: Any) -> float:
    """Count 2 (L block_weights + D V) + 4 L min(T, W) D."""
    L, D, T = model.n_layer, model.d_model, model.context_length
    seen = min(T, model.window or T)
    return 2.0 * (L * block_weights(model) + D * model.vocab_size) + 4.0 * L * seen * D


def is_plain(model: Any) -> bool:
    """Return true if no option of attention, MLP and norms differs from GPT-2's."""
    plain_heads = model.n_kv_head in (None, model.n_head)
    plain_scores = not (model.qk_norm or model.window or model.attn_softcap)
    plain_scores &= model.attention_scale == "inverse_sqrt"
    plain_ends = model.norm == "layernorm" and not model.final_softcap
    plain_mlp = model.activation in ("gelu", "gelu_tanh") and mlp_width(model) == 4 * model.d_model
    return plain_heads and plain_scores and plain_ends and plain_mlp


def kernel_form(model: Any) -> KernelForm | None:
    """Return the sizes of a plain float32 model with learned positions, else None."""
    is_gpt2 = is_plain(model) and model.residual == "pre_norm" and model.positions == "learned"
    if not is_gpt2 or model.scale_embeddings or model.dtype != jnp.float32:
        return None
    return KernelForm(
        vocabulary=model.vocab_size,
        context=model.context_length,
        width=model.d_model,
        heads=model.n_head,
        layers=model.n_layer,
        hidden=mlp_width(model),
        tanh=model.activation == "gelu_tanh",
        epsilon=model.norm_epsilon,
    )


def saved_values(model: Any, length: int) -> int:
    """Estimate the numbers that a window saves for the backward pass.

    As XLA's figures for a CPU were (tests/performance/test_memory.py): 16 per unit of the stream
    and 2 per unit within the MLP, which is 24 D in GPT-2's block; 4 per unit of a gated MLP;
    normalised queries and keys are 6 more; where scores are capped, they and the weights of all
    keys are saved, but not by tiles. RMSNorm, fewer heads of keys, windows and rotary positions
    change nothing. A loop saves the products of every block, and remat = "block" the stream, beside
    what one block holds.
    """
    L, D = model.n_layer, model.d_model
    gates = 2 if model.activation in GATES else 1
    stream, units = (16 + 6 * model.qk_norm) * D, 2 * gates * mlp_width(model)
    saves_scores = model.attn_softcap and length <= LONGEST_UNROLLED
    scores = 2 * model.n_head * length if saves_scores else 0
    capped = model.vocab_size * length if model.final_softcap else 0
    # By whether the blocks are a loop: numbers per position of every block, and of the one at work.
    is_loop, one = model.scan_layers == "true" and L > 1, stream + units + scores
    if model.remat == "block":
        every, working = (D, 1.5 * one) if is_loop else (5 * D, 1.05 * one)
    elif is_loop:
        every, working = 6 * D + gates * mlp_width(model), 1.45 * one
    elif model.remat == "attention":
        every, working = one - scores, scores
    else:
        every, working = one, 0
    return int(length * (L * every + working) + capped)


def activation_shapes(model: Any, length: int) -> dict[str, tuple[int, ...]]:
    """Return the stream and the attention's weights in all blocks, and the logits."""
    L, T, D = model.n_layer, length, model.d_model
    # Of what is computed again, a program holds one block's at once.
    stream_blocks = 1 if model.remat == "block" else L
    weights_blocks = L if model.remat == "none" else 1
    return {
        "stream": (stream_blocks, T, D),
        **({"inputs": (L, T, D)} if model.remat == "block" else {}),
        "weights": (weights_blocks, model.n_head, T, T),
        # The derivative of one block's scores, whatever the number of blocks.
        "block": (model.n_head, T, T),
        "logits": (T, model.vocab_size),
    }
