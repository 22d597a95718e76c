"""A sweep's page from outside: what is on it, what is not, and that it is safe to open."""

import base64
import csv
import hashlib
import html.parser
import itertools
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from charjax import theory
from charjax.errors import UserError
from charjax.initlab.report import at_init, drawing, histograms, losses, measured, phase, verdicts
from charjax.initlab.report.swaps import compare_all
from charjax.initlab.report.tables import combinations_of, read_sweep, select, settings_of
from charjax.initlab.report.text import transfer_tables, verdict_lines
from charjax.initlab.statistics import compare
from tests.commands import run
from tests.initlab.synthetic import SCHEMES, TANH, write_sweep

ROOT = Path(__file__).resolve().parents[2]
EVIL = "<script>alert(1)</script>"


def report(*words):
    return run("initlab.__main__", "report", *words)


class Page(html.parser.HTMLParser):
    """Tags, attributes and text; every element must be closed in order."""

    VOID = ("meta", "img", "input")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[str]:
        return [data for open_tag, data in self.texts if open_tag == tag]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Run a sweep with every axis, and write its report."""
    directory = write_sweep(
        tmp_path_factory.mktemp("sweeps") / "full",
        gains=(0.6, 1.3, 3.0),
        depths=(2, 6),
        widths=(32, 128),
        rates=(0.05, 0.1, 0.4),
        seeds=3,
        diverges_above=0.3,
        schemes={"glorot": (1.0, 0.0), "kaiming": (5 / 3, 0.2)},
    )
    return directory, report(directory)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    directory = write_sweep(tmp_path_factory.mktemp("sweeps") / "small")
    return directory, report(directory)


def page_of(directory) -> Page:
    return Page((directory / "report.html").read_text(encoding="utf-8"))


# The page


def test_everything_is_there(full):
    directory, done = full
    assert (done.status, done.err) == (0, "")
    page = page_of(directory)
    assert page.all("h2") == [
        "Verdicts",
        "Ranking",
        "Before the first step, with theory",
        "Activations and gradients by layer",
        "Updates beside weights",
        "Loss over steps",
        "Phase map",
        "Learning-rate transfer",
        "Loss by gain",
        "How it was made",
    ]
    pictures = sorted(path.stem for path in (directory / "figures").iterdir())
    assert pictures == [
        "activation-histograms",
        "gradient-histograms",
        "initial-loss",
        "layers-at-init",
        "learning-rate-transfer",
        "learning-rate-transfer-by-depth",
        "loss-by-gain",
        "loss-curves",
        "phase-map",
        "update-to-data",
    ]
    assert (directory / "report.html").stat().st_size < 5_000_000
    text = " ".join(page.all("figcaption"))
    assert "n = 3 seeds" in text
    assert "6 ξc" in text
    assert "a run diverged" in text


def test_pictures_are_inline_and_told(full):
    directory, _ = full
    images = [attributes for tag, attributes in page_of(directory).tags if tag == "img"]
    files = {path.read_bytes() for path in (directory / "figures").glob("*.png")}
    prefix = "data:image/png;base64,"
    assert all(image["src"].startswith(prefix) and len(image["alt"]) > 20 for image in images)
    assert {base64.b64decode(image["src"].removeprefix(prefix)) for image in images} == files


def test_nothing_is_fetched(full):
    text = (full[0] / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "base"})
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    assert "default-src 'none'" in policy
    digest = hashlib.sha256("".join(page.all("style")).encode()).digest()
    assert f"style-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert not any(name.startswith("on") or name == "style" for _, a in page.tags for name in a)


@pytest.mark.slow
def test_absent_sections_have_no_heading(small):
    directory, done = small
    assert done.status == 0
    headings = page_of(directory).all("h2")
    assert "Phase map" not in headings
    assert "Learning-rate transfer" not in headings
    assert "Loss by gain" not in headings
    assert "Loss over steps" in headings


@pytest.mark.slow
def test_one_of_everything(tmp_path):
    directory = write_sweep(tmp_path / "one", schemes={"glorot": (1.0, 0.0)}, seeds=1)
    done = report(directory)
    assert done.status == 0, done.err
    assert "one seed: no interval and no verdict" in done.out
    # The same tables give the same bytes, wherever the page goes.
    other = tmp_path / "again.html"
    assert report(directory, "--out", other).out.splitlines()[-1] == f"report: {other}"
    assert other.read_bytes() == (directory / "report.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.html", "one"]
    text = other.read_text(encoding="utf-8")
    assert "nan" not in re.sub(r'src="[^"]*"', "", text)


def test_without_layers_or_theory(tmp_path):
    """A family that the theory says nothing of, and tables without rows."""
    directory = write_sweep(tmp_path / "bare", activation=None, seeds=2)
    for name in ("layers.csv", "curves.csv"):
        lines = (directory / name).read_text().splitlines()
        (directory / name).write_text(lines[0] + "\n")
    with np.load(directory / "histograms.npz") as file:
        np.savez(directory / "histograms.npz", **{name: file[name][:0] for name in file.files})
    assert report(directory).status == 0
    headings = page_of(directory).all("h2")
    assert headings == ["Verdicts", "Ranking", "Before the first step, with theory", *headings[-1:]]


@pytest.mark.slow
def test_names_and_commands_are_escaped(tmp_path):
    command = f"python -m charjax.initlab sweep --scheme '{EVIL}' \x1b[31m\x00 --lr 1&2"
    schemes = {EVIL: (1.0, 0.0), '"><img src=x onerror=a>\u202e$\\frac': (1.5, 0.3), "_x": (2, 0.1)}
    directory = write_sweep(tmp_path / "evil", schemes=schemes, command=command, seeds=2)
    facts = json.loads((directory / "sweep.json").read_text())
    facts["config_toml"] = f'name = "{EVIL}"\n\x07\nend = 1\n'
    facts["arch"], facts["finished"], facts["hardware"] = EVIL, EVIL, {"accelerator": EVIL}
    (directory / "sweep.json").write_text(json.dumps(facts))
    done = report(directory)
    assert (done.status, done.err) == (0, "")
    assert "\u202e" not in done.out
    text = (directory / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert all(char.isprintable() or char == "\n" for char in text)
    page = Page(text)
    shown = "".join(data for _, data in page.texts)
    assert shown.count(EVIL) >= 6
    assert "\\x1b[31m\\x00 --lr 1&2" in shown
    assert "\\x07\nend = 1" in shown
    assert all(a["src"].startswith("data:") for tag, a in page.tags if tag == "img")


def test_a_mistake_is_answered_at_once(run_command, tmp_path):
    """Before JAX and matplotlib are loaded, which takes seconds."""
    for name in ("jax", "matplotlib", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('loaded too early')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    assert "DIR/figures" in run_command("initlab", "report", "-h", env={"PYTHONPATH": path}).stdout
    done = run_command("initlab", "report", "--no", env={"PYTHONPATH": path})
    assert (done.code, done.stderr.count("\n")) == (2, 1)


# Verdicts


def test_verdicts_are_the_statistics(small):
    directory, done = small
    sweep = read_sweep(directory)
    first, second, third = (sweep.losses[place, 0, 0, 0, 0] for place in (1, 2, 0))
    found = [compare(first, second), compare(first, third), compare(second, third)]
    assert [one.verdict for one in found] == ["better"] * 3
    # All that is said of three pairs is adjusted for three: here every p is as small as can be.
    assert "p = 0.0078 (adjusted 0.0078), n = 8" in done.out
    for line, one in zip(done.out.splitlines(), found, strict=False):
        assert f"{one.mean:+.4f} ({one.low:+.4f} to {one.high:+.4f}) nats" in line
        assert f"p = {one.p:.2g}" in line
        assert "is better than" in line
    page = page_of(directory)
    assert [line for line in done.out.splitlines() if line.startswith("depth")] == [
        line for line in page.all("li") if line.startswith("depth")
    ]
    assert "better" in page.all("td")
    assert done.out.splitlines()[3] == "no run diverged"


def test_divergence_comes_with_the_verdicts(full):
    directory, done = full
    line = next(line for line in done.out.splitlines() if line.startswith("glorot:"))
    # At width 32 rates up to 0.6 are sound, at width 128 up to 0.15.
    assert line == (
        "glorot: 18 of 108 runs diverged, the first at step 37; by learning rate: 0.4 (18/36)"
    )
    assert line in page_of(directory).all("li")
    sweep = read_sweep(directory)
    assert sweep.diverged.sum() == 36
    np.testing.assert_array_equal(np.isinf(sweep.losses), sweep.diverged)


def test_a_seed_is_judged_by_a_setting_chosen_without_it():
    """Pure noise: the best of 40 settings looks better than it is, and leaving one out does not."""
    rng = np.random.default_rng(0)
    chosen, judged = [], []
    for _ in range(200):
        losses_GRS = rng.normal(size=(1, 40, 6))
        judged.append(verdicts.judged(losses_GRS).mean())
        chosen.append(losses_GRS[verdicts.best_setting(losses_GRS)].mean())
    assert np.mean(chosen) < -0.7
    assert abs(np.mean(judged)) < 0.1


def test_many_schemes_can_be_told_apart():
    """Ten pairs of five variants at 8 seeds, each at the smallest p; Holm's would be 0.078."""
    rng = np.random.default_rng(0)
    losses_CS = 0.3 * np.arange(5)[:, None] + rng.normal(0, 0.1, (5, 8)) + rng.normal(0, 5, 8)
    (found,) = compare_all([losses_CS[:, None]])
    assert [one.verdict for one in found.values()] == ["better"] * 10
    assert {one.adjusted_p for one in found.values()} == {2 / 2**8}


