"""Checkpoints: exact, atomic, verified, and never lost."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as orbax
import pytest
from etils import epath
from tensorstore import Context

from charjax.errors import UserError
from charjax.run import checkpoint, checkpoint_files, checkpoint_together
from charjax.run.checkpoint import Checkpoints, SaveError, state_digest
from tests.faults.crafting import make_older


class State(NamedTuple):
    params: Any
    opt_state: Any
    carry: Any
    step: Any


def make_state(seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    table = jnp.asarray(rng.normal(size=(27, 27)), jnp.float32)
    params = {"table": table, "half": jnp.full((3,), 1.5, jnp.bfloat16)}
    moments = ({"mu": table * 2}, (), jnp.asarray(seed, jnp.uint32))
    return State(params, moments, jnp.zeros((0, 4)), jnp.asarray(seed, jnp.int32))


def shapes(state: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    store = Checkpoints(directory, keep=3)
    for step in (100, 200, 300):
        store.save(step, make_state(step), {"step": step}, best=step == 200)
    store.close()
    return directory


@pytest.fixture
def saved(three_steps: Path, tmp_path: Path) -> Path:
    """Copy steps 100, 200 and 300, as they were saved; 200 is the best."""
    return Path(shutil.copytree(three_steps, tmp_path / "checkpoints"))


def restore(directory: Path, which: str | int, warnings: list[str] | None = None) -> Any:
    warn = warnings.append if warnings is not None else None
    return Checkpoints(directory, warn=warn).restore(which, shapes(make_state()))


# What is saved comes back.


def test_a_state_comes_back_to_the_bit(saved: Path):
    state, meta, step = restore(saved, "latest")
    assert (meta, step) == ({"step": 300}, 300)
    want = make_state(300)
    assert jax.tree.structure(state) == jax.tree.structure(want)
    for got, exact in zip(jax.tree.leaves(state), jax.tree.leaves(want), strict=True):
        assert (got.dtype, got.shape) == (exact.dtype, exact.shape)
        assert isinstance(got, jax.Array)
        assert np.array_equal(np.asarray(got), np.asarray(exact))
    assert state_digest(state) == state_digest(want)


def test_numpy_leaves_stay_numpy_and_keep_wide_dtypes(tmp_path: Path):
    state = {
        "counts": np.array([2**40, -1]),
        "rates": np.array([0.1]),
        "odd": np.array([True]),
        "tokens": np.arange(5, dtype=np.uint16),
        "empty": np.zeros((0, 2), ml_dtypes.bfloat16),
    }
    store = Checkpoints(tmp_path, keep=1)
    store.save(1, state, {})
    store.close()
    got, _, _ = Checkpoints(tmp_path).restore("latest", state)
    for name, leaf in state.items():
        assert type(got[name]) is np.ndarray
        assert got[name].dtype == leaf.dtype
        assert np.array_equal(got[name], leaf)


@pytest.mark.parametrize("form", [1, 2])
def test_checkpoints_of_older_formats_are_read(saved: Path, form: int):
    make_older(saved / "300", form)
    arrays = {path.name for path in (saved / "300" / "state").iterdir() if path.is_dir()}
    assert (arrays == {"float32", "bfloat16", "uint32", "int32"}) == (form == 2)
    got, meta, _ = restore(saved, 300)
    assert (state_digest(got), meta) == (state_digest(make_state(300)), {"step": 300})


def test_all_arrays_are_one_sequence_of_bytes(saved: Path):
    files = {path.relative_to(saved / "300").as_posix() for path in payload(saved / "300")}
    assert files == {"meta.json", "state/bytes-0/.zarray", "state/bytes-0/0"}
    state = make_state(300)
    table, half = (np.asarray(state.params[name]) for name in ("table", "half"))
    # carry and opt_state come before params, and step after it.
    names = sorted(json.loads((saved / "300" / "meta.json").read_bytes())["leaves"])
    assert names == [
        "carry",
        "opt_state/0/mu",
        "opt_state/2",
        "params/half",
        "params/table",
        "step",
    ]
    expected = [np.asarray(state.opt_state[0]["mu"]), np.uint32(300), half, table, np.int32(300)]
    written = b"".join(array.tobytes() for array in expected)
    assert (saved / "300" / "state" / "bytes-0" / "0").read_bytes() == written


def test_orbax_reads_what_is_written(saved: Path):
    handlers = orbax.type_handlers
    folder = saved / "300" / "state"
    place = {"name": "bytes-0", "parent_dir": epath.Path(folder)}
    info = handlers.ParamInfo(**place, is_ocdbt_checkpoint=False, ts_context=Context())
    (read,) = asyncio.run(handlers.NumpyHandler().deserialize([info]))
    assert read.tobytes() == (folder / "bytes-0" / "0").read_bytes()


def test_every_file_is_synced_before_a_step_is_committed(
    saved: Path, monkeypatch: pytest.MonkeyPatch
):
    events: list[str] = []
    sync, rename = os.fsync, checkpoint_files.rename_into_place

    def note_sync(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def note_rename(*paths: Any) -> None:
        events.append("commit")
        rename(*paths)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(checkpoint_files, "rename_into_place", note_rename)
    store = Checkpoints(saved, keep=3)
    store.save(400, make_state(400), {})
    store.close()
    assert sorted(events[:-1]) == [".zarray", "0", "meta.json"]
    assert events[-1] == "commit"


def test_the_steps_removed_last_make_room_for_the_next(
    saved: Path, monkeypatch: pytest.MonkeyPatch
):
    """A disk that is full as long as a step that is no longer kept lies on it."""
    remove = checkpoint_files.remove

    def remove_late(paths: list[Path]) -> None:
        time.sleep(0.2)
        remove(paths)

    def has_room(directory: Path, size: int) -> bool:
        return not any(path.name.startswith(".removed-") for path in directory.iterdir())

    monkeypatch.setattr(checkpoint_files, "remove", remove_late)
    monkeypatch.setattr(checkpoint, "has_room", has_room)
    monkeypatch.setattr(checkpoint_together, "has_room", has_room)
    store = Checkpoints(saved, keep=1)
    for step in (400, 500):
        store.save(step, make_state(step), {})
    store.close()
    assert sorted(path.name for path in saved.iterdir()) == ["200", "500"]


def test_the_state_may_be_donated_and_changed_while_it_is_saved(tmp_path: Path):
    advance = jax.jit(
        lambda tree: jax.tree.map(lambda x: x + jnp.ones_like(x), tree), donate_argnums=0
    )
    state, host = make_state(7), np.zeros(4)
    want, meta = state_digest(state), {"list": [1]}
    store = Checkpoints(tmp_path, keep=1)
    store.save(7, {"state": state, "host": host}, meta)
    for _ in range(3):
        state = advance(state)
    host[:] = 1
    meta["list"].append(2)
    store.close()
    got, got_meta, _ = Checkpoints(tmp_path).restore(
        "latest", {"state": shapes(make_state()), "host": host}
    )
    assert state_digest(got["state"]) == want
    assert not got["host"].any()
    assert got_meta == {"list": [1]}


def test_notes_come_back_without_the_arrays(saved: Path):
    store = Checkpoints(saved)
    assert store.read_meta("latest") == {"step": 300}
    assert store.read_meta("best") == {"step": 200}
    assert store.read_meta(100) == {"step": 100}


def test_a_run_directory_can_be_moved(saved: Path):
    moved = saved.rename(saved.with_name("elsewhere"))
    assert restore(moved, "latest")[2] == 300


def test_saving_does_not_hold_up_the_caller(tmp_path: Path):
    store = Checkpoints(tmp_path, keep=1)
    stalls = []
    for step in range(5):
        state = make_state(step)
        began = time.perf_counter()
        store.save(step, state, {})
        stalls.append(time.perf_counter() - began)
        store.wait()
    store.close()
    # Measured: under a millisecond; the save itself takes about 20.
    assert min(stalls) < 0.02


def test_typed_keys_and_plain_numbers_are_refused(tmp_path: Path):
    store = Checkpoints(tmp_path, keep=1)
    for leaf in (jax.random.key(0), 1.0):
        with pytest.raises(TypeError, match=r"inner/0: a checkpoint holds arrays"):
            store.save(1, {"inner": [leaf]}, {})
    assert store.steps() == []


# The digest.


def test_the_digest_sees_everything_but_the_order():
    state = {"a": jnp.arange(4.0), "b": {"c": jnp.zeros((2, 3), jnp.int32)}}
    others = [
        {"a": jnp.arange(4.0).at[2].set(2.0000002), "b": state["b"]},
        {"a": jnp.arange(4.0).reshape(2, 2), "b": state["b"]},
        {"a": jnp.arange(4), "b": state["b"]},
        {"a": state["a"], "b": {"d": state["b"]["c"]}},
        {"a": state["a"]},
        {"a": -state["a"], "b": state["b"]},
    ]
    digests = [state_digest(tree) for tree in [state, *others]]
    assert len(set(digests)) == len(digests)
    same = {"b": {"c": np.zeros((2, 3), np.int32)}, "a": np.arange(4, dtype=np.float32)}
    assert state_digest(same) == digests[0]


def test_the_digest_is_a_fixed_function():
    # If this fails, digests in old summaries no longer mean anything: do not change the value
    # without saying so in the README.
    state = {"params": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "n": np.int32(3)}
    assert state_digest(state) == "6c4f019d7140cf86fc4df198f3295a9e038a5ff3bb25200ad1c39d10b090569d"


# Several devices.

_ON_DEVICES = """
import sys, jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from charjax.run.checkpoint import Checkpoints, state_digest
state = {"w": jnp.arange(12.0).reshape(3, 4), "carry": jnp.arange(16.0).reshape(8, 2)}
def places(count):
    mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
    return {"w": NamedSharding(mesh, P()), "carry": NamedSharding(mesh, P("data"))}
