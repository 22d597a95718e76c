#!/usr/bin/env bash
# Guess: with WHILE among the commands of XLA's option xla_gpu_enable_command_buffer, a while loop on a
#   GPU becomes one CUDA graph, with a lax.scan in it, too; the compiled HLO shows it.
# Behaviour: a loop around a lax.scan stays outside: the host reads its condition before every turn.
#   The scan's outputs are written by copies at offsets that depend on its counter ("dynamic slice
#   fusions"), which XLA does not put into a graph, nor the loop around them, nor the loop around that.
#   Without the pass that marks them, "dynamic-slice-annotator", all is one graph. The HLO does not
#   show any of it; the list of thunks in the directory of xla_dump_to does.
# Version: jax, jaxlib, jax-cuda12-plugin and jax-cuda12-pjrt 0.12.0.1 (Linux, x86-64; Python 3.12 or
#   later, as PYTHON=python3.13), compiling for an H100 that is not there.
# Source: https://github.com/openxla/xla,
#   xla/backends/gpu/runtime/command_buffer_conversion_pass.cc (HasLoopDependentDynamicSliceFusionV2).
# Output seen:
#   default: the loop is outside of graphs; HLO the same
#   WHILE: the loop is outside of graphs; HLO the same
#   WHILE, without the pass: the loop is in a graph; HLO the same
# What to do: give both options, as charjax.backend does, and look at the thunks.
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
GRAPH = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
OPTIONS = {
    "default": {},
    "WHILE": {"xla_gpu_enable_command_buffer": GRAPH},
    "WHILE, without the pass": {
        "xla_gpu_enable_command_buffer": GRAPH,
        "xla_disable_hlo_passes": "dynamic-slice-annotator",
    },
}


def train(w, steps):
    def step(h, _):
        h = jnp.tanh(h @ w)
        return h, h

    def turn(loop):
        done, w = loop
        _, hs = jax.lax.scan(step, jnp.ones((64, 256)), None, length=32)
        return done + 1, w - 1e-3 * jnp.einsum("tbi,tbj->ij", hs, hs)

    return jax.lax.while_loop(lambda loop: loop[0] < steps, turn, (jnp.int32(0), w))[1]


def compile_loop(options):
    """Return true if the outer loop is in a command buffer, and if the HLO names one."""
    device = topologies.get_topology_desc(
        platform="cuda", topology="1x1x1", target_config=TARGET
    ).devices[0]
    here = jax.sharding.SingleDeviceSharding(device)
    w = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=here)
    steps = jax.ShapeDtypeStruct((), jnp.int32, sharding=here)
    with tempfile.TemporaryDirectory() as dump:
        lowered = jax.jit(train).lower(w, steps)
        compiled = lowered.compile(compiler_options=options | {"xla_dump_to": dump})
        # The first is not written where the passes have changed nothing.
        names = ("thunk_sequence_after_thunk_passes", "thunk_sequence")
        found = [path for name in names for path in pathlib.Path(dump).glob(f"*.{name}.txt")]
        lines = found[0].read_text().splitlines()
    outer = next(line for line in lines if "kWhile" in line)
    return outer.startswith(" "), "command_buffer" in compiled.as_text()


seen = {name: compile_loop(options) for name, options in OPTIONS.items()}
for name, (is_inside, is_shown) in seen.items():
    where = "in a graph" if is_inside else "outside of graphs"
    print(f"{name}: the loop is {where}; HLO {'names it' if is_shown else 'the same'}")
expected = [(False, False), (False, False), (True, False)]
sys.exit(0 if list(seen.values()) == expected else 1)
PROGRAM