def test_all_pairs_keep_the_level():
    """Equal variants: a finding among any of the pairs in at most about 5 % of experiments."""
    rng = np.random.default_rng(4)
    false = 0
    for _ in range(120):
        (found,) = compare_all([rng.normal(size=(3, 1, 6)) + rng.normal(size=6)])
        false += any(one.adjusted_p < 0.05 for one in found.values())
        assert all(one.adjusted_p >= one.p for one in found.values())
    assert false < 13


def test_too_few_seeds_are_told_once(full):
    directory, done = full
    cells = [line for line in done.out.splitlines() if line.startswith("depth")]
    assert len(cells) == 4
    sweep = read_sweep(directory)
    assert cells == verdict_lines(sweep)[:4]
    assert "3 seeds cannot reach p < 0.05, 6 can" in cells[0]


def test_the_family_and_the_assumption_stand_beside_the_verdicts(small, full):
    for directory, done in (small, full):
        page = " ".join(page_of(directory).all("p"))
        basis = done.out.splitlines()[-4:-1]
        assert [line.split(":")[0] for line in basis] == ["one family", "power", "assumed"]
        for line in basis:
            assert line[1:] in page
    assert "all 3 comparisons of this report, so" in small[1].out
    assert "all 4 comparisons of this report (4 sizes x 1 pair), so" in full[1].out
    assert "3 seeds cannot reach p < 0.05, whatever the difference; 6 can" in full[1].out
    assert "swaps a seed's whole tables of settings" in " ".join(page_of(full[0]).all("p"))


