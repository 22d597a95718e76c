"""Nominal peaks of accelerators, from their data sheets.

Dense figures, no sparsity, in FLOP/s and bytes/s. `float32` is that of the ordinary units, `tf32`
that of the tensor cores on float32 operands, which is what JAX's default precision runs on.
"""

from typing import NamedTuple


class Peaks(NamedTuple):
    """Peaks of a data sheet.

    Attributes:
      float32: FLOP/s, or None where it is not given.
      tf32: FLOP/s, or None if it is not supported.
      bfloat16: FLOP/s, or None if it is not supported.
      bandwidth: bytes/s of the device's memory.
      source: the data sheet.
    """

    float32: float | None
    tf32: float | None
    bfloat16: float | None
    bandwidth: float
    source: str

    def of(self, dtype: str) -> float | None:
        """Return the peak of matrix products as JAX computes them by default in a dtype."""
        if dtype == "bfloat16":
            return self.bfloat16
        return self.tf32 or self.float32


_T = 1e12
_H100 = "NVIDIA H100 Tensor Core GPU data sheet (figures with sparsity halved)"
_A100 = "NVIDIA A100 Tensor Core GPU data sheet"
_ADA = "NVIDIA Ada GPU architecture white paper"
# By jax.Device.device_kind.
_PEAKS = {
    "NVIDIA H200": Peaks(
        67 * _T,
        494.5 * _T,
        989.5 * _T,
        4.8 * _T,
        "NVIDIA H200 Tensor Core GPU data sheet, SXM (figures with sparsity halved)",
    ),
    "NVIDIA H100 80GB HBM3": Peaks(67 * _T, 494.5 * _T, 989.5 * _T, 3.35 * _T, f"{_H100}, SXM"),
    "NVIDIA A100-SXM4-40GB": Peaks(19.5 * _T, 156 * _T, 312 * _T, 1.555 * _T, _A100),
    "NVIDIA A100-SXM4-80GB": Peaks(19.5 * _T, 156 * _T, 312 * _T, 2.039 * _T, _A100),
    "NVIDIA A100-PCIE-40GB": Peaks(19.5 * _T, 156 * _T, 312 * _T, 1.555 * _T, _A100),
    "NVIDIA A100 80GB PCIe": Peaks(19.5 * _T, 156 * _T, 312 * _T, 1.935 * _T, _A100),
    "NVIDIA A10": Peaks(31.2 * _T, 62.5 * _T, 125 * _T, 0.6 * _T, "NVIDIA A10 data sheet"),
    "NVIDIA GeForce RTX 4090": Peaks(82.6 * _T, 82.6 * _T, 165.2 * _T, 1.008 * _T, _ADA),
    "Tesla T4": Peaks(8.1 * _T, None, None, 0.32 * _T, "NVIDIA T4 data sheet"),
    "Tesla V100-SXM2-16GB": Peaks(15.7 * _T, None, None, 0.9 * _T, "NVIDIA V100 data sheet"),
}


def peaks(device_kind: str) -> Peaks | None:
    """Return the nominal peaks of a device; None if it is not listed, as processors are not."""
    return _PEAKS.get(device_kind)


def nominal(device_kind: str, dtype: str) -> float | None:
    """Return the nominal FLOP/s of a device's matrix products in a dtype; None if unknown."""
    found = peaks(device_kind)
    return found.of(dtype) if found else None
