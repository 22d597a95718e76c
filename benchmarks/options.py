"""The options of a model beside the plain one: seconds of a training step.

    python -m benchmarks.options [--devices cpu,gpu] [--quick] [--out FILE.json]

The training loops of the options of docs/options.md take turns with that of the plain model, of the
same batch. An option that does no more work should be as fast; "operations" are its products over
the plain model's.
"""

from typing import Any

from benchmarks.bars import bars
from benchmarks.harness import Benchmark, start
from benchmarks.section import Section
from benchmarks.workloads import STREAM, make_config, prepare
from charjax.config import Config
from charjax.performance.flops import train_flops
from charjax.performance.show import Column, Row, spread
from charjax.performance.timing import Slice, paired_ratio, summary, take_turns

# Blocks, heads, width, context, batch.
_SHAPES = {"cpu": (4, 4, 128, 64, 16), "gpu": (6, 6, 384, 256, 64)}
_QUICK = (1, 2, 32, 16, 4)
OPTIONS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "norm=rmsnorm": ("model.norm=rmsnorm",),
    "qk_norm": ("model.qk_norm=true",),
    "activation=relu2": ("model.activation=relu2",),
    "activation=swiglu": ("model.activation=swiglu",),
    "activation=geglu": ("model.activation=geglu",),
    "n_kv_head=1": ("model.n_kv_head=1",),
    "window=16": ("model.window=16",),
    "norm_epsilon": ("model.norm_epsilon=1e-6",),
    "attn_softcap": ("model.attn_softcap=50.0",),
    "final_softcap": ("model.final_softcap=30.0",),
    "label_smoothing": ("train.label_smoothing=0.1",),
    "z_loss": ("train.z_loss=1e-4",),
    "clip_value": ("optim.clip_value=1.0",),
}


def measure(section: Section) -> None:
    """Measure the transformer with each option, in turns."""
    shape = _QUICK if section.quick else _SHAPES[section.device]
    n_layer, n_head, d_model, context, batch = shape
    name = f"gpt {n_layer}L {n_head}H {d_model} T{context} B{batch}"
    if not section.wants(name):
        return
    works: dict[str, Slice] = {}
    configs: dict[str, Config] = {}
    for label, words in OPTIONS.items():
        config = make_config(
            *STREAM,
            f"model.n_layer={n_layer}",
            f"model.n_head={n_head}",
            f"model.d_model={d_model}",
            f"model.context_length={context}",
            f"train.batch_size={batch}",
            *words,
        )
        with section.attempt(f"{name}, {label}"):
            works[label] = Slice(prepare(config).steps, section.slice_seconds)
            configs[label] = config
    if "plain" not in works:
        return
    found = take_turns(works, section.repeats, section.late)
    operations = {label: train_flops(config.model, 65) or 0.0 for label, config in configs.items()}
    for label, values in found.items():
        section.add(
            f"{name}, {label}",
            option=label,
            unit="s",
            operations=operations[label] / operations["plain"],
            times_plain=paired_ratio(values, found["plain"]),
            **summary(values),
        )


COLUMNS: tuple[Column, ...] = (
    ("", lambda row: row["name"]),
    ("step", spread),
    ("operations", lambda row: f"{row['operations']:.2f}"),
    ("times the plain model's speed", lambda row: f"{row['times_plain']['median']:.2f}"),
)


def draw(axes: Any, rows: list[Row]) -> None:
    """Draw a bar for each option."""
    bars(axes, rows, lambda row: 1e3 * row["median"], "ms per training step")


BENCHMARK = Benchmark(
    name="options",
    title="the options of a transformer",
    doc=__doc__,
    measure=measure,
    columns=COLUMNS,
    draw=draw,
    heaps=("one",),
)

if __name__ == "__main__":
    start(BENCHMARK)
