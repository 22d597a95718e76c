"""Arrays in files, as orbax writes them, and as it reads those of the older formats.

Every process writes and reads for itself, and orbax waits for no other: `checkpoint_together` lets
the processes of one run meet.
"""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from charjax import processes
from charjax.errors import printable
from charjax.run.checkpoint_bytes import piece_name, pieces
from charjax.run.checkpoint_record import DamagedError
from charjax.run.checkpoint_silence import silenced

Shapes = dict[str, tuple[int, ...]]


def write_arrays(path: Path, arrays: Iterable[np.ndarray]) -> None:
    """Write the bytes of arrays into a new directory, in pieces; they are not synced.

    Raises:
      Exception: of the operating system, or tensorstore's ValueError.
    """
    with silenced():
        _save(path, arrays)


def _save(path: Path, arrays: Iterable[np.ndarray]) -> None:
    handler, info = _writer()
    for index, piece in enumerate(pieces(arrays)):
        written = handler.serialize([piece], [info(name=piece_name(index), parent_dir=path)])
        # It awaits nothing, so it needs no event loop: making one takes as long as writing a file.
        with contextlib.suppress(StopIteration):
            written.send(None)


@functools.cache
def _writer() -> tuple[Any, Callable[..., Any]]:
    """Return a handler of NumPy arrays, and what makes the description of an array for it.

    The handler is used without orbax's checkpointer, which adds files and directories of its own
    and a rename, and without its futures, each of which starts a thread and an event loop: together
    they cost several times what the arrays of a small model do. Nor does it leave the arrays of
    any process but the first unwritten, as orbax's own does (0.12): it takes them for copies.
    """
    ocp = _orbax()
    import tensorstore

    base: Any = ocp.type_handlers.NumpyHandler
    # `checkpoint_files.sync` does it, for all files at once.
    context = tensorstore.Context({"file_io_sync": False})

    class PieceHandler(base):  # type: ignore[misc]
        async def serialize(self, values: Any, infos: Any, args: Any = None) -> list[Any]:
            for array, info in zip(values, infos, strict=True):
                spec = {
                    "driver": "zarr",
                    "kvstore": {"driver": "file", "path": f"{info.path}/"},
                    "metadata": {"compressor": None, "chunks": list(array.shape)},
                    "store_data_equal_to_fill_value": True,
                }
                # Nothing is awaited: see `_save`.
                store = tensorstore.open(
                    spec, create=True, dtype=array.dtype, shape=array.shape, context=info.ts_context
                ).result()
                # The piece stays as it is until the write has ended: no copy is needed.
                store.write(array, can_reference_source_data_indefinitely=True).result()
            return []

    describe = functools.partial(
        ocp.type_handlers.ParamInfo, is_ocdbt_checkpoint=False, ts_context=context
    )
    return PieceHandler(), describe


def read_arrays(path: Path, shapes: Shapes) -> dict[str, np.ndarray]:
    """Read the arrays of a directory in one of the older formats.

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
    """Import orbax at the first save: that takes as long as importing JAX."""
    import orbax.checkpoint

    return orbax.checkpoint


def _alone() -> Any:
    """Return options by which orbax neither waits for other processes nor leaves work to them."""
    index = processes.index()
    return _orbax().options.MultiprocessingOptions(primary_host=index, active_processes={index})


def reason(error: Exception) -> str:
    """Return the operating system's message, or else the first line of the error."""
    if isinstance(error, processes.PeerError):
        return printable(str(error))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    return f"{type(error).__name__}: {printable(str(error).partition(chr(10))[0])}"