def test_all_sizes_are_one_family(tmp_path):
    """A difference that is found in a report of one size need not be found in one of eight."""
    widths = (32, 64, 128, 256)
    two = {"a": (1.0, 0.0), "b": (1.0, 0.011)}
    size = {"schemes": two, "seeds": 8, "steps": 10, "depths": (2, 4), "widths": widths}
    sweep = read_sweep(write_sweep(tmp_path / "sizes", **size))
    cells = verdicts.judge(sweep)
    assert {pair.found.family for cell in cells for pair in cell.pairs} == {8}
    alone = [compare(*(one.loss_S for one in cell.variants)) for cell in cells]
    together = [cell.pairs[0].found for cell in cells]
    assert [one.p for one in together] == [one.p for one in alone]
    assert all(one.adjusted_p >= one.p for one in together)
    assert sum(one.verdict == "better" for one in together) < sum(
        one.verdict == "better" for one in alone
    )


@pytest.mark.slow
def test_a_bad_seed_is_said(tmp_path):
    """One run of the better scheme ends 3 nats higher."""
    directory = write_sweep(tmp_path / "bad", schemes={"a": (1.0, 0.0), "b": (1.0, 0.1)})
    path = directory / "runs.csv"
    rows = path.read_text().splitlines()
    place = next(n for n, row in enumerate(rows) if row.startswith("a,") and ",5," in row[:20])
    fields = rows[place].split(",")
    loss = rows[0].split(",").index("val_loss")
    fields[loss] = str(float(fields[loss]) + 3)
    path.write_text("\n".join([*rows[:place], ",".join(fields), *rows[place + 1 :]]) + "\n")
    done = report(directory)
    line = done.out.splitlines()[0]
    assert "indistinguishable at n = 8" in line
    assert "skewed: seed 5 differs by" in line
    assert "seed 5 decides: without it a would look better" in line
    cells = page_of(directory).all("td")
    assert any("seed 5 decides: without it a would look better" in cell for cell in cells)


