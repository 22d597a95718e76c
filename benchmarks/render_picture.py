"""Draw docs/figures/overview.svg, the README's picture, from benchmarks/results/*.json."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import peers
from benchmarks.results_file import RESULTS


class Shown(NamedTuple):
    """Numbers that the picture shows.

    Attributes:
      train: (step, loss) of the default run, in nats per character.
      val: the validation losses of that run.
      speed: (model, speed relative to the fastest of eager and compiled PyTorch).
    """

    train: list[tuple[int, float]]
    val: list[tuple[int, float]]
    speed: list[tuple[str, float]]

    def digest(self) -> str:
        """Return a SHA-256 that the picture carries, so that a test can compare them."""
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()


def numbers(results: Path = RESULTS) -> Shown:
    """Read the numbers of the picture."""
    default = json.loads((results / "configs-cpu.json").read_text(encoding="utf-8"))["default"]
    tree = json.loads((results / "peers-cpu.json").read_text(encoding="utf-8"))
    works = peers.by_work([row for section in tree["devices"] for row in section["rows"]])
    pytorch = ("torch eager", "torch compile")
    return Shown(
        _losses("loss", default["output"]),
        _losses("val", default["output"]),
        [
            (f"{work} {dtype}", float(peers.ratio_to(w, pytorch)))
            for (_, work, dtype), w in works.items()
        ],
    )


def _losses(label: str, output: str) -> list[tuple[int, float]]:
    lines = re.findall(rf"^step ([\d,]+)/[\d,]+  {label} ([\d.]+) ", output, re.MULTILINE)
    return [(int(step.replace(",", "")), float(loss)) for step, loss in lines]


def draw(path: Path) -> None:
    """Draw the loss of the default run beside the speed relative to PyTorch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = numbers()
    style: dict[str, Any] = {"svg.hashsalt": "charjax", "font.size": 9}
    with matplotlib.rc_context(style):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
        left.plot(*zip(*shown.train, strict=True), label="training")
        left.plot(*zip(*shown.val, strict=True), "o", label="validation")
        left.set(title="python -m charjax.train", xlabel="step", ylabel="loss (nats per character)")
        left.legend()
        names, ratios = zip(*shown.speed, strict=True)
        right.barh(names, [ratio - 1 for ratio in ratios], left=1)
        right.axvline(1.0, color="black")
        right.set_xscale("log")
        right.set_xticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
        right.minorticks_off()
        right.invert_yaxis()
        right.set(title="training speed on a CPU", xlabel="relative to PyTorch at its fastest")
        for axes in (left, right):
            axes.grid(alpha=0.3)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None, "Description": shown.digest()})
        pyplot.close(figure)
