"""One training step, pure: (state, batch) -> (state, metrics).

Letters: A micro-batches, B batch, T targets, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from charjax import parallel
from charjax.config import Config
from charjax.data.batches import Batch
from charjax.models.contract import CharModel
from charjax.training.optimizer import (
    Taken,
    clip_factor,
    is_matrix,
    keep_unless,
    make_optimizer,
    make_schedule,
)
from charjax.training.state import AdamScales, Counters, Scales, TrainState, apply_multipliers


class Metrics(NamedTuple):
    """What a step tells: float32 scalars.

    Attributes:
      loss: mean loss in nats a target, without the L2 penalty.
      grad_norm: global norm of the gradient before clipping.
      learning_rate: the rate of this step.
      targets: sum of the weights.
      skipped: 1 if the step was not finite and left the parameters alone.
      penalty: the L2 penalty, 0 where there is none.
    """

    loss: Array
    grad_norm: Array
    learning_rate: Array
    targets: Array
    skipped: Array
    penalty: Array


Step = Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]


def make_train_step(
    model: CharModel, config: Config, max_loss: Array | None = None, mesh: Mesh | None = None
) -> Step:
    """The step of a model under a config: `train_step(state, batch, key)`.

    `batch` holds accumulate_steps micro-batches, one after the other on the leading axis; `key`
    is the key of this step's dropout. A loss above `max_loss` is skipped as if it were infinite.
    Each device of the mesh takes its rows through the model; a model with statistics of the
    batch sees all of it, however it lies.
    """
    optimizer, schedule = make_optimizer(config.optim), make_schedule(config.optim)
    carries = config.data.sampling == "contiguous" and model.memory == "carried"
    pieces = config.optim.accumulate_steps

    def micro_loss(
        params: Any, scales: Any, model_state: Any, carry: Any, batch: Batch, key: Array
    ) -> Any:
        """Sum (not mean) of the weighted losses, so that pieces add up to the large batch."""
        if carries:
            fresh = model.init_cache(batch.inputs.shape[0])
            carry = jax.tree.map(lambda new, old: jnp.where(batch.restart, new, old), fresh, carry)
        (logits_BTV, new_carry), updated = model.apply(
            {"params": apply_multipliers(params, scales), **model_state},
            batch.inputs,
            carry if carries else None,
            num_outputs=batch.targets.shape[1],
            train=True,
            rngs={"dropout": key},
            mutable=list(model_state),
        )
        losses_BT = cross_entropy(logits_BTV, batch.targets)
        loss = jnp.sum(losses_BT * batch.weights)
        return loss, (updated, new_carry if carries else ())

    def accumulate(
        params: Any, scales: Any, model_state: Any, carry: Any, batch: Batch, key: Array
    ) -> tuple[tuple[Array, Array, Any], tuple[Any, Any]]:
        """Sums of losses, weights and gradients over a batch, a micro-batch at a time."""
        grad_fn = jax.value_and_grad(micro_loss, has_aux=True)
        targets = jnp.sum(batch.weights)
        if pieces == 1:
            (loss, own), grads = grad_fn(params, scales, model_state, carry, batch, key)
            return (loss, targets, grads), own

        def body(sums: Any, piece: Any) -> Any:
            loss, grads, model_state = sums
            carry, micro_batch, micro_key = piece
            (more, (model_state, carry)), slopes = grad_fn(
                params, scales, model_state, carry, micro_batch, micro_key
            )
            return (loss + more, jax.tree.map(jnp.add, grads, slopes), model_state), carry

        split = lambda x_B: x_B.reshape(pieces, -1, *x_B.shape[1:])  # noqa: E731
        carry, inputs, weighed, weights = jax.tree.map(
            split, (carry, batch.inputs, batch.targets, batch.weights)
        )
        restart = jnp.broadcast_to(batch.restart, (pieces,))
        xs = (carry, Batch(inputs, weighed, weights, restart), jax.random.split(key, pieces))
        start = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params), model_state)
        (loss, grads, model_state), carry = jax.lax.scan(body, start, xs)
        carry = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), carry)
        return (loss, targets, grads), (model_state, carry)

    def on_its_own(
        params: Any, scales: Any, carry: Any, batch: Batch, key: Array
    ) -> tuple[tuple[Array, Array, Any], Any]:
        """The same by one device of several, on its rows."""
        sums, (_, carry) = accumulate(params, scales, {}, carry, batch, parallel.device_key(key))
        return sums, carry

    def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        given = state.params, state.scales
        if mesh is None or mesh.size == 1 or state.model_state:
            sums, (model_state, carry) = accumulate(
                *given, state.model_state, state.carry, batch, key
            )
        else:
            spread = parallel.summed_over_devices(
                on_its_own, mesh, (False, False, True, True, False)
            )
            sums, carry = spread(*given, state.carry, batch, key)
            model_state = state.model_state
        loss, targets, grads = sums
        mean = scale = 1.0 / jnp.maximum(targets, 1.0)
        penalty = jnp.zeros(())
        if config.optim.l2:
            penalty, slopes = jax.value_and_grad(l2_penalty)(state.params, config.optim.l2)
            grads = jax.tree.map(lambda g, s: g * mean + s, grads, slopes)
            scale = jnp.ones(())
        grad_norm = optax.tree.norm(grads) * scale
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        if max_loss is not None:
            finite &= loss * mean <= max_loss
        rate = schedule(state.counters.step)

        # A step that is not finite leaves everything but the counters as it was, to the bit.
        taken = Taken(rate, scale * clip_factor(config.optim, grad_norm), finite)
        if isinstance(state.scales, Scales):
            taken = taken._replace(factors=state.scales.learning_rates)
        if isinstance(state.adam_scales, AdamScales):
            epsilons, decays = state.adam_scales
            taken = taken._replace(epsilons=epsilons, decays=decays)
        params, opt_state = optimizer.apply(state.params, grads, state.opt_state, taken)
        model_state, carry = keep_unless(
            finite, (model_state, carry), (state.model_state, state.carry)
        )
        skipped = 1 - finite.astype(jnp.int32)
        counters = Counters(
            step=state.counters.step + 1,
            skipped=state.counters.skipped + skipped,
            skipped_in_a_row=(state.counters.skipped_in_a_row + 1) * skipped,
        )
        metrics = Metrics(
            loss * mean, grad_norm, rate, targets, skipped.astype(jnp.float32), penalty
        )
        after = state._replace(
            params=params,
            opt_state=opt_state,
            model_state=model_state,
            carry=carry,
            counters=counters,
        )
        return after, metrics

    return train_step


def cross_entropy(logits_BTV: Array, targets_BT: Array) -> Array:
    """-log softmax(logits)[target], in nats; (B, T) float32.

    The target's logit is taken by a masked sum: a gather's derivative is a scatter, which cost
    a third of a small model's step on a CPU.
    """
    shifted_BTV = logits_BTV - jax.lax.stop_gradient(logits_BTV.max(axis=-1, keepdims=True))
    is_target_BTV = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    picked_BT = jnp.sum(jnp.where(is_target_BTV, shifted_BTV, 0.0), axis=-1)
    return jnp.log(jnp.sum(jnp.exp(shifted_BTV), axis=-1)) - picked_BT


def l2_penalty(params: Any, l2: float) -> Array:
    """l2 * the sum over the matrices of mean(W**2): as in Karpathy's first makemore lecture."""
    means = jax.tree.map(
        lambda p, counts: jnp.mean(jnp.square(p)) if counts else jnp.zeros(()),
        params,
        is_matrix(params),
    )
    return l2 * sum(jax.tree.leaves(means), start=jnp.zeros(()))
