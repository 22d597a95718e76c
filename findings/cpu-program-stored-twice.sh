#!/usr/bin/env bash
# Guess: a compiled program can be serialized whether it was compiled in this process or read from
#   JAX's persistent compilation cache.
# Behaviour: one that was read is serialized without an error and loaded without an error, and fails at
#   its first run: its machine code was left out.
# Version: jax and jaxlib 0.12.0.1, and 0.10.2 (Linux, x86-64, on the CPU).
# Source: jax.experimental.serialize_executable.serialize and deserialize_and_load.
# Output seen:
#   compiled here: 0.6870337724685669
#   read from the cache: INTERNAL: Error dispatching computation: ... Function broadcast_add_fusion.2 not
#   found (type id: 1)
# What to do: compile what is to be serialized without that cache (charjax.backend.without_cache).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet jax==0.12.0.1 jaxlib==0.12.0.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder/cache" <<'PROGRAM'
import sys

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def compile_anew():
    def program(x):
        return jnp.sin(x) + jax.random.normal(jax.random.key(1), x.shape)

    return jax.jit(program).lower(jnp.ones(64)).compile()


def stored_and_run(compiled):
    stored, inputs, outputs = serialize_executable.serialize(compiled)
    devices = jax.devices()[:1]
    loaded = serialize_executable.deserialize_and_load(
        stored, inputs, outputs, execution_devices=devices
    )
    try:
        return float(loaded(jnp.ones(64))[0])
    except jax.errors.JaxRuntimeError as error:
        return str(error)


first, second = stored_and_run(compile_anew()), stored_and_run(compile_anew())
print("compiled here:", first)
print("read from the cache:", second)
sys.exit(not (isinstance(first, float) and "not found" in str(second)))
PROGRAM
