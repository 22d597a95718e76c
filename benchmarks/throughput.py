"""Training speed of every family through the real loop's program, on each device.

    python -m benchmarks.throughput [--devices cpu,gpu] [--quick] [--out FILE.json]

A row is a family, a dtype of the products, a batch size and the number of steps that one call of
the compiled program makes (1 or 100; the calls follow one another without waiting). Compilation
is timed separately. FLOPs per token are counted by the formulas of charjax/performance/flops.py,
which are printed; MFU is their rate as a fraction of the best matrix product measured in the same
run, and of the nominal peak where it is known. Memory is what the compiled program reports. The two
dtypes of a family take turns: "of float32's" is bfloat16's time over float32's.
"""

from typing import Any

from rich.table import Table

from benchmarks.harness import Benchmark, start
from benchmarks.section import Section
from benchmarks.workloads import STREAM, make_config, prepare
from charjax.config import Config
from charjax.config.families import families_where
from charjax.performance.devices import nominal
from charjax.performance.flops import flops_formula, train_flops
from charjax.performance.rates import DTYPES
from charjax.performance.show import Column, Row, percent, quantity, spread
from charjax.performance.timing import Slice, paired_ratio, summary, take_turns
from charjax.performance.workload import Training

_CONTEXT = dict.fromkeys(("bigram", "bow", "mlp", "wavenet"), 8)
MODELS = {
    kind: (f"model.context_length={_CONTEXT.get(kind, 64)}",)
    for kind in families_where(fitted=False)
}
BATCHES = {"cpu": (1, 16, 256), "gpu": (256, 4096, 1, 16)}
DISPATCHES = (1, 100)
# Where a step takes longer, its launch is negligible, and 100 steps would take too long to time.
_LONG_STEP = 0.01


def measure(section: Section) -> None:
    """Measure all rows; the most important ones first, in case the time is too short."""
    slow: list[str] = []
    for batch in (4,) if section.quick else BATCHES[section.device]:
        for kind in MODELS:
            configs = {
                f"{kind} {dtype} B{batch}": _config(kind, dtype, batch)
                for dtype in (DTYPES if not section.quick else ("float32",))
            }
            wanted = {
                name: config
                for name, config in configs.items()
                if section.has_heap_for(config) and section.wants(name)
            }
            if wanted:
                with section.attempt(", ".join(wanted)):
                    _measure(section, wanted, slow)
    if slow:
        why = f"a step takes over {quantity(_LONG_STEP, 's')}: its launch is negligible"
        section.leave_out(f"100 steps per dispatch of {'; '.join(slow)}", why)


def _config(kind: str, dtype: str, batch: int) -> Config:
    return make_config(
        *STREAM,
        f"model.kind={kind}",
        *MODELS[kind],
        f"runtime.dtype={dtype}",
        f"train.batch_size={batch}",
    )


def _measure(section: Section, configs: dict[str, Config], slow: list[str]) -> None:
    """Time a family at one batch size, its dtypes in turns."""
    trainings = {name: prepare(config) for name, config in configs.items()}
    seconds = section.slice_seconds / 4
    works = {f"{name}, 1": Slice(t.dispatches(1), seconds) for name, t in trainings.items()}
    for name, training in trainings.items():
        if works[f"{name}, 1"]() < _LONG_STEP:
            works[f"{name}, 100"] = Slice(training.dispatches(100), seconds)
        else:
            slow.append(name)
    found = take_turns(works, section.repeats, section.late)
    for label, values in found.items():
        name, _, steps = label.rpartition(", ")
        each = [seconds / int(steps) for seconds in values]
        _add(section, name, trainings[name], int(steps), each, _of_float32(found, label))


def _of_float32(found: dict[str, list[float]], label: str) -> dict[str, Any]:
    """Return bfloat16's time over float32's in the same turns, for a row in bfloat16."""
    other = found.get(label.replace(" bfloat16 ", " float32 "))
    if " bfloat16 " not in label or other is None:
        return {}
    return {"over_float32": paired_ratio(other, found[label])}


def _add(
    section: Section,
    name: str,
    training: Training,
    steps: int,
    values: list[float],
    ratio: dict[str, Any],
) -> None:
    config = training.session.config
    kind, dtype = config.model.kind, config.runtime.dtype
    flops = train_flops(config.model, training.session.dataset.tokenizer.vocab_size)
    section.add(
        name,
        family=kind,
        dtype=dtype,
        batch=config.train.batch_size,
        steps_a_dispatch=steps,
        tokens_a_step=training.tokens_a_step,
        flops_formula=flops_formula(kind),
        flops_a_token=flops,
        compile_seconds=training.program.compile_seconds,
        bytes_needed=training.bytes_needed,
        unit="s",
        **_rates(section, dtype, flops, training.tokens_a_step, summary(values)),
        **ratio,
    )


