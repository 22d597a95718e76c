"""The coordinate check: its slopes, errors, and verdicts on known parametrisations."""

import json
import re

import jax
import numpy as np
import pytest

from charjax.config import load_config
from charjax.errors import UserError
from charjax.initlab.probes.coordinates import (
    LIMIT,
    Slope,
    at_depth,
    at_width,
    check_coordinates,
    fit_slope,
    judge_slopes,
)
from charjax.initlab.probes.tables import verdict_in_words
from charjax.training.session import first_state, open_session
from tests.commands import tiny


@pytest.fixture
def text(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "text.txt"
    path.write_text("".join("abcdefgh \n"[i] for i in np.minimum(rng.geometric(0.3, 2000), 10) - 1))
    return path


def config_of(text, kind, *words):
    return load_config(None, [*tiny(kind), f"data.path={text}", *words])


def test_a_slope_and_its_interval():
    noise_WR = 0.01 * np.random.default_rng(0).standard_normal((3, 4))
    found = fit_slope(np.array([2.0, 4.0, 8.0])[:, None] ** 0.75 * np.exp(noise_WR), (64, 128, 256))
    assert found is not None
    assert found.slope == pytest.approx(0.75, abs=0.02)
    assert found.low < 0.75 < found.high
    assert found.high - found.low < 0.05
    assert found.verdict() == "fail"
    assert fit_slope(np.ones((3, 2)), (64, 128, 256)).verdict() == "pass"
    assert fit_slope(np.zeros((3, 2)), (64, 128, 256)) is None


def test_a_slope_that_is_not_known_well_is_unclear():
    """Judge slopes of seeds of 0.02 ± 0.03: Student's half interval of 2 seeds is 12.7 x 0.03."""
    found = Slope(0.02, 0.02 - 12.706 * 0.03, 0.02 + 12.706 * 0.03, 0.03, 2)
    assert abs(found.slope) <= LIMIT
    assert found.verdict() == "unclear"
    # By hand: the spread of a seed is 0.03 √2; t(0.975, 4) 0.0424 / √5 = 0.0527 <= 0.08 at 5 seeds,
    # t(0.975, 3) 0.0424 / √4 = 0.0675 <= 0.08 at 4, t(0.975, 2) 0.0424 / √3 = 0.105 at 3.
    assert found.seeds_needed() == 4
    # √Σ (log width - mean)² is 0.49 of widths 32, 64; 12.706 * 0.03 * 0.49 / 0.08 = 2.34 is reached
    # by six widths: log 2 √17.5 = 2.90, where five have log 2 √10 = 2.19.
    assert found.widths_needed((32, 64)) == (32, 64, 128, 256, 512, 1024)
    assert Slope(0.02, 0, 0, 0.04, 2).widths_needed((32, 64)) is None
    assert Slope(0.02, 0, 0, 0.02, 2).widths_needed((32, 64)) == (32, 64, 128, 256, 512)


def test_a_slope_fails_only_where_all_layers_intervals_may_be_trusted():
    """t(0.975, 3) = 3.18, and of 15 layers t(1 - 0.025 / 15, 3) = 8.6."""
    assert Slope(0.5, 0, 0, 0.1, 4).verdict(layers=1) == "fail"
    assert Slope(0.5, 0, 0, 0.1, 4).verdict(layers=15) == "unclear"
    assert Slope(-0.5, 0, 0, 0.04, 4).verdict(layers=15) == "fail"
    # Passing needs no correction: every layer must.
    assert Slope(0.01, 0, 0, 0.02, 4).verdict(layers=15) == "pass"


@pytest.mark.parametrize(
    ("slopes", "verdict"),
    [
        ([[0.0, 0.01], [0.01, 0.0]], "passed"),
        ([[0.0, 0.01], [0.2, -0.2]], "cannot tell"),
        ([[0.99, 1.0], [0.2, -0.2]], "failed"),
    ],
)
def test_the_verdict_over_layers(slopes, verdict):
    widths = (32, 64, 128)
    last = {
        str(layer): np.array(widths, float)[:, None] ** np.array(one)
        for layer, one in enumerate(slopes)
    }
    last["still"] = np.zeros((3, 2))
    found = judge_slopes(last, widths)
    assert found["verdict"] == verdict
    assert found["passed"] == (verdict == "passed")
    message = verdict_in_words({**found, "axis": "width", "limit": LIMIT})
    if verdict == "cannot tell":
        # Slopes of ±0.2 have mean 0 and half interval t(0.975, n - 1) 0.283 / √n: 34 seeds.
        assert found["seeds_needed"] == 34
        assert message.startswith("cannot tell (about 34 seeds")
    else:
        assert (message, found["seeds_needed"], found["places_needed"]) == (verdict, None, None)


def test_right_networks_rarely_fail_and_wrong_ones_do():
    """Judge fifteen layers with slopes spread by 0.18, as at widths 32, 64 (docs/initlab.md)."""
    rng, widths = np.random.default_rng(0), (32, 64)
    width_W1 = np.array(widths, float)[:, None]
    found = {"right": [], "wrong": []}
    for _ in range(60):
        slopes_LR = rng.normal(0, 0.18, (15, 4))
        for name, shift in (("right", 0.0), ("wrong", 1.0)):
            slopes_LR[0] += shift
            last = {str(layer): width_W1**slope_R for layer, slope_R in enumerate(slopes_LR)}
            found[name].append(judge_slopes(last, widths)["verdict"])
    # The point estimate fails 90 % of the right ones.
    assert found["right"].count("failed") <= 3
    assert found["wrong"].count("failed") >= 35
    assert "passed" not in found["wrong"]


def test_made_wide_a_model_keeps_what_is_not_its_width(text):
    wide = at_width(config_of(text, "transformer", "model.d_model=8", "model.n_head=2"), 32).model
    assert (wide.d_model, wide.n_head) == (32, 8)
    wide = at_width(config_of(text, "mlp"), 48).model
    assert set(wide.hidden) == {48}
    assert wide.d_embed == config_of(text, "mlp").model.d_embed
    assert at_width(config_of(text, "gru"), 48).model.d_hidden == 48
    assert at_depth(config_of(text, "transformer"), 5).model.n_layer == 5


@pytest.mark.parametrize(
    ("kind", "widths", "seeds", "message"),
    [
        ("transformer", (8, 17), (0, 1), "17 given; heads are 8 wide"),
        ("bigram", (8, 16), (0, 1), "the width of model.kind=bigram is that of its text's table"),
        ("mlp", (8, 8), (0, 1), "at least two that differ"),
        ("mlp", (8, 16), (0,), "seeds: 1 given; an interval needs at least 2"),
    ],
)
def test_mistakes(text, kind, widths, seeds, message):
    words = ["model.d_model=8", "model.n_head=1"] if kind == "transformer" else []
    with pytest.raises(UserError, match=message) as error:
        check_coordinates(config_of(text, kind, *words), widths, seeds)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_standard_parametrisation_fails_and_mup_does_not(text):
    """Compare the logits; at such small widths the slopes of the layers are noise."""
    slopes = {}
    for scheme in ("zero_readout", "mup"):
        base = ["init.base_width=32"] if scheme == "mup" else []
        words = ["optim.learning_rate=1e-4", "train.batch_size=64", f"init.scheme={scheme}", *base]
        found = check_coordinates(config_of(text, "mlp", *words), (32, 128), (0, 1, 2), steps=3)
        assert json.loads(json.dumps(found)) == found
        names = [layer["layer"] for layer in found["layers"]]
        assert names[:2] == ["token_embedding", "hidden_0"]
        assert names[-1] == "readout"
        logits = found["layers"][-1]["change"]
        assert np.shape(logits["sizes"]) == (2, 4)
        assert [sizes[0] for sizes in logits["sizes"]] == [0, 0]
        assert logits["interval"][0] <= logits["slope"] <= logits["interval"][1]
        slopes[scheme] = logits["slope"]
        if scheme == "zero_readout":
            assert logits["verdict"] == "fail"
            assert (found["verdict"], found["passed"]) == ("failed", False)
        else:
            assert found["verdict"] == "cannot tell"
    assert slopes["zero_readout"] > 0.8
    assert abs(slopes["mup"]) < 0.15


@pytest.mark.slow
def test_the_norm_before_a_tied_readout_is_told_without_its_multiplier(text):
    config = config_of(
        text, "transformer", "init.scheme=mup", "init.base_width=8", "model.n_head=1"
    )
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"d_model": 8, "tie_embeddings": True})}
    )
    found = check_coordinates(config, (8, 32), (0, 1), steps=1)
    norm = next(layer for layer in found["layers"] if layer["layer"] == "final_norm")
    # A norm's output has mean square 1, and so a mean size a little below.
    assert all(0.6 < sizes[0] < 1 for sizes in norm["value"]["sizes"])


