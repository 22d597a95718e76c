"""`charjax train --measure`: a table in the run's directory, and a run of the same bits."""

import csv
import functools
import json

import jax
import pytest

from charjax.config import load_config
from charjax.config.families import families_where
from charjax.data.datasets import load_dataset
from charjax.errors import UserError
from charjax.initlab.measurements.catalogue import MEASUREMENTS, place_names
from charjax.initlab.measurements.run import measure_run
from charjax.train import main
from charjax.training.session import make_session
from charjax.training.state import state_shapes
from tests.commands import tiny


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the cat sat on the mat and ran off\n" * 40)
    return path


def words(text, out, *others):
    return [*tiny("mlp"), f"data.path={text}", "train.steps=12", "--workdir", str(out), *others]


def digest(directory):
    return json.loads((directory / "summary.json").read_text())["state_digest"]


@pytest.mark.slow
def test_a_measured_run_has_the_same_bits(text, tmp_path):
    named = ("--measure", "sharpness,units,feature_change", "--measure-at", "0,3,10,12")
    assert main(words(text, tmp_path / "plain")) == 0
    assert main(words(text, tmp_path / "measured", *named)) == 0
    assert digest(tmp_path / "plain") == digest(tmp_path / "measured")
    with (tmp_path / "measured" / "measurements.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["quantity"] == "sharpness"] == ["0", "3", "10", "12"]
    changes = [row for row in rows if row["quantity"] == "feature_change"]
    assert {row["value"] for row in changes if row["step"] == "0"} == {"0"}
    assert {row["place"] for row in changes} == {"token_embedding", "hidden_0", "readout"}


@pytest.mark.slow
def test_a_resumed_run_measures_on(text, tmp_path):
    """The rows of a run in two pieces are those of one in one go, but for its end in between."""
    named = ("--measure", "ntk,noise_scale", "--measure-at", "0,3,10,12")
    assert main(words(text, tmp_path / "whole", *named)) == 0
    # The steps are those of the run: at first it ends after 10.
    half = [word.replace("=12", "=10") for word in words(text, tmp_path / "half")]
    assert main([*half, *named[:3], "0,3,10"]) == 0
    resumed = ["--workdir", str(tmp_path / "half"), "--resume", "train.steps=12", *named]
    assert main(resumed) == 0
    (tmp_path / "half" / "measurements.csv").rename(tmp_path / "table.csv")
    with pytest.raises(UserError, match="was not measured from there"):
        main([*resumed[:3], "train.steps=14", "--measure", "ntk"])
    (tmp_path / "table.csv").rename(tmp_path / "half" / "measurements.csv")
    tables = [(tmp_path / name / "measurements.csv").read_bytes() for name in ("whole", "half")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--measure", "sharpnes"], "did you mean sharpness?"),
        (["--measure", "attention_entropy"], "model.kind=mlp has no attention"),
        (["--measure", "ntk", "--measure-at", "1,13"], "13 given; a run ends at step 12"),
        (["--measure", "ntk", "--measure-at", "x"], "must be whole numbers of at least 0"),
        (["--measure-at", "1"], "no --measure given"),
        (["--measure", "ntk", "--init-from", "runs/x"], "--measure: given with --init-from"),
    ],
)
def test_mistakes_leave_nothing_behind(flags, message, text, tmp_path):
    with pytest.raises(UserError) as caught:
        main(words(text, tmp_path / "out", *flags))
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", families_where(fitted=False))
@pytest.mark.ci("gru", "mlp", "transformer")
def test_every_family_can_be_measured(kind, text):
    """Shapes alone: each quantity has a number for each of its places."""
    config = load_config(None, [*tiny(kind), f"data.path={text}"])
    session = make_session(config, load_dataset(config.data), jax.local_devices()[:1])
    names = [n for n in MEASUREMENTS if n != "attention_entropy" or session.model.has_attention]
    state = state_shapes(session.model, config)
    found = jax.eval_shape(
        functools.partial(measure_run, session, tuple(names)), state, state, session.source
    )
    for name in names:
        places = place_names(MEASUREMENTS[name].places, session.model, state.params)
        for quantity in MEASUREMENTS[name].quantities:
            assert found[quantity].shape == (len(places),), quantity