store = Checkpoints(sys.argv[1], keep=1)
store.save(1, jax.device_put(state, places(4)), {})
store.close()
for count in (4, 2, 1):
    there = places(count)
    like = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=there[k]) for k, v in state.items()}
    found, _, _ = Checkpoints(sys.argv[1]).restore("latest", like)
    assert all(found[k].sharding == there[k] for k in found), found
    print(len(found["carry"].sharding.device_set), state_digest(found))
"""


def test_saved_on_four_devices_restored_on_four_two_and_one(tmp_path: Path):
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "4"}
    done = subprocess.run(
        [sys.executable, "-c", _ON_DEVICES, str(tmp_path)],
        env=env, check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [count for count, _ in lines] == ["4", "2", "1"]
    here = {"w": jnp.arange(12.0).reshape(3, 4), "carry": jnp.arange(16.0).reshape(8, 2)}
    assert {digest for _, digest in lines} == {state_digest(here)}


# Which steps are kept.


@pytest.mark.parametrize(
    ("keep", "best", "remaining"),
    [
        (1, {1}, [1, 6]),
        (1, {1, 4}, [4, 6]),
        (1, {6}, [6]),
        (2, {3}, [3, 5, 6]),
        (2, set(), [5, 6]),
    ],
)
@pytest.mark.quick("1-best1-*", "2-best4-*")
def test_the_newest_and_the_best_are_kept(
    tmp_path: Path, keep: int, best: set[int], remaining: list
):
    store = Checkpoints(tmp_path, keep=keep)
    for step in range(1, 7):
        store.save(step, make_state(step), {}, best=step in best)
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(step) for step in remaining]
    assert store.best_step() == (max(best) if best else None)
    which = max(best) if best else 6
    assert restore(tmp_path, "best")[2] == which


def test_a_step_saved_again_is_replaced_and_stays_the_best(tmp_path: Path):
    store = Checkpoints(tmp_path, keep=1)
    store.save(5, make_state(1), {"try": 1}, best=True)
    store.save(5, make_state(2), {"try": 2})
    store.close()
    state, meta, step = restore(tmp_path, "best")
    assert (meta, step) == ({"try": 2}, 5)
    assert state_digest(state) == state_digest(make_state(2))


# Damage.


def payload(step: Path) -> list[Path]:
    return sorted(path for path in step.rglob("*") if path.is_file())


def test_any_damaged_file_sends_latest_one_step_back(saved: Path, warnings: list[str]):
    sound = saved.with_name("sound")
    shutil.copytree(saved, sound)
    files = payload(saved / "300")
    assert len(files) == 3
    for file in files:
        for harm in ("missing", "empty", "half"):
            data = file.read_bytes()
            if harm == "missing":
                file.unlink()
            else:
                file.write_bytes(data[: len(data) // 2] if harm == "half" else b"")
            state, meta, step = restore(saved, "latest", warnings)
            assert (meta, step) == ({"step": 200}, 200), (file, harm)
            assert state_digest(state) == state_digest(make_state(200))
            warning = warnings.pop()
            assert "checkpoint 300 is damaged" in warning
            assert "going back to checkpoint 200" in warning
            assert file.name in warning
            assert not warnings
            file.write_bytes(data)
    assert restore(saved, "latest", warnings)[2] == 300


def test_every_flipped_bit_is_found(saved: Path, warnings: list[str]):
    rng = np.random.default_rng(0)
    files = payload(saved / "300")
    for trial in range(60):
        file = files[trial % len(files)]
        data = bytearray(file.read_bytes())
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        intact = file.read_bytes()
        file.write_bytes(data)
        assert Checkpoints(saved, warn=warnings.append).read_meta("latest") == {"step": 200}
        file.write_bytes(intact)
    assert len(warnings) == 60


def test_leaves_are_verified_apart_from_files(saved: Path, warnings: list[str]):
    # Arrays that were written wrong, in files that are what was written.
    record = checkpoint_files.read_record(saved, 300)
    leaf = record.leaves["params/table"].model_copy(update={"sha256": "0" * 64})
    forged = record.model_copy(update={"leaves": {**record.leaves, "params/table": leaf}})
    (saved / "300" / "meta.json").write_bytes(forged.encode())
    assert restore(saved, "latest", warnings)[2] == 200
    assert warnings == [
        "checkpoint 300 is damaged (params/table is altered): going back to checkpoint 200"
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("leaves", 3),
        ("leaves", {"a": [1]}),
        ("files", [1]),
        ("step", "300"),
        ("meta", None),
        ("more", 1),
    ],
)
def test_a_crafted_record_is_damage(saved: Path, warnings: list[str], field: str, value: Any):
    path = saved / "300" / "meta.json"
    fields = {**json.loads(path.read_bytes()), field: value}
    del fields["sha256"]
    sha256 = hashlib.sha256(json.dumps(fields, indent=1).encode()).hexdigest()
    path.write_text(json.dumps({**fields, "sha256": sha256}, indent=1))
    assert restore(saved, "latest", warnings)[2] == 200


def test_an_empty_step_directory_is_passed_over(saved: Path, warnings: list[str]):
    (saved / "400").mkdir()
    assert restore(saved, "latest", warnings)[2] == 300
    assert warnings == [
        "checkpoint 400 is damaged (meta.json is missing): going back to checkpoint 300"
    ]


def test_a_renamed_step_is_damage(saved: Path, warnings: list[str]):
    (saved / "300").rename(saved / "350")
    assert restore(saved, "latest", warnings)[2] == 200


def test_several_damaged_steps_are_named_in_one_warning(saved: Path, warnings: list[str]):
    for step in ("200", "300"):
        (saved / step / "meta.json").unlink()
    store = Checkpoints(saved, warn=warnings.append)
    assert store.read_meta("latest") == {"step": 100}
    assert store.restore("latest", shapes(make_state()))[2] == 100
    assert len(warnings) == 1
    assert "300 is damaged" in warnings[0]
    assert "200 is damaged" in warnings[0]


def test_the_warning_goes_to_stderr_by_default(saved: Path, capsys: pytest.CaptureFixture[str]):
    (saved / "400").mkdir()
    restore(saved, "latest")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("warning: checkpoint 400 is damaged")
    assert err.count("\n") == 1


def test_when_all_are_damaged_all_are_listed(saved: Path):
    for step in ("100", "200", "300"):
        shutil.rmtree(saved / step / "state")
    with pytest.raises(UserError) as refusal:
        restore(saved, "latest")
    for step in (100, 200, 300):
        assert f"{step} is damaged (state/" in str(refusal.value)


@pytest.mark.parametrize("which", ["best", 200])
def test_a_damaged_step_asked_for_by_name_is_refused(saved: Path, which: str | int):
    (saved / "200" / "state" / "bytes-0" / "0").unlink()
    with pytest.raises(UserError, match=r"200 is damaged \(state/bytes-0/0 is missing\)"):
        restore(saved, which)


def test_the_best_is_not_guessed_past_an_unreadable_step(saved: Path):
    (saved / "300" / "meta.json").unlink()
    with pytest.raises(UserError, match=r"300 is damaged .* which one is the best is not known"):
        restore(saved, "best")
    assert restore(saved, 200)[2] == 200


def test_training_on_from_an_earlier_step_replaces_the_damaged_future(saved: Path):
    shutil.rmtree(saved / "300" / "state")
    store = Checkpoints(saved, keep=1, warn=lambda text: None)
    assert store.restore("latest", shapes(make_state()))[2] == 200
    store.save(250, make_state(250), {})
    store.close()
    assert store.steps() == [200, 250]
    assert store.best_step() == 200


def test_what_does_not_exist_is_said(tmp_path: Path, saved: Path):
    with pytest.raises(UserError, match=r"250 given; there are: best, latest, 100, 200, 300"):
        restore(saved, 250)
    with pytest.raises(UserError, match="there is none yet"):
        restore(tmp_path / "nowhere", "latest")
    assert not (tmp_path / "nowhere").exists()


# Another model.


@pytest.mark.parametrize(
    ("name", "leaf", "message"),
    [
        ("table", jnp.zeros((28, 28)), "is float32[27, 27] there and float32[28, 28] here"),
        ("table", jnp.zeros((27, 27), jnp.bfloat16), "is float32[27, 27] there and bfloat16["),
        ("more", jnp.zeros(2), "is missing there and float32[2] here"),
    ],
)
def test_another_model_is_refused_before_arrays_are_read(
    saved: Path, name: str, leaf: Any, message: str, monkeypatch: pytest.MonkeyPatch
):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("arrays were read")

    monkeypatch.setattr("charjax.run.checkpoint.read_leaves", fail)
    like = make_state()
    like = shapes(like._replace(params={**like.params, name: leaf}))
    with pytest.raises(UserError) as refusal:
        Checkpoints(saved).restore("latest", like)
    assert f"params/{name} {message}" in str(refusal.value)


def test_a_leaf_that_is_not_wanted_is_told(saved: Path):
    like = shapes(make_state()._replace(opt_state=()))
    with pytest.raises(UserError, match=r"opt_state/0/mu is float32\[27, 27\] there and missing"):
        Checkpoints(saved).restore("latest", like)


# Saves that die or fail.


def test_leftovers_are_ignored_and_cleared_when_writing(saved: Path):
    half = saved / ".saving-400"
    shutil.copytree(saved / "300", half)
    removed = saved / ".removed-50"
    shutil.copytree(saved / "100", removed)
    assert Checkpoints(saved).steps() == [100, 200, 300]
    assert half.exists()
    store = Checkpoints(saved, keep=3)
    assert sorted(path.name for path in saved.iterdir()) == ["100", "200", "300"]
    store.close()


def test_a_step_that_was_about_to_be_replaced_comes_back(saved: Path):
    (saved / "300").rename(saved / ".replaced-300")
    store = Checkpoints(saved, keep=3)
    assert store.read_meta("latest") == {"step": 300}
    (saved / ".replaced-300").mkdir()
    store = Checkpoints(saved, keep=3)
    assert sorted(path.name for path in saved.iterdir()) == ["100", "200", "300"]


def test_links_and_files_in_the_place_of_steps_stop_no_save(saved: Path, tmp_path: Path):
    elsewhere = tmp_path / "another disk"
    (saved / "100").rename(elsewhere)
    (saved / "100").symlink_to(elsewhere)
    (saved / "400").write_text("no step")
    for name in (".saving-7", ".removed-7", ".removed-8", ".saving-400"):
        (saved / name).write_text("no directory")
    for _ in range(2):
        store = Checkpoints(saved, keep=1)
        store.save(400, make_state(400), {"step": 400})
        store.close()
        assert sorted(path.name for path in saved.iterdir()) == ["200", "400"]
    assert (elsewhere / "meta.json").exists(), "what a link leads to is somebody else's"


def test_a_number_that_no_step_has_is_no_step(saved: Path):
    (saved / ("9" * 250)).mkdir()
    store = Checkpoints(saved, keep=3)
    assert store.steps() == [100, 200, 300]
    store.save(400, make_state(400), {"step": 400})
    store.close()


_SAVE_FOREVER = """
import sys, jax.numpy as jnp
from charjax.run.checkpoint import Checkpoints
store = Checkpoints(sys.argv[1], keep=2)
for step in range(10_000):
    state = {"w": jnp.full((200, 200), step, jnp.float32)}
    store.save(step, state, {"step": step}, best=step % 3 < 1)
    print(step, flush=True)
