"""The benchmark of networks beside counts: its command on small models, and its table."""

import json

import pytest

from benchmarks import mixtures
from charjax.errors import UserError

SMALL = (
    "model.d_embed=4",
    "model.d_hidden=8",
    "model.counts=[2,3]",
    "model.count_folds=2",
    "train.steps=2",
    "eval.every=2",
    "checkpoint.every=2",
)


@pytest.mark.slow
def test_a_recipe_is_trained_scored_and_shown(tmp_path, monkeypatch, capsys):
    recipe = mixtures.RECIPES[0]._replace(overrides=SMALL)
    monkeypatch.setattr(mixtures, "RECIPES", (recipe,))
    out = tmp_path / "mixtures-cpu.json"
    assert mixtures.main(["--only", recipe.name, "--seeds", "2", "--out", str(out)]) == 0
    row = json.loads(out.read_text())[recipe.name]
    assert [run["seed"] for run in row["runs"]] == [0, 1]
    assert row["command"] == "python -m benchmarks.mixtures --only minute --seeds 2"
    for run in row["runs"]:
        assert run["tokens"] == 111_539
        counts = {f"counts of {each}" for each in ("2-grams", "3-grams", "words")}
        assert set(run["experts"]) == {"network", *counts}
        assert run["model_bytes"]["weights"] == 4 * run["params"]
        assert run["seconds"] > 1
    # Seeds differ in the network; the counts are the same.
    networks = [run["experts"]["network"] for run in row["runs"]]
    assert networks[0] != networks[1]
    line = mixtures.table(tmp_path).splitlines()[2]
    low, high = sorted(run["loss"] for run in row["runs"])
    assert f"({low:.4f} to {high:.4f})" in line
    assert f"{row['runs'][0]['experts']['counts of 3-grams']:.4f} (3-grams)" in line
    assert "2 seeds" in mixtures.table(tmp_path)
    assert mixtures.header(recipe.config, tmp_path) == []
    monkeypatch.setattr(mixtures, "RECIPES", (recipe._replace(overrides=()),))
    head = mixtures.header(recipe.config, tmp_path)
    assert head[0] == "# Measured: python -m benchmarks.mixtures --only minute --seeds 2"
    assert f"({low:.4f} to {high:.4f}) (2 seeds)" in head[1]


def test_unknown_recipes_are_one_line():
    with pytest.raises(UserError, match="--only: 'minutes' given; allowed: minute, best"):
        mixtures.main(["--only", "minutes"])


def test_without_results_the_page_says_so(tmp_path):
    assert mixtures.table(tmp_path) == "Not run yet; `python -m benchmarks.mixtures`."
