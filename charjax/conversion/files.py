"""Safetensors files: named arrays and a few texts, and nothing that could run when it is read."""

import os
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from charjax.errors import UserError
from charjax.files import named, replacing

# The dtypes that hold weights; buffers of whole numbers and truth values are read too.
_DTYPES = {
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
}
# How torch.save begins: a zip archive, or a bare pickle of protocol 2 to 5.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class TensorFile(NamedTuple):
    """What a file holds: arrays by name, and the texts of its header."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]


def read_file(path: Path) -> TensorFile:
    """Read a safetensors file.

    Raises:
      UserError: no such file, another format (a pickle is not opened), or a tensor of a dtype
        that is no array's here.
    """
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "is not a file"
        raise UserError(f"FILE: {str(path)!r} {what}; give a .safetensors file")
    raw = path.read_bytes()
    try:
        entries = safetensors.deserialize(raw)
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise UserError(_why_not(path, raw, error)) from None
    unknown = [
        f"{name} ({held['dtype']})" for name, held in entries if held["dtype"] not in _DTYPES
    ]
    if unknown:
        raise UserError(
            f"FILE: {str(path)!r} has tensors of other dtypes than float32, float64, float16 and "
            f"bfloat16: {', '.join(unknown)}; convert them in PyTorch by .float()"
        )
    tensors = {
        name: np.frombuffer(held["data"], _DTYPES[held["dtype"]]).reshape(held["shape"])
        for name, held in entries
    }
    return TensorFile(tensors, metadata)


def _why_not(path: Path, raw: bytes, error: Exception) -> str:
    if raw.startswith(_PICKLES):
        return (
            f"FILE: {str(path)!r} is a pickle, as torch.save writes it, and a pickle can run "
            "anything when it is loaded, so it is never read here; where you trust it, convert it "
            "in PyTorch: safetensors.torch.save_model(model, 'model.safetensors'), or save_file("
            "{name: tensor.clone() for name, tensor in state_dict.items()}, 'model.safetensors')"
        )
    return (
        f"FILE: {str(path)!r} is not a whole safetensors file ({error}); write it again by "
        "safetensors.torch.save_file, or copy it again"
    )


def check_target(path: Path, overwrite: bool) -> None:
    """Raise a UserError unless a file can be put there."""
    if path.is_dir() or not path.parent.is_dir():
        what = "is a directory" if path.is_dir() else "is in a directory that does not exist"
        raise UserError(f"FILE: {str(path)!r} {what}; give the path of a new file")
    if path.exists() and not overwrite:
        raise UserError(
            f"FILE: {str(path)!r} is there already; give another path, or --overwrite to replace it"
        )


def write_file(path: Path, content: TensorFile) -> None:
    """Write a safetensors file in one move: whole, or not at all."""
    tensors = {name: np.ascontiguousarray(array) for name, array in content.tensors.items()}
    raw = safetensors.numpy.save(tensors, content.metadata)
    with (
        replacing(path, shared=True) as temporary,
        named(path),
        temporary.open("wb") as file,
    ):
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
