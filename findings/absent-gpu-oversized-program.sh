#!/usr/bin/env bash
# Guess: a program that needs more than the memory of the GPU it is compiled for is refused, as a TPU's
#   compiler refuses it.
# Behaviour: it compiles: 120 GiB for a GPU of 79 GiB. The sizes that memory_analysis returns are right;
#   nothing compares them.
# Version: jax, jaxlib, jax-cuda12-plugin and jax-cuda12-pjrt 0.12.0.1 (Linux, x86-64; Python 3.12 or
#   later, as PYTHON=python3.13), compiling for an H100 that is not there (device_memory_size of its
#   GpuTargetConfigProto).
# Source: jax.stages.Compiled.memory_analysis, with a topology of
#   jax.experimental.topologies.get_topology_desc.
# Output seen:
#   arguments 60.0 GiB, results 60.0 GiB, device 79.1 GiB: compiles
# What to do: compare the sum with the device's memory oneself, as `charjax plan` does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet jax==0.12.0.1 jaxlib==0.12.0.1 \
    jax-cuda12-plugin==0.12.0.1 jax-cuda12-pjrt==0.12.0.1
JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PROGRAM'
import re
import sys

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
here = jax.sharding.SingleDeviceSharding(device)
x = jax.ShapeDtypeStruct((15 * 2**30,), jnp.float32, sharding=here)
found = jax.jit(jnp.negative).lower(x).compile().memory_analysis()
memory = int(re.search(r"device_memory_size: (\d+)", TARGET)[1])
sizes = [found.argument_size_in_bytes, found.output_size_in_bytes, memory]
words = [f"{size / 2**30:.1f} GiB" for size in sizes]
print(f"arguments {words[0]}, results {words[1]}, device {words[2]}: compiles")
sys.exit(0 if sum(sizes[:2]) == 120 * 2**30 > memory else 1)
PROGRAM
