"""Common fixtures: strict JAX, the CPU, no network, and commands in separate processes."""

import dataclasses
import fnmatch
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

# Until all is imported and collected (pytest_collection_finish): nothing of it is garbage.
gc.disable()
# Before JAX is imported by any test module. Arrays of different dtypes never mix in silence.
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The same small programs are compiled again and again, in this process and in others.
_COMPILED = Path(__file__).resolve().parent.parent / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.015")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Small programs are compiled once and run once: LLVM's optimisation costs more than it saves (a
# third of the suite's time). Known to all versions that are tested; an unknown flag is fatal.
_FLAGS = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    # A small program is not worth two compiler threads.
    "--xla_cpu_parallel_codegen_split_count=1",
    # As charjax sets it (backend.set_flags).
    "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true",
)
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))
# LAPACK's threads, one a core in each of pytest's processes, would wait for each other by spinning.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A test that needs a corpus finds its file or is skipped; none may download one.
for _scheme in ("http_proxy", "https_proxy"):
    os.environ[_scheme] = os.environ[_scheme.upper()] = "http://127.0.0.1:9"

# Each test of the cache has one of its own.
for _name in ("CHARJAX_CACHE", "CHARJAX_STREAM_BYTES"):
    os.environ.pop(_name, None)

ROOT = Path(__file__).resolve().parent.parent
CORPORA = ("shakespeare.txt", "names.txt", "warpeace.txt")
_SHARED = ROOT.parent / "shared" / "data"
if "CHARJAX_DATA" not in os.environ and _SHARED.is_dir():
    os.environ["CHARJAX_DATA"] = str(_SHARED)

# The same examples on every run: a failure is found again, and the suite takes equally long.
hypothesis.settings.register_profile("charjax", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("charjax")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of the published corpora; skip the test without one."""
    folder = Path(os.environ.get("CHARJAX_DATA") or ".")
    missing = [name for name in CORPORA if not (folder / name).is_file()]
    if missing:
        pytest.skip(f"no {', '.join(missing)} in {folder}: point CHARJAX_DATA to the corpora")
    return folder


@dataclasses.dataclass(frozen=True)
class Finished:
    """Result of a finished command."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_command(tmp_path: Path) -> Callable[..., Finished]:
    """`run_command("train", "train.steps=5")`: a command of charjax as a user runs it.

    It runs in `cwd` (by default tmp_path, so that runs/ is made there), with `env` added to the
    environment and `stdin` as its input. Warnings are errors in it, as in the tests themselves.
    """

    def run(
        name: str,
        *args: str | Path,
        cwd: Path = tmp_path,
        env: dict[str, str] | None = None,
        stdin: str = "",
        timeout: float = 120,
    ) -> Finished:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-m", f"charjax.{name}", *map(str, args)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error", **(env or {})},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


def pytest_collection_finish() -> None:
    """Take modules and cases, which live to the end, out of what the garbage collector searches.

    It took a tenth of the suite's time, and found little.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the cases that a test's `quick` does not list as slow; refuse a case that is none.

    Likewise those that neither its `quick` nor its `ci` lists as longest.
    """
    left: dict[str, set[str]] = {}
    for item in items:
        test, _, case = item.nodeid.partition("[")
        listed: set[str] = set()
        for name, added in (("quick", pytest.mark.slow), ("ci", pytest.mark.longest)):
            if (mark := item.get_closest_marker(name)) is None:
                continue
            names = {
                name for name in mark.args if fnmatch.fnmatchcase(case.removesuffix("]"), name)
            }
            listed |= names
            key = f"{test} {name}"
            left[key] = left.get(key, set(mark.args)) - names
            if not listed:
                item.add_marker(added)
    # A case that is asked for by its id is the only one that is collected.
    if not any("[" in argument for argument in config.args):
        unknown = {test: names for test, names in left.items() if names}
        if unknown:
            raise pytest.UsageError(f"unknown cases are listed: {unknown}")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name bytes by their argument: what a compressor writes may hold the time of day."""
    return argname if isinstance(val, bytes) else None
