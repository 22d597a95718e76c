"""Schemes by the commands: resumed, loaded, fine-tuned, replicated, refused."""

import json

import jax
import numpy as np
import pytest

from charjax.config import load_config
from charjax.data.splits import target_counts
from charjax.run.load import find_run, load_run
from charjax.training.seeds import Replicas
from charjax.training.session import first_state, open_session
from charjax.training.state import apply_multipliers, variables_of
from charjax.training.validation import score_split
from tests.commands import run, tiny


@pytest.fixture
def text(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "text.txt"
    path.write_text("".join("abcdefgh \n"[i] for i in np.minimum(rng.geometric(0.3, 2000), 10) - 1))
    return path


SCALED = [
    "init.scheme=completep",
    "init.base_width=3",
    "init.base_depth=3",
    "optim.weight_decay=0.1",
]


@pytest.mark.slow
def test_a_run_with_factors_resumes_to_the_bit_and_is_read_as_it_was_trained(text, tmp_path):
    overrides = [*tiny("transformer"), f"data.path={text}", *SCALED]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run("train", *overrides, "train.steps=20", "--workdir", whole).status == 0
    assert run("train", *overrides, "train.steps=10", "--workdir", cut).status == 0
    resumed = run("train", "train.steps=20", "--workdir", cut, "--resume")
    assert resumed.status == 0, resumed.err
    summaries = [json.loads((place / "summary.json").read_text()) for place in (whole, cut)]
    assert summaries[0]["state_digest"] == summaries[1]["state_digest"]
    told_loss = json.loads(run("evaluate", whole, "--json", "--checkpoint", "latest").out)["loss"]
    assert told_loss == pytest.approx(summaries[0]["val_loss"], rel=1e-6)
    # Fine-tuning begins with the function, in the parametrisation of the new run.
    read = load_run(find_run(whole, "latest"))
    for scheme in (SCALED, ["init.scheme=gpt2"]):
        session = open_session(load_config(None, [*overrides[:-4], *scheme]), read.tokenizer)
        state = first_state(session, read.variables["params"])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 1e-6),
            apply_multipliers(state.params, state.scales),
            read.variables["params"],
        )


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bow", ["init.scheme=mup", "init.base_width=3"]),
        pytest.param("mlp", ["init.scheme=lsuv"], marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_replicas_are_the_runs_of_their_seeds(kind, settings, text, tmp_path):
    overrides = [*tiny(kind), f"data.path={text}", *settings, "train.steps=10", "eval.every=10"]
    plan = Replicas.plan(open_session(load_config(None, overrides)), (3, 5))
    outcomes = [outcome for group in plan.train(frozenset({"final"})) for outcome in group]
    # The second, which the first may have touched.
    for outcome in outcomes[1:]:
        place = tmp_path / str(outcome.seed)
        assert run("train", *overrides, f"train.seed={outcome.seed}", "--workdir", place)[0] == 0
        val_loss = json.loads((place / "summary.json").read_text())["val_loss"]
        assert outcome.losses["final"] == pytest.approx(val_loss, rel=1e-5)


def test_the_unigram_readout_begins_at_the_entropy_of_the_text(text):
    overrides = [*tiny("gru"), f"data.path={text}", "init.scheme=unigram_readout"]
    session = open_session(load_config(None, overrides))
    train = session.dataset.splits["train"]
    loss = score_split(session, train, variables_of(first_state(session)), lambda: None).loss
    shares = target_counts(train, session.model.vocab_size) / train.num_targets
    shares = shares[shares > 0]
    assert loss == pytest.approx(-np.sum(shares * np.log(shares)), abs=1e-3)


def test_mistakes_leave_nothing_behind(text, tmp_path):
    place = tmp_path / "run"
    for words in (["init.scheme=deepnorm"], ["init.scheme=zero_readout"], ["init.std=2.0"]):
        overrides = [*tiny("transformer"), f"data.path={text}", *words]
        failed = run("train", *overrides, "train.steps=2", "--workdir", place)
        assert failed.status == 2
        assert failed.err.count("\n") == 1
        assert "init." in failed.err
        assert not place.exists()
