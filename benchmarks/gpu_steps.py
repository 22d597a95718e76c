"""The steps of `python -m benchmarks.gpu`, in the order of their importance, and what they need."""

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
# No step takes longer at once: the next call, or the next turn of this one, goes on with it.
LONGEST_SECONDS = 450.0
_CORPORA = {"names": "names.txt", "shakespeare": "shakespeare.txt", "warpeace": "warpeace.txt"}


class Step(NamedTuple):
    """A command of the list.

    Attributes:
      name: of the step, and of its folder.
      words: after `python`; `{folder}`, `{devices}` and `{seconds}` are filled in.
      trial: the same with its smallest sizes, for a CPU.
      minutes: a guess of what it takes in all; nothing was measured on a GPU yet.
      least_seconds: less is not worth starting it.
      environment: additional variables on a GPU.
      result: name among the results of its results.json; None for a benchmark, whose file has its
        own name, and for tests.
      corpora: texts that it reads.
      packages: beyond those of charjax.
    """

    name: str
    words: tuple[str, ...]
    trial: tuple[str, ...]
    minutes: float
    least_seconds: float = 60.0
    environment: tuple[tuple[str, str], ...] = ()
    result: str | None = None
    corpora: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


# tests/conftest.py sets the CPU, strict promotion and no optimization where they are not set. The
# tests' tolerances are not those of TF32, and their small programs are not worth tuning.
_TESTS_ON_GPU = (
    ("JAX_PLATFORMS", "cuda,cpu"),
    ("JAX_DEFAULT_MATMUL_PRECISION", "highest"),
    ("XLA_FLAGS", "--xla_gpu_autotune_level=0"),
    ("XLA_PYTHON_CLIENT_PREALLOCATE", "false"),
)
# A warning of this machine's versions is no failure here.
_PYTEST = ("-m", "pytest", "-W", "default", "-p", "no:cacheprovider", "--maxfail=20")


def _tests(folder: str, few: tuple[str, ...], minutes: float) -> Step:
    return Step(
        f"tests-{folder}",
        (*_PYTEST, f"tests/{folder}"),
        (*_PYTEST, *few),
        minutes,
        least_seconds=60.0 * minutes,
        environment=_TESTS_ON_GPU,
        packages=("pytest", "hypothesis"),
    )


def _benchmark(
    name: str, minutes: float, *rows: str, corpora: tuple[str, ...] = (), least: float = 60.0
) -> Step:
    """Return the step of a benchmark, whose trial has the rows of a pattern, or all."""
    out = ("--resume", "--out", f"{{folder}}/{name}-gpu.json", "--seconds", "{seconds}")
    words = ("-m", f"benchmarks.{name}")
    only = ("--only", *rows) if rows else ()
    return Step(
        name,
        (*words, "--devices", "{devices}", *out),
        (*words, "--devices", "cpu", "--quick", *only, *out),
        minutes,
        least,
        corpora=corpora,
    )


def _reproduction(
    name: str, command: tuple[str, ...], rows: tuple[str, ...], minutes: float, *corpora: str
) -> Step:
    """Return the step of rows of a command that reproduces figures."""
    out = ("--resume", "--out", "{folder}")
    return Step(
        name,
        ("-m", *command, *rows, "--tier", "gpu", *out),
        # A CPU has no GPU tier: their rows are made small (benchmarks/gpu_trial.py).
        ("-m", "benchmarks.gpu_trial", *command, *rows, "--tier", "cpu", *out),
        minutes,
        result=f"{name}-gpu.json",
        corpora=corpora,
    )


def _rows(name: str, minutes: float, text: str, *patterns: str) -> Step:
    only = tuple(word for pattern in patterns for word in ("--only", pattern))
    return _reproduction(f"reproduce-{name}", ("charjax.reproduce",), only, minutes, text)


def _initlab(name: str, minutes: float, numbers: tuple[str, ...], *corpora: str) -> Step:
    command = ("charjax.initlab", "reproduce")
    return _reproduction(f"initlab-reproduce-{name}", command, numbers, minutes, *corpora)


