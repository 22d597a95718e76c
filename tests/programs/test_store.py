"""Stored programs: found without tracing, equal to the bit, never trusted when damaged."""

import os
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import backend, parallel
from charjax.programs import entries
from charjax.programs.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    backend.warn_once.cache_clear()
    (tmp_path / "programs").mkdir()
    return Store(tmp_path / "programs", "0" * 64)


def mesh():
    return parallel.make_mesh(jax.devices()[:1], 1)


def arguments(rows: int = 3):
    tree = {"x": jnp.linspace(0.0, 1.0, rows), "unread": jnp.int32(3)}
    return tree, jax.random.key(4), jnp.int32(5)


def compute(tree, key, steps):
    noise = jax.random.normal(key, tree["x"].shape)
    return {"y": jnp.sin(tree["x"]) + noise * steps.astype(jnp.float32)}, steps


program = jax.jit(compute)


def never_lowered():
    raise AssertionError("lowered, though it is stored")


def get(store: Store, lower=None, names=("test",), inputs=None, prepares: bool = False):
    inputs = arguments() if inputs is None else inputs
    lower = lower or (lambda: program.lower(*inputs))
    compiled = store.get(
        names, inputs, mesh(), lower, jax.stages.Lowered.compile, prepares=prepares
    )
    return jax.tree.map(np.asarray, compiled(*inputs))


def same(a, b) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.tobytes() == y.tobytes() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def only(store: Store, suffix: str) -> Path:
    (path,) = store.folder.glob(f"*{suffix}")
    return path


def test_a_stored_program_is_not_lowered_and_gives_the_same_bits(store: Store):
    first = get(store)
    assert same(first, jax.tree.map(np.asarray, program(*arguments())))
    assert same(get(store, never_lowered), first)


@pytest.mark.parametrize(
    "changed",
    [
        {"names": ("other",)},
        {"inputs": arguments(4)},
        {"inputs": (arguments()[0], jax.random.key(4), jnp.uint32(5))},
        {"inputs": ({**arguments()[0], "z": jnp.zeros(1)}, *arguments()[1:])},
        {"inputs": (arguments()[0], jax.random.key(4, impl="rbg"), jnp.int32(5))},
    ],
)
def test_another_name_or_another_argument_is_another_entry(store: Store, changed):
    get(store)
    with pytest.raises(AssertionError, match="lowered"):
        get(store, never_lowered, **changed)


def test_equal_programs_of_two_entries_are_stored_and_compiled_once(store: Store, monkeypatch):
    get(store)
    monkeypatch.setattr(
        backend, "without_cache", lambda: pytest.fail("compiled, though it is stored")
    )
    get(store, names=("other",))
    assert len(list(store.folder.glob("*.entry"))) == 2
    only(store, ".program")


@pytest.mark.parametrize("suffix", [".entry", ".program"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "of another version"])
def test_damage_costs_a_warning_and_a_compilation(store: Store, suffix, damage, capfd):
    first, path = get(store), only(store, suffix)
    data = path.read_bytes()
    path.write_bytes(
        {
            "cut": data[:-1],
            "flipped": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
            "emptied": b"",
            "of another version": data.replace(b"program 1", b"program 0", 1),
        }[damage]
    )
    assert same(get(store), first)
    assert capfd.readouterr().err.count("warning: a stored program cannot be used") == 1
    assert path.read_bytes() == data or suffix == ".program"
    assert same(get(store, never_lowered), first)
    assert capfd.readouterr().err == ""


def test_a_whole_file_of_something_else_is_not_a_program(store: Store, capfd):
    first, path = get(store), only(store, ".program")
    entries.write(path, b"not what XLA wrote")
    assert same(get(store), first)
    assert "cannot be used" in capfd.readouterr().err


def test_a_missing_program_is_compiled_silently(store: Store, capfd):
    first = get(store)
    only(store, ".program").unlink()
    assert same(get(store), first)
    assert capfd.readouterr().err == ""