"""


def test_reading_while_another_process_writes(tmp_path: Path, warnings: list[str]):
    like = {"w": jax.ShapeDtypeStruct((200, 200), jnp.float32)}
    process = subprocess.Popen(
        [sys.executable, "-c", _SAVE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        for _ in range(2):
            process.stdout.readline()
        last = 0
        for _ in range(40):
            state, meta, step = Checkpoints(tmp_path, warn=warnings.append).restore("latest", like)
            assert meta == {"step": step}
            assert step >= last
            assert np.array_equal(state["w"], np.full((200, 200), step))
            last = step
        process.kill()
    process.wait()
    assert not warnings


def test_a_full_disk_is_an_error_and_costs_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(saved)._replace(free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    store = Checkpoints(saved, keep=3)
    store.save(400, make_state(400), {})
    with pytest.raises(
        SaveError, match=r"saving checkpoint 400 .*: No space left on device; .*300"
    ):
        store.wait()
    store.wait()
    assert sorted(path.name for path in saved.iterdir()) == ["100", "200", "300"]
    assert restore(saved, "latest")[2] == 300


_FILE_LIMIT = """
import resource, signal, sys, jax.numpy as jnp
from charjax.run.checkpoint import Checkpoints, SaveError
store = Checkpoints(sys.argv[1], keep=2)
store.save(1, {"w": jnp.zeros(10)}, {})
store.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
import numpy as np
store.save(2, {"w": np.random.default_rng(0).normal(size=(200, 200))}, {})
try:
    store.save(3, {"w": jnp.zeros(10)}, {})
