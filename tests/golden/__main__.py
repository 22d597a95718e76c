"""`make golden`: recompute the frozen values; test_golden.py describes when to do so."""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> None:
    """Write batches.json and training.json; a figure within its tolerance keeps its digits."""
    argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__).parse_args()
    # Read when JAX is imported: one device and two, however many cores there are.
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    from charjax.hardware import versions
    from tests.golden import cases

    found: dict[str, Any] = {"trained": {}, "fitted": {}}
    with tempfile.TemporaryDirectory() as folder:
        text = cases.write_text(Path(folder))
        batches = {name: cases.first_batches(words, text) for name, words in cases.BATCHES.items()}
        batches["validation"] = cases.validation_batches(text)
        for name, settings in cases.TRAINING.items():
            print(name, file=sys.stderr)
            found["trained"][name] = {
                where: cases.train(settings, text, count) for where, count in cases.DEVICES.items()
            }
        for name, settings in cases.FITTED.items():
            found["fitted"][name] = cases.fit(settings, text)
    frozen = cases.read("training.json") if (cases.FOLDER / "training.json").exists() else {}
    made = frozen.pop("made", None)
    values = with_frozen(found, frozen)
    if values != frozen:
        made = {"by": versions("jax", "jaxlib"), "dtype": "float32", "unit": "nats per target"}
    cases.write("batches.json", batches)
    cases.write("training.json", {"made": made, **values})


def with_frozen(found: Any, frozen: Any, figure: str = "") -> Any:
    """Return the found values, with the frozen ones in place of those equal up to rounding."""
    from tests.golden import cases

    if isinstance(found, dict):
        before = frozen if isinstance(frozen, dict) else {}
        return {name: with_frozen(value, before.get(name), name) for name, value in found.items()}
    same = isinstance(frozen, float) and abs(found / frozen - 1) <= cases.TOLERANCES[figure]
    return frozen if same else found


if __name__ == "__main__":
    main()
