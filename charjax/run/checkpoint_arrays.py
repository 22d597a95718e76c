"""Arrays in files, as orbax writes and reads them.

Every process writes and reads for itself, and orbax waits for no other: `checkpoint_together` lets
the processes of one run meet.
"""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from charjax import processes
from charjax.errors import printable
from charjax.run.checkpoint_record import DamagedError
from charjax.run.checkpoint_silence import silenced

Shapes = dict[str, tuple[int, ...]]


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays of at least one element into a new directory.

    Raises:
      Exception: of the operating system, or tensorstore's ValueError.
    """
    with silenced():
        _save(path, arrays)


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    ocp = _orbax()
    # Compression makes parameters smaller by a twelfth and takes a sixth of a save's time; OCDBT
    # takes twice the time of one file per array, for so few arrays.
    options: dict[str, Any] = {"use_compression": False, "use_ocdbt": False}
    if processes.count() > 1:
        options["type_handler_registry"] = _local_registry()
    handler = ocp.PyTreeCheckpointHandler(**options, multiprocessing_options=_alone())
    with ocp.Checkpointer(handler, multiprocessing_options=_alone()) as orbax:
        orbax.save(path, args=ocp.args.PyTreeSave(arrays))


def read_arrays(path: Path, shapes: Shapes) -> dict[str, np.ndarray]:
    """Read the arrays of a directory.

    Raises:
      DamagedError: there are others, or they cannot be read.
    """
    ocp = _orbax()
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in shapes}
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone())
    try:
        with silenced(), ocp.Checkpointer(handler, multiprocessing_options=_alone()) as orbax:
            check_sizes(orbax.metadata(path).item_metadata.tree, shapes)
            found: dict[str, np.ndarray] = orbax.restore(
                path, args=ocp.args.PyTreeRestore(restore_args=as_numpy)
            )
    except DamagedError:
        raise
    except Exception as error:  # tensorstore raises ValueError
        raise DamagedError(reason(error)) from error
    return found


def check_sizes(headers: dict[str, Any], shapes: Shapes) -> None:
    """Raise a DamagedError if the headers declare other arrays than those of the record.

    Digests do not protect from a crafted checkpoint: a restore (orbax 0.12) allocates what a header
    declares, which may be more memory than there is.
    """
    for name, header in headers.items():
        shape = getattr(header, "shape", None)
        chunk = header.storage.chunk_shape if shape and header.storage else ()
        larger = any(part > side for part, side in zip(chunk, shape or (), strict=True))
        if name not in shapes or shape != shapes[name] or larger:
            raise DamagedError(f"{name} is altered")


def _orbax() -> Any:
    """Import orbax at the first save or restore: that takes half as long as importing JAX."""
    import orbax.checkpoint

    return orbax.checkpoint


def _alone() -> Any:
    """Return options by which orbax neither waits for other processes nor leaves work to them."""
    index = processes.index()
    return _orbax().options.MultiprocessingOptions(primary_host=index, active_processes={index})


def _local_registry() -> Any:
    """Return a registry whose only handler writes the NumPy arrays of this process.

    Orbax's own (0.12) takes them for copies of those of process 0: any other process writes
    nothing, whichever options it is given, and reports success. Its handler of JAX arrays refuses
    those that one process holds.
    """
    ocp = _orbax()
    import tensorstore

    base: Any = ocp.type_handlers.NumpyHandler

    class LocalArrays(base):  # type: ignore[misc]
        async def serialize(self, values: Any, infos: Any, args: Any = None) -> list[Any]:
            for array, info in zip(values, infos, strict=True):
                await info.await_path_creation()
                spec = {
                    "driver": "zarr",
                    "kvstore": {"driver": "file", "path": f"{info.path}/"},
                    "metadata": {"compressor": None, "chunks": list(array.shape)},
                    "store_data_equal_to_fill_value": True,
                }
                store = await tensorstore.open(
                    spec, create=True, dtype=array.dtype, shape=array.shape
                )
                await store.write(array)
            return []

    return ocp.type_handlers.create_type_handler_registry((np.ndarray, LocalArrays()))


def reason(error: Exception) -> str:
    """Return the operating system's message, or else the first line of the error."""
    if isinstance(error, processes.PeerError):
        return printable(str(error))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    return f"{type(error).__name__}: {printable(str(error).partition(chr(10))[0])}"
