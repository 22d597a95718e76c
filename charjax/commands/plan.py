"""`charjax plan`: memory, time and cost of a run on a device, before it.

charjax plan [CONFIG.toml] [section.key=value ...] --device NAME|FILE [--count N]
             [--price-per-hour X] [--no-compile] [--json]

Nothing is downloaded, and no device but this machine's CPU is started. A run that does not fit
ends with status 2 after the table, and one line with what would fit.
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charjax import cli
from charjax.config import Config, MeshConfig, load_config
from charjax.config.values import format_value
from charjax.errors import UserError

if TYPE_CHECKING:
    from charjax.performance.planning import Plan, Target
    from charjax.training.session import Session


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    args = plan_arguments(argv)
    notes: list[str] = []
    config = load_config(args.config, args.overrides, note=notes.append)
    if config.model.fitted:
        raise UserError(
            f"model.kind: {config.model.kind} counts its text once and takes no training steps; "
            "there is nothing to plan"
        )
    if config.runtime.dtype == "auto" and args.device != "cpu":
        raise UserError(
            'runtime.dtype: "auto" given; it is chosen on the device itself: give "float32" or '
            f'"bfloat16" to plan for {args.device}'
        )
    table = _device_table(args.device)
    session = _open(config, args, notes)
    from charjax.performance.planning import make_plan, to_json

    target = _target(args, table, session, notes)
    plan = make_plan(session, target, compiles=args.compile, say=cli.remark)
    if args.json:
        found = to_json(plan, args.price_per_hour)
        found["notes"] = [*notes, *found["notes"]]
        sys.stdout.write(json.dumps(found, allow_nan=False) + "\n")
    else:
        _show(plan, args.price_per_hour, notes)
    if not plan.fits:
        sys.stdout.flush()
        raise UserError(_does_not_fit(plan))
    return 0


def _device_table(name: str) -> dict[str, Any] | None:
    """Return the description of a device in a file; None for a name that is known.

    Raises:
      UserError: neither a known name nor a file that describes a device.
    """
    from charjax.performance import devices

    if name == "cpu":
        return None
    if os.path.isfile(name) or os.sep in name or name.endswith((".json", ".toml")):
        return devices.read_file(Path(name))
    devices.by_name(name)
    return None


def _open(config: Config, args: argparse.Namespace, notes: list[str]) -> "Session":
    """Open the run on this machine's CPU, with a text of the same size if its own is not here."""
    from charjax.data.corpora import load_validation, stand_in

    missing = stand_in(config.data)
    if args.device == "cpu" and args.count is not None:
        os.environ["JAX_NUM_CPU_DEVICES"] = str(args.count)
    import jax

    from charjax.data.datasets import dataset_of, load_dataset
    from charjax.training.session import make_session, start_for_training

    here: dict[str, Any] = {"device": "cpu", "deterministic": False}
    # That of the target's devices, which may be more.
    mesh = config.runtime.mesh
    if args.device != "cpu":
        here["mesh"] = MeshConfig()
    runtime = config.runtime.model_copy(update=here)
    config = config.model_copy(update={"runtime": runtime})
    if args.device == "cpu":
        if args.count is not None:
            jax.config.update("jax_num_cpu_devices", args.count)
        start_for_training(config)
    else:
        from charjax.backend import start_backend

        start_backend(runtime)
    if missing is None:
        dataset = load_dataset(config.data)
    else:
        notes.extend(missing.notes)
        if orders := getattr(config.model, "counts", ()):
            notes.append(
                f"model.counts={format_value(orders)}: the tables are those of a "
                "text of that size that repeats itself; the real one's are larger"
            )
        dataset = dataset_of(config.data, missing, validation=load_validation(config.data))
    session = make_session(config, dataset, jax.local_devices())
    runtime = session.config.runtime.model_copy(update={"mesh": mesh})
    config = session.config.model_copy(update={"runtime": runtime})
    return dataclasses.replace(session, config=config)


def _target(
    args: argparse.Namespace, table: dict[str, Any] | None, session: "Session", notes: list[str]
) -> "Target":
    from charjax import hardware
    from charjax.performance import calibration, devices, estimate
    from charjax.performance.planning import Target, least_count

    measured: calibration.Calibration | None
    count = args.count or 1
    if table is not None and "points" in table:
        found = calibration.read(Path(args.device))
        return Target(devices.calibrated(found.tree, args.device), count, found)
    if table is not None:
        return Target(devices.parse(table["device"], args.device), count)
    if args.device != "cpu":
        device = devices.by_name(args.device)
        kind = {"cuda": "gpu"}.get(device.platform, device.platform)
        measured = calibration.load(kind, device.device_kind, hardware.processor())
        return Target(device, args.count or least_count(device), measured)
    measured = calibration.load("cpu", "cpu", hardware.processor())
    size = session.mesh.size
    share = hardware.total_memory(session.devices) / size
    if measured is None:
        notes.append(
            f"this processor was not measured: rates are those of {estimate.where()}; "
            "`charjax benchmark --calibrate` measures it"
        )
    rates = {name: rate / size for name, rate in estimate.processor_rates(measured).items()}
    device = devices.processor(hardware.processor(), share, rates)
    return Target(device, size, measured)


def _does_not_fit(plan: "Plan") -> str:
    from charjax.performance.plan_table import gib

    target = plan.target
    return (
        f"--device: {target.count} x {target.device.name} given; each would hold "
        f"{gib(plan.memory.total)} and has {gib(target.device.usable)}: it would fit with "
        f"{', or '.join(plan.would_fit)}"
    )


def _show(plan: "Plan", price: float | None, notes: list[str]) -> None:
    """Print the plan as a table, then the notes."""
    from rich.table import Table

    from charjax.performance.plan_table import plan_rows
    from charjax.performance.show import make_console

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for row in plan_rows(plan, price):
        table.add_row(*row, end_section=not any(row))
    console = make_console()
    with console.capture() as printed:
        console.print(table)
    print("\n".join(line.rstrip() for line in printed.get().splitlines()))
    for note in (*notes, *plan.notes):
        print(f"note: {note}")


def plan_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments; `config`, `count` and `price_per_hour` are None unless given."""
    parser = cli.Parser(
        prog="charjax plan",
        usage="%(prog)s [CONFIG.toml] [section.key=value ...] --device NAME [options]",
        description="Predict the memory, the time and the cost of a run on a device that need not "
        "be here.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG.toml | section.key=value",
        help="a configuration (a file, or the name of one that is shipped), and settings of it",
    )
    parser.add_argument(
        "--device",
        required=True,
        metavar="NAME|FILE",
        help="h100, h200, a100, v5e, v6e, cpu (this machine) or another that charjax knows; or a "
        "file that describes one",
    )
    parser.add_argument(
        "--count",
        metavar="N",
        type=cli.whole_number(1, 4096),
        help="devices (1, or the smallest slice; all cores)",
    )
    parser.add_argument(
        "--price-per-hour",
        metavar="X",
        type=cli.number_above_zero(1e6),
        help="of one device, in any currency",
    )
    parser.add_argument(
        "--no-compile",
        dest="compile",
        action="store_false",
        help="activations by a formula, at once, also where the device's compiler is installed",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    cli.add_code(parser, resumes=False)
    args = parser.parse_intermixed_args(argv)
    args.config, args.overrides = cli.config_words(args.words)
    del args.words
    return args


if __name__ == "__main__":
    cli.run(main)
