"""Runs of Weights & Biases, online or as the offline files that `wandb sync` uploads."""

import contextlib
import netrc
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from charjax.tracking.tracker import Line, Texts, TrackedRun, numbers

_PROJECT = "charjax"
_HOST = "https://api.wandb.ai"


class WeightsAndBiases:
    """One run of Weights & Biases: scalars, samples as tables, the configuration.

    Offline, the run is written anew whenever it is opened: a second session would hold again the
    steps after the checkpoint. Online, the server has the steps up to some one, and only later
    ones are sent.
    """

    def __init__(self, run: TrackedRun):
        self._run = run
        self._wandb: Any = None
        self._teardown: Callable[[], None] = lambda: None
        self._first = 0

    def open(self, lines: list[Line], samples: list[Texts]) -> None:
        """Start the run, or take it up again, and log what is missing there."""
        import wandb

        self._teardown = wandb.teardown
        config, folder = self._run.config, self._run.folder
        folder.mkdir(parents=True, exist_ok=True)
        mode = wandb_mode()
        is_offline = mode in ("offline", "dryrun")
        if is_offline:
            self._remove_offline()
        self._wandb = wandb.init(
            mode=mode,
            id=self._run.run_id,
            resume=None if is_offline else "allow",
            name=self._run.name,
            project=config.log.wandb_project or os.environ.get("WANDB_PROJECT") or _PROJECT,
            config=config.model_dump(mode="json"),
            dir=str(folder),
            # Another run of this process, of a notebook for example, stays as it is.
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._first = self._wandb.starting_step
        # Steps have to be logged in order.
        texts = dict(samples)
        for line in lines:
            for step in [step for step in texts if step < line["step"]]:
                self.sample(step, texts.pop(step))
            self.write([line])
        for step, rest in texts.items():
            self.sample(step, rest)

    def write(self, lines: list[Line]) -> None:
        """Add lines of metrics.jsonl; those of one step become one row."""
        for line in lines:
            if line["step"] >= self._first:
                self._wandb.log(numbers(line), step=line["step"])

    def sample(self, step: int, texts: list[str]) -> None:
        """Add a table with the samples of a step."""
        import wandb

        if step >= self._first:
            table = wandb.Table(columns=["text"], data=[[text] for text in texts])
            self._wandb.log({"samples": table}, step=step)

    def close(self, status: int, summary: dict[str, Any]) -> str:
        """End the run and wait until it is written or sent."""
        if self._wandb is None:
            self._end_process()
            return ""
        run, files = self._wandb, Path(self._wandb.dir).parent
        if run.offline:
            where = f"{files} (upload it with: wandb sync {files})"
        else:
            where = "disabled by $WANDB_MODE" if run.disabled else run.url
        try:
            run.summary.update({f"summary/{name}": value for name, value in summary.items()})
            run.finish(exit_code=status)
        except Exception:
            self._end_process()
            raise
        return f"Weights & Biases: {where}"

    def _end_process(self) -> None:
        """End wandb's process after a failure: its exit hook would fail again, with a traceback."""
        with contextlib.suppress(Exception):
            self._teardown()

    def _remove_offline(self) -> None:
        for path in (self._run.folder / "wandb").glob(f"offline-run-*-{self._run.run_id}"):
            shutil.rmtree(path, ignore_errors=True)


def wandb_mode() -> str:
    """Return $WANDB_MODE; without it "online" where there is an API key, else "offline".

    `wandb.init` would ask for a key on a terminal, and raise elsewhere.
    """
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    has_key = os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")
    return "online" if has_key or _is_in_netrc() else "offline"


def _is_in_netrc() -> bool:
    """Return true if ~/.netrc, where `wandb login` writes the key, has one for the server."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or _HOST).hostname or ""
    with contextlib.suppress(OSError, netrc.NetrcParseError, RuntimeError):
        path = os.environ.get("NETRC") or str(Path.home() / ".netrc")
        return netrc.netrc(path).authenticators(host) is not None
    return False
