"""A GRU written in several ways: microseconds of a time step of a layer, forward and backward.

    python -m benchmarks.gru [--devices cpu,gpu] [--quick] [--out FILE.json]

From a plain scan over fused gates and a hoisted projection to charjax's op, whose derivative is
written by hand; and the model of charjax with whatever version of its hot primitives this device
has. All compute the loss of one model and its gradients, from the same weights and batch: the
losses agree to 1e-5, and the gradients to 1e-4, before the clock starts. No optimizer is included.

Letters: T time, B batch, D width of the input, H width of the state, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from benchmarks.bars import bars
from benchmarks.harness import Benchmark, start
from benchmarks.section import Section
from charjax.ops.gates import gru_gates
from charjax.ops.recurrence import recurrence
from charjax.parallel import first_copy
from charjax.performance.flops import flops_formula, train_flops
from charjax.performance.show import Column, Row, percent, spread
from charjax.performance.timing import Slice, paired_ratio, summary, take_turns
from charjax.training.session import first_state
from charjax.training.state import variables_of
from charjax.training.step import cross_entropy

# Batch, time, width (of embedding and state), layers.
SHAPES = {
    "cpu": ((128, 128, 256, 2), (1, 128, 256, 1)),
    "gpu": ((256, 256, 512, 1), (128, 128, 256, 2)),
}
_QUICK = ((8, 16, 32, 1),)


class Weights(NamedTuple):
    """Weights of a layer: (D, 3H), (H, 3H), (3H,) and (3H,), the gates in the order r, z, n."""

    input_kernel: Array
    hidden_kernel: Array
    input_bias: Array
    hidden_bias: Array


def plain(x_TBD: Array, weights: Weights) -> Array:
    """Compute the equations as they are written: six products per step."""
    wi, wh, bi, bh = (jnp.split(w, 3, axis=-1) for w in weights)

    def step(h: Array, x: Array) -> tuple[Array, Array]:
        r = jax.nn.sigmoid(x @ wi[0] + bi[0] + h @ wh[0] + bh[0])
        z = jax.nn.sigmoid(x @ wi[1] + bi[1] + h @ wh[1] + bh[1])
        n = jnp.tanh(x @ wi[2] + bi[2] + r * (h @ wh[2] + bh[2]))
        h = (1 - z) * n + z * h
        return h, h

    return lax.scan(step, _zero(x_TBD, weights), x_TBD)[1]


def fused(x_TBD: Array, weights: Weights) -> Array:
    """Multiply by all gates' weights at once: two products per step."""

    def step(h: Array, x: Array) -> tuple[Array, Array]:
        x_gates = x @ weights.input_kernel + weights.input_bias
        h = _update(x_gates, h @ weights.hidden_kernel + weights.hidden_bias, h)
        return h, h

    return lax.scan(step, _zero(x_TBD, weights), x_TBD)[1]


def hoisted(x_TBD: Array, weights: Weights) -> Array:
    """Multiply the inputs of all times before the scan: one product per step."""

    def step(h: Array, x_gates: Array) -> tuple[Array, Array]:
        h = _update(x_gates, h @ weights.hidden_kernel + weights.hidden_bias, h)
        return h, h

    return lax.scan(step, _zero(x_TBD, weights), _project(x_TBD, weights))[1]


def derived(x_TBD: Array, weights: Weights) -> Array:
    """Apply charjax's op, which computes the weights' gradient by one product."""
    x_TBG, h0 = _project(x_TBD, weights), _zero(x_TBD, weights)
    kernel, bias = weights.hidden_kernel, weights.hidden_bias
    return recurrence(gru_gates, x_TBD.dtype, (h0,), x_TBG, None, kernel, bias)[1]


def _zero(x_TBD: Array, weights: Weights) -> Array:
    return jnp.zeros((x_TBD.shape[1], weights.hidden_kernel.shape[0]), x_TBD.dtype)


def _project(x_TBD: Array, weights: Weights) -> Array:
    T, B, D = x_TBD.shape
    flat = x_TBD.reshape(T * B, D) @ weights.input_kernel + weights.input_bias
    return flat.reshape(T, B, -1)


def _update(x_gates: Array, a_gates: Array, h: Array) -> Array:
    (x_r, x_z, x_n), (a_r, a_z, a_n) = (jnp.split(g, 3, axis=-1) for g in (x_gates, a_gates))
    r, z = jax.nn.sigmoid(x_r + a_r), jax.nn.sigmoid(x_z + a_z)
    n = jnp.tanh(x_n + r * a_n)
    return (1 - z) * n + z * h


# Each is `layer(x_TBD, weights) -> h_TBH`, and begins with a state of zeros.
VARIANTS: dict[str, Callable[[Array, Weights], Array]] = {
    "plain scan": plain,
    "fused gates": fused,
    "hoisted projection": hoisted,
    "custom derivative": derived,
}


def measure(section: Section) -> None:
    """Measure all shapes, the variants of each in turns."""
    for batch, time, width, layers in _QUICK if section.quick else SHAPES[section.device]:
        name = f"B{batch} T{time} H{width} L{layers}"
        if section.wants(name):
            with section.attempt(name):
                _compare(section, name, batch, time, width, layers)