def test_one_pair_needs_no_correction():
    losses_CS = np.random.default_rng(2).normal(size=(2, 7))
    assert compare_all([losses_CS[:, None]])[0][0, 1] == compare(*losses_CS)


def test_a_diverging_arm_among_others():
    losses_CS = np.random.default_rng(2).normal(2, 0.1, (3, 8))
    losses_CS[1] = np.inf
    (found,) = compare_all([losses_CS[:, None]])
    assert (found[0, 1].verdict, found[1, 2].verdict) == ("better", "worse")
    assert found[0, 2].verdict == "indistinguishable at n = 8"


def test_best_setting_avoids_divergence():
    losses_GRS = np.array([[[1.0, np.inf], [2.0, 2.0]], [[1.9, 1.9], [0.1, np.nan]]])
    assert verdicts.best_setting(losses_GRS) == (1, 0)
    assert verdicts.best_setting(np.full((2, 2, 2), np.inf)) == (0, 0)


# Theory on the measured points


def test_theory_lines_are_the_theory(small):
    sweep = read_sweep(small[0])
    stack = theory.propagate(3, TANH, (5 / 3) ** 2, 0.05)
    points = at_init.layer_points(sweep, 2, 0, "std", "theory_std")
    assert points.names == ["embedding", "hidden_0", "hidden_1", "hidden_2", "readout"]
    assert points.measured_SL.shape == (8, 5)
    np.testing.assert_allclose(points.theory_SL[:, 1:4], np.tile(stack.std_D, (8, 1)), rtol=1e-12)
    assert np.isnan(points.theory_SL[:, [0, 4]]).all()
    off_SL = points.residual_SL[:, 1:4]
    np.testing.assert_allclose(off_SL, points.measured_SL[:, 1:4] / stack.std_D - 1)
    assert 0 < np.abs(off_SL).max() < 0.1


def test_correlation_depth_is_the_theory():
    weights = np.array([1.0, 1.3, 1.5])
    np.testing.assert_allclose(
        phase.correlation_depths("tanh", weights, 0.05), [3.627, 7.834, 15.79], rtol=1e-3
    )
    assert np.isnan(phase.correlation_depths("relu", np.array([2.5]), 0.05)).all()


def test_no_contours_where_the_theory_is_of_other_networks(tmp_path):
    """Batch norm: the same table, but no such depth scale."""
    size = {"gains": (0.6, 1.3, 3.0), "depths": (2, 6), "seeds": 2, "steps": 10}
    directory = write_sweep(tmp_path / "norm", schemes={"a": (1.0, 0.0)}, **size)
    sweep = read_sweep(directory)
    cells = verdicts.judge(sweep)
    with drawing.styled():
        assert "Lines: depth = ξc" in phase.draw_phases(sweep, cells).caption
        sweep.facts["config"]["model"]["norm"] = "batch"
        assert "No mean-field theory" in phase.draw_phases(sweep, cells).caption


def test_phase_map_is_measured(full):
    weight_G, loss_DG = phase.measured_map(read_sweep(full[0]), 0)
    np.testing.assert_allclose(weight_G, [0.36, 1.69, 9.0], rtol=0.02)
    assert loss_DG.shape == (2, 3)
    # The made-up loss is lowest near criticality, and the more so the deeper.
    assert loss_DG[1].argmin() == 1
    assert loss_DG[1, 2] > loss_DG[0, 2]


def test_transfer(full):
    sweep = read_sweep(full[0])
    both = losses.transfers(sweep, [0, 1])
    found = both["width"]
    # At width 32 the made-up best rate is 0.2, of 0.05, 0.1 and 0.4; at width 128 it is 0.025.
    assert [one.best[1].rate for one in found] == [0.05, 0.05]
    assert all(one.best[0].rate in (0.1, 0.4) and one.beyond for one in found)
    assert found[0].drift == pytest.approx(np.log2(0.05 / found[0].best[0].rate))
    assert found[0].low <= found[0].drift <= found[0].high
    # The made-up best rate does not depend on the depth.
    assert [one.drift for one in both["depth"]] == [0.0, 0.0]


def test_transfer_at_one_size_is_the_best_rate(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path / "one", rates=(0.05, 0.1, 0.2)))
    (axis,) = found = losses.transfers(sweep, [1])
    assert axis == "width"
    assert found["width"][0].best[0].rate == 0.1
    assert np.isnan(found["width"][0].drift)
    caption, head, _ = transfer_tables(sweep, found)[0]
    assert "drift" not in caption
    assert head == ["scheme", "width 64"]