@pytest.mark.slow
def test_a_recurrent_network_is_checked_too(text):
    config = config_of(text, "gru", "init.scheme=mup", "init.base_width=8")
    found = check_coordinates(config, (8, 16), (0, 1), steps=2)
    assert [layer["layer"] for layer in found["layers"]][-1] == "readout"
    assert any(layer["layer"] == "cell_0" for layer in found["layers"])


@pytest.mark.slow
def test_mup_at_its_base_width_is_the_standard_parametrisation(text):
    words = ["model.tie_embeddings=false", "model.d_model=16", "model.n_head=2"]
    states = [
        first_state(open_session(config_of(text, "transformer", *words, *scheme)))
        for scheme in (["init.scheme=mup", "init.base_width=16"], ["init.scheme=zero_readout"])
    ]
    assert all(factor == 1 for factor in jax.tree.leaves(states[0].scales))
    stds = [jax.tree.map(lambda p: float(p.std()), state.params) for state in states]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.2), *stds)


def test_where_no_number_of_seeds_decides_it_says_what_would_for_flat_slopes():
    """Judge two seeds of noise around a slope next to the limit."""
    places = (32, 64)
    noise_WR = np.array([[0.0, 0.0], [0.35, -0.2]])
    moved_WR = np.exp(np.log(places)[:, None] * 0.0 + noise_WR)
    found = judge_slopes({"layer": moved_WR}, places) | {"axis": "width", "limit": 0.1}
    assert found["verdict"] == "cannot tell"
    assert found["seeds_needed"] is not None
    assert re.search(r"cannot tell \(about \d+ seeds", verdict_in_words(found))