def test_a_folder_that_cannot_be_written_costs_one_warning(store: Store, capfd):
    store.folder.rmdir()
    first = get(store)
    assert same(get(store, names=("other",)), first)
    err = capfd.readouterr().err
    assert err.count("warning: programs are not stored for the next start") == 1


def test_a_program_that_cannot_be_stored_is_run_all_the_same(store: Store, monkeypatch):
    from jax.experimental import serialize_executable

    def refuse(compiled):
        raise ValueError("Compilation does not support serialization")

    monkeypatch.setattr(serialize_executable, "serialize", refuse)
    assert same(get(store), jax.tree.map(np.asarray, program(*arguments())))
    assert not list(store.folder.iterdir())


def test_programs_are_never_stored_from_the_cache_of_jax(store: Store):
    # XLA would leave out their machine code.
    def lowered(inputs):
        # As in another process: JAX keeps what it compiled of one function.
        def program(*arguments):
            return compute(*arguments)

        return jax.jit(program).lower(*inputs)

    inputs = arguments(64)
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        for _ in range(2):
            lowered(inputs).compile()
        first = get(store, lambda: lowered(inputs), inputs=inputs)
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
    assert same(get(store, never_lowered, inputs=inputs), first)


@pytest.mark.parametrize("prepares", [False, True])
def test_a_program_is_loaded_ahead(store: Store, prepares: bool):
    first = get(store, prepares=prepares)
    store.notes["large_calls"] = True
    store.write_hint()
    later = Store(store.folder, store.hint)
    assert later.read_hint() == {"large_calls": True, "entries": store.used}
    later.load_ahead(store.used)
    assert list(later.loading) == store.used
    assert same(get(later, never_lowered), first)
    # A second use of it does not wait for the thread again.
    assert same(get(later, never_lowered), first)


def test_loading_ahead_survives_damage(store: Store, capfd):
    first = get(store)
    entries.write(only(store, ".program"), b"not what XLA wrote")
    later = Store(store.folder, store.hint)
    later.load_ahead([*store.used, "1" * 64])
    assert same(get(later), first)
    assert capfd.readouterr().err.count("cannot be used") == 1


def test_shapes_are_traced_once(store: Store, capfd):
    def trace():
        return jax.eval_shape(lambda: {"a": jnp.zeros((2, 3), jnp.bfloat16), "b": (jnp.ones(()),)})

    traced = store.shapes(("x",), trace)
    assert store.shapes(("x",), never_lowered) == traced
    with pytest.raises(AssertionError, match="lowered"):
        store.shapes(("y",), never_lowered)
    path = only(store, ".shapes")
    path.write_bytes(path.read_bytes()[:-3])
    assert store.shapes(("x",), trace) == traced
    assert "cannot be used" in capfd.readouterr().err


def test_several_writers_leave_a_whole_file(tmp_path: Path):
    path, bodies = tmp_path / "a.program", [bytes([n]) * 100_000 for n in range(8)]
    threads = [threading.Thread(target=entries.write, args=(path, body)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert entries.read(path) in bodies
    assert [file.name for file in tmp_path.iterdir()] == ["a.program"]


def test_what_was_used_longest_ago_makes_room(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(entries, "LIMIT", 2000)
    for age, name in enumerate("abc"):
        entries.write(tmp_path / f"{name}.program", bytes(900))
        os.utime(tmp_path / f"{name}.program", (10 + age, 10 + age))
    (tmp_path / ".x.entry.0.tmp").write_bytes(bytes(5000))
    (tmp_path / ".y.entry.0.tmp").write_bytes(bytes(5000))
    os.utime(tmp_path / ".x.entry.0.tmp", (10, 10))
    (tmp_path / "notes.txt").write_text("of the user's")
    # Reading is using.
    assert entries.read(tmp_path / "a.program") == bytes(900)
    entries.make_room(tmp_path)
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"a.program", "c.program", ".y.entry.0.tmp", "notes.txt"}
