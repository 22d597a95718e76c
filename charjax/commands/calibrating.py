"""`charjax benchmark --calibrate`: this machine's rates and step times, for `charjax plan`."""

import datetime
import sys
import time
from pathlib import Path
from typing import Any

from charjax import cli, files
from charjax.errors import UserError

_SLICE_SECONDS = 0.1
_DTYPES = ("float32", "bfloat16")


def calibrate(devices: tuple[str, ...], out: Path | None, seconds: float, command: str) -> int:
    """Measure devices one after the other, and save each calibration.

    Args:
      devices: of cpu, gpu, tpu.
      out: a file for the calibration of one device; None for the user's cache.
      seconds: what is not done by then is left out.
      command: that makes it again.

    Returns:
      0 if at least one device was measured in full, 1 if none; 2 if all are missing.
    """
    from charjax.performance.failures import LeftOut

    if out is not None and len(devices) > 1:
        raise UserError(
            f"--out: given with {len(devices)} devices; --calibrate writes a file for each: name "
            "one device, or leave --out out"
        )
    deadline, complete, missing = time.monotonic() + seconds, 0, 0
    for device in devices:
        try:
            complete += _calibrate(device, out, deadline, command)
        except LeftOut as reason:
            missing += 1
            cli.remark(f"{device}: {reason}")
    if complete:
        return 0
    return 2 if missing == len(devices) else 1


def _calibrate(device: str, out: Path | None, deadline: float, command: str) -> bool:
    """Measure a device; return whether it was measured in full."""
    from charjax.performance.calibration import FORMAT, default_path
    from charjax.performance.workers import Worker, device_environment

    worker = Worker(
        sys.executable,
        "charjax.performance.calibrate",
        device_environment(device, {}),
        device=device,
        slice_seconds=_SLICE_SECONDS,
    )
    try:
        facts = worker.facts
        path = out or default_path(device, facts["device_kind"], facts["hardware"]["processor"])
        tree: dict[str, Any] = {
            "format": FORMAT,
            "device": device,
            "device_kind": facts["device_kind"],
            "hardware": facts["hardware"],
            "command": command,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "complete": False,
            "rates": {},
            "points": [],
        }
        print(f"{device}: peak rates", file=sys.stderr, flush=True)
        tree["rates"] = worker.ask("rates")
        jobs = [(kind, dtype) for dtype in _DTYPES for kind in facts["families"]]
        for done, (kind, dtype) in enumerate(jobs, start=1):
            if time.monotonic() > deadline:
                cli.remark(f"{device}: the time was over before {kind} in {dtype}; see --seconds")
                break
            print(f"{device}: {done}/{len(jobs)} {kind} {dtype}", file=sys.stderr, flush=True)
            tree["points"] += worker.ask("family", kind=kind, dtype=dtype)
            tree["complete"] = done == len(jobs)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, tree)
    finally:
        worker.close()
    print(f"written: {path}")
    return bool(tree["complete"])
