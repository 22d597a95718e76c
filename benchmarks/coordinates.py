"""`python -m benchmarks.coordinates`: error rates of the coordinate check of muP.

python -m benchmarks.coordinates [--seeds N] [--draws N] [--out FILE.json]

A transformer in muP and one in the standard parametrisation are trained ten steps with many seeds
at three widths. Checks with fewer seeds are then drawn from those without replacement, and judged
as by `initlab probe --coordinates`. The rows are a table in docs/initlab.md (`make results`).

Letters: L layers, W widths, R seeds.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results_file
from benchmarks.results_file import RESULTS
from charjax.config import load_config
from charjax.hardware import machine_facts
from charjax.initlab.probes.coordinates import (
    LIMIT,
    at_width,
    fit_slope,
    judge_slopes,
    measure_sizes,
)
from charjax.training.session import open_session

WIDTHS = (32, 64, 128)
STEPS = 10
_WORDS = (
    "model.kind=transformer",
    "model.n_layer=2",
    "model.d_model=32",
    "model.n_head=2",
    "model.tie_embeddings=false",
    "model.context_length=32",
    "train.batch_size=8",
    "optim.learning_rate=3e-4",
)
_SCHEMES = {
    "muP": ("init.scheme=mup", "init.base_width=32"),
    "standard": ("init.scheme=zero_readout",),
}


def main(argv: list[str] | None = None) -> int:
    """Train, draw, write the JSON; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coordinates")
    parser.add_argument("--seeds", metavar="N", type=int, default=96, help="trained (96)")
    parser.add_argument("--draws", metavar="N", type=int, default=1000, help="checks (1,000)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="(benchmarks/results/...)")
    args = parser.parse_args(argv)
    if args.seeds < 2 or args.draws < 1:
        parser.error("--seeds must be 2 or more, --draws 1 or more")
    from charjax import backend
    from charjax.config import RuntimeConfig

    backend.start_backend(RuntimeConfig())
    start = time.monotonic()
    rows = []
    for name, words in _SCHEMES.items():
        last = moved(words, args.seeds)
        for widths in (WIDTHS[:2], WIDTHS):
            narrow = {layer: x_WR[: len(widths)] for layer, x_WR in last.items()}
            for seeds in (2, 3, 4, 8, 16, 32):
                if seeds <= args.seeds:
                    rows.append({"scheme": name, **shares(narrow, widths, seeds, args.draws)})
                    print(rows[-1], file=sys.stderr)
    section = {
        "device": "cpu",
        "hardware": machine_facts(),
        "seconds": round(time.monotonic() - start, 1),
        "seeds": args.seeds,
        "draws": args.draws,
        "steps": STEPS,
        "rows": rows,
    }
    standard = (args.seeds, args.draws) == (96, 1000)
    flags = "" if standard else f" --seeds {args.seeds} --draws {args.draws}"
    command = f"python -m benchmarks.coordinates{flags}"
    tree = results_file.document("coordinates", command, not standard, [section], [])
    results_file.write(args.out or RESULTS / "initlab-coordinates-cpu.json", tree)
    return 0


def moved(words: tuple[str, ...], seeds: int) -> dict[str, np.ndarray]:
    """Return the change (W, R) after the last step, of each layer that changes."""
    config = load_config(None, [*_WORDS, *words])
    found: dict[str, list[np.ndarray]] = {}
    for width in WIDTHS:
        session = open_session(at_width(config, width))
        change, _ = measure_sizes(session, tuple(range(seeds)), STEPS, lambda: None)
        for layer, x_RT in change.items():
            found.setdefault(layer, []).append(x_RT[:, -1])
    return {layer: np.stack(x) for layer, x in found.items() if np.any(x)}


def shares(
    last: dict[str, np.ndarray], widths: tuple[int, ...], seeds: int, draws: int
) -> dict[str, Any]:
    """Return the percentages of checks that pass, fail, cannot tell, or pass by point estimate."""
    rng = np.random.default_rng([seeds, len(widths)])
    counts = dict.fromkeys(("passed", "failed", "cannot tell", "point"), 0)
    most = next(iter(last.values())).shape[1]
    for _ in range(draws):
        drawn_R = rng.choice(most, seeds, replace=False)
        some = {layer: x_WR[:, drawn_R] for layer, x_WR in last.items()}
        counts[judge_slopes(some, widths)["verdict"]] += 1
        fits = [fit_slope(x_WR, widths) for x_WR in some.values()]
        counts["point"] += all(fit and abs(fit.slope) <= LIMIT for fit in fits)
    return {
        "widths": list(widths),
        "seeds": seeds,
        "layers": len(last),
        **{key: round(100 * count / draws, 1) for key, count in counts.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