def _rates(
    section: Section, dtype: str, flops: float | None, tokens: int, times: dict[str, Any]
) -> dict[str, Any]:
    """Return times, tokens per second and both MFUs of the median step."""
    rate = tokens / times["median"]
    best = section.facts["roofline"]["start"][dtype] if "roofline" in section.facts else None
    peak = nominal(section.facts["hardware"]["device_kind"], dtype)
    achieved = flops * rate if flops else None
    return {
        **times,
        "tokens_per_second": rate,
        "mfu_measured": achieved / best if achieved and best else None,
        "mfu_nominal": achieved / peak if achieved and peak else None,
    }


def side_by_side(rows: list[Row]) -> list[Table]:
    """Compare CPU and GPU by family, dtype and batch, each at its better dispatch."""
    best = best_rates(rows)
    keys = [key for key in best if {"cpu", "gpu"} <= best[key].keys()]
    tables = [_formulas(rows)]
    if keys:
        table = Table(title="CPU against GPU, tokens/s")
        for title in ("", "batch", "CPU", "GPU", "GPU / CPU", "the GPU overtakes at"):
            table.add_column(title, justify="right" if title else "left")
        for kind, dtype, batch in sorted(keys, key=lambda key: (list(MODELS).index(key[0]), key)):
            cpu, gpu = best[kind, dtype, batch]["cpu"], best[kind, dtype, batch]["gpu"]
            first = overtakes(best, kind, dtype)
            table.add_row(
                f"{kind} {dtype}",
                str(batch),
                f"{cpu:,.0f}",
                f"{gpu:,.0f}",
                f"{gpu / cpu:.2f}",
                f"B{first}" if first else "none measured",
            )
        tables.append(table)
    return tables


def best_rates(rows: list[Row]) -> dict[tuple[str, str, int], dict[str, float]]:
    """Return tokens per second of the better dispatch by device, by (family, dtype, batch)."""
    best: dict[tuple[str, str, int], dict[str, float]] = {}
    for row in rows:
        rates = best.setdefault((row["family"], row["dtype"], row["batch"]), {})
        rates[row["device"]] = max(row["tokens_per_second"], rates.get(row["device"], 0.0))
    return best


def overtakes(
    best: dict[tuple[str, str, int], dict[str, float]], kind: str, dtype: str
) -> int | None:
    """Return the smallest batch measured on both from which on the GPU is faster, or None."""
    first = None
    for key in sorted(key for key in best if key[:2] == (kind, dtype)):
        if {"cpu", "gpu"} <= best[key].keys():
            faster = best[key]["gpu"] > best[key]["cpu"]
            first = (first or key[2]) if faster else None
    return first


def _formulas(rows: list[Row]) -> Table:
    table = Table(title="FLOPs per token, of a training step")
    for title in ("", "formula", "here"):
        table.add_column(title)
    for kind, row in {row["family"]: row for row in rows}.items():
        table.add_row(kind, row["flops_formula"], f"{row['flops_a_token']:,.0f}")
    return table


def over_float32(row: Row) -> str:
    """Format the time of a step in bfloat16 over that in float32, in the same turns."""
    return f"{row['over_float32']['median']:.2f} x" if "over_float32" in row else ""


COLUMNS: tuple[Column, ...] = (
    ("", lambda row: row["name"]),
    ("steps per dispatch", lambda row: str(row["steps_a_dispatch"])),
    ("a step", spread),
    ("of float32's", over_float32),
    ("tokens/s", lambda row: f"{row['tokens_per_second']:,.0f}"),
    ("MFU (measured)", lambda row: percent(row["mfu_measured"])),
    ("MFU (nominal)", lambda row: percent(row["mfu_nominal"])),
    ("compile", lambda row: quantity(row["compile_seconds"], "s")),
    ("memory", lambda row: quantity(float(row["bytes_needed"]), "B")),
)


def draw(axes: Any, rows: list[Row]) -> None:
    """Draw tokens per second by batch: a colour per family, dashes for the GPU."""
    best = best_rates([row for row in rows if row["dtype"] == "float32"])
    for index, kind in enumerate(MODELS):
        for device, style in (("cpu", "o-"), ("gpu", "s--")):
            points = sorted(
                (k[2], v[device]) for k, v in best.items() if k[0] == kind and device in v
            )
            if points:
                axes.plot(
                    *zip(*points, strict=True), style, color=f"C{index}", label=f"{device} {kind}"
                )
    axes.set(xscale="log", yscale="log", xlabel="batch", ylabel="tokens/s, float32")


BENCHMARK = Benchmark(
    name="throughput",
    title="training throughput",
    doc=__doc__,
    measure=measure,
    columns=COLUMNS,
    draw=draw,
    extra=side_by_side,
    # The time of compiling is that without a cache.
    environment={"JAX_ENABLE_COMPILATION_CACHE": "false"},
    heaps=("own", "one"),
)

if __name__ == "__main__":
    start(BENCHMARK)
