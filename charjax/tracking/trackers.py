"""The trackers by name, and the check that their packages are installed."""

import importlib
from collections.abc import Callable
from pathlib import Path

from charjax.config import Config
from charjax.errors import UserError, one_line
from charjax.tracking.background import Tracking
from charjax.tracking.tensorboard import TensorBoard
from charjax.tracking.tracker import TrackedRun, Tracker, run_id
from charjax.tracking.weights_and_biases import WeightsAndBiases

# Also the extras of charjax that install them.
TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}
_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def check_installed(config: Config) -> None:
    """Import the packages of the trackers that a configuration asks for.

    Raises:
      UserError: one is missing, or cannot be imported.
    """
    for name in _chosen(config):
        import_package(name, f"log.{name}: true", f", or leave log.{name} out")


def import_package(name: str, request: str, otherwise: str = "") -> None:
    """Import the package of a tracker.

    Args:
      name: of the tracker.
      request: what asks for it, the beginning of the message.
      otherwise: what else can be done, the end of it.

    Raises:
      UserError: it is missing, or cannot be imported.
    """
    package = _PACKAGES[name]
    try:
        importlib.import_module(package)
    except ImportError as error:
        reason = (
            "is not installed"
            if error.name == package
            else f"cannot be imported ({one_line(error)})"
        )
    # Whatever a broken installation raises.
    except Exception as error:
        reason = f"cannot be imported ({one_line(error)})"
    else:
        return
    remedy = f'pip install "charjax[{name}]"'
    raise UserError(f"{request} given, but {package} {reason}; {remedy}{otherwise}")


def tracked_run(config: Config, directory: Path, folder: Path) -> TrackedRun:
    """Describe a run to trackers.

    Args:
      config: the resolved configuration.
      directory: of the run.
      folder: where the tracker's files go.
    """
    return TrackedRun(directory.absolute().name, run_id(directory), config, folder)


def tracking(config: Config, directory: Path, report: Callable[[str], None]) -> Tracking:
    """Return the trackers that a configuration asks for, with their files in the run's directory.

    Args:
      config: the resolved configuration.
      directory: of the run; it exists.
      report: called with a line for the user.
    """
    chosen = {
        f"log.{name}": TRACKERS[name](tracked_run(config, directory, own_folder(name, directory)))
        for name in _chosen(config)
    }
    return Tracking(chosen, report)


def own_folder(name: str, directory: Path) -> Path:
    """Return the folder of a tracker in a run's directory; wandb makes one in it by itself."""
    return directory if name == "wandb" else directory / name


def _chosen(config: Config) -> list[str]:
    return [name for name in TRACKERS if getattr(config.log, name)]
