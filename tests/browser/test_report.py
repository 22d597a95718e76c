"""The report in headless Chromium: `make pages`; skipped where there is no Chromium."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run, tiny
from tests.pages.synthetic import write_run

sync_api = pytest.importorskip(
    "playwright.sync_api", reason='no playwright: make pages, or pip install "charjax[pages]"'
)
CHROMIUM = os.environ.get("CHARJAX_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="no Chromium: install it (apt-get install chromium), or set CHARJAX_CHROMIUM",
    ),
]
EVIL = "<script>document.title='run'</script></script><b>&amp; "
PHONE = {"width": 360, "height": 740}
# Pixels of each canvas that are not transparent.
DRAWN = """() => [...document.querySelectorAll("#charts canvas")].map((canvas) => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let i = 3; i < pixels.length; i += 4) count += pixels[i] > 0;
  return count;
})"""
# Pixels of a canvas with a run's colour.
COLOURED = """([number, name]) => {
  const canvas = document.querySelectorAll("#charts canvas")[number];
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const p = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let i = 0; i < p.length; i += 4) {
    const far = Math.abs(p[i] - r) + Math.abs(p[i + 1] - g) + Math.abs(p[i + 2] - b);
    count += p[i + 3] > 200 && far < 60;
  }
  return count;
}"""
STEP = "() => document.querySelector('#legend tbody td').textContent"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser: Any, page_file: Path, **options: Any) -> Iterator[Any]:
    """Open a page in a context of its own; an error or a request to anywhere fails the test."""
    faults: list[str] = []
    context = browser.new_context(**options)
    page = context.new_page()
    # Reading canvases is the tests' work.
    page.on(
        "console", lambda line: faults.append(line.text) if "readback" not in line.text else None
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda sent: faults.append(sent.url) if sent.url[:5] != "file:" else None)
    page.goto(page_file.as_uri())
    page.wait_for_function("document.querySelectorAll('#charts canvas').length === 4")
    yield page
    context.close()
    assert faults == []


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the report of two trained runs on a text with markup in it."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "text.txt").write_text((EVIL + "what is the case, is what is.\n") * 60)
    for name, kind, rate in (("one", "gru", 0.01), ("two", "bigram", 0.02)):
        words = [f"data.path={folder / 'text.txt'}", *tiny(kind), "train.steps=60"]
        words += [f"optim.learning_rate={rate}"]
        done = run("train", *words, "train.sample_every=30", "--workdir", folder / name)
        assert done.status == 0, done.err
    (folder / "one" / "samples.txt").write_text(f"--- step 30 ---\n{EVIL}\n", encoding="utf-8")
    out = folder / "report.html"
    done = run("commands.report", folder / "one", folder / "two", "--out", out)
    assert done.status == 0, done.err
    return out


def test_curves_are_drawn(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        assert min(page.evaluate(DRAWN)) > 1000
        for number in range(4):
            for name in ("--run0", "--run1"):
                assert page.evaluate(COLOURED, [number, name]) > 20, (number, name)
        # A run that is switched off is gone from all of them.
        page.uncheck("#legend tbody tr:nth-child(2) input")
        assert [page.evaluate(COLOURED, [number, "--run1"]) for number in range(4)] == [0] * 4
        assert page.evaluate(COLOURED, [0, "--run0"]) > 20


def test_a_drag_zooms_all_curves_and_a_double_click_shows_all(
    browser: Any, page_file: Path
) -> None:
    with opened(browser, page_file) as page:
        whole = page.evaluate(DRAWN)
        assert step_at(page, 0.9) > 50
        x, y = place_of(page, 0.2)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(place_of(page, 0.5)[0], y, steps=5)
        page.mouse.up()
        # At the right end of the picture now stands what was at its middle; of the others, too.
        assert 25 < step_at(page, 0.99) < 35
        assert 25 < step_at(page, 0.98, chart=2) < 35
        assert page.evaluate(DRAWN) != whole
        page.mouse.dblclick(*place_of(page, 0.5))
        assert step_at(page, 0.98) > 55
        page.click("#zoom-tenth")
        assert step_at(page, 0.05) > 50
        page.click("#zoom-all")
        assert step_at(page, 0.05) < 10


def place_of(page: Any, share: float, chart: int = 0) -> tuple[float, float]:
    """Return a point of a chart: its share of the width, and half of the height."""
    over = page.locator(".u-over").nth(chart)
    over.evaluate("over => over.scrollIntoView({ block: 'center' })")
    box = over.bounding_box()
    return box["x"] + share * box["width"], box["y"] + box["height"] / 2


def step_at(page: Any, share: float, chart: int = 0) -> int:
    """Return the step that the legend shows for a point of a chart."""
    page.mouse.move(*place_of(page, share, chart))
    page.wait_for_timeout(100)
    return int(page.evaluate(STEP))


@pytest.mark.parametrize("switch", ["log-loss", "log-grad_norm", "log-step"])
def test_switches_redraw_and_come_back(browser: Any, page_file: Path, switch: str) -> None:
    number = 2 if switch == "log-grad_norm" else 0
    image = f"document.querySelectorAll('#charts canvas')[{number}].toDataURL()"
    with opened(browser, page_file) as page:
        before = page.evaluate(image)
        page.check(f"#{switch}")
        assert page.evaluate(image) != before
        assert page.evaluate(COLOURED, [number, "--run0"]) > 20
        page.uncheck(f"#{switch}")
        assert page.evaluate(image) == before


def test_smoothing_and_lines_of_counts(browser: Any, page_file: Path) -> None:
    image = "document.querySelector('#charts canvas').toDataURL()"
    with opened(browser, page_file) as page:
        before = page.evaluate(image)
        page.locator("#smoothing").fill("0.9")
        assert page.evaluate(image) != before
        page.locator("#smoothing").fill("0")
        assert page.evaluate(image) == before
        assert page.locator("#references label").all_inner_texts()[0].strip().startswith("ln V: ")
        assert page.locator("#references label").count() == 3
        page.uncheck("#references label:nth-child(3) input")
        assert page.evaluate(image) != before


def test_markup_of_the_text_is_shown_as_text(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        assert page.title() == "2 runs"
        assert EVIL.strip() in page.inner_text("#passage .passage")
        assert EVIL.strip() in page.inner_text("#samples pre")
        assert page.locator("b").count() == 0


def test_predictions_of_a_character(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        page.locator("#passage .passage span").nth(40).hover()
        panel = page.locator("#predictions")
        assert "nats, probability" in panel.inner_text()
        assert panel.locator("li").count() == 5
        shares = [
            float(text.rstrip(" %"))
            for text in panel.locator("li > span:last-child").all_inner_texts()
        ]
        assert shares == sorted(shares, reverse=True)
        first = panel.inner_text()
        page.locator("#passage .passage span").nth(41).click()
        assert panel.inner_text() != first


def test_another_run_and_the_difference_to_it(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        spans = "document.querySelectorAll('#passage .panel:not([hidden]) .passage span')"
        classes = f"() => [...{spans}].map((span) => span.className)"
        first = page.evaluate(classes)
        page.click("#passage .tabs button:nth-child(2)")
        second = page.evaluate(classes)
        assert len(first) == len(second)
        assert first != second
        page.select_option("#against", label="difference to one")
        there = set(page.evaluate(classes))
        assert there <= {"", "better1", "better2", "better3", "level2", "level4", "level6", "here"}
        assert len(there) > 1
        assert page.is_visible("#differences")


def test_settings_that_differ(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        shown = page.locator("#settings tbody tr:visible")
        few = shown.count()
        assert "model.kind" in page.inner_text("#settings")
        assert "train.seed" not in page.inner_text("#settings")
        page.uncheck("#only-marked")
        assert shown.count() > few
        assert "train.seed" in page.inner_text("#settings")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_themes(browser: Any, page_file: Path, scheme: str) -> None:
    """The system's choice, and the page's own over it, which the next visit finds again."""
    ground = "getComputedStyle(document.body).backgroundColor"
    other = "light" if scheme == "dark" else "dark"
    with opened(browser, page_file, color_scheme=scheme) as page:
        before = page.evaluate(ground)
        assert (before == "rgb(255, 255, 255)") == (scheme == "light")
        assert page.evaluate(COLOURED, [0, "--run0"]) > 20
        page.locator(f"label:has(#theme-{other})").click()
        assert page.evaluate(ground) != before
        assert page.evaluate(COLOURED, [0, "--run0"]) > 20
        page.reload()
        page.wait_for_function("document.querySelectorAll('#charts canvas').length === 4")
        assert page.evaluate(ground) != before


def test_a_phone(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file, viewport=PHONE, has_touch=True, is_mobile=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert min(page.evaluate(DRAWN)) > 1000
        page.locator("#passage .passage span").nth(40).tap()
        assert page.locator("#predictions li").count() == 5
        # The panel covers no part of the text.
        panel = page.locator("#predictions").bounding_box()
        text = page.locator("#passage .panel").first.bounding_box()
        assert panel["y"] + panel["height"] <= text["y"] + 1


def test_a_finger_zooms(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file, viewport=PHONE, has_touch=True, is_mobile=True) as page:
        touch = page.context.new_cdp_session(page)

        def send(kind: str, *points: tuple[float, float]) -> None:
            points_sent = [{"x": x, "y": y} for x, y in points]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points_sent})

        x, y = place_of(page, 0.5)
        right = place_of(page, 0.9)[0]
        image = "document.querySelector('#charts canvas').toDataURL()"
        whole = page.evaluate(image)
        send("touchStart", (x, y))
        for share in (0.25, 0.5, 0.75, 1):
            send("touchMove", (x + share * (right - x), y))
        send("touchEnd")
        page.wait_for_timeout(100)
        assert page.evaluate(image) != whole
        page.click("#zoom-all")
        assert page.evaluate(image) == whole


def test_ten_long_runs(browser: Any, tmp_path: Path) -> None:
    runs = [
        write_run(
            tmp_path / f"run{number}", f"train.seed={number}", lines=100_000, level=1 + number / 9
        )
        for number in range(10)
    ]
    out = tmp_path / "report.html"
    done = run("commands.report", *runs, "--out", out, "--quick")
    assert done.status == 0, done.err
    assert out.stat().st_size < 5_000_000
    with opened(browser, out) as page:
        # From the navigation's start to the first frame after the script.
        page.reload()
        page.wait_for_function("document.querySelectorAll('#charts canvas').length === 4")
        took = page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => "
            "done(performance.now()))))"
        )
        assert took < 2000
        for hue in range(8):
            assert page.evaluate(COLOURED, [0, f"--run{hue}"]) > 20
        print(f"{out.stat().st_size / 1e6:.2f} MB, {took:.0f} ms")
