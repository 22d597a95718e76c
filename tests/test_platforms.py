"""Systems without fcntl, os.getuid, os.sysconf and /proc: macOS lacks some, Windows all."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

import charjax
from charjax import hardware
from charjax.run.lock import Lock, is_held
from tests.commands import run, tiny

ROOT = Path(__file__).resolve().parent.parent
# In a sitecustomize.py, before any import. Python's own modules need some of them on this system,
# so they are missing for charjax alone; /proc is for all.
TAKEN_AWAY = """
import builtins, io, os, sys, types

MODULES = {"fcntl", "pwd", "grp", "resource", "termios"}
NAMES = {"getuid", "geteuid", "getgid", "sysconf", "sched_getaffinity"}

def in_charjax(names):
    return str(names.get("__name__", "")).startswith("charjax")

class Stripped(types.ModuleType):
    def __getattribute__(self, name):
        if name in NAMES and in_charjax(sys._getframe(1).f_globals):
            raise AttributeError(f"module 'os' has no attribute {name!r}")
        return super().__getattribute__(name)

os.__class__ = Stripped
real_import, real_open, real_os_open = builtins.__import__, io.open, os.open

def without_modules(name, globals=None, *rest, **more):
    if name in MODULES and in_charjax(globals or {}):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real_import(name, globals, *rest, **more)

def without_proc(real):
    def open(file, *args, **kwargs):
        if not isinstance(file, int) and os.fsdecode(file).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", file)
        return real(file, *args, **kwargs)
    return open

builtins.__import__ = without_modules
builtins.open = io.open = without_proc(real_open)
os.open = without_proc(real_os_open)
"""
CHECK = """
import os
__name__ = "charjax.check"
for there in (
    lambda: os.sysconf, lambda: os.getuid, lambda: __import__("fcntl", globals()),
    lambda: open("/proc/cpuinfo"),
):
    try:
        there()
    except (AttributeError, ImportError, FileNotFoundError):
        continue
    raise AssertionError("it was not taken away")
