"""Safetensors files: named arrays, and a header from which charjax imports without a config.

PyTorch reads the tensors alone. The header is one JSON text under `charjax` in the metadata.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from charjax.data.tokenizers import Tokenizer, tokenizer_from_json
from charjax.errors import UserError
from charjax.files import named, replacing

_METADATA_KEY = "charjax"
# Dtypes of weights, and the integers and booleans of buffers.
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
# First bytes of a file by torch.save: a zip archive, or a bare pickle of protocol 2 to 5.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class TensorFile(NamedTuple):
    """Content of a safetensors file: arrays by name, and metadata texts by key."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]


def read_file(path: Path) -> TensorFile:
    """Read a safetensors file.

    Raises:
      UserError: no such file, another format (a pickle is never loaded), or a tensor of an
        unsupported dtype.
    """
    if not path.is_file():
        what = "is a directory without config.json" if path.is_dir() else "is not a file"
        raise UserError(
            f"FILE: {str(path)!r} {what}; give a .safetensors file, or a directory that "
            "transformers saved"
        )
    raw = path.read_bytes()
    try:
        entries = safetensors.deserialize(raw)
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise UserError(_explain_format(path, raw, error)) from None
    unknown = [
        f"{name} ({entry['dtype']})" for name, entry in entries if entry["dtype"] not in _DTYPES
    ]
    if unknown:
        raise UserError(
            f"FILE: {str(path)!r} has tensors of other dtypes than float32, float64, float16 and "
            f"bfloat16: {', '.join(unknown)}; convert them in PyTorch by .float()"
        )
    tensors = {
        name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in entries
    }
    return TensorFile(tensors, metadata)


def _explain_format(path: Path, raw: bytes, error: Exception) -> str:
    if raw.startswith(_PICKLES):
        return (
            f"FILE: {str(path)!r} is a pickle, as torch.save writes it; loading a pickle can run "
            "any code, so charjax never does; if you trust the file, convert it in PyTorch: "
            "safetensors.torch.save_model(model, 'model.safetensors'), or save_file({name: "
            "tensor.clone() for name, tensor in state_dict.items()}, 'model.safetensors')"
        )
    return (
        f"FILE: {str(path)!r} is not a whole safetensors file ({error}); write it again with "
        "safetensors.torch.save_file, or copy it again"
    )


def check_target(path: Path, overwrite: bool) -> None:
    """Raise a UserError unless a file can be written to this path."""
    if path.is_dir() or not path.parent.is_dir():
        what = "is a directory" if path.is_dir() else "is in a directory that does not exist"
        raise UserError(f"FILE: {str(path)!r} {what}; give the path of a new file")
    if path.exists() and not overwrite:
        raise UserError(
            f"FILE: {str(path)!r} already exists; give another path, or --overwrite to replace it"
        )


def write_file(path: Path, content: TensorFile) -> None:
    """Write a safetensors file atomically."""
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


class Header(NamedTuple):
    """Description of the exported run.

    Attributes:
      config: the resolved configuration, by section.
      tokenizer: the run's alphabet.
      dataset_digest: SHA-256 of the run's text.
      step: the step of the checkpoint.
    """

    config: dict[str, Any]
    tokenizer: Tokenizer
    dataset_digest: str
    step: int


def write_header(header: Header) -> dict[str, str]:
    """Return the metadata of a safetensors file with this header."""
    tree = header._asdict() | {"tokenizer": header.tokenizer.to_json()}
    # Other readers of safetensors require "format".
    return {"format": "pt", _METADATA_KEY: json.dumps(tree, sort_keys=True)}


def read_header(metadata: dict[str, str]) -> Header | None:
    """Return the header, or None if another program wrote the file.

    Raises:
      UserError: the header is damaged.
    """
    if _METADATA_KEY not in metadata:
        return None
    try:
        tree = json.loads(metadata[_METADATA_KEY])
        header = Header(
            {name: dict(section) for name, section in tree["config"].items()},
            tokenizer_from_json(tree["tokenizer"]),
            str(tree["dataset_digest"]),
            int(tree["step"]),
        )
        header.tokenizer.encode("")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"FILE: its header has a damaged entry {_METADATA_KEY!r} ({type(error).__name__}: "
            f"{error}); export the run again, or remove the header and give a config"
        ) from None
    return header
