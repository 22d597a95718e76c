#!/usr/bin/env bash
# Guess: `AbstractMesh((1,), ("data",))` stands for `Mesh(devices, ("data",))` in tracing and lowering:
#   what is traced for one is traced for the other, as their shapes and names are equal.
# Behaviour: the defaults of the two differ in jax 0.12. A Mesh's axes are Auto (the compiler finds the
#   shardings of intermediate results), an AbstractMesh's are Explicit (they are part of every array's
#   type, and an operation whose result's sharding is not unambiguous is refused). Reading rows of a
#   table by sharded indices is traced for the first and raises ShardingTypeError for the second. In
#   jax 0.10 both were Auto, so that a program that was lowered for absent devices by an AbstractMesh
#   stops with the newer version, or has other shardings.
# Version: jax 0.12.0.1 (and 0.10.0, where the two are equal), on a CPU.
# Source: jax.sharding.AbstractMesh, jax.sharding.Mesh, their argument axis_types.
# Output seen (jax 0.12.0.1):
#   Mesh ('Auto',): traced
#   AbstractMesh ('Explicit',): ShardingTypeError
# What to do: give the axis types of an AbstractMesh, `axis_types=(AxisType.Auto,)`, or take the one
#   of a Mesh (`mesh.abstract_mesh`), as tests/performance/test_targets.py and charjax.parallel do.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
version=$("$folder/venv/bin/python" -c 'import sys; print("0.12.0.1" if sys.version_info >= (3, 12) else "0.10.0")')
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "jax==$version" "jaxlib==$version"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PROGRAM'
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec


def trace(mesh):
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    table = jax.ShapeDtypeStruct((500, 4), jnp.float32, sharding=whole)
    rows = jax.ShapeDtypeStruct((8,), jnp.int32, sharding=split)
    try:
        jax.jit(lambda table, rows: table[rows]).trace(table, rows)
    except Exception as error:
        return type(error).__name__
    return "traced"


real, bare = Mesh(np.asarray(jax.devices()[:1]), ("data",)), AbstractMesh((1,), ("data",))
seen = [trace(mesh) for mesh in (real, bare)]
for mesh, result in zip((real, bare), seen):
    print(f"{type(mesh).__name__} {tuple(kind.name for kind in mesh.axis_types)}: {result}")
old = jax.__version_info__[:2] < (0, 12)
sys.exit(0 if seen == ["traced", "traced" if old else "ShardingTypeError"] else 1)
PROGRAM
