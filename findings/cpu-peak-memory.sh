#!/usr/bin/env bash
# Guess: peak_memory_in_bytes of a compiled program is the most memory that it uses at once: arguments,
#   results and temporary arrays.
# Behaviour: on a CPU it leaves temporary arrays out: here it is arguments and results and no more,
#   beside 60 MiB of temporary arrays. (For a TPU and a GPU it contains them.)
# Version: jax and jaxlib 0.12.0.1 (Python 3.12 or later) and 0.10.0, on a CPU.
# Source: jax.stages.Compiled.memory_analysis (CompiledMemoryStats).
# Output seen (jax 0.12.0.1):
#   arguments 4194304, results 4, temporary 62914560, peak 4194324
# What to do: add arguments, results and temporary arrays, and subtract what is aliased
#   (charjax.performance.topology.Compilation.total).
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


def work(x):
    wide = jnp.concatenate([x, x, x], axis=1)
    y = jnp.sort(wide @ jnp.concatenate([x, x, x]).repeat(3, axis=1), axis=0)
    return jnp.sum(y @ y.T)


x = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
found = jax.jit(work).lower(x).compile().memory_analysis()
used = [found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes]
peak = found.peak_memory_in_bytes
print(f"arguments {used[0]}, results {used[1]}, temporary {used[2]}, peak {peak}")
sys.exit(0 if used[2] > 10 * used[0] and peak < 2 * used[0] else 1)
PROGRAM
