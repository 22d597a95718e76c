"""A sweep for other programs: DataFrames, CSV, Parquet, verdicts as JSON, vector figures."""

import importlib.util
import json
import sys

import numpy as np
import pytest

import charjax
from charjax.errors import UserError
from charjax.initlab.__main__ import main
from charjax.initlab.report import read_sweep
from charjax.initlab.report.verdict_file import verdicts
from charjax.initlab.report.verdicts import judge
from tests.initlab.synthetic import write_sweep


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Make a sweep of three schemes at three widths; some runs diverge."""
    return write_sweep(
        tmp_path_factory.mktemp("sweep") / "plain",
        widths=(32, 64, 128),
        rates=(0.05, 0.1, 0.2),
        diverges_above=0.15,
    )


@pytest.fixture(scope="module")
def with_axes(tmp_path_factory):
    """Make a sweep whose schemes stand for the values of settings."""
    directory = write_sweep(tmp_path_factory.mktemp("sweep") / "axes")
    facts = json.loads((directory / "sweep.json").read_text())
    schemes = facts["schemes"]
    values = {scheme: place for place, scheme in enumerate(schemes)}
    boundaries = [[1, 2], [3], []]
    facts |= {"schemes": ["lsuv"], "settings": [["optim.boundaries", boundaries]]}
    (directory / "sweep.json").write_text(json.dumps(facts))
    for name in ("runs", "curves", "layers"):
        path = directory / f"{name}.csv"
        head, *rows = path.read_text().splitlines()
        columns = head.split(",")
        lines = [",".join([*columns[:6], "optim.boundaries", *columns[6:]])]
        for row in rows:
            scheme, *others = row.split(",")
            text = f'"{boundaries[values[scheme]]}"'
            lines.append(",".join(["lsuv", *others[:5], text, *others[5:]]))
        path.write_text("\n".join(lines) + "\n")
    with np.load(directory / "histograms.npz") as file:
        arrays = dict(file)
    places = [values[scheme] for scheme in arrays["scheme"]]
    arrays["optim.boundaries"] = np.array([str(boundaries[place]) for place in places])
    arrays["scheme"] = np.full(len(places), "lsuv")
    np.savez(directory / "histograms.npz", **arrays)
    return directory


def test_a_sweep_as_a_data_frame(plain):
    runs = charjax.load_sweep(plain)
    assert len(runs) == 3 * 3 * 3 * 8
    assert runs["learning_rate"].dtype == np.float64
    assert runs["gain"].isna().all()
    assert runs.attrs["sweep"]["widths"] == [32, 64, 128]
    layers = charjax.load_sweep(str(plain), "layers")
    assert set(layers["role"]) > {"hidden"}
    assert layers.loc[layers["step"] > 0, "theory_std"].isna().all()


def test_values_of_axes_have_their_types(with_axes):
    runs = charjax.load_sweep(with_axes)
    assert set(runs["optim.boundaries"]) == {(1, 2), (3,), ()}
    sweep = read_sweep(with_axes)
    assert sweep.schemes[0] == "optim.boundaries=[1, 2]"
    found = verdicts(sweep)["sizes"][0]["ranking"]
    assert {one["scheme"] for one in found} == {"lsuv"}
    assert {one["settings"]["optim.boundaries"] for one in found} == {"[1, 2]", "[3]", "[]"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: charjax.load_sweep(d, "run"), "'run' given; must be one of runs, curves"),
        (lambda d: charjax.load_sweep(d, "measurements"), "measured nothing during training"),
        (lambda d: charjax.load_sweep(d / "none"), "holds no finished sweep"),
        (lambda d: main(["export", str(d), "--figures", "gif"]), "'gif' given; must be of png"),
        (lambda d: main(["export", str(d), "--format", "xls"]), "invalid choice: 'xls'"),
    ],
)
def test_mistakes(change, message, plain):
    with pytest.raises(UserError) as caught:
        change(plain)
    assert message in str(caught.value)
    assert not (plain / "export").exists()


def test_without_pyarrow(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"parquet needs pyarrow.*charjax\[parquet\]"):
        main(["export", str(plain), "--format", "parquet"])
    assert not (plain / "export").exists()


def test_verdicts_are_those_of_the_page(plain):
    sweep = read_sweep(plain)
    found, cells = verdicts(sweep), judge(sweep)
    # Infinite and missing numbers are null, which every reader of JSON takes.
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found
    assert [size["width"] for size in found["sizes"]] == [32, 64, 128]
    for size, cell in zip(found["sizes"], cells, strict=True):
        names = [sweep.schemes[one.scheme] for one in cell.variants]
        assert [one["scheme"] for one in size["ranking"]] == names
        for ours, pair in zip(size["comparisons"], cell.pairs, strict=True):
            assert ours["verdict"] == pair.found.verdict
            assert ours["first"]["scheme"] == names[pair.first]
            assert ours["mean"] == pytest.approx(pair.found.mean)
    drift = next(one for one in found["transfer"] if one["scheme"] == "glorot")
    assert drift["drift_octaves"] == pytest.approx(-2, abs=0.7)


@pytest.mark.slow
@pytest.mark.longest
def test_an_export_of_all_kinds(plain, with_axes, tmp_path):
    for directory in (plain, with_axes):
        out = tmp_path / directory.name
        words = ["export", str(directory), "--figures", "svg,pdf"]
        assert main([*words, "--out", str(out)]) == 0
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        assert {"runs.csv", "curves.csv", "layers.csv", "verdicts.json"} < set(before)
        assert before["layers-at-init.svg"].startswith(b"<?xml")
        assert before["layers-at-init.pdf"].startswith(b"%PDF")
        assert main([*words, "--out", str(out)]) == 0
        # Equal tables give equal bytes: nothing in them depends on the time.
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
def test_parquet_holds_the_table(with_axes, tmp_path):
    import pandas as pd

    assert main(["export", str(with_axes), "--format", "parquet", "--out", str(tmp_path)]) == 0
    runs, read = charjax.load_sweep(with_axes), pd.read_parquet(tmp_path / "runs.parquet")
    assert list(read) == list(runs)
    assert read["val_loss"].tolist() == runs["val_loss"].tolist()
    assert set(read["optim.boundaries"]) == {"[1, 2]", "[3]", "[]"}
