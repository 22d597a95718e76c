"""Accelerators: memory, nominal peaks, bandwidths, from data sheets.

Dense figures, no sparsity, in bytes, FLOP/s and bytes/s. `float32` is the rate of products of
float32 operands at JAX's default precision: TF32 on a GPU with such tensor cores, one pass in
bfloat16 on a TPU.
"""

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any, Literal

from charjax.errors import UserError, did_you_mean

Platform = Literal["cpu", "cuda", "tpu"]
_GIB = 2**30
_T = 1e12
# https://docs.jax.dev/en/latest/gpu_memory_allocation.html; more by XLA_PYTHON_CLIENT_MEM_FRACTION.
GPU_FRACTION = 0.75


@dataclasses.dataclass(frozen=True)
class Device:
    """An accelerator.

    Attributes:
      name: as given on the command line.
      device_kind: jax.Device.device_kind.
      platform: cpu, cuda or tpu.
      memory: bytes, of the whole device.
      usable: bytes that JAX gives to a program by default: on a TPU as its compiler reports them,
        on a GPU a share of the memory.
      float32: FLOP/s of products in float32 at the default precision; None if not known.
      bfloat16: FLOP/s of products in bfloat16; None if not supported or not known.
      bandwidth: bytes/s of the memory.
      interconnect: bytes/s that a device sends to others, in one direction; None if not known.
      source: the data sheet.
    """

    name: str
    device_kind: str
    platform: Platform
    memory: float
    usable: float
    float32: float | None
    bfloat16: float | None
    bandwidth: float
    interconnect: float | None
    source: str

    def of(self, dtype: str) -> float | None:
        """Return the peak of matrix products as JAX computes them by default in a dtype."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32


def _gpu(
    name: str,
    device_kind: str,
    memory: float,
    rates: tuple[float, float | None],
    bandwidth: float,
    interconnect: float | None,
    source: str,
) -> Device:
    float32, bfloat16 = (None if rate is None else rate * _T for rate in rates)
    usable = GPU_FRACTION * memory
    return Device(
        name,
        device_kind,
        "cuda",
        memory,
        usable,
        float32,
        bfloat16,
        bandwidth,
        interconnect,
        source,
    )


def _tpu(
    name: str, device_kind: str, memory: tuple[float, float], peak: float, rest: tuple[float, float]
) -> Device:
    """Return a TPU: (nominal, usable) memory, one peak for both dtypes, both bandwidths."""
    page = "v5p-training" if name == "v5p" else name
    source = f"https://docs.cloud.google.com/tpu/docs/{page}; usable memory: libtpu 0.0.50.1"
    return Device(name, device_kind, "tpu", *memory, peak * _T, peak * _T, *rest, source)


# Memory sizes are those of XLA's descriptions of the devices, xla/backends/gpu/target_config/specs
# in https://github.com/openxla/xla, where it has one.
_H100 = "NVIDIA H100 Tensor Core GPU data sheet, SXM (figures with sparsity halved)"
_H200 = "NVIDIA H200 Tensor Core GPU data sheet, SXM (figures with sparsity halved)"
_A100 = "NVIDIA A100 Tensor Core GPU data sheet"
_ADA = "NVIDIA Ada GPU architecture white paper"
_B200 = "https://glennklockwood.com/garden/processors/B200 (HGX); bandwidth: XLA's description"
_L4 = "NVIDIA L4 Tensor Core GPU data sheet (figures with sparsity halved)"
# NVLink's published figure is the sum of both directions: https://github.com/NVIDIA/nccl/issues/1264
# (H100, H200), https://glennklockwood.com/garden/processors/A100. So is that of Google's pages.
_DEVICES = (
    _gpu("h100", "NVIDIA H100 80GB HBM3", 84942979072, (494.5, 989.5), 3.35e12, 450e9, _H100),
    _gpu("h200", "NVIDIA H200", 151397597184, (494.5, 989.5), 4.8e12, 450e9, _H200),
    _gpu("a100", "NVIDIA A100-SXM4-80GB", 85100068864, (156, 312), 2.039e12, 300e9, _A100),
    _gpu("a100-40gb", "NVIDIA A100-SXM4-40GB", 40 * _GIB, (156, 312), 1.555e12, 300e9, _A100),
    _gpu("a100-pcie-40gb", "NVIDIA A100-PCIE-40GB", 40 * _GIB, (156, 312), 1.555e12, None, _A100),
    _gpu("a100-pcie", "NVIDIA A100 80GB PCIe", 80 * _GIB, (156, 312), 1.935e12, None, _A100),
    _gpu("b200", "NVIDIA B200", 191514411008, (1100, 2250), 7.67e12, 900e9, _B200),
    _gpu("a10", "NVIDIA A10", 24e9, (62.5, 125), 0.6e12, None, "NVIDIA A10 data sheet"),
    _gpu("l4", "NVIDIA L4", 24e9, (60, 121), 0.3e12, None, _L4),
    _gpu("rtx4090", "NVIDIA GeForce RTX 4090", 24e9, (82.6, 165.2), 1.008e12, None, _ADA),
    _gpu("t4", "Tesla T4", 16e9, (8.1, None), 0.32e12, None, "NVIDIA T4 data sheet"),
    _gpu(
        "v100", "Tesla V100-SXM2-16GB", 16e9, (15.7, None), 0.9e12, None, "NVIDIA V100 data sheet"
    ),
    _tpu("v5e", "TPU v5 lite", (16 * _GIB, 15.75 * _GIB), 197, (819e9, 200e9)),
    _tpu("v6e", "TPU v6 lite", (32 * _GIB, 31.24 * _GIB), 918, (1638e9, 400e9)),
    _tpu("v5p", "TPU v5", (95.73 * _GIB, 95.73 * _GIB), 459, (2765e9, 600e9)),
)
DEVICES = {device.name: device for device in _DEVICES}
_BY_KIND = {device.device_kind: device for device in _DEVICES}


def find(device_kind: str) -> Device | None:
    """Return the figures of a jax.Device.device_kind; None if not listed, as processors are not."""
    return _BY_KIND.get(device_kind)


def nominal(device_kind: str, dtype: str) -> float | None:
    """Return the nominal FLOP/s of a device's matrix products in a dtype; None if unknown."""
    found = find(device_kind)
    return found.of(dtype) if found else None


