"""Training steps of charjax, PyTorch and plain flax on the same work, taking turns.

    python -m benchmarks.peers [--devices cpu,gpu] [--quick] [--out FILE.json]

Each row is one contestant at one work: charjax through the program that its real loop runs;
PyTorch eager and torch.compile, on a CPU with the better of 1 and all threads, with a vectorised
gather, a fused AdamW and no read of the loss; flax's nn.RNN for the recurrent networks; and for
the bigram and the MLP also the loop of the makemore lectures. Where `charjax-kernels` is installed
and computes a work's products, "charjax, XLA alone" is charjax without it. All start from the same
weights, and their losses on one batch must agree to a relative 1e-5, in full float32, before the
clock starts.
"bfloat16" is the dtype of the matrix products: torch.autocast there, runtime.dtype here.

A call of charjax's program takes about 0.4 s (in its loop 0.8 s). Each contestant is timed 5 times,
in turns, in a separate process (see charjax/performance/workers.py). Where PyTorch is not
installed, it is that of the Python named by CHARJAX_TORCH_PYTHON, or of the environment made by
`make parity`; without PyTorch only flax is compared.
"""

import shutil
import sys
from typing import Any

from rich.table import Table

from benchmarks import subprocess_worker, workloads
from benchmarks.harness import Benchmark, start
from benchmarks.section import Section
from benchmarks.subprocess_worker import find_torch
from charjax.config import Config
from charjax.ops.kernels import kernels_in_words
from charjax.performance.flops import flops_formula, train_flops
from charjax.performance.rates import DTYPES
from charjax.performance.same_work import labels
from charjax.performance.show import Column, Row, percent, spread
from charjax.performance.timing import Slice, paired_ratio, summary, take_turns
from charjax.performance.workers import Worker, best_threads, thread_counts
from charjax.training.cpu_plan import has_compiled_products

TOLERANCE = 1e-5
FLAX, LECTURE_LOOP = "flax nn.RNN", "lectures"
XLA_ALONE = "charjax, XLA alone"
CELLS = ("gru", "lstm")


def _gpt(layers: int, heads: int, width: int, batch: int, context: int) -> tuple[str, ...]:
    return _words(
        "model.kind=transformer init.scheme=gpt2 optim.weight_decay=0.1 optim.beta2=0.99 "
        f"model.n_layer={layers} model.n_head={heads} model.d_model={width} "
        f"model.context_length={context} train.batch_size={batch}"
    )