def test_measurements_have_a_figure(tmp_path):
    directory = write_sweep(tmp_path / "measured", seeds=2, steps=10)
    facts = json.loads((directory / "sweep.json").read_text())
    facts["measured"] = {"names": ["sharpness", "units", "noise_scale"], "at": [0, 10]}
    (directory / "sweep.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"measurements\.csv' is not as a sweep writes it: missing"):
        read_sweep(directory)
    head, *runs = (directory / "runs.csv").read_text().splitlines()
    lines = [",".join([*head.split(",")[:6], "step", "quantity", "place", "value"])]
    values = ("sharpness,,3.5", "dead,h0,0.5", "dead,h1,", "noise_scale,,-1")
    values += ("gradient_variance,,4", "gradient_square,,2")
    lines += [
        ",".join([*line.split(",")[:6], step, value])
        for line in runs
        for step in ("0", "10")
        for value in values
    ]
    (directory / "measurements.csv").write_text("\n".join(lines) + "\n")
    sweep = read_sweep(directory)
    with drawing.styled():
        picture = measured.draw_measurements(sweep, verdicts.judge(sweep))
    assert picture is not None
    assert "3 panels" in picture.alt


def test_variants_are_named_by_their_settings():
    facts = {"settings": [["optim.kind", ["sgd", "lion"]], ["optim.beta2", [0.9]]]}
    assert settings_of(facts) == [("optim.kind", ["sgd", "lion"]), ("optim.beta2", ["0.9"])]
    assert combinations_of(facts) == [("sgd", "0.9"), ("lion", "0.9")]
    assert combinations_of({}) == [()]


@settings(max_examples=40)
@given(st.floats(-5, 5), st.floats(0, 3), st.integers(1, 4), st.integers(0, 99))
def test_pooled_density_is_one(low, width, rows, seed):
    rng = np.random.default_rng(seed)
    low_N = low + rng.normal(size=rows)
    counts_NB = rng.integers(1, 50, (rows, 64)).astype(float)
    x, density = histograms.pooled_density(low_N, low_N + width, counts_NB)
    step = x[1] - x[0]
    assert density.min() >= 0
    assert np.sum(density) * step == pytest.approx(1)
    # A range of no width is taken as a millionth of where it is.
    high = max((low_N + width).max(), (low_N + 1.1e-6 * np.abs(low_N)).max())
    assert low_N.min() <= x[0] <= x[-1] <= high


# Mistakes


def broken(tmp_path, change):
    directory = write_sweep(tmp_path / "sweep", seeds=2, steps=10)
    change(directory)
    done = report(directory)
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert not (directory / "report.html").exists()
    assert not (directory / "figures").exists()
    return done.err


@pytest.mark.parametrize("name", ["sweep.json", "runs.csv", "layers.csv", "histograms.npz"])
def test_a_missing_file_is_named(tmp_path, name):
    text = broken(tmp_path, lambda directory: (directory / name).unlink())
    assert f"{name} missing; the sweep did not finish" in text


def _edit(name, old, new, count=1):
    def change(directory):
        path = directory / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, count))

    return change


def _cut(name, rows):
    def change(directory):
        path = directory / name
        path.write_text("\n".join(path.read_text().splitlines()[:-rows]) + "\n")

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_cut("runs.csv", 2), "holds 4 of 6 runs; the sweep did not finish"),
        (_edit("runs.csv", "val_loss", "loss"), "no column val_loss"),
        (_edit("runs.csv", "glorot", "other"), "row 4 is of no run of sweep.json's grid"),
        (_edit("runs.csv", "0.05", "much"), "row 2: sigma_b2 is 'much'"),
        (_edit("runs.csv", "0.1,1,", "0.1,0,"), "1 runs are there more than once"),
        (_edit("curves.csv", "pytorch,", "pytorch,,"), "row 2 has 11 fields, not 10"),
        (_edit("sweep.json", '"format": 1', '"format": 2'), "format 2; this version"),
        (_edit("sweep.json", '"format"', '"form"'), "no 'format'"),
        (_edit("sweep.json", '"depths": [3]', '"depths": []'), "depths is []"),
        (_edit("sweep.json", '"steps": 10', '"steps": "ten"'), "steps is 'ten'"),
        (_edit("sweep.json", '"vocabulary": 27, ', ""), "vocabulary is missing"),
        (_edit("sweep.json", '{"kind": "mlp"}', "7"), "config is {'model': 7}"),
        (_edit("sweep.json", "{", "<"), "not JSON"),
        (lambda d: (d / "histograms.npz").write_bytes(b"PK"), "histograms.npz"),
        (lambda d: np.savez(d / "histograms.npz", step=np.zeros(3)), "no array scheme"),
    ],
)
def test_what_is_broken_is_said(tmp_path, change, text):
    assert text in broken(tmp_path, change)


