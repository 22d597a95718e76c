"""Temporary arrays of training steps, as the compilers for absent devices report them.

    python -m benchmarks.activations [--device h100|v5e] [--minutes N] [--out FILE.json]

Needs the extra "aot". Every row is the real loop's program of a family, compiled for one device; a
second call goes on with the rows that are missing. `make results` fits the formula of
`charjax.performance.activations` to them, and tests it on each row by a fit to the others.
"""

import argparse
import atexit
import functools
import json
import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from charjax import cli
from charjax.files import replace

RESULTS = Path(__file__).parent / "results" / "activations.json"
# Device to a factor of the batch: a TPU holds arrays of up to 128 MiB beside its memory, in VMEM.
DEVICES = {"h100": 1, "v5e": 16}
_TRANSFORMER = "model.n_layer={} model.n_head={} model.d_model={} model.context_length={}"
_RECURRENT = "model.n_layer={} model.d_hidden={} model.d_embed={} model.context_length={}"
# Family to its settings and batch sizes; large enough that no array is negligible.
_SIZES: dict[str, list[tuple[str, int]]] = {
    "bigram": [(f"model.context_length={T}", B) for T, B in ((32, 2048), (64, 4096), (8, 32768))],
    "bow": [
        (f"model.context_length={T} model.d_embed={E}", B)
        for T, E, B in (
            (32, 64, 2048),
            (32, 256, 1024),
            (64, 64, 1024),
            (16, 128, 4096),
            (64, 192, 512),
            (32, 512, 512),
        )
    ],
    "mlp": [
        (f"model.context_length={T} model.d_embed={E} model.hidden=[{H}]", B)
        for T, E, H, B in (
            (8, 16, "400", 8192),
            (16, 32, "256", 8192),
            (4, 24, "1024", 4096),
            (8, 32, "512,512", 8192),
            (8, 128, "128", 8192),
            (3, 10, "300", 32768),
            (8, 16, "1024", 1024),
            (8, 16, "256,256", 8192),
            (4, 32, "1024,256", 4096),
        )
    ],
    "wavenet": [
        (f"model.context_length={T} model.d_embed={E} model.d_hidden={H}", B)
        for T, E, H, B in (
            (8, 24, 128, 4096),
            (16, 32, 256, 1024),
            (32, 64, 128, 512),
            (8, 128, 128, 4096),
            (16, 24, 512, 512),
            (16, 128, 128, 2048),
            (8, 64, 512, 512),
        )
    ],
    **{
        kind: [
            (_RECURRENT.format(L, H, E, T), B)
            for L, H, E, T, B in (
                (1, 256, 128, 128, 128),
                (1, 512, 256, 64, 128),
                (2, 256, 256, 128, 64),
                (3, 384, 128, 64, 128),
                (1, 128, 128, 256, 256),
                (2, 512, 512, 128, 64),
                (1, 64, 64, 256, 256),
                (2, 128, 64, 256, 128),
                (1, 96, 64, 128, 512),
            )
        ]
        for kind in ("rnn", "gru", "lstm", "mingru")
    },
    "transformer": [
        (_TRANSFORMER.format(L, H, D, T), B)
        for L, H, D, T, B in (
            (1, 4, 128, 128, 64),
            (2, 4, 128, 128, 64),
            (3, 4, 128, 256, 32),
            (2, 6, 384, 64, 64),
            (2, 6, 384, 256, 16),
            (3, 8, 256, 128, 64),
            (4, 4, 256, 256, 16),
            (1, 8, 512, 128, 32),
            (4, 4, 128, 64, 128),
        )
    ],
}


