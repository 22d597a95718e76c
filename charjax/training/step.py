"""One training step, a pure function: (state, batch, key) -> (state, metrics).

Letters: B batch, T targets, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from charjax import parallel
from charjax.config import Config, TrainConfig
from charjax.data.batches import Batch
from charjax.models.contract import AUXILIARY, CharModel
from charjax.training.optimizer import (
    clip_factor,
    keep_unless,
    make_optimizer,
    make_schedule,
)
from charjax.training.optimizers.stages import is_matrix
from charjax.training.state import TrainState, apply_multipliers, optimizer_factors


class Metrics(NamedTuple):
    """Results of a step; float32 scalars.

    Attributes:
      loss: mean cross-entropy in nats per target, without the L2 penalty, and without smoothed
        labels and the z-loss, which only the gradient has.
      grad_norm: global norm of the gradient before clipping.
      learning_rate: the rate of this step.
      targets: sum of the weights.
      skipped: 1 if the step was not finite and left the parameters alone.
      penalty: the L2 penalty, or 0.
    """

    loss: Array
    grad_norm: Array
    learning_rate: Array
    targets: Array
    skipped: Array
    penalty: Array


class Sums(NamedTuple):
    """Sums over the targets of a batch; those of its parts add up to those of the whole.

    Attributes:
      loss: weighted losses.
      targets: weights.
      grads: gradients of `loss`.
    """

    loss: Array
    targets: Array
    grads: Any


Step = Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]
# (params, scales, model_state, carry, batch, key) -> sums, (model_state, carry)
Gradients = Callable[..., tuple[Sums, tuple[Any, Any]]]
# (logits (B, T, V), targets (B, T)) -> what is trained, (B, T)
Objective = Callable[[Array, Array], Array]


def make_train_step(
    model: CharModel, config: Config, max_loss: Array | None = None, mesh: Mesh | None = None
) -> Step:
    """Return the step of a model under a config: `train_step(state, batch, key)`.

    `batch` holds accumulate_steps micro-batches, one after the other on the leading axis; `key`
    is the key of this step's dropout. A loss above `max_loss` is skipped as if it were infinite.
    Each device of the mesh takes its rows through the model, unless the model has statistics of
    the batch, which need all of it.
    """
    optimizer, schedule = make_optimizer(config.optim, model.roles), make_schedule(config.optim)
    carries = config.data.sampling == "contiguous" and model.memory == "carried"
    of_batch = gradients_of(model, carries, make_objective(config.train))

    def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        gather = parallel.constrain_whole if state.model_state else parallel.gather_whole
        gradients = accumulated(gather(of_batch, state.params, mesh), config.optim.accumulate_steps)
        divided = parallel.data_parallel(gradients, None if state.model_state else mesh)
        sums, (model_state, carry) = divided(
            state.params, state.scales, state.model_state, state.carry, batch, key
        )
        scale = 1.0 / jnp.maximum(sums.targets, 1.0)
        loss, grads, penalty = sums.loss * scale, sums.grads, jnp.zeros(())
        if config.optim.l2:
            penalty, l2_grads = jax.value_and_grad(l2_penalty)(state.params, config.optim.l2)
            grads = jax.tree.map(lambda g, p: g * scale + p, grads, l2_grads)
            scale = jnp.ones(())
        grad_norm = clipped_norm = optax.tree.norm(grads) * scale
        if config.optim.clip_value:
            grads = clip_elements(grads, scale, config.optim.clip_value)
            clipped_norm, scale = optax.tree.norm(grads), jnp.ones(())
        learning_rate = schedule(state.counters.step)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        if max_loss is not None:
            finite &= loss <= max_loss

        updates, opt_state = optimizer.update(
            grads,
            state.opt_state,
            state.params,
            learning_rate=learning_rate,
            scale=scale * clip_factor(config.optim, clipped_norm),
            finite=finite,
            **optimizer_factors(state),
        )
        # A step that is not finite leaves everything but the counters as it was, to the bit.
        params = optax.apply_updates(state.params, updates)
        new = params, model_state, carry, _averaged(config, state, params)
        old = state.params, state.model_state, state.carry, state.average
        params, model_state, carry, average = keep_unless(finite, new, old)
        skipped = 1.0 - finite.astype(jnp.float32)
        metrics = Metrics(loss, grad_norm, learning_rate, sums.targets, skipped, penalty)
        counters, factors = state.counters.after(finite), (state.scales, state.adam_scales)
        parts = params, opt_state, model_state, carry, counters, *factors, average
        after = TrainState(*parts, state.tables)
        return after, metrics

    return train_step


def _averaged(config: Config, state: TrainState, params: Any) -> Any:
    """Return the moving average with the parameters after one more step; () if none is kept.

    Its decay grows with the steps up to optim.ema, as in TensorFlow's ExponentialMovingAverage with
    num_updates: the first steps would otherwise count for long.
    """
    if not config.optim.keeps_ema:
        return ()
    steps = state.counters.step.astype(jnp.float32)
    decay = jnp.minimum(config.optim.ema, (1.0 + steps) / (10.0 + steps))
    return optax.incremental_update(params, state.average, 1.0 - decay)


def gradients_of(model: CharModel, carries: bool, objective: Objective | None = None) -> Gradients:
    """Return the function from parameters and a batch to the sums of losses and gradients.

    Sums, not means, so that micro-batches add up to the large batch. `carries`: the recurrent
    state goes on from the batch before, except where the batch restarts. `objective`: what is
    differentiated, if it is not the loss.
    """

    def loss_fn(
        params: Any, scales: Any, model_state: Any, carry: Any, batch: Batch, key: Array
    ) -> tuple[Array, tuple[Any, Any, Array]]:
        if carries:
            fresh = model.init_cache(batch.inputs.shape[0])
            carry = jax.tree.map(lambda new, old: jnp.where(batch.restart, new, old), fresh, carry)
        # A model without counts has no such argument.
        counts = {"count_log_probs": batch.count_log_probs}
        sown = [AUXILIARY] if model.auxiliary_weight else []
        (logits_BTV, carry), collected = model.apply(
            {"params": apply_multipliers(params, scales), **model_state},
            batch.inputs,
            carry if carries else None,
            num_outputs=batch.targets.shape[1],
            train=True,
            rngs={"dropout": key},
            mutable=[*model_state, *sown],
            **({} if batch.count_log_probs is None else counts),
        )
        loss = jnp.sum(cross_entropy(logits_BTV, batch.targets) * batch.weights)
        model_state = {name: tree for name, tree in collected.items() if name != AUXILIARY}
        trained = loss
        if objective is not None:
            trained = jnp.sum(objective(logits_BTV, batch.targets) * batch.weights)
        for other_BTV in jax.tree.leaves(collected.get(AUXILIARY, {})):
            losses_BT = (objective or cross_entropy)(other_BTV, batch.targets)
            trained += model.auxiliary_weight * jnp.sum(losses_BT * batch.weights)
        return trained, (model_state, carry if carries else (), loss)

    def gradients(
        params: Any, scales: Any, model_state: Any, carry: Any, batch: Batch, key: Array
    ) -> tuple[Sums, tuple[Any, Any]]:
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (_, (*aux, loss)), grads = grad_fn(params, scales, model_state, carry, batch, key)
        return Sums(loss, jnp.sum(batch.weights), grads), (aux[0], aux[1])

    return gradients


def accumulated(gradients: Gradients, steps: int) -> Gradients:
    """Return `gradients` computed over `steps` micro-batches, one after the other."""
    if steps == 1:
        return gradients

    def accumulate(
        params: Any, scales: Any, model_state: Any, carry: Any, batch: Batch, key: Array
    ) -> tuple[Sums, tuple[Any, Any]]:
        def body(loop: tuple[Sums, Any], micro: Any) -> tuple[tuple[Sums, Any], Any]:
            sums, model_state = loop
            new, (model_state, carry) = gradients(params, scales, model_state, *micro)
            return (jax.tree.map(jnp.add, sums, new), model_state), carry

        every = jnp.broadcast_to(batch.restart, (steps,))
        rows = (carry, batch._replace(restart=every))
        carry, batches = jax.tree.map(lambda x: x.reshape(steps, -1, *x.shape[1:]), rows)
        batches = batches._replace(restart=every)
        zeros = Sums(jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        (sums, model_state), carry = jax.lax.scan(
            body, (zeros, model_state), (carry, batches, jax.random.split(key, steps))
        )
        return sums, (model_state, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), carry))

    return accumulate


def cross_entropy(logits_BTV: Array, targets_BT: Array) -> Array:
    """Return -log softmax(logits)[target] in nats, (B, T) float32.

    The target's logit is selected by a masked sum: a gather's derivative is a scatter, which cost
    a third of a small model's step on a CPU.
    """
    shifted_BTV = logits_BTV - jax.lax.stop_gradient(logits_BTV.max(axis=-1, keepdims=True))
    is_target_BTV = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    picked_BT = jnp.sum(jnp.where(is_target_BTV, shifted_BTV, 0.0), axis=-1)
    return jnp.log(jnp.sum(jnp.exp(shifted_BTV), axis=-1)) - picked_BT


def make_objective(config: TrainConfig) -> Objective | None:
    """Return what is trained; None for the cross-entropy alone.

    Smoothed labels (Szegedy et al. 2016, arXiv:1512.00567): the target's probability is
    1 - e + e / V and that of every other symbol e / V, as torch.nn.CrossEntropyLoss has it. The
    z-loss (PaLM, Chowdhery et al. 2022, arXiv:2204.02311) adds z_loss * log(Z)^2 for the softmax's
    normaliser Z, so that logits do not drift.
    """
    smoothing, z_loss = config.label_smoothing, config.z_loss
    if not smoothing and not z_loss:
        return None

    def objective(logits_BTV: Array, targets_BT: Array) -> Array:
        losses_BT = cross_entropy(logits_BTV, targets_BT)
        log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
        uniform_BT = log_z_BT - jnp.mean(logits_BTV, axis=-1)
        losses_BT += smoothing * (uniform_BT - losses_BT)
        return losses_BT + z_loss * jnp.square(log_z_BT)

    return objective


def clip_elements(grads: Any, scale: Array, bound: float) -> Any:
    """Return the gradients times `scale`, each element cut to [-bound, bound]."""
    return jax.tree.map(lambda g: jnp.clip(g * scale, -bound, bound), grads)


def l2_penalty(params: Any, l2: float) -> Array:
    """Return l2 * the sum over matrices of mean(W**2), as in the first makemore lecture."""
    means = jax.tree.map(
        lambda p, penalised: jnp.mean(jnp.square(p)) if penalised else jnp.zeros(()),
        params,
        is_matrix(params),
    )
    return l2 * sum(jax.tree.leaves(means), start=jnp.zeros(()))