def test_an_array_of_objects_is_refused(tmp_path):
    def change(directory):
        path = directory / "histograms.npz"
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        arrays["layer"] = arrays["layer"].astype(object)
        np.savez(path, allow_pickle=True, **arrays)

    assert "not an archive of plain arrays" in broken(tmp_path, change)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nowhere"], "'nowhere' is no directory"),
        ([], "the following arguments are required: DIR"),
        (["."], "holds no sweep"),
        (["x", "--ouut", "y"], "did you mean --out?"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, words, text):
    monkeypatch.chdir(tmp_path)
    done = report(*words)
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert text in done.err


def test_a_place_that_is_no_file(small, tmp_path):
    for out, text in (
        (tmp_path, "is a directory"),
        (tmp_path / "no" / "x.html", "there is no directory"),
    ):
        done = report(small[0], "--out", out)
        assert done.status == 2
        assert text in done.err


def test_axes_ascend(tmp_path):
    """Whatever the order in which the sweep was asked for them."""
    directory = write_sweep(tmp_path / "sweep", rates=(0.4, 0.1), gains=(3.0, None), seeds=2)
    sweep = read_sweep(directory)
    assert sweep.rates.tolist() == [0.1, 0.4]
    assert np.isnan(sweep.gains[0])
    assert sweep.shape == (len(SCHEMES), 2, 1, 1, 2, 2)
    one = select(sweep.runs, scheme=0, gain=1, learning_rate=0, seed=1)
    with (directory / "runs.csv").open(encoding="utf-8", newline="") as file:
        written = next(
            row
            for row in csv.DictReader(file)
            if (row["scheme"], row["gain"], row["learning_rate"], row["seed"])
            == (sweep.schemes[0], "3.0", "0.1", "1")
        )
    assert one["val_loss"].to_list() == [float(written["val_loss"])]
    assert sweep.cube("val_loss")[0, 1, 0, 0, 0, 1] == float(written["val_loss"])


def test_a_missing_directory_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no directory"):
        read_sweep(tmp_path / "none")


# Colours


def test_each_colour_has_one_meaning():
    """Schemes, quantities, theory, and the ordered maps of layers, depths and widths."""
    ordered = {kind: drawing.ordered_colours(kind, 8) for kind in ("layer", "depth", "width")}
    groups = {
        "scheme": drawing.SCHEMES,
        "quantity": (drawing.AFTER, drawing.BEFORE),
        "theory": (drawing.THEORY,),
        **ordered,
    }
    rgb = {name: [np.array(to_rgb(one)) for one in colours] for name, colours in groups.items()}
    for first, second in itertools.combinations(rgb, 2):
        distances = [np.linalg.norm(a - b) for a in rgb[first] for b in rgb[second]]
        assert min(distances) > 0.1, (first, second)


@pytest.mark.slow
def test_legends_cover_nothing(full):
    """Every legend stands beside its axes."""
    sweep = read_sweep(full[0])
    cells = verdicts.judge(sweep)
    legends = []
    save = drawing.Panels.picture

    def look(panels, name, **words):
        panels.figure.draw_without_rendering()
        for axes in [*panels.main, *panels.below]:
            if (legend := axes.get_legend()) is not None:
                legends.append(name)
                box = legend.get_window_extent()
                every = [one.get_window_extent() for one in [*panels.main, *panels.below]]
                assert not any(box.overlaps(one) for one in every), name
        return save(panels, name, **words)

    with pytest.MonkeyPatch.context() as patch, drawing.styled():
        patch.setattr(drawing.Panels, "picture", look)
        at_init.draw_layers(sweep, cells)
        at_init.draw_initial_loss(sweep, cells)
        histograms.draw_histograms(sweep, cells, "activation")
        histograms.draw_updates(sweep, cells)
        losses.draw_curves(sweep, cells)
        losses.draw_gains(sweep, cells)
        for axis, found in losses.transfers(sweep, [0, 1]).items():
            losses.draw_transfer(sweep, axis, found)
    assert len(set(legends)) == 8