def _compare(section: Section, name: str, batch: int, time: int, width: int, layers: int) -> None:
    from benchmarks.workloads import STREAM, make_config, open_quietly

    config = make_config(
        *STREAM,
        "model.kind=gru",
        f"model.n_layer={layers}",
        f"model.d_embed={width}",
        f"model.d_hidden={width}",
        f"model.context_length={time}",
        f"train.batch_size={batch}",
    )
    session = open_quietly(config)
    # All on one device, whose threads share each operation.
    params = first_copy(variables_of(first_state(session))["params"])
    works: dict[str, Slice] = {}
    differences: dict[str, dict[str, float]] = {}
    expected = None
    for label, loss in _losses(session, layers).items():
        if works and section.late():
            section.leave_out(f"{name}, {label}", "no time left to compile it")
            continue
        with section.attempt(f"{name}, {label}"):
            program = Program(loss, params)
            exact = program.exact()
            expected = exact if expected is None else expected
            differences[label] = agreed(label, exact, expected)
            works[label] = Slice(program, section.slice_seconds)
    if "plain scan" not in works:
        return
    found = take_turns(works, section.repeats, section.late)
    flops = train_flops(config.model, session.dataset.tokenizer.vocab_size)
    best = section.facts["roofline"]["start"]["float32"]
    for label, values in found.items():
        times = summary(values)
        section.add(
            f"{name}, {label}",
            variant=label,
            unit="s",
            microseconds_a_time_step=1e6 * times["median"] / (time * layers),
            tokens_per_second=batch * time / times["median"],
            flops_formula=flops_formula("gru"),
            flops_a_token=flops,
            mfu_measured=(flops or 0.0) * batch * time / times["median"] / best,
            times_plain=paired_ratio(values, found["plain scan"]),
            **differences[label],
            **times,
        )


def _losses(session: Any, layers: int) -> dict[str, Callable[[Any], Array]]:
    """Return each contestant's mean loss as a function of charjax's parameters."""
    batch = jax.jit(first_copy(session.source).draw)(jnp.int32(0))

    def of_the_model(params: Any) -> Array:
        logits, _ = session.model.apply({"params": params}, batch.inputs, train=True)
        return jnp.mean(cross_entropy(logits, batch.targets))

    def of_a_variant(layer: Callable[[Array, Weights], Array]) -> Callable[[Any], Array]:
        def loss(params: Any) -> Array:
            x_TBD = params["token_embedding"]["embedding"][batch.inputs.T]
            for i in range(layers):
                cell = params[f"cell_{i}"]
                x_TBD = layer(x_TBD, Weights(*(cell[name] for name in Weights._fields)))
            readout = params["readout"]
            flat = x_TBD.reshape(-1, x_TBD.shape[-1]) @ readout["kernel"] + readout["bias"]
            return jnp.mean(cross_entropy(flat, batch.targets.T.reshape(-1)))

        return loss

    losses = {label: of_a_variant(layer) for label, layer in VARIANTS.items()}
    return losses | {"charjax": of_the_model}


Exact = tuple[float, dict[str, Any]]


class Program:
    """A loss with its gradients, compiled; called with n, it computes them n times and waits."""

    def __init__(self, loss: Callable[[Any], Any], params: Any):
        """Compile it."""
        self.params, self._both = params, jax.value_and_grad(loss)
        self._compiled = jax.jit(self._both).lower(params).compile()

    def __call__(self, count: int) -> None:
        """Start all computations one after the other, and wait for the last."""
        for _ in range(count):
            loss, gradients = self._compiled(self.params)
        loss.block_until_ready()
        del gradients

    def exact(self) -> Exact:
        """Compute loss and gradients in full float32."""
        with jax.default_matmul_precision("highest"):
            loss, gradients = jax.jit(self._both).lower(self.params).compile()(self.params)
        return float(loss), gradients


def agreed(label: str, exact: Exact, expected: Exact) -> dict[str, float]:
    """Return by how much a loss and its gradients differ from the expected ones.

    Raises:
      ValueError: by more than 1e-5 of the loss, or 1e-4 of the largest gradient.
    """
    (loss, gradients), (other_loss, others) = expected, exact
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
    errors = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), gradients, others)
    off = abs(other_loss - loss) / loss, max(jax.tree.leaves(errors)) / largest
    if not (off[0] <= 1e-5 and off[1] <= 1e-4):
        raise ValueError(f"{label}: loss off by {off[0]:.1e}, gradients by {off[1]:.1e}")
    return {"loss_difference": off[0], "gradient_difference": off[1]}


COLUMNS: tuple[Column, ...] = (
    ("", lambda row: row["name"]),
    ("forward and backward", spread),
    ("µs per time step", lambda row: f"{row['microseconds_a_time_step']:.1f}"),
    ("times the plain scan's speed", lambda row: f"{row['times_plain']['median']:.2f}"),
    ("MFU (measured)", lambda row: percent(row["mfu_measured"])),
)


def draw(axes: Any, rows: list[Row]) -> None:
    """Draw a bar for each variant."""
    bars(axes, rows, lambda row: row["microseconds_a_time_step"], "µs per time step of a layer")


BENCHMARK = Benchmark(
    name="gru",
    title="a GRU, forward and backward",
    doc=__doc__,
    measure=measure,
    columns=COLUMNS,
    draw=draw,
    # As a training run of this size.
    heaps=("one",),
)

if __name__ == "__main__":
    start(BENCHMARK)
