"""Write docs/studies.md and its pictures from benchmarks/results/initlab-study-*.json."""

from pathlib import Path

from benchmarks.results_file import RESULTS
from charjax import files
from charjax.initlab.studies import STUDIES, page
from charjax.initlab.studies.study import Study
from charjax.reproduction.output import read_results


def results(folder: Path = RESULTS) -> dict[str, page.Entry]:
    """Return the newest entry of every study that was measured in full."""
    found: dict[str, page.Entry] = {}
    for path in sorted(folder.glob("initlab-study-*.json")):
        for name, entry in read_results(path, "studies").items():
            older = found.get(name)
            if entry["tier"] == "cpu" and (older is None or older["finished"] < entry["finished"]):
                found[name] = entry
    return found


def page_parts(folder: Path = RESULTS) -> dict[str, str]:
    """Return the parts of docs/studies.md, one for each study."""
    found = results(folder)
    return {
        each.name: _part(each, found[each.name]) if each.name in found else "Not run yet."
        for each in STUDIES
    }


def _part(study: Study, entry: page.Entry) -> str:
    pictures = [
        (f"figures/{picture.name}.png", picture) for picture in page.pictures_of(study, entry)
    ]
    return page.markdown(study, entry, pictures).strip()


def draw(figures: Path) -> None:
    """Draw the pictures of docs/studies.md."""
    found = results()
    for study in STUDIES:
        if study.name in found:
            for picture in page.pictures_of(study, found[study.name]):
                files.replace(figures / f"{picture.name}.png", picture.png)