__name__ = "__main__"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the patch and a trained run."""
    folder = tmp_path_factory.mktemp("platforms")
    (folder / "patch").mkdir()
    (folder / "patch" / "sitecustomize.py").write_text(TAKEN_AWAY)
    (folder / "text.txt").write_text("the cat sat on the mat\n" * 40)
    words = [f"data.path={folder / 'text.txt'}", *tiny("gru"), "train.steps=10"]
    assert run("train", *words, "--workdir", folder / "run").status == 0
    return folder


def elsewhere(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Run Python as on a system that lacks them."""
    path = os.pathsep.join([str(folder / "patch"), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error"}
    # Its own cache of compiled programs, which is another matter there.
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    env["XDG_CACHE_HOME"] = str(folder / "cache")
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder, env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_importing_loading_and_sampling(folder: Path, monkeypatch: pytest.MonkeyPatch):
    program = (
        "import charjax, importlib, pkgutil\n"
        "for module in pkgutil.walk_packages(charjax.__path__, 'charjax.'):\n"
        "    if not module.name.endswith('__main__') and '.pytorch' not in module.name:\n"
        "        importlib.import_module(module.name)\n"
        "run = charjax.load('run')\n"
        "print(run.sample('the', max_new_tokens=5, seed=1), run.evaluate('val').loss)\n"
    )
    done = elsewhere(folder, "-c", CHECK + program)
    note = "note: the system does not report its memory: what would not fit is not refused\n"
    assert (done.returncode, done.stderr) == (0, note)
    here = charjax.load(folder / "run")
    monkeypatch.chdir(folder)
    texts, loss = here.sample("the", max_new_tokens=5, seed=1), here.evaluate("val").loss
    assert done.stdout == f"{texts} {loss}\n"
    # Nothing shows there that a directory of compiled programs is the user's.
    assert not (folder / "cache" / "charjax").exists()


@pytest.mark.slow
def test_training_resuming_and_listing(folder: Path):
    words = ["-m", "charjax", "train", "data.path=text.txt", *tiny("transformer")]
    words += ["train.steps=10", "--workdir", "there"]
    done = elsewhere(folder, *words)
    assert done.returncode == 0, done.stderr
    assert "this system has no file locks" in done.stderr
    again = elsewhere(
        folder, "-m", "charjax", "train", "--resume", "--workdir", "there", "train.steps=20"
    )
    assert again.returncode == 0, again.stderr
    for command in (
        ["runs", "."],
        ["sample", "there", "--max-new-tokens", "5"],
        ["evaluate", "there"],
        ["interop", "export", "there", "there.safetensors"],
        ["plan", "data.path=text.txt", "--device", "cpu"],
        ["plan", "data.path=text.txt", "--device", "h100"],
    ):
        done = elsewhere(folder, "-m", "charjax", *command)
        assert done.returncode == 0, (command, done.stderr)
        assert "Traceback" not in done.stderr
    assert json.loads((folder / "there" / "summary.json").read_text())["steps"] == 20


class NoStats:
    """A device that does not report its memory."""

    def memory_stats(self) -> None:
        return None


@pytest.fixture
def macos(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Be on macOS: SC_AVPHYS_PAGES is unknown, and two commands report the memory."""
    outputs = {
        "vm_stat": "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n"
        "Pages free:                                6584.\n"
        "Pages active:                            226283.\n"
        "Pages inactive:                          222391.\n"
        "Pages speculative:                         2744.\n"
        "Pages throttled:                              0.\n",
        "hw.memsize": "17179869184\n",
        "machdep.cpu.brand_string": "Apple M2\n",
    }

    def sysconf(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    def execute(command: tuple[str, ...], **others: Any) -> subprocess.CompletedProcess[str]:
        if command[-1] not in outputs:
            raise FileNotFoundError(2, "No such file or directory", command[0])
        return subprocess.CompletedProcess(command, 0, outputs[command[-1]], "")

    monkeypatch.setattr(hardware.sys, "platform", "darwin")
    monkeypatch.setattr(hardware.os, "sysconf", sysconf)
    monkeypatch.setattr(hardware.subprocess, "run", execute)
    hardware._note_unknown_memory.cache_clear()
    return outputs


def test_memory_on_macos(macos: dict[str, str], capsys: pytest.CaptureFixture[str]):
    devices: Any = [NoStats(), NoStats()]
    assert hardware.available_memory(devices) == (6584 + 222391 + 2744) * 16384 / 2
    assert hardware.total_memory(devices) == 17179869184
    # Half of all of it, if free memory is unknown.
    del macos["vm_stat"]
    assert hardware.available_memory(devices) == 17179869184 / 4
    assert capsys.readouterr().err == ""
    macos["hw.memsize"] = ""
    assert hardware.available_memory(devices) == math.inf
    assert hardware.total_memory(devices) == math.inf
    # Once.
    assert capsys.readouterr().err.count("the system does not report its memory") == 1


def test_the_processor_of_macos(macos: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    def missing(self: Path, *args: Any, **kwargs: Any) -> str:
        raise FileNotFoundError(2, "No such file or directory", str(self))

    monkeypatch.setattr(Path, "read_text", missing)
    assert hardware.processor() == "Apple M2"
    del macos["machdep.cpu.brand_string"]
    assert hardware.processor()


def test_memory_here():
    free, total = (
        f(jax.local_devices()[:1]) for f in (hardware.available_memory, hardware.total_memory)
    )
    assert 0 < free < total < math.inf


def test_without_locks_a_run_is_written_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from charjax import files
    from charjax.run import lock

    monkeypatch.setattr(files, "fcntl", None)
    lock._note_no_locks.cache_clear()
    first, second = Lock(tmp_path), Lock(tmp_path)
    first.acquire()
    assert capsys.readouterr().err.startswith("note: this system has no file locks")
    assert not is_held(tmp_path)
    second.acquire()
    first.release()
    second.release()
