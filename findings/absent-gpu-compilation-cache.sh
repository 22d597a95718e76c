#!/usr/bin/env bash
# Guess: a program compiled for a GPU that is not there comes from JAX's persistent compilation cache
#   the second time, or is not stored in it.
# Behaviour: it is stored, and every later compilation warns that it cannot be read ("PjRtCompiler must
#   be constructed with a Client") and compiles again. With warnings as errors, the second call fails.
#   A TPU's program (libtpu 0.0.50.1) does the same.
# Version: jax, jaxlib, jax-cuda12-plugin and jax-cuda12-pjrt 0.12.0.1 (Linux, x86-64; Python 3.12 or
#   later, as PYTHON=python3.13).
# Source: jax._src.compiler._cache_read and _cache_write, with a topology of
#   jax.experimental.topologies.get_topology_desc.
# Output seen:
#   1: 1 stored, no warning
#   2: 1 stored, Error reading persistent compilation cache entry for 'jit_sin': JaxRuntimeError:
#   INVALID_ARGUMENT: PjRtCompiler must be constructed with a Client to call DeserializeLoadedExecutable.
# What to do: compile with jax_persistent_cache_min_compile_time_secs so large that nothing is stored
#   (charjax.backend.compiled), and keep what is wanted of the program instead.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet jax==0.12.0.1 jaxlib==0.12.0.1 \
    jax-cuda12-plugin==0.12.0.1 jax-cuda12-pjrt==0.12.0.1
JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PROGRAM'
import pathlib
import sys
import tempfile
import warnings

import jax
import jax.numpy as jnp
from jax.experimental import topologies

TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  driver_version: "12.8.0" runtime_version: "12.8.0" dnn_version: "9.10.0"
}
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
"""
device = topologies.get_topology_desc(
    platform="cuda", topology="1x1x1", target_config=TARGET
).devices[0]
x = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(device))
seen = []
with tempfile.TemporaryDirectory() as cache:
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    for turn in (1, 2):
        jax.clear_caches()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            jax.jit(jnp.sin).lower(x).compile()
        stored = len(list(pathlib.Path(cache).glob("*-cache")))
        said = [str(each.message) for each in caught]
        print(f"{turn}: {stored} stored, {said[0] if said else 'no warning'}")
        seen.append((stored, any("DeserializeLoadedExecutable" in each for each in said)))
sys.exit(0 if seen == [(1, False), (1, True)] else 1)
PROGRAM
