"""Row 15 and reproducibility: other devices, the compile cache, the same seed twice."""

import os
import random
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.histories import (
    FAMILIES,
    STEPS,
    Lab,
    assert_same,
    going_on_from,
    lines,
    saved,
    story,
)
from tests.faults.processes import Process


def on_devices(count: int) -> dict[str, str]:
    """Return the environment of a CPU split into several devices."""
    flags = os.environ["XLA_FLAGS"]
    return {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={count}"}


@pytest.mark.slow
def test_stopped_on_one_device_resumed_on_two_and_on_one(faults, lab: Lab):
    row = faults(15, "stopped on 1 device, resumed on 2, stopped, resumed on 1", few=1)
    for case in row.over(range(10)):
        kind = row.family(case)
        with row.case(f"{case}, {kind}"):
            rng, whole, directory = random.Random(case), lab.whole(kind), lab.new()
            first = stop(lab.start(directory, kind), directory, rng.randint(20, 150))
            again = lab.forks.start("train", "--workdir", directory, "--resume", **on_devices(2))
            second = stop(again, directory, first + rng.randint(20, 150))
            assert going_on_from(again) == first
            assert "note: devices was 1, is 2: the bits may differ" in again.out
            last = lab.resume(directory)
            assert last.status == 0, last.err
            assert going_on_from(last) == second
            assert "note: devices was 2, is 1: the bits may differ" in last.out
            assert 0 < first < second < STEPS
            losses = [(x["step"], x["split"], x["loss"]) for x in story(directory)]
            want = [(x["step"], x["split"], x["loss"]) for x in story(whole)]
            assert [x[:2] for x in losses] == [x[:2] for x in want]
            worst = max(abs(a[2] / b[2] - 1) for a, b in zip(losses, want, strict=True))
            assert worst < 1e-5, worst
            shutil.rmtree(directory)


def stop(process: Process, directory: Path, step: int) -> int:
    """Stop a run soon after a step; return the step at which it stopped."""
    process.until(lambda: max(lines(directory, "train"), default=0) >= step)
    process.send(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM, process.err
    return max(saved(directory))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(faults, lab: Lab):
    row = faults(21, "the same seed twice, the same bits (deterministic or not)", few=1)
    for case in row.over(range(8)):
        kind = row.family(case)
        with row.case(f"{case}, {kind}"):
            directory = lab.new()
            settings = ("runtime.deterministic=true",) if case >= len(FAMILIES) else ()
            # Compiled anew: what is the same is not a kept program.
            done = lab.start(directory, kind, *settings, uncached=not row.brief)
            assert done.wait() == 0, done.err
            assert_same(directory, lab.whole(kind))
            shutil.rmtree(directory)


# The compile cache.


def keeping(home: Path) -> dict[str, str]:
    """Return the environment of a user without settings for JAX."""
    return {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": str(home)}


def cache_files(home: Path) -> list[Path]:
    """Return JAX's compiled programs, if there are any, and those that charjax stores itself."""
    compiled = home / "charjax" / "compiled"
    return sorted([*compiled.rglob("*-cache"), *compiled.glob("*/programs/*.*")])


@pytest.fixture(scope="module")
def cache(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fill a user's cache by one run."""
    home = tmp_path_factory.mktemp("home")
    done = lab.start(lab.new(), "bigram", **keeping(home))
    assert done.wait() == 0, done.err
    assert done.err == ""
    assert {".program", ".entry", ".hint"} <= {file.suffix for file in cache_files(home)}
    return home


def test_the_compile_cache_is_private(faults, cache: Path):
    row = faults(22, "the compile cache is the user's alone (0700)", few=1)
    for _ in row.over([0]):
        with row.case("modes"):
            folder = cache / "charjax" / "compiled"
            folders = [path for path in folder.rglob("*") if path.is_dir()]
            assert "programs" in [path.name for path in folders]
            for place in (folder, *folders):
                assert stat.S_IMODE(place.stat().st_mode) == 0o700


def empty(data: bytes, rng: random.Random) -> bytes:
    return b""


def half(data: bytes, rng: random.Random) -> bytes:
    return data[: len(data) // 2]


def noise(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(len(data))


def flipped(data: bytes, rng: random.Random) -> bytes:
    harmed = bytearray(data)
    harmed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(harmed)


HARMS: list[Callable[[bytes, random.Random], bytes]] = [empty, half, noise, flipped, flipped]


@pytest.mark.slow
def test_a_corrupted_compile_cache(faults, lab: Lab, cache: Path):
    row = faults(15, "the compile cache corrupted: a warning, compiled as ever", few=1)
    intact = {file: file.read_bytes() for file in cache_files(cache)}
    for case in row.over(range(10)):
        harm, rng = HARMS[case % len(HARMS)], random.Random(case)
        with row.case(f"{case}, {harm.__name__}"):
            for file, data in intact.items():
                file.write_bytes(harm(data, rng))
            directory = lab.new()
            done = lab.start(directory, "bigram", **keeping(cache))
            assert done.wait() == 0, done.err
            assert "Traceback" not in done.err
            assert done.err.count("warning: a stored program cannot be used") == 1
            if not row.brief:
                assert_same(directory, lab.whole("bigram"))
            shutil.rmtree(directory)


def closed(home: Path) -> None:
    home.chmod(0o500)


def a_file(home: Path) -> None:
    (home / "charjax").write_text("")


def open_to_all(home: Path) -> None:
    place = next((home / "charjax" / "compiled").iterdir())
    place.chmod(0o777)


def programs_open_to_all(home: Path) -> None:
    next((home / "charjax" / "compiled").iterdir()).joinpath("programs").mkdir(mode=0o700)
    next((home / "charjax" / "compiled").iterdir()).joinpath("programs").chmod(0o777)


def read_only(home: Path) -> None:
    next((home / "charjax" / "compiled").iterdir()).chmod(0o500)


def test_an_unwritable_compile_cache(faults, lab: Lab, tmp_path: Path):
    row = faults(15, "the compile cache not to be written or trusted: a warning", few=1)
    for case in row.over([closed, a_file, open_to_all, read_only, programs_open_to_all]):
        with row.case(case.__name__):
            home = tmp_path / case.__name__
            home.mkdir()
            if case not in (closed, a_file):
                lab.forks.run("evaluate", lab.whole("bigram"), **keeping(home))
            case(home)
            directory = lab.new()
            done = lab.start(directory, "bigram", mortal=True, **keeping(home))
            assert done.wait() == 0, done.err
            what = "programs are not stored" if "programs" in case.__name__ else "compiled programs"
            assert done.err.startswith(f"warning: {what}")
            assert len(done.err.splitlines()) == 1
            if not row.brief:
                assert_same(directory, lab.whole("bigram"))
            shutil.rmtree(directory)
            home.chmod(0o700)
