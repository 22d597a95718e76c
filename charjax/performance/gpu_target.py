"""Facts of GPUs that XLA's compiler has to know where there is none.

From xla/backends/gpu/target_config/specs of openxla/xla (h100_sxm, h200, a100_sxm_80, b200). Their
description of clocks and units, which only the compiler's estimates of time read, is left out.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class GpuFacts:
    """A GPU as XLA's compiler knows it.

    Attributes:
      kind: jax.Device.device_kind.
      capability: CUDA's compute capability, major and minor.
      accelerated: the instructions of this capability alone are there (sm_90a).
      cores: streaming multiprocessors.
      fpus_per_core: float32 units of each.
      clock_ghz: of the cores.
      memory: bytes.
      bandwidth: of the memory, bytes/s.
      l2_cache: bytes.
      shared_per_core: bytes of shared memory of a core.
      shared_per_block: bytes of it that one block of threads may ask for.
    """

    kind: str
    capability: tuple[int, int]
    accelerated: bool
    cores: int
    fpus_per_core: int
    clock_ghz: float
    memory: int
    bandwidth: int
    l2_cache: int
    shared_per_core: int
    shared_per_block: int


_HOPPER = GpuFacts(
    kind="NVIDIA H100 80GB HBM3",
    capability=(9, 0),
    accelerated=True,
    cores=132,
    fpus_per_core=128,
    clock_ghz=1.98,
    memory=84_942_979_072,
    bandwidth=3_352_320_000_000,
    l2_cache=52_428_800,
    shared_per_core=233_472,
    shared_per_block=232_448,
)
GPUS = {
    "h100": _HOPPER,
    "h200": dataclasses.replace(
        _HOPPER, kind="NVIDIA H200", memory=151_397_597_184, bandwidth=4_800_000_000_000
    ),
    "a100": GpuFacts(
        kind="NVIDIA A100-SXM4-80GB",
        capability=(8, 0),
        accelerated=False,
        cores=108,
        fpus_per_core=64,
        clock_ghz=1.41,
        memory=85_100_068_864,
        bandwidth=2_039_040_000_000,
        l2_cache=41_943_040,
        shared_per_core=167_936,
        shared_per_block=166_912,
    ),
    "b200": GpuFacts(
        kind="NVIDIA B200",
        capability=(10, 0),
        accelerated=True,
        cores=148,
        fpus_per_core=128,
        clock_ghz=1.965,
        memory=191_514_411_008,
        bandwidth=7_672_320_000_000,
        l2_cache=132_644_864,
        shared_per_core=233_472,
        shared_per_block=232_448,
    ),
}


def target_config(facts: GpuFacts) -> str:
    """Return a GPU as the text form of XLA's GpuTargetConfigProto.

    Graphs with loops need CUDA 12.3 or later of the driver and the runtime; JAX's own are later.
    """
    major, minor = facts.capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {facts.shared_per_block}
  shared_memory_per_core: {facts.shared_per_core}
  core_count: {facts.cores}
  fpus_per_core: {facts.fpus_per_core}
  clock_rate_ghz: {facts.clock_ghz}
  device_memory_size: {facts.memory}
  memory_bandwidth: {facts.bandwidth}
  l2_cache_size: {facts.l2_cache}
  cuda_compute_capability {{
    major: {major}
    minor: {minor}
    feature_extension: {"ACCELERATED_FEATURES" if facts.accelerated else "NONE"}
  }}
  device_vendor: "NVIDIA Corporation"
  name: "{facts.kind}"
  driver_version: "12.8.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{
  major: 9
  minor: 10
}}
device_description_str: "{facts.kind}"
"""
