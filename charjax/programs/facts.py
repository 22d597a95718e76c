"""The key of a stored program: everything that it is made from."""

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from charjax.config import Config
from charjax.extensions import references_in
from charjax.hardware import cores, processor
from charjax.ops.kernels import kernels_in_words

# Settings that no program of a run reads; tests/programs compares what is lowered.
UNREAD_SECTIONS = ("eval", "checkpoint", "log")
UNREAD = (("train", "seed"), ("train", "log_every"), ("train", "sample_every"))
# Of XLA itself: they say where arrays are.
_OF_XLA = {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}
_PACKAGES = ("jaxlib", "flax", "optax", "ml_dtypes")
# JAX's settings that say where and when compiled programs are stored.
_OF_CACHES = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
# What XLA, its libraries and JAX read from the environment.
_VARIABLES = ("JAX_", "XLA_", "TF_", "TPU_", "LIBTPU_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_")


def config_facts(config: Config) -> str | None:
    """Return the settings that a run's programs may depend on; None with code of the user's own.

    Such code may read other files, and so its programs are never stored.
    """
    tree = config.model_dump(mode="json")
    if references_in(tree):
        return None
    for section in UNREAD_SECTIONS:
        del tree[section]
    for section, key in UNREAD:
        del tree[section][key]
    return json.dumps(tree, sort_keys=True)


@functools.cache
def environment_digest() -> str:
    """Return a digest of versions, settings of JAX and XLA, and devices. JAX has to be started."""
    devices = jax.local_devices()
    settings = {k: str(v) for k, v in jax.config.values.items() if k not in _OF_CACHES}
    variables = {k: v for k, v in os.environ.items() if k.startswith(_VARIABLES)}
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    return digest(
        [
            platform.python_version(),
            jax.__version__,
            np.__version__,
            *map(version, _PACKAGES),
            processor(),
            str([(device.id, device.device_kind) for device in devices]),
            str(devices[0].client.platform_version),
            _instructions(),
            str(kernels_in_words()),
            str(cores()),
            json.dumps(settings, sort_keys=True),
            json.dumps(variables, sort_keys=True),
        ]
    )


def _instructions() -> str:
    """Return the processor's flags: a virtual machine may hide some of what its name promises."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return ""


@functools.cache
def sources_digest() -> str:
    """Return a digest of charjax's own files."""
    return digest_of_files(Path(__file__).resolve().parent.parent)


def digest_of_files(root: Path) -> str:
    """Return a digest of the names and the contents of all Python files under a directory."""
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        data = path.read_bytes()
        total.update(f"{path.relative_to(root).as_posix()} {len(data)}\n".encode())
        total.update(data)
    return total.hexdigest()


def entry_key(names: Iterable[str], arguments: Any, mesh: Mesh) -> str:
    """Return the key of a program by what it is made from and the arguments it is called with.

    Args:
      names: its name, and all that it depends on beside its arguments.
      arguments: a pytree of arrays or their shapes; the pytree's static parts count, too.
      mesh: where it runs.
    """
    return digest(
        [
            environment_digest(),
            sources_digest(),
            *names,
            *_described(arguments),
            _devices(mesh),
        ]
    )


def shapes_key(names: Iterable[str]) -> str:
    """Return the key of a pytree of shapes by what it depends on."""
    return digest([environment_digest(), sources_digest(), "shapes", *names])


def program_key(lowered: jax.stages.Lowered, mesh: Mesh) -> str:
    """Return the key of a compiled program by the program itself."""
    outputs = jax.tree.map(lambda leaf: f"{leaf.shape} {leaf.dtype}", lowered.out_info)
    return digest(
        [
            environment_digest(),
            lowered.as_text(),
            str(lowered.args_info),
            str(outputs),
            str(lowered.in_tree),
            _devices(mesh),
        ]
    )


def library_calls(lowered: jax.stages.Lowered) -> set[str]:
    """Return the names of the functions outside of XLA that a program calls."""
    names = set(re.findall(r"custom_call @([\w.]+)", lowered.as_text())) - _OF_XLA
    return {name for name in names if not name.startswith("xla.sdy.")}


def digest(parts: Iterable[str]) -> str:
    """Return SHA-256 over texts, whose borders count."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        total.update(f"{len(data)}\n".encode() + data)
    return total.hexdigest()


def _described(arguments: Any) -> list[str]:
    leaves, structure = jax.tree.flatten(arguments)
    return [
        str(structure),
        *(
            f"{leaf.shape} {leaf.dtype} {getattr(leaf, 'weak_type', False)} {leaf.sharding}"
            for leaf in leaves
        ),
    ]


def _devices(mesh: Mesh) -> str:
    return str([(device.id, device.process_index) for device in mesh.devices.flat])
