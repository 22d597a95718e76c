"""Writing the metrics and samples of a finished or stopped run into a tracker."""

from pathlib import Path
from typing import Any, NamedTuple

from charjax.config import load_config
from charjax.errors import UserError, one_line
from charjax.files import check_directory
from charjax.run.comparison import read_summary
from charjax.run.load import require_run
from charjax.run.lock import is_held
from charjax.run.metrics import MetricsFile
from charjax.run.samples import read_samples
from charjax.tracking.trackers import TRACKERS, import_package, own_folder, tracked_run


class Replayed(NamedTuple):
    """Numbers of what was written.

    Attributes:
      lines: of metrics.jsonl.
      samples: steps of samples.txt.
      message: where it is.
    """

    lines: int
    samples: int
    message: str


def replay(directory: Path, name: str, out: Path | None = None) -> Replayed:
    """Write a run into a tracker, in the place of what the tracker holds of it.

    Args:
      directory: of the run.
      name: of the tracker.
      out: a folder for several runs; by default the tracker's files are in the run's directory.

    Raises:
      UserError: there is no run or it has no metrics yet, the tracker's package is missing, its
        files are being written by the run itself, or the tracker fails.
    """
    require_run(directory)
    import_package(name, f"--to: {name}")
    config = load_config(directory / "config.toml", saved=True)
    lines = MetricsFile(directory / "metrics.jsonl").read()
    if not lines:
        raise UserError(f"workdir: {str(directory)!r} has no metrics yet; train it further")
    if out is None and is_held(directory):
        raise UserError(
            f"workdir: {str(directory)!r} is being trained; wait for its end, or give a folder "
            "with --out"
        )
    folder = own_folder(name, directory)
    if out is not None:
        check_directory(out, "--out")
        folder = out if name == "wandb" else out / directory.absolute().name
    samples = read_samples(directory / "samples.txt")
    tracker = TRACKERS[name](tracked_run(config, directory, folder))
    summary: dict[str, Any] = read_summary(directory)
    try:
        tracker.open(lines, samples)
        message = tracker.close(0, summary)
    except OSError:
        raise
    # Whatever the library of the tracker raises.
    except Exception as error:
        raise UserError(
            f"--to: {name} given, but it has failed ({one_line(error)}); the run's own files are "
            "as they were"
        ) from None
    return Replayed(len(lines), len(samples), message)
