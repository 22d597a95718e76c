"""Programs compiled for TPUs and GPUs that are not there: `make aot` runs these with the extra."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from charjax.performance import programs, topology

_MISSING = [name for name in ("libtpu", "jax_plugins") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(_MISSING),
    reason=f"no compilers for absent devices ({', '.join(_MISSING)}): make aot, or pip install "
    '"charjax[aot]"',
)


def run(module: str, *words: str) -> Any:
    # Without the flags of the tests: what is compiled is what a run compiles.
    environment = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("target", ["v5e:1", "v6e:8", "h100:1", "h100:4"])
def test_a_tiny_run_compiles_without_a_fault(target: str, tmp_path: Path) -> None:
    out = tmp_path / "row.json"
    words = ("--row", "tiny-bigram", "--devices", target, "--out", str(out))
    done = run("benchmarks.aot", *words)
    row = json.loads(out.read_text(encoding="utf-8"))
    assert row["faults"] == []
    assert row["seconds"] > 0
    assert done.stderr == "", "nothing of what libtpu and the plugin miss is said"


@pytest.mark.parametrize(
    ("fault", "target", "word"),
    [
        ("print", "h100:1", "every step calls the host: debug_print"),
        ("transfer", "v5e:1", "the host takes part in every step: copy-start"),
        ("host loop", "h100:1", "the GPU waits for the host"),
    ],
)
def test_a_planted_synchronization_is_caught(fault: str, target: str, word: str) -> None:
    row = json.loads(run("tests.aot.planted", fault, target).stdout)
    assert any(word in each for each in row["faults"])


@pytest.mark.parametrize(("device", "count"), [("v5e", 4), ("h100", 2)])
def test_this_process_goes_on_with_its_own_device(device: str, count: int) -> None:
    here = jnp.arange(3)
    mesh = topology.compile_mesh(device, count)
    assert mesh.size == count
    assert jax.default_backend() == "cpu"
    assert (here + 1).tolist() == [1, 2, 3]
    assert {each.platform for each in jax.devices()} == {"cpu"}


def test_a_tpu_refuses_what_does_not_fit() -> None:
    mesh = topology.compile_mesh("v5e", 1)
    x = jax.ShapeDtypeStruct((2**32,), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P()))
    program = programs.Program("too large", jax.jit(jnp.negative), (x,), mesh)
    with pytest.raises(topology.DoesNotFitError) as error:
        topology.compiled(program)
    assert error.value.needed > 2**34 > error.value.available > 2**33


def test_a_gpu_compiles_what_does_not_fit() -> None:
    """Its size has to be compared with the memory: `charjax plan` does."""
    mesh = topology.compile_mesh("h100", 1)
    x = jax.ShapeDtypeStruct((2**35,), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P()))
    program = programs.Program("too large", jax.jit(jnp.negative), (x,), mesh)
    assert topology.compiled(program).total > 2**37
