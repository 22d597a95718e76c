"""The results of `charjax benchmark` as a document, tables and a picture."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from charjax.config import Config
from charjax.performance import show
from charjax.performance.show import Row, percent, quantity

FORMAT = 1
# Facts of a device, the same in all of its rows.
_OF_DEVICE = ("hardware", "roofline")


def document(
    command: str,
    config: Config,
    sweep: tuple[str, tuple[int, ...]] | None,
    facts: dict[str, Any],
    rows: Sequence[Row],
    left_out: Sequence[dict[str, str]],
) -> dict[str, Any]:
    """Return the whole result, for JSON.

    Args:
      command: that makes it again.
      config: without a device.
      sweep: the setting that was swept, and its values.
      facts: of the command's process: flags, load, PyTorch's versions.
      rows: one for each device and point.
      left_out: `{"device", "what", "why"}` of what was not measured.
    """
    devices: dict[str, dict[str, Any]] = {}
    for row in rows:
        if "hardware" in row:
            devices.setdefault(row["device"], {name: row[name] for name in _OF_DEVICE})
    return {
        "name": "benchmark",
        "format": FORMAT,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config_digest": config.digest(),
        "config": config.model_dump(mode="json"),
        "sweep": None if sweep is None else {"setting": sweep[0], "values": list(sweep[1])},
        **facts,
        "devices": devices,
        "rows": [{k: v for k, v in row.items() if k not in _OF_DEVICE} for row in rows],
        "left_out": list(left_out),
    }


def tables(tree: dict[str, Any]) -> list[Table]:
    """Return the tables of a document: one of the points, or one of all figures by device."""
    found = [_sweep_table(tree)] if tree["sweep"] else [_figures(tree)]
    if any(row.get("against") for row in tree["rows"]):
        found.append(_against(tree))
    return found


def _figures(tree: dict[str, Any]) -> Table:
    """Return the figures of each device, one below the other, and the ratio of the devices."""
    rows = tree["rows"]
    table = Table(title=_title(tree))
    table.add_column("")
    for row in rows:
        table.add_column(row["device"], justify="right")
    cpu = next((row for row in rows if row["device"] == "cpu"), None)
    others = [row for row in rows if row["device"] != "cpu" and row["why"] is None]
    pairs = [(cpu, row) for row in others] if cpu is not None and cpu["why"] is None else []
    for _, row in pairs:
        table.add_column(f"{row['device']} / cpu", justify="right")
    for name, value, ratio in _LINES:
        cells = [value(row) if row["why"] is None else "not measured" for row in rows]
        ratios = [_times(ratio(row), ratio(base)) if ratio else "" for base, row in pairs]
        table.add_row(name, *cells, *ratios)
    return table


def _title(tree: dict[str, Any]) -> str:
    model = tree["config"]["model"]["kind"]
    measured = [row for row in tree["rows"] if row["why"] is None]
    size = f", {measured[0]['parameters']:,} parameters" if measured else ""
    return f"{model}{size}, {tree['config']['runtime']['dtype']}"


def _times(ours: float | None, base: float | None) -> str:
    return f"{ours / base:.2f}" if ours and base else "n/a"


def _spread(times: dict[str, Any]) -> str:
    return show.spread(times)


def _rate(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.0f}"


def _generated(row: Row, texts: int) -> float | None:
    found = row.get("generation", {}).get(str(texts))
    return None if found is None else float(found["tokens_per_second"])


def _bytes(value: float | None) -> str:
    return quantity(None if value is None else float(value), "B")


def _joules(row: Row) -> float | None:
    found = row.get("energy")
    return None if found is None else float(found["joules_per_token"])


def _energy(row: Row) -> str:
    joules = _joules(row)
    return "n/a" if joules is None else f"{1e3 * joules:.3g} mJ ({row['energy']['source']})"


# Name, text, and the number whose ratio to the CPU's is shown, if any.
_LINES: tuple[tuple[str, Any, Any], ...] = (
    ("devices in use", lambda row: str(row["devices"]), None),
    ("compile", lambda row: quantity(row["compile_seconds"], "s"), None),
    ("step", lambda row: quantity(row["seconds_per_step"]["median"], "s"), None),
    (
        "  quartiles",
        lambda row: " to ".join(quantity(row["seconds_per_step"][q], "s") for q in ("q1", "q3")),
        None,
    ),
    (
        "tokens/s, training",
        lambda row: _rate(row["tokens_per_second"]),
        lambda row: row["tokens_per_second"],
    ),
    ("MFU, of the measured peak", lambda row: percent(row["mfu_measured"]), None),
    ("MFU, of the nominal peak", lambda row: percent(row["mfu_nominal"]), None),
    ("memory, predicted", lambda row: _bytes(row["bytes_predicted"]), None),
    ("memory, measured", lambda row: _bytes(row["bytes_measured"]), None),
    (
        "tokens/s, generating 1 text",
        lambda row: _rate(_generated(row, 1)),
        lambda row: _generated(row, 1),
    ),
    (
        "tokens/s, generating 64 texts",
        lambda row: _rate(_generated(row, 64)),
        lambda row: _generated(row, 64),
    ),
    ("energy per token trained", _energy, _joules),
)


def _sweep_table(tree: dict[str, Any]) -> Table:
    columns: tuple[show.Column, ...] = (
        (tree["sweep"]["setting"], lambda row: row["point"].partition("=")[2]),
        ("device", _device),
        ("step", _if_measured(lambda row: _spread(row["seconds_per_step"]))),
        ("tokens/s", _if_measured(lambda row: _rate(row["tokens_per_second"]))),
        ("MFU", _if_measured(lambda row: percent(row["mfu_measured"]))),
        ("predicted", _if_measured(lambda row: _bytes(row["bytes_predicted"]))),
        ("measured", _if_measured(lambda row: _bytes(row["bytes_measured"]))),
        ("", lambda row: row["why"] or ""),
    )
    return show.make_table(_title(tree), columns, tree["rows"])


def _device(row: Row) -> str:
    return f"{row['devices']} x {row['device']}" if row.get("devices", 1) > 1 else row["device"]


def _if_measured(cell: Any) -> Any:
    return lambda row: cell(row) if row["why"] is None else ""


def _against(tree: dict[str, Any]) -> Table:
    rows = [
        {"device": row["device"], "point": row["point"], **peer}
        for row in tree["rows"]
        for peer in row.get("against", [])
    ]
    columns: tuple[show.Column, ...] = (
        ("PyTorch", lambda row: f"{row['device']} {row['point']} {row['contestant']}"),
        ("threads", lambda row: str(row["threads"])),
        ("step", lambda row: _spread(row["seconds_per_step"])),
        ("tokens/s", lambda row: _rate(row["tokens_per_second"])),
        ("step / charjax's", lambda row: f"{row['times_charjax']['median']:.2f}"),
    )
    return show.make_table("the same weights, text and batch size in PyTorch", columns, rows)


def draw_sweep(tree: dict[str, Any], path: Path) -> None:
    """Draw throughput and memory against the swept setting into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (speed, memory) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for device in dict.fromkeys(row["device"] for row in tree["rows"]):
        rows = [row for row in tree["rows"] if row["device"] == device and row["why"] is None]
        sizes = [int(row["point"].partition("=")[2]) for row in rows]
        speed.plot(sizes, [row["tokens_per_second"] for row in rows], "o-", label=device)
        for key, style in (("bytes_measured", "o-"), ("bytes_predicted", "x--")):
            points = [(n, row[key] / 2**20) for n, row in zip(sizes, rows, strict=True) if row[key]]
            if points:
                memory.plot(*zip(*points, strict=True), style, label=f"{device}, {key[6:]}")
    for axes, label in ((speed, "tokens/s, training"), (memory, "memory, MiB")):
        axes.set(xscale="log", yscale="log", xlabel=tree["sweep"]["setting"], ylabel=label)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    figure.suptitle(_title(tree), fontsize="medium")
    figure.savefig(path, dpi=120, format="png")
    pyplot.close(figure)