STEPS = (
    # Correctness.
    _tests("ops", ("tests/ops/test_lookup.py",), 2.0),
    _tests("models", ("tests/models/test_bow.py",), 6.0),
    _benchmark("correctness", 5.0),
    # The targets on a GPU: transformers, GRU, bigram and MLP beside PyTorch; a published loss.
    _benchmark("peers", 8.0, "bigram*"),
    _benchmark("time_to_quality", 3.0, corpora=("shakespeare",), least=120.0),
    _benchmark("gru", 3.0),
    # The GPU tiers.
    _rows("shakespeare", 8.0, "shakespeare", "nanogpt-*", "shakespeare-*"),
    _initlab("names", 6.0, ("names-arms",), "names"),
    _initlab("transformer", 4.0, ("transformer",), "shakespeare"),
    _initlab("transfer", 6.0, ("transfer",), "shakespeare"),
    _rows("names", 4.0, "names", "names-*"),
    _rows("warpeace", 8.0, "warpeace", "warpeace-*"),
    _initlab("theory", 2.0, ("1", "2", "3", "4", "5", "6", "7"), "names"),
    # The other tables of docs/speed.md.
    _benchmark("roofline", 1.0, "dispatch*"),
    _benchmark("checkpoint_overhead", 3.0, "bigram*"),
    _benchmark("generate", 4.0, "*B1"),
    _benchmark("options", 3.0),
    _benchmark("evaluation", 4.0),
    _benchmark("feed", 2.0, "bigram*"),
    _benchmark("contexts", 3.0),
    _benchmark("throughput", 5.0, "bigram*"),
    _benchmark("startup", 4.0, "first step*"),
)


def lacking(step: Step) -> str | None:
    """Return why a step cannot run here, for want of a text or a package; None if it can."""
    folder = os.environ.get("CHARJAX_DATA")
    files = [_CORPORA[name] for name in step.corpora]
    absent = [name for name in files if not (folder and (Path(folder) / name).is_file())]
    if absent:
        where = f"not in CHARJAX_DATA={folder}" if folder else "and CHARJAX_DATA is not set"
        return f"needs {', '.join(absent)}, {where}"
    absent = [name for name in step.packages if importlib.util.find_spec(name) is None]
    return f"needs the package {', '.join(absent)}" if absent else None


def requirements() -> Iterator[tuple[str, str, str | None]]:
    """Yield the packages that charjax needs: name, least version, installed version or None."""
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["project"]["dependencies"]
    for line in listed:
        name, _, least = line.partition(">=")
        yield name, least, _installed(name)


def is_enough(least: str, installed: str | None) -> bool:
    """Return whether a package is installed in a version that is not too old."""
    return installed is not None and _numbers(installed) >= _numbers(least)


def optional() -> Iterator[tuple[str, str, str | None]]:
    """Yield the packages of some steps: name, what it is for, installed version or None."""
    for name, use in (
        ("pytest", "tests-*"),
        ("hypothesis", "tests-*"),
        ("pytest-xdist", "tests-* on all cores"),
        ("torch", "PyTorch's rows of peers and generate"),
    ):
        yield name, use, _installed(name)


def parallel_tests() -> tuple[str, ...]:
    """Return pytest's words for several processes, where its plugin is installed."""
    # They share the device's memory.
    count = min(8, os.cpu_count() or 1)
    return ("-n", str(count), "--dist", "loadfile") if _installed("pytest-xdist") else ()


def words_of(step: Step, *, dry: bool, folder: Path, devices: str, seconds: float) -> list[str]:
    """Return the command of a step."""
    filled = {"folder": str(folder), "devices": devices, "seconds": f"{seconds:.0f}"}
    words = [word.format(**filled) for word in (step.trial if dry else step.words)]
    is_tests = "pytest" in step.words
    return [sys.executable, *words, *(parallel_tests() if is_tests and not dry else ())]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