def _recurrent(kind: str, batch: int, context: int, width: int, layers: int) -> tuple[str, ...]:
    return _words(
        f"model.kind={kind} model.n_layer={layers} model.d_embed={width} model.d_hidden={width} "
        f"model.context_length={context} train.batch_size={batch}"
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_BIGRAM = _words("optim.grad_clip=0 model.kind=bigram model.context_length=8 train.batch_size=32")
_MLP = _words(
    "optim.grad_clip=0 model.kind=mlp model.context_length=3 model.d_embed=10 model.hidden=[200] "
    "train.batch_size=32"
)
_SHARED = {
    "bigram B32 T8": _BIGRAM,
    "mlp B32": _MLP,
    "gpt 4L 4H 128 B12 T64": _gpt(4, 4, 128, 12, 64),
    "gru B128 T128 E256 H256 L2": _recurrent("gru", 128, 128, 256, 2),
    "gpt 6L 6H 384 B8 T256": _gpt(6, 6, 384, 8, 256),
    "lstm B128 T128 E256 H256 L2": _recurrent("lstm", 128, 128, 256, 2),
}
WORKS = {
    "cpu": _SHARED,
    # Those with a target first, in case the time is too short.
    "gpu": {
        "gpt 12L 12H 768 B16 T1024": _gpt(12, 12, 768, 16, 1024),
        "gpt 6L 6H 384 B64 T256": _gpt(6, 6, 384, 64, 256),
        "gpt 6L 6H 384 B256 T256": _gpt(6, 6, 384, 256, 256),
        "gru B256 T256 E512 H512 L1": _recurrent("gru", 256, 256, 512, 1),
        **{name: work for name, work in _SHARED.items() if "6L" not in name},
    },
}
_QUICK = {
    "bigram B32 T8": _BIGRAM,
    "gpt 1L 2H 32 B4 T16": _gpt(1, 2, 32, 4, 16),
    "gru B8 T16 E32 H32 L1": _recurrent("gru", 8, 16, 32, 1),
}


def measure(section: Section) -> None:
    """Compare all works in both dtypes; with PyTorch only where it is installed."""
    torch = find_torch(section)
    works = _QUICK if section.quick else WORKS[section.device]
    for work, overrides in works.items():
        for dtype in DTYPES[:1] if section.quick else DTYPES:
            name = f"{work} {dtype}"
            if section.wants(name) and (dtype == "float32" or _has_bfloat16(work, section.device)):
                with section.attempt(name):
                    _compare(section, name, work, overrides, dtype, torch)


def _has_bfloat16(work: str, device: str) -> bool:
    """Return whether a work is measured in bfloat16: on a CPU the GPTs alone, to save time."""
    return work.startswith("gpt") or (device == "gpu" and not work.startswith("bigram"))


def _compare(
    section: Section,
    name: str,
    work: str,
    overrides: tuple[str, ...],
    dtype: str,
    torch: str | None,
) -> None:
    """Build the contestants of one work in one dtype, compare their losses, and time them."""
    layout = workloads.PAIRS if work.startswith("mlp") else workloads.STREAM
    words = workloads.filled([*layout, *overrides, f"runtime.dtype={dtype}"])
    config = workloads.make_config(*words)
    workers: dict[str, Worker] = {}

    def launch(label: str, python: str, module: str, **variables: str) -> None:
        arguments = {"label": label, "words": words, "dtype": dtype, "device": section.device}
        workers[label] = subprocess_worker.start(python, module, variables, **arguments)

    # All are built at the same time.
    launch("charjax", sys.executable, "benchmarks.peers_jax")
    if _uses_kernels(config, section.device):
        launch(XLA_ALONE, sys.executable, "benchmarks.peers_jax", CHARJAX_KERNELS="0")
    if config.model.kind in CELLS:
        launch(FLAX, sys.executable, "benchmarks.peers_jax")
    for label, why in _torch_labels(config.model.kind, dtype).items() if torch else ():
        if why:
            section.leave_out(f"{name}, {label}", why)
        else:
            assert torch is not None
            launch(label, torch, "benchmarks.peers_torch")
    try:
        _take_turns(section, name, work, config, dtype, workers)
    finally:
        # A row that failed must not slow down the next one.
        for worker in workers.values():
            worker.close()


def _uses_kernels(config: Config, device: str) -> bool:
    """Return whether compiled kernels are installed, and compute products of a work."""
    return device == "cpu" and has_compiled_products(config, 1)


def _take_turns(
    section: Section, name: str, work: str, config: Config, dtype: str, workers: dict[str, Worker]
) -> None:
    """Time the contestants in turns; a failure of charjax's is raised, the others are left out."""
    ours = workers.pop("charjax")
    facts: dict[str, dict[str, Any]] = {"charjax": {"loss": ours.facts["first loss"]}}
    if XLA_ALONE in workers:
        facts["charjax"]["kernels"] = kernels_in_words()
    works = {"charjax": Slice(ours.with_threads(1), section.slice_seconds)}
    for label, worker in workers.items():
        with section.attempt(f"{name}, {label}"):
            losses = agreed(label, worker.facts["loss"], ours.facts["loss"])
            if label in (FLAX, XLA_ALONE):
                works[label] = Slice(worker.with_threads(1), section.slice_seconds)
            else:
                counts = thread_counts(section.device)
                works[label], losses["threads"] = best_threads(
                    worker.with_threads, counts, section.slice_seconds
                )
            facts[label] = losses
    found = take_turns(works, section.repeats, section.late)
    model = config.model
    flops = train_flops(model, ours.facts["vocab_size"])
    best = section.facts["roofline"]["start"][dtype]
    for label, values in found.items():
        times = summary(values)
        rate = ours.facts["tokens_a_step"] / times["median"]
        section.add(
            f"{name}, {label}",
            work=work,
            dtype=dtype,
            contestant=label,
            unit="s",
            steps_a_slice=works[label].count,
            tokens_per_second=rate,
            flops_formula=flops_formula(model.kind),
            flops_a_token=flops,
            mfu_measured=flops * rate / best if flops else None,
            times_charjax=paired_ratio(found["charjax"], values),
            **times,
            **facts[label],
        )


def agreed(label: str, exact: float, reference: float) -> dict[str, Any]:
    """Return a contestant's loss on the first batch with our weights, and ours.

    Raises:
      ValueError: they differ by more than a relative 1e-5, in float32.
    """
    difference = abs(exact - reference) / abs(reference)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{label}'s loss on the same weights and batch is {exact:.7f}, charjax's "
            f"{reference:.7f}: not the same work"
        )
    return {"loss": exact, "loss_charjax": reference, "loss_difference": difference}