def by_name(name: str) -> Device:
    """Return an accelerator by its short name.

    Raises:
      UserError: no such name.
    """
    if name.lower() in DEVICES:
        return DEVICES[name.lower()]
    raise UserError(
        f"--device: {name!r} given; must be cpu, {', '.join(DEVICES)}, or a file that describes "
        f"one (TOML or JSON){did_you_mean(name, [*DEVICES, 'cpu'])}"
    )


def processor(name: str, memory: float, rates: dict[str, float]) -> Device:
    """Return the device of JAX that a CPU is, or its share of the cores.

    Args:
      name: of the processor.
      memory: bytes for each device.
      rates: FLOP/s by dtype, and "copy" in bytes/s, of that share.
    """
    return Device(
        name="cpu",
        device_kind="cpu",
        platform="cpu",
        memory=memory,
        usable=memory,
        float32=rates["float32"],
        bfloat16=rates["bfloat16"],
        bandwidth=rates["copy"],
        interconnect=None,
        source=f"measured: {name}",
    )


def read_file(path: Path) -> dict[str, Any]:
    """Read a description of a device, TOML or JSON: a table `device`, or a calibration.

    Raises:
      UserError: it cannot be read, or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"--device: {str(path)!r} cannot be read: {reason}") from None
    is_calibration = isinstance(tree, dict) and "points" in tree
    if not is_calibration and not (isinstance(tree, dict) and isinstance(tree.get("device"), dict)):
        raise UserError(f"--device: {str(path)!r} has no table [device]; see docs/plan.md")
    return tree


def calibrated(tree: dict[str, Any], where: str) -> Device:
    """Return the device of a calibration, with the rates that were measured.

    Raises:
      UserError: it is of a kind whose memory is not known.
    """
    kind = str(tree.get("device_kind"))
    found = find(kind)
    if found is None:
        raise UserError(
            f"--device: {where!r} is a calibration of {kind!r}, whose memory is not known here; "
            "give --device cpu on the machine itself, or describe the device in a file"
        )
    products = tree["rates"]["products"]
    return dataclasses.replace(
        found,
        float32=max(products["float32"].values()),
        bfloat16=max(products["bfloat16"].values()),
        bandwidth=tree["rates"]["copy"],
        source=f"measured: {where}",
    )


def parse(table: dict[str, Any], where: str) -> Device:
    """Return the device that a table describes.

    Args:
      table: the attributes of Device; only memory, float32 and bandwidth are needed.
      where: the file, for messages.

    Raises:
      UserError: an unknown key, a missing one, or a value that is not a positive number.
    """
    texts = {"name": "device", "device_kind": "unknown", "platform": "cuda", "source": where}
    numbers = ("memory", "usable", "float32", "bfloat16", "bandwidth", "interconnect")
    for key, value in table.items():
        if key not in texts and key not in numbers:
            known = [*texts, *numbers]
            raise UserError(f"{where}: unknown key {key!r}{did_you_mean(key, known)}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in numbers and not (is_number and 0 < value < float("inf")) and value is not None:
            raise UserError(f"{where}: {key} is {value!r}; must be a number greater than 0")
        if key in texts and not isinstance(value, str):
            raise UserError(f"{where}: {key} is {value!r}; must be a text")
    if missing := [key for key in ("memory", "float32", "bandwidth") if not table.get(key)]:
        raise UserError(f"{where}: {missing[0]} is missing from [device]; see docs/plan.md")
    values: dict[str, Any] = texts | dict.fromkeys(numbers) | table
    if values["platform"] not in ("cpu", "cuda", "tpu"):
        raise UserError(f"{where}: platform is {values['platform']!r}; must be cpu, cuda or tpu")
    if values["usable"] is None:
        share = GPU_FRACTION if values["platform"] == "cuda" else 1.0
        values["usable"] = share * values["memory"]
    return Device(**values)
