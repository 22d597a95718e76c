"""Equal blocks in training: in a loop that is compiled once, or each computed again for gradients.

Letters: B batch, T time, N outputs, D width of the residual stream.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from charjax.ops.dropout import MASK
from charjax.ops.long_attention import ATTENDED

Remat = Literal["none", "block", "attention"]
# From the stream (B, T, D), a block's parameters, its dropout key and N to the stream (B, N, D).
Compute = Callable[[Array, Any, Array | None, int], Array]


def scan_blocks(
    compute: Compute,
    x_BTD: Array,
    params: Sequence[Any],
    keys: Sequence[Array | None],
    remat: Remat,
) -> Array:
    """Compute blocks one after the other in a loop over their stacked parameters.

    For the backward pass products and masks are saved, and the work between them is done again: all
    that a loop saves is written to memory, where a compiler fuses much of it away in unrolled
    blocks. With remat = "block" only the stream is saved.

    Returns:
      the stream (B, T, D) after the last block.
    """
    T, policies = x_BTD.shape[1], jax.checkpoint_policies
    saved = policies.save_from_both_policies(
        policies.dots_saveable, policies.save_only_these_names(MASK, ATTENDED)
    )
    if remat == "block":
        saved = policies.nothing_saveable

    @functools.partial(jax.checkpoint, prevent_cse=False, policy=saved)
    def body(x_BTD: Array, layer: tuple[Any, Array | None]) -> tuple[Array, None]:
        return compute(x_BTD, *layer, T), None

    stacked = jax.tree.map(lambda *each: jnp.stack(each), *params)
    drawn = [key for key in keys if key is not None]
    x_BTD, _ = lax.scan(body, x_BTD, (stacked, jnp.stack(drawn) if drawn else None))
    return x_BTD


def recomputed_blocks(
    compute: Compute,
    x_BTD: Array,
    params: Sequence[Any],
    keys: Sequence[Array | None],
    num_outputs: int,
) -> Array:
    """Compute blocks one after the other, and each of them again in the backward pass.

    Returns:
      the stream (B, N, D) after the last block.
    """
    # Traced once for all blocks of one shape.
    again = jax.checkpoint(jax.jit(compute, static_argnums=3), static_argnums=(3,))
    for i, (layer, key) in enumerate(zip(params, keys, strict=True)):
        x_BTD = again(x_BTD, layer, key, num_outputs if i == len(params) - 1 else x_BTD.shape[1])
    return x_BTD