# Narrow models of many symbols, whose logits dominate; as many as a text of Chinese characters has.
_SYMBOLS = 2048
_WIDE = {
    "bow": ("model.context_length=32 model.d_embed=64", 64),
    "mlp": ("model.context_length=4 model.d_embed=16 model.hidden=[64]", 4096),
    "wavenet": ("model.context_length=4 model.d_embed=16 model.d_hidden=64", 4096),
    **dict.fromkeys(("rnn", "gru", "lstm", "mingru"), (_RECURRENT.format(1, 64, 64, 64), 64)),
    "transformer": (_TRANSFORMER.format(1, 2, 64, 64), 64),
}


def cases(device: str) -> list[dict[str, Any]]:
    """Return all rows to be measured."""
    wide = [
        {
            "family": kind,
            "settings": settings.split(),
            "batch": batch * DEVICES[device],
            "dtype": dtype,
            "symbols": _SYMBOLS,
        }
        for dtype in ("float32", "bfloat16")
        for kind, (settings, batch) in _WIDE.items()
    ]
    return wide + [
        {
            "family": kind,
            "settings": settings.split(),
            "batch": batch * DEVICES[device],
            "dtype": dtype,
        }
        for dtype in ("float32", "bfloat16")
        for kind, sizes in _SIZES.items()
        for settings, batch in sizes
        if dtype == "float32" or kind not in ("bigram",)
    ]


def measure(case: dict[str, Any], device: str) -> dict[str, Any]:
    """Compile one case; return its row."""
    from benchmarks.workloads import PAIRS, STREAM, make_config, open_quietly
    from charjax.performance import programs, topology

    kind = case["family"]
    pairs = kind in ("mlp", "wavenet")
    text = PAIRS if pairs else STREAM
    if "symbols" in case:
        text = (f"data.path={_many_symbols()}", "data.layout=pairs" if pairs else STREAM[1])
    config = make_config(
        *text,
        f"model.kind={kind}",
        *case["settings"],
        f"train.batch_size={case['batch']}",
        f"runtime.dtype={case['dtype']}",
    )
    session = open_quietly(config)
    program = programs.training(session, topology.compile_mesh(device, 1))
    found = topology.compiled(program)
    window = session.source.window if session.source else 0
    shapes = session.model.activation_shapes(window)
    return {
        **case,
        "device": device,
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "parameters": sum(math.prod(leaf.shape) for leaf in _params(session)),
        "temporary": found.temporary,
        "argument": found.argument,
        "output": found.output,
        "alias": found.alias,
        "seconds": round(found.seconds, 1),
    }


@functools.cache
def _many_symbols() -> Path:
    """Write a text of `_SYMBOLS` different characters."""
    path = Path(tempfile.mkdtemp(prefix="charjax-activations-")) / "text.txt"
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    symbols = "".join(map(chr, range(0x4E00, 0x4E00 + _SYMBOLS)))
    path.write_text(symbols * 100, encoding="utf-8")
    return path


def _params(session: Any) -> list[Any]:
    import jax

    from charjax.training.state import state_shapes

    return list(jax.tree.leaves(state_shapes(session.model, session.config).params))


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.activations", description=__doc__)
    parser.add_argument("--device", choices=DEVICES, action="append")
    parser.add_argument("--family", choices=_SIZES, action="append")
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    end = time.monotonic() + 60 * args.minutes
    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    done = {_key(row) for row in rows}
    for device in args.device or DEVICES:
        for case in cases(device):
            wanted = not args.family or case["family"] in args.family
            if not wanted or _key(case | {"device": device}) in done or time.monotonic() > end:
                continue
            rows.append(measure(case, device))
            print(json.dumps(rows[-1]), flush=True)
            _write(args.out, rows)
    return 0


def _key(row: dict[str, Any]) -> str:
    names = ("family", "settings", "batch", "dtype", "device", "symbols")
    return json.dumps([row.get(name) for name in names])


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    from charjax.hardware import machine_facts, versions

    facts = {
        "command": "python -m benchmarks.activations",
        "hardware": machine_facts(),
        "compilers": versions("jax", "libtpu", "jax-cuda12-plugin"),
        "rows": rows,
    }
    replace(path, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
