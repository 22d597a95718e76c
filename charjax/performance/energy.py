"""Energy that a device reports: RAPL for a processor, nvidia-smi for an NVIDIA GPU.

RAPL counts the packages' energy, whatever runs on them; Linux lets only root read it, unless
changed (https://docs.kernel.org/power/powercap/powercap.html). `power.draw` of nvidia-smi is an
average over up to a second, so it is sampled over seconds of uninterrupted work.
"""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

POWERCAP = Path("/sys/class/powercap")
_SAMPLE_MILLISECONDS = 100
# Averages of earlier work are to be over.
_SETTLING_SECONDS = 1.0


class Counter(Protocol):
    """A counter of energy.

    Attributes:
      name: of its source.
    """

    name: str

    def read(self) -> float:
        """Return the joules since some moment."""

    def close(self) -> None:
        """Stop counting."""


def find(device: str, count: int) -> Counter | None:
    """Return the counter of the first `count` devices: "cpu", "gpu" or "tpu"; None without one."""
    if device == "cpu":
        return Rapl.find(POWERCAP)
    if device == "gpu":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        chosen = [word.strip() for word in visible.split(",") if word.strip()]
        return NvidiaSmi.start((chosen or [str(n) for n in range(count)])[:count])
    return None


class Rapl:
    """The packages of the processors."""

    name = "RAPL, packages"

    def __init__(self, zones: list[Path]):
        """Read the counters (microjoules, which wrap) for the first time."""
        self._zones = {zone: self._microjoules(zone) for zone in zones}
        self._ranges = {
            zone: int((zone / "max_energy_range_uj").read_text(encoding="ascii")) for zone in zones
        }
        self._total = 0

    @staticmethod
    def find(folder: Path) -> "Rapl | None":
        """Return the counter; None where there is none, or it may not be read."""
        zones = []
        for zone in sorted(folder.glob("intel-rapl:*")):
            with contextlib.suppress(OSError):
                if (zone / "name").read_text(encoding="ascii").startswith("package"):
                    zones.append(zone)
        try:
            return Rapl(zones) if zones else None
        except (OSError, ValueError):
            return None

    @staticmethod
    def _microjoules(zone: Path) -> int:
        return int((zone / "energy_uj").read_text(encoding="ascii"))

    def read(self) -> float:
        """Return the joules since the first reading; called at least once a minute."""
        for zone, before in self._zones.items():
            now = self._microjoules(zone)
            self._total += now - before + (self._ranges[zone] if now < before else 0)
            self._zones[zone] = now
        return self._total * 1e-6

    def close(self) -> None:
        """Do nothing: there is nothing to stop."""


class NvidiaSmi:
    """Power of GPUs, sampled by nvidia-smi and added up over time."""

    name = "nvidia-smi, power.draw"

    def __init__(self, process: "subprocess.Popen[str]", count: int):
        """Read the samples of a process, one line per GPU, in a thread."""
        self._process, self._count, self._joules = process, count, 0.0
        self._watts: float | None = None
        self._since = time.perf_counter()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    @staticmethod
    def start(ids: list[str]) -> "NvidiaSmi | None":
        """Start sampling; None where nvidia-smi is missing."""
        command = ["nvidia-smi", f"--id={','.join(ids)}", "--query-gpu=power.draw"]
        command += ["--format=csv,noheader,nounits", f"--loop-ms={_SAMPLE_MILLISECONDS}"]
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError:
            return None
        return NvidiaSmi(process, len(ids))

    def _follow(self) -> None:
        assert self._process.stdout is not None
        watts: list[float] = []
        for line in self._process.stdout:
            # "[N/A]" where a GPU does not report it.
            with contextlib.suppress(ValueError):
                watts.append(float(line))
            if len(watts) == self._count:
                self._add(sum(watts))
                watts = []

    def _add(self, watts: float | None) -> None:
        with self._lock:
            now = time.perf_counter()
            self._joules += (self._watts or 0.0) * (now - self._since)
            self._since, self._watts = now, self._watts if watts is None else watts

    def read(self) -> float:
        """Return the joules since the start; NaN before the first sample."""
        self._add(None)
        return float("nan") if self._watts is None else self._joules

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def joules_per_step(
    counter: Counter,
    run: Callable[[int], None],
    step_seconds: float,
    seconds: float,
) -> float | None:
    """Return the energy of a step, over about so many seconds of uninterrupted steps.

    Args:
      counter: of the device.
      run: does n steps and waits for them.
      step_seconds: duration of a step.
      seconds: duration of the measurement, after a second in which nothing is counted.

    Returns:
      Joules, or None where the device reports none.
    """
    run(max(1, round(_SETTLING_SECONDS / step_seconds)))
    count = max(1, round(seconds / step_seconds))
    before = counter.read()
    run(count)
    joules = (counter.read() - before) / count
    return joules if joules > 0 else None