def _torch_labels(kind: str, dtype: str) -> dict[str, str]:
    """Return PyTorch's contestants, each with the reason to leave it out, or none."""
    found = labels(kind, has_compiler=any(map(shutil.which, ("g++", "c++", "clang++"))))
    return found | ({LECTURE_LOOP: ""} if kind in ("bigram", "mlp") and dtype == "float32" else {})


def ratios(rows: list[Row]) -> list[Table]:
    """Compare charjax with the best of PyTorch, flax and the makemore lectures' loop, by work."""
    table = Table(title="how many times faster charjax is (median of the turns' ratios)")
    for title in ("", "device", "PyTorch, its best", "flax nn.RNN", "makemore's loop"):
        table.add_column(title, justify="right" if title else "left")
    for (device, work, dtype), found in by_work(rows).items():
        cells = [f"{work} {dtype}", device]
        others = (("torch eager", "torch compile"), (FLAX,), (LECTURE_LOOP,))
        table.add_row(*cells, *(ratio_to(found, labels) for labels in others))
    return [table]


def ratio_to(found: dict[str, Row], labels: tuple[str, ...]) -> str:
    """Return how many times as long the fastest of these contestants takes; n/a without one."""
    times = [found[label]["times_charjax"]["median"] for label in labels if label in found]
    return f"{min(times):.2f}" if times else "n/a"


def by_work(rows: list[Row]) -> dict[tuple[str, str, str], dict[str, Row]]:
    """Return rows by contestant, by (device, work, dtype)."""
    found: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        key = (row["device"], row["work"], row["dtype"])
        found.setdefault(key, {})[row["contestant"]] = row
    return found


def _threads(row: Row) -> str:
    return str(row["threads"]["used"]) if "threads" in row else ""


def _times(row: Row) -> str:
    is_charjax = row["contestant"] == "charjax"
    return "" if is_charjax else f"{row['times_charjax']['median']:.2f} x"


def _difference(row: Row) -> str:
    return f"{row['loss_difference']:.0e}" if "loss_difference" in row else ""


COLUMNS: tuple[Column, ...] = (
    ("", lambda row: row["name"]),
    ("a step", spread),
    ("of charjax's", _times),
    ("threads", _threads),
    ("tokens/s", lambda row: f"{row['tokens_per_second']:,.0f}"),
    ("MFU (measured)", lambda row: percent(row["mfu_measured"])),
    (
        "loss differs by",
        lambda row: f"{row['loss_difference']:.0e}" if "loss_difference" in row else "",
    ),
)


def draw(axes: Any, rows: list[Row]) -> None:
    """Draw a bar for each peer: its step as a multiple of charjax's."""
    peers = [row for row in rows if row["contestant"] != "charjax"]
    times = [row["times_charjax"]["median"] for row in peers]
    axes.barh(range(len(peers)), times)
    axes.set_yticks(range(len(peers)), [row["name"] for row in peers], fontsize="xx-small")
    axes.axvline(1.0, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="seconds per step, as a multiple of charjax's")


BENCHMARK = Benchmark(
    name="peers",
    title="the same work in PyTorch and flax",
    doc=__doc__,
    measure=measure,
    columns=COLUMNS,
    draw=draw,
    extra=ratios,
    packages=("torch", "triton"),
    # Both frameworks share a GPU's memory.
    environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
)

if __name__ == "__main__":
    start(BENCHMARK)
