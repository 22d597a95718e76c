"""The page of a sweep in headless Chromium: `make pages`."""

from pathlib import Path
from typing import Any

import pytest

from tests.browser.test_report import PHONE, browser, pytestmark  # noqa: F401 - a fixture
from tests.commands import run
from tests.initlab.synthetic import write_sweep


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_sweep(browser: Any, tmp_path: Path, scheme: str) -> None:  # noqa: F811
    directory = write_sweep(tmp_path / "sweep", seeds=3, steps=20)
    assert run("initlab.__main__", "report", directory).status == 0
    faults: list[str] = []
    context = browser.new_context(viewport=PHONE, color_scheme=scheme)
    page = context.new_page()
    page.on("console", lambda line: faults.append(line.text))
    page.goto((directory / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    assert (before == "rgb(255, 255, 255)") == (scheme == "light")
    page.locator(f"label:has(#theme-{'light' if scheme == 'dark' else 'dark'})").click()
    assert page.evaluate(ground) != before
    widths = "[...document.images].map((image) => image.naturalWidth)"
    assert min(page.evaluate(widths)) > 100
    context.close()
    assert faults == []
