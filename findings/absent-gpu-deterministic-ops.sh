#!/usr/bin/env bash
# Guess: xla_gpu_deterministic_ops=true compiles for a GPU that is not there, as it does for one that is.
# Behaviour: a matrix product does not compile ("No supported config found for HLO"): without a GPU no
#   algorithm can be measured, and the choice without measuring has none that is deterministic for a
#   product by Triton. With xla_gpu_enable_triton_gemm=false, the product is cuBLAS's, and compiles.
# Version: jax, jaxlib, jax-cuda12-plugin and jax-cuda12-pjrt 0.12.0.1 (Linux, x86-64; Python 3.12 or
#   later, as PYTHON=python3.13), compiling for an H100.
# Source: https://github.com/openxla/xla, xla/backends/autotuner/config_assigner.cc (named in the error).
# Output seen:
#   default: compiles
#   deterministic: INTERNAL: No supported config found for HLO
#   deterministic, no Triton: compiles
# What to do: compile for an absent GPU without the option, or with both; the times of a deterministic
#   run are those of other kernels.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet jax==0.12.0.1 jaxlib==0.12.0.1 \
    jax-cuda12-plugin==0.12.0.1 jax-cuda12-pjrt==0.12.0.1
JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PROGRAM'
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
OPTIONS = {
    "default": {},
    "deterministic": {"xla_gpu_deterministic_ops": True},
    "deterministic, no Triton": {
        "xla_gpu_deterministic_ops": True,
        "xla_gpu_enable_triton_gemm": False,
    },
}
device = topologies.get_topology_desc(
    platform="cuda", topology="1x1x1", target_config=TARGET
).devices[0]
here = jax.sharding.SingleDeviceSharding(device)
x = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=here)
seen = []
for name, options in OPTIONS.items():
    try:
        jax.jit(lambda x: x @ x).lower(x).compile(compiler_options=options)
        result = "compiles"
    except jax.errors.JaxRuntimeError as error:
        result = next(line for line in str(error).splitlines() if "INTERNAL" in line)[:44].rstrip(" :")
    print(f"{name}: {result}")
    seen.append(result == "compiles")
sys.exit(0 if seen == [True, False, True] else 1)
PROGRAM