def test_networks_of_all_depths_have_these_layers(text):
    from charjax.initlab.activations.layers import find_layers
    from charjax.initlab.probes.depths import compared_layers

    names = []
    for depth in (2, 3):
        config = at_depth(config_of(text, "transformer"), depth)
        layers = find_layers(open_session(config).model)
        found = compared_layers(layers, depth)
        assert f"block_{depth - 1}/mlp/up" in found
        names.append(list(found.values()))
    assert names[0] == names[1]
    assert {"block_last", "block_last/mlp/up", "readout"} < set(names[0])
    # What a block adds is smaller the more of them there are.
    assert not [name for name in names[0] if name.endswith(("/out", "/down"))]


@pytest.mark.slow
@pytest.mark.longest
def test_depth_checks_know_the_parametrisation_that_depends_on_it(text):
    """CompleteP moves as far at every depth; with a readout of 0 alone, deep ones move further."""
    from charjax.initlab.probes.depths import check_depths

    small = ["model.n_layer=2", "model.d_model=32", "model.n_head=2", "model.tie_embeddings=false"]
    words = [*small, "model.context_length=16", "train.batch_size=8", "optim.learning_rate=3e-3"]
    slopes = {}
    for scheme in (["completep", "init.base_width=32", "init.base_depth=2"], ["zero_readout"]):
        config = config_of(text, "transformer", *words, f"init.scheme={scheme[0]}", *scheme[1:])
        check = check_depths(config, (2, 4, 8), seeds=(0, 1, 2, 3), steps=5)
        assert check["axis"] == "depth"
        by_name = {layer["layer"]: layer["change"]["slope"] for layer in check["layers"]}
        slopes[scheme[0]] = by_name["block_last"]
    assert abs(slopes["completep"]) < 0.3
    assert slopes["zero_readout"] > slopes["completep"] + 0.2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--depths", "4"], "a slope needs at least two depths"),
        (["--coordinates"], "--coordinates: no widths given"),
        (["--depths", "0,2"], "must be whole numbers from 1"),
    ],
)
def test_a_depth_check_that_cannot_be(words, message):
    from charjax.initlab.commands.probe import arguments

    with pytest.raises(UserError, match=message):
        arguments(words)
