"""One self-contained page with all results of a sweep, verdicts first."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from charjax import files
from charjax.initlab.report import at_init, drawing, histograms, losses, measured, phase, text
from charjax.initlab.report.drawing import Picture
from charjax.initlab.report.tables import Sweep
from charjax.initlab.report.verdicts import judge, ranked_schemes
from charjax.pages import parts


def write_page(sweep: Sweep, out: Path | None = None) -> Path:
    """Write a sweep's page, and its pictures as PNGs in the sweep's directory/figures.

    Equal tables give equal bytes. Every file is replaced in one move.

    Args:
      sweep: as read by `read_sweep`.
      out: the page's file; by default report.html in the sweep's directory.

    Returns:
      the page's path.

    Raises:
      UserError: `out` is a directory, or in none.
    """
    out = sweep.directory / "report.html" if out is None else out
    parts.check_out(out)
    page, pictures = document(sweep)
    figures = sweep.directory / "figures"
    figures.mkdir(exist_ok=True)
    for picture in pictures:
        files.replace(figures / f"{picture.name}.png", picture.png)
    files.replace(out, page)
    return out


def document(sweep: Sweep, kinds: Sequence[str] = ()) -> tuple[str, list[Picture]]:
    """Return the page, and the pictures in it; `kinds`: as of `drawing.styled`."""
    cells = judge(sweep)
    shown = ranked_schemes(sweep, cells, drawing.MOST_PANELS)
    found = losses.transfers(sweep, shown)
    with drawing.styled(kinds):
        drawn: dict[str, list[Picture | None]] = {
            "Before the first step, with theory": [
                at_init.draw_layers(sweep, cells),
                at_init.draw_initial_loss(sweep, cells),
            ],
            "Activations and gradients by layer": [
                histograms.draw_histograms(sweep, cells, "activation"),
                histograms.draw_histograms(sweep, cells, "gradient"),
            ],
            "Updates beside weights": [histograms.draw_updates(sweep, cells)],
            "Loss over steps": [losses.draw_curves(sweep, cells)],
            "Measurements during training": [measured.draw_measurements(sweep, cells)],
            "Phase map": [phase.draw_phases(sweep, cells)],
            "Learning-rate transfer": [
                losses.draw_transfer(sweep, axis, each) for axis, each in found.items()
            ],
            "Loss by gain": [losses.draw_gains(sweep, cells)],
        }
    sections = {
        heading: pictures
        for heading, made in drawn.items()
        if (pictures := [picture for picture in made if picture is not None])
    }
    page = parts.render(
        "page.html.j2",
        Path(__file__).parent,
        title=f"Initialisation sweep: {sweep.facts['arch']}",
        summary=text.summary(sweep),
        verdicts=text.headlines(sweep, cells),
        notes=text.notes(sweep, cells),
        rankings=[text.ranking_table(sweep, cell) for cell in cells],
        pairs=[text.pair_table(sweep, cell) for cell in cells if cell.pairs],
        sections=sections,
        tables={"Learning-rate transfer": text.transfer_tables(sweep, found)},
        machine=text.machine(sweep),
        origins={
            "To run it again": sweep.facts["command"],
            "To make this page again": "python -m charjax.initlab report "
            + shlex.quote(str(sweep.directory)),
            "Configuration": sweep.facts["config_toml"],
        },
    )
    return page, [picture for pictures in sections.values() for picture in pictures]
