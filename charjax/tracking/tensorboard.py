"""TensorBoard's event files, by tensorboardX.

Records are written by its RecordWriter and not by its SummaryWriter, whose thread ends at the first
error of the disk; from then on a few more scalars fill its queue, and the next one waits for ever.
"""

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from charjax.tracking.tracker import Line, Texts, TrackedRun, numbers, settings

# Ends the names of the event files that are replaced when a run is written anew.
SUFFIX = ".charjax"
# Flushing waits for the disk.
_FLUSH_SECONDS = 2.0
_METRICS = ("train/loss", "train/bpc", "val/loss", "val/bpc")


class TensorBoard:
    """One event file: scalars, samples as text, the configuration as text and hyperparameters."""

    def __init__(self, run: TrackedRun):
        self._run = run
        self._records: Any = None
        self._flushed = 0.0
        self._earlier: dict[tuple[str, int], float] = {}

    def open(self, lines: list[Line], samples: list[Texts]) -> None:
        """Write the file anew; values that were there before keep their times."""
        from tensorboardX.record_writer import RecordWriter

        folder = self._run.folder
        folder.mkdir(parents=True, exist_ok=True)
        old = [path for path in folder.iterdir() if path.name.endswith(SUFFIX)]
        for path in old:
            self._earlier |= _times(path)
        final = folder / f"events.out.tfevents.{int(time.time()):010d}.{self._run.run_id}{SUFFIX}"
        # TensorBoard reads files with "tfevents" in their names; this one is not complete yet.
        temporary = folder / f"writing.{self._run.run_id}{SUFFIX}"
        self._records = RecordWriter(os.path.abspath(temporary))
        try:
            self._begin()
            self._write(lines, samples)
            self._records.flush()
        except OSError:
            temporary.unlink()
            raise
        for path in old:
            if path != temporary:
                path.unlink()
        temporary.replace(final)

    def write(self, lines: list[Line]) -> None:
        """Add lines of metrics.jsonl."""
        self._write(lines, [])

    def sample(self, step: int, texts: list[str]) -> None:
        """Add the samples of a step: one text, a row for each."""
        self._write([], [(step, texts)])

    def close(self, status: int, summary: dict[str, Any]) -> str:
        """Flush and close the file."""
        if self._records is not None:
            with contextlib.closing(self._records):
                self._records.flush()
        return f"TensorBoard: tensorboard --logdir {self._run.folder}"

    def _begin(self) -> None:
        from tensorboardX import summary
        from tensorboardX.proto import event_pb2

        self._add(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        # A TensorBoard that has read the file before drops what it knows.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(event_pb2.Event(wall_time=time.time(), session_log=start))
        experiment, begin, _ = summary.hparams(
            settings(self._run.config), dict.fromkeys(_METRICS, 0.0)
        )
        config = _text("config", [self._run.config.to_toml()])
        for part in (experiment, begin, config):
            self._add(event_pb2.Event(wall_time=time.time(), summary=part))

    def _write(self, lines: list[Line], samples: list[Texts]) -> None:
        from tensorboardX.proto import summary_pb2

        for line in lines:
            values = [
                summary_pb2.Summary.Value(tag=tag, simple_value=value)
                for tag, value in numbers(line).items()
            ]
            if values:
                self._event(line["step"], summary_pb2.Summary(value=values))
        for step, texts in samples:
            self._event(step, _text("samples", texts))
        if (now := time.monotonic()) - self._flushed > _FLUSH_SECONDS:
            self._records.flush()
            self._flushed = now

    def _event(self, step: int, summary: Any) -> None:
        from tensorboardX.proto import event_pb2

        wall_time = self._earlier.get((summary.value[0].tag, step)) or time.time()
        self._add(event_pb2.Event(wall_time=wall_time, step=step, summary=summary))

    def _add(self, event: Any) -> None:
        self._records.write(event.SerializeToString())


def _text(tag: str, texts: list[str]) -> Any:
    """Return a summary of texts, one row each, shown as they stand."""
    from tensorboardX.proto import summary_pb2, tensor_pb2, tensor_shape_pb2

    # TensorBoard reads Markdown, where indented lines are literal.
    rows = ["\n".join(f"    {line}" for line in text.split("\n")).encode() for text in texts]
    shape = tensor_shape_pb2.TensorShapeProto(
        dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=len(rows))]
    )
    tensor = tensor_pb2.TensorProto(dtype="DT_STRING", string_val=rows, tensor_shape=shape)
    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
    metadata = summary_pb2.SummaryMetadata(plugin_data=plugin)
    value = summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
    return summary_pb2.Summary(value=[value])


def _times(path: Path) -> dict[tuple[str, int], float]:
    """Return the time of each step in an event file, by the first tag written with it."""
    from tensorboardX.proto import event_pb2

    times: dict[tuple[str, int], float] = {}
    # A crash may break the last record; the times of the others are enough.
    with contextlib.suppress(Exception):
        for record in _records(path.read_bytes()):
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value[:1]:
                times[value.tag, event.step] = event.wall_time
    return times


def _records(data: bytes) -> Iterator[bytes]:
    """Yield the whole records of a TFRecord file: length, its checksum, data, its checksum."""
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if at + 16 + length > len(data):
            return
        yield data[at + 12 : at + 12 + length]
        at += 16 + length