except SaveError as error:
    print(error)
    print(store.steps())
"""


def test_an_error_of_the_storage_surfaces_at_the_next_save(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", _FILE_LIMIT, str(tmp_path)],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    message, steps = done.stdout.splitlines()
    assert message.endswith("failed: File too large; saved before it: 1")
    assert steps == "[1]"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]


def test_a_directory_that_vanishes_is_not_made_again(saved: Path):
    store = Checkpoints(saved, keep=3)
    shutil.rmtree(saved)
    store.save(400, make_state(), {})
    with pytest.raises(SaveError, match="No such file or directory; saved before it: none"):
        store.close()
    assert not saved.exists()


def test_a_directory_deleted_during_a_save_is_not_made_again(
    saved: Path, monkeypatch: pytest.MonkeyPatch
):
    write = checkpoint.write_arrays

    def delete_and_write(path: Path, arrays: Any) -> None:
        shutil.rmtree(saved)
        # As orbax does where the directory goes a moment later.
        path.parent.mkdir(parents=True)
        write(path, arrays)

    monkeypatch.setattr(checkpoint, "write_arrays", delete_and_write)
    store = Checkpoints(saved, keep=3)
    store.save(400, make_state(400), {})
    with pytest.raises(SaveError, match=r"400 .* failed: No such file.*; saved before it: none"):
        store.wait()
    assert not any(saved.iterdir())


def test_a_place_that_cannot_be_made_is_said_at_once(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="Not a directory"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep=1)


def test_notes_that_json_cannot_hold_fail_at_once(tmp_path: Path):
    store = Checkpoints(tmp_path, keep=1)
    with pytest.raises(TypeError):
        store.save(1, make_state(), {"key": object()})
    assert store.steps() == []


def test_checkpoints_opened_for_reading_are_not_written(saved: Path):
    with pytest.raises(ValueError, match="only read"):
        Checkpoints(saved).save(1, make_state(), {})
