"""A GRU written in several ways: microseconds of a time step of a layer, forward and backward.

    python -m benchmarks.gru [--devices cpu,gpu] [--quick] [--out FILE.json]

From a plain scan over fused gates and a hoisted projection to a derivative of its own and, on a
GPU, a kernel (see benchmarks/gru_variants.py); and what charjax's model itself does, whichever
version of its hot primitives that is on this device. On a GPU some are compiled once more, so that
XLA starts a whole loop as one CUDA graph. All of them compute the loss of one model and its
gradients, from the same weights and batch: the losses agree to 1e-5, and the gradients to 1e-4,
before the clock starts. There is no optimiser in it.
"""

import functools
from collections.abc import Callable
from typing import Any

from benchmarks.flops import FORMULAS, train_flops
from benchmarks.harness import Benchmark, start
from benchmarks.section import Section
from benchmarks.show import Column, bars, percent, spread
from benchmarks.timing import Slice, paired_ratio, summary, take_turns

Row = dict[str, Any]
# Batch, time, width (of embedding and state), layers.
SHAPES = {
    "cpu": ((128, 128, 256, 2), (1, 128, 256, 1)),
    "gpu": ((256, 256, 512, 1), (128, 128, 256, 2)),
}
_QUICK = ((8, 16, 32, 1),)


# What is compiled by the options of benchmarks/graphs.py, too.
_ASKED_FOR = ("charjax", "kernel")


def measure(section: Section) -> None:
    """All shapes, the variants of each in turns."""
    for batch, time, width, layers in _QUICK if section.quick else SHAPES[section.device]:
        name = f"B{batch} T{time} H{width} L{layers}"
        if section.wants(name):
            with section.attempt(name):
                _compare(section, name, batch, time, width, layers)
    if section.device == "cpu":
        why = "they are for a GPU; on a CPU the tests alone run the kernel, as Pallas plays it"
        section.leave_out("kernel, CUDA graphs", why)


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
    works: dict[str, Slice] = {}
    differences: dict[str, dict[str, float]] = {}
    expected = None
    for label, make in _programs(session, layers, section.device).items():
        if works and section.late():
            section.leave_out(f"{name}, {label}", "no time left to compile it")
            continue
        # What this device, or this version of XLA, will not have is left out alone.
        with section.attempt(f"{name}, {label}"):
            program = make()
            exact = program.exact()
            expected = exact if expected is None else expected
            told = agreed(label, exact, expected)
            works[label], differences[label] = Slice(program, section.slice_seconds), told
    if "plain scan" not in works:
        return
    found = take_turns(works, section.repeats, section.late)
    flops = train_flops(config.model, session.dataset.tokenizer.vocab_size)
    best = section.facts["roofline"]["start"]["float32"]
    for label, values in found.items():
        told = summary(values)
        section.add(
            f"{name}, {label}",
            variant=label,
            unit="s",
            microseconds_a_time_step=1e6 * told["median"] / (time * layers),
            tokens_per_second=batch * time / told["median"],
            flops_formula=FORMULAS["gru"],
            flops_a_token=flops,
            mfu_measured=(flops or 0.0) * batch * time / told["median"] / best,
            times_plain=paired_ratio(values, found["plain scan"]),
            **differences[label],
            **told,
        )


def _programs(session: Any, layers: int, device: str) -> dict[str, Callable[[], "Program"]]:
    """What compiles each contestant; the plain scan comes first."""
    import jax
    import jax.numpy as jnp

    from benchmarks.graphs import OPTIONS
    from benchmarks.gru_variants import GPU_VARIANTS, VARIANTS, loss
    from charjax.parallel import first_copy
    from charjax.training.session import first_state
    from charjax.training.state import variables_of
    from charjax.training.step import cross_entropy

    # All on one device, whose threads share each operation.
    batch = jax.jit(first_copy(session.source).draw)(jnp.int32(0))
    params = first_copy(variables_of(first_state(session))["params"])

    def of_the_model(params: Any) -> Any:
        logits, _ = session.model.apply({"params": params}, batch.inputs, train=True)
        return jnp.mean(cross_entropy(logits, batch.targets))

    def of_a_variant(layer: Any) -> Callable[[Any], Any]:
        return lambda params: loss(layer, params, layers, batch.inputs, batch.targets)

    functions = {label: of_a_variant(layer) for label, layer in VARIANTS.items()}
    functions["charjax"] = of_the_model
    asked: dict[str, tuple[Any, dict[str, Any]]] = {}
    if device == "gpu":
        functions |= {label: of_a_variant(layer) for label, layer in GPU_VARIANTS.items()}
        for words, options in OPTIONS.items():
            asked |= {f"{label}, {words}": (functions[label], options) for label in _ASKED_FOR}
    return {
        label: functools.partial(Program, function, params, options)
        for label, (function, options) in {
            **{label: (function, {}) for label, function in functions.items()},
            **asked,
        }.items()
    }


class Program:
    """A loss with its gradients, compiled; calling it with n does so n times and waits."""

    def __init__(self, function: Callable[[Any], Any], params: Any, options: dict[str, Any]):
        """Compile it.

        Raises:
          LeftOut: this version of XLA does not know one of the options.
        """
        import jax

        self.params, self._both = params, jax.value_and_grad(function)
        self._options = options
        self._compiled = self._compile()

    def __call__(self, count: int) -> None:
        """So often, one queued behind the other."""
        for _ in range(count):
            loss, slopes = self._compiled(self.params)
        loss.block_until_ready()
        del slopes

    def exact(self) -> "Exact":
        """Loss and gradients in full float32."""
        import jax

        with jax.default_matmul_precision("highest"):
            loss, slopes = self._compile()(self.params)
        return float(loss), slopes

    def _compile(self) -> Any:
        import jax

        from benchmarks.graphs import compiled

        lowered = jax.jit(self._both).lower(self.params)
        return compiled(lowered, self._options)


Exact = tuple[float, dict[str, Any]]


def agreed(label: str, ours: Exact, expected: Exact) -> dict[str, float]:
    """By how much a loss and its gradients differ from what is expected.

    Raises:
      ValueError: by more than 1e-5 of the loss, or 1e-4 of the largest gradient.
    """
    import jax
    import numpy as np

    (loss, slopes), (other, others) = expected, ours
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(slopes))
    apart = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), slopes, others)
    off = abs(other - loss) / loss, max(jax.tree.leaves(apart)) / largest
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
    """A bar a variant."""
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
