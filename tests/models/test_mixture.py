"""Counts beside a network: what they add, what a run saves, and what it refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import hardware
from charjax.config import load_config, parse_config
from charjax.errors import UserError
from charjax.models.ngram_cross_fit import cross_fit
from charjax.training import evaluation
from charjax.training.evaluation import exact_losses
from charjax.training.session import first_state, open_session
from charjax.training.state import variables_of
from charjax.training.step import gradients_of
from charjax.training.validation import evaluator
from tests import commands
from tests.models.families import CONTEXT, V, make_model, make_variables

GRU = [
    "model.kind=gru",
    "model.d_embed=4",
    "model.d_hidden=8",
    "model.context_length=8",
    "model.counts=[2,4]",
    "train.batch_size=4",
    "train.steps=12",
    "eval.every=6",
    "checkpoint.every=6",
    "train.sample_every=0",
]


@pytest.fixture
def own_text(tmp_path):
    """Write a text whose characters follow from those before."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdef"), 4)) for _ in range(30)]
    path = tmp_path / "text.txt"
    path.write_text(" ".join(words[i] for i in rng.integers(0, 30, 800)), encoding="utf-8")
    return f"data.path={path}"


@pytest.mark.parametrize(
    "kind",
    ["gru", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("mlp", "transformer"))],
)
def test_the_logits_are_the_network_s_and_the_scaled_counts(kind, tokens):
    model = make_model(f"{kind}-counts")
    variables = make_variables(model)
    params = variables["params"]
    together, _ = model.apply(variables, tokens)
    found = [np.asarray(m.apply(v, tokens)[0]) for m, v in model.experts(variables).values()]
    alone, logs = found[0], found[1:]
    np.testing.assert_array_equal(alone, model.apply({"params": params}, tokens)[0])
    p = np.exp(jax.nn.log_softmax(alone))
    features = [np.log(p.max(-1)), -(p * np.log(p)).sum(-1)]
    for log_q in logs:
        q = np.exp(log_q)
        features += [
            log_q.max(-1),
            -(q * log_q).sum(-1),
            (q * np.log(p)).sum(-1),
            (p * log_q).sum(-1),
            np.log((q * q).sum(-1)),
        ]
    features = np.stack(features, -1)
    a = 0.6 * params["network_scale"] + features @ (params["network_gate"] - 1)
    b = 0.5 / len(logs) * params["count_scale"] + features @ (params["count_gate"] - 1)
    expected = a[..., None] * np.log(p) + sum(b[..., [i]] * log_q for i, log_q in enumerate(logs))
    np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-4)
    stacked = np.stack(logs, -2)
    logits, _ = model.apply({"params": params}, tokens, count_log_probs=stacked)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_network_is_drawn_as_without_counts():
    tokens = jnp.zeros((1, 1), jnp.int32)
    mixture, network = make_model("gru-counts"), make_model("gru-counts", counts=[])
    drawn = dict(mixture.init(jax.random.key(0), tokens)["params"])
    for expert in ("network", "count"):
        assert (drawn.pop(f"{expert}_scale") == 1).all()
        assert (drawn.pop(f"{expert}_gate") == 1).all()
    alone = network.init(jax.random.key(0), tokens)["params"]
    jax.tree.map(np.testing.assert_array_equal, drawn, dict(alone))


@pytest.mark.parametrize(
    ("sampling", "layout"),
    [("random", "stream"), ("epoch", "stream"), ("contiguous", "stream"), ("random", "lines")],
)
def test_a_batch_has_what_the_rest_of_the_text_predicts_of_its_targets(sampling, layout, own_text):
    words = [*GRU, own_text, f"data.sampling={sampling}", f"data.layout={layout}"]
    if layout == "lines":
        words = [*GRU, "data.name=names", "model.count_folds=3", "model.counts=[2]"]
    session = open_session(load_config(None, words))
    split = session.dataset.splits["train"]
    rows = cross_fit(
        split,
        vocab_size=session.model.vocab_size,
        orders=session.model.orders,
        folds=session.config.model.count_folds,
    )
    step = jnp.int32(3)
    batch = jax.jit(lambda source: source.draw(step))(session.source)
    logs_BTV = np.asarray(batch.count_log_probs)
    targets_BT, weights_BT = np.asarray(batch.targets), np.asarray(batch.weights)
    assert weights_BT.sum() > 4
    # A row of the text: which one it is follows from the characters around it.
    for b, t in zip(*np.nonzero(weights_BT), strict=True):
        same = (rows == logs_BTV[b, t]).all(axis=(1, 2)) & (split.tokens == targets_BT[b, t])
        assert same.any()


def test_validation_batches_are_predicted_by_the_tables(own_text):
    words = [*GRU, own_text, "eval.protocol=random"]
    session = open_session(load_config(None, words))
    assert session.source.count_log_probs is not None
    assert session.val_source.count_log_probs is None


@pytest.mark.parametrize("layout", ["stream", "lines"])
def test_the_tables_share_one_text_and_predict_as_each_alone(layout, own_text):
    words = [*GRU, own_text, f"data.layout={layout}", "model.counts=[2,3,5]", "model.count_folds=3"]
    if layout == "lines":
        words = [word for word in words if word != own_text] + ["data.name=names"]
    session = open_session(load_config(None, words))
    model, split = session.model, session.dataset.splits["train"]
    tables = model.count(split, np.zeros(0))
    assert [name for name in tables if name.endswith("text")] == ["text"]
    tokens = jnp.asarray(split.tokens[:40].astype(np.int32)).reshape(2, 20)
    earlier = {}
    for order, (counts, variables) in zip(
        model.orders, [*model.experts({"params": {}, "counts": tables}).values()][1:], strict=True
    ):
        alone = counts.fit(split)
        earlier |= {f"order_{order}_{name}": table for name, table in alone["params"].items()}
        np.testing.assert_array_equal(
            counts.apply(variables, tokens)[0], counts.apply(alone, tokens)[0]
        )
    # Tables of an earlier version each have a text.
    params = first_state(session).params
    one, other = (
        model.apply({"params": params, "counts": each}, tokens)[0] for each in (tables, earlier)
    )
    np.testing.assert_array_equal(one, other)


def opened(kind, own_text, *words):
    """Return a session, its variables off their initial values, and what counts of all predict."""
    small = ["model.n_layer=1", "model.n_head=2", "model.d_model=8"]
    small = small if kind == "transformer" else ["model.d_hidden=8"]
    words = [f"model.kind={kind}", *small, "model.context_length=8", *GRU[4:], own_text, *words]
    session = open_session(load_config(None, words))
    state = first_state(session)
    params = jax.tree.map(_shaken, state.params)
    variables = variables_of(state._replace(params=params))
    tokens = session.dataset.splits["val"].tokens.astype(np.int32)
    counts = [
        model.apply(each, tokens[None])[0][0]
        for name, (model, each) in session.model.experts(variables).items()
        if name != "network"
    ]
    return session, variables, tokens, jnp.stack(counts, axis=-2)


def _shaken(p):
    return p + 0.1 * np.cos(np.arange(p.size, dtype=np.float32)).reshape(p.shape)


def losses_of(session, variables, tokens, counts_NOV):
    """Return the losses of a window whose counts are given."""
    logits, _ = session.model.apply(
        {"params": variables["params"]}, tokens[None, :-1], count_log_probs=counts_NOV[None]
    )
    logs = np.asarray(jax.nn.log_softmax(logits))[0]
    return -logs[np.arange(len(logs)), tokens[1:]]


@pytest.mark.parametrize(("most", "stride"), [(10**6, None), (10**6, 3), (60, None)])
def test_counts_read_before_the_windows_of_a_network(most, stride, own_text, monkeypatch):
    """Read a window at once, or in pieces where only `most` logits fit in memory."""
    monkeypatch.setitem(evaluation._MOST_LOGITS, "cpu", most)
    session, variables, tokens, counts_NOV = opened("transformer", own_text)
    split, sizes = session.dataset.splits["val"], {"context_length": 8, "batch_size": 3}
    found = exact_losses(session.model, variables, split, session.mesh, stride=stride, **sizes)
    expected = np.full(len(tokens), np.nan)
    for start in range(0, len(tokens) - 1, stride or 8):
        end = min(start + 8, len(tokens) - 1)
        new = losses_of(session, variables, tokens[start : end + 1], counts_NOV[start:end])
        new_part = np.isnan(expected[start + 1 : end + 1])
        expected[start + 1 : end + 1][new_part] = new[new_part]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # With `context` the counts are bound to the window, too.
    bound = exact_losses(session.model, variables, split, session.mesh, context=8, **sizes)
    assert not np.allclose(bound[10:], found[10:], rtol=1e-3)
    logits, _ = session.model.apply(variables, tokens[None, 8:16])
    logs = np.asarray(jax.nn.log_softmax(logits))[0]
    np.testing.assert_allclose(bound[9:17], -logs[np.arange(8), tokens[9:17]], rtol=1e-4)


@pytest.mark.parametrize("kind", ["gru", pytest.param("transformer", marks=pytest.mark.slow)])
def test_counts_read_before_random_windows(kind, own_text):
    random = ["eval.protocol=random", "eval.batches=2", "eval.batch_size=3"]
    session, variables, tokens, counts_NOV = opened(kind, own_text, *random)
    state = first_state(session)._replace(params=variables["params"])
    found = evaluator(session, lambda: None)(0, state)
    # The window of each row is found by its characters.
    losses = []
    for index in range(2):
        batch = session.val_source.draw(jnp.int32(index))
        for inputs, targets in zip(
            np.asarray(batch.inputs), np.asarray(batch.targets), strict=True
        ):
            read = np.append(inputs, targets[-1])
            places = [i for i in range(2, len(tokens) - 8) if (tokens[i - 2 : i + 9] == read).all()]
            if not places:
                assert (tokens[:9] == read[2:]).all() or (tokens[1:10] == read[2:]).all()
                continue
            window = tokens[places[0] : places[0] + 9]
            losses.append(
                losses_of(session, variables, window, counts_NOV[places[0] : places[0] + 8])
            )
    assert len(losses) >= 5
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-4 if len(losses) == 6 else 0.2)


@pytest.mark.parametrize("auxiliary", [0.3, 0.0])
def test_the_mixture_s_loss_and_the_network_s_own_are_trained(auxiliary, own_text):
    words = [*GRU, own_text, f"model.count_auxiliary={auxiliary}"]
    session = open_session(load_config(None, words))
    state = first_state(session)
    batch = session.source.draw(jnp.int32(0))
    sums, _ = gradients_of(session.model, False)(
        state.params, state.scales, state.model_state, (), batch, jax.random.key(0)
    )

    def cross_entropy(params, **counts):
        logits, _ = session.model.apply({"params": params}, batch.inputs, **counts)
        logs = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(logs, batch.targets[..., None], -1).sum()

    def loss(params):
        together = cross_entropy(params, count_log_probs=batch.count_log_probs)
        return together + auxiliary * cross_entropy(params)

    jax.tree.map(
        lambda actual, expected: np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4),
        sums.grads,
        jax.grad(loss)(state.params),
    )
    together = cross_entropy(state.params, count_log_probs=batch.count_log_probs)
    np.testing.assert_allclose(sums.loss, together, rtol=1e-5)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(sums.grads["readout"]))


WORDS = ["model.count_words=2", "model.count_temperature=1.1"]


@pytest.mark.parametrize("others", [[], pytest.param(WORDS, marks=pytest.mark.slow)])
def test_a_run_is_resumed_to_the_bit_evaluated_and_sampled(others, own_text, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = [*GRU, *others, own_text, "data.sampling=contiguous"]
    assert commands.run("train", *words, "--workdir", whole).status == 0
    assert commands.run("train", *words, "train.steps=6", "--workdir", parts).status == 0
    resumed = commands.run("train", "train.steps=12", "--workdir", parts, "--resume")
    assert resumed.status == 0, resumed.err
    one, other = (json.loads((path / "summary.json").read_text()) for path in (whole, parts))
    assert one["state_digest"] == other["state_digest"]
    scored = json.loads(commands.run("evaluate", whole, "--json").out)
    assert scored["loss"] == pytest.approx(one["best_val_loss"], abs=1e-6)
    assert scored["model_bytes"] == one["model_bytes"]
    spread = json.loads(commands.run("evaluate", whole, "--json", "--max-targets", 20).out)
    assert "experts" not in spread
    assert one["model_bytes"]["weights"] == 4 * one["params"]
    sampled = commands.run("sample", whole, "--max-new-tokens", 20, "--greedy", "--json")
    assert len(json.loads(sampled.out)["samples"][0]) == 20


def test_the_temperature_divides_the_logits_unless_the_model_trains(tokens):
    mixture = make_model("gru-counts", dropout=0.0)
    cooler = mixture.clone(temperature=1.25)
    variables = make_variables(mixture)
    logits, _ = mixture.apply(variables, tokens)
    np.testing.assert_allclose(cooler.apply(variables, tokens)[0], logits / 1.25, rtol=1e-6)
    trained, _ = cooler.apply(variables, tokens, train=True)
    np.testing.assert_array_equal(trained, logits)


@pytest.mark.parametrize("layout", ["stream", "lines"])
def test_words_of_a_document_are_read_as_they_are_counted(layout, own_text):
    """Compare with tables of the whole: a fold of one character is predicted by nearly that."""
    words = [*GRU, *WORDS, own_text, f"data.layout={layout}", "model.count_folds=1000"]
    if layout == "lines":
        words = [*GRU, *WORDS, "data.name=names", "model.count_folds=1000"]
    session = open_session(load_config(None, words))
    state = first_state(session)
    batch = session.source.draw(jnp.int32(0))
    experts = session.model.experts(variables_of(state))
    model, variables = experts["counts of words"]
    # A stream is read from any place, so that its first words are others.
    logs_BTV, _ = model.apply(variables, batch.inputs)
    after = 0 if layout == "lines" else 6
    by_rest = np.exp(np.asarray(batch.count_log_probs[:, after:, -1], np.float32))
    difference = np.abs(np.exp(logs_BTV[:, after:]) - by_rest).max(-1)
    assert np.median(difference[batch.weights[:, after:] > 0]) < 0.1


@pytest.mark.slow
def test_evaluate_also_says_what_each_expert_loses_alone(own_text, tmp_path):
    """The counts' loss is that of a run of counts; without steps the network guesses uniformly."""
    words = [*GRU, own_text, "init.scheme=zero_readout", "optim.learning_rate=1e-9"]
    assert commands.run("train", *words, "--workdir", tmp_path / "run").status == 0
    counts = ["model.kind=ngram", "model.order=4", "model.smoothing=modified_kneser_ney", own_text]
    assert commands.run("train", *counts, "--workdir", tmp_path / "counts").status == 0
    scored = json.loads(commands.run("evaluate", tmp_path / "run", "--json").out)
    alone = json.loads((tmp_path / "counts" / "summary.json").read_text())
    assert scored["experts"]["counts of 4-grams"] == pytest.approx(alone["val_loss"], abs=1e-5)
    symbols = len(set((tmp_path / "text.txt").read_text()))
    assert scored["experts"]["network"] == pytest.approx(np.log(symbols), abs=1e-4)
    assert scored["model_bytes"]["tables"] > alone["model_bytes"]["weights"]
    lines = commands.run("evaluate", tmp_path / "run", "--streams", 2).out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(f"experts: the network alone {np.log(symbols):.4f}, the counts of 2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.counts=[1,3]"], "model.counts"),
        (["model.counts=[4,2]"], "model.counts: [4, 2] given; each n must be larger"),
        (["model.counts=[]", "model.count_folds=5"], "model.count_folds"),
        (["model.counts=[]", "model.count_auxiliary=1"], "model.count_auxiliary"),
        (["model.counts=40"], "model.counts"),
        (["model.count_words=5"], "model.count_words: 5 given"),
        (["model.counts=[]", "model.count_words=2"], "model.count_words"),
        (
            ["model.kind=wavenet", "model.count_words=2"],
            "model.count_words: 2 given; only",
        ),
        (["data.tokenizer=bpe", "model.count_words=2"], "whose tokens are parts of words already"),
        (["model.counts=[]", "model.count_temperature=2"], "model.count_temperature"),
        (["model.count_temperature=0"], "model.count_temperature: 0"),
        (["data.device_bytes=1000"], "which stays on the host as data.device_bytes is 1,000"),
        (["--measure", "sharpness"], "--measure: given with model.counts=[2, 4]"),
    ],
)
def test_mistakes_are_one_line(words, message, own_text, tmp_path):
    result = commands.run("train", *GRU, own_text, *words, "--workdir", tmp_path / "run")
    assert result.status == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.parametrize(("others", "lengths", "experts"), [([], 4, 2), (WORDS, 12, 3)])
def test_a_text_that_memory_cannot_hold_is_refused(others, lengths, experts, own_text, monkeypatch):
    config = load_config(None, [*GRU, *others, own_text])
    session = open_session(config)
    tokens = session.dataset.splits["train"].tokens.size
    needed = tokens * (2 * experts * session.model.vocab_size * 2 + 32 * lengths)
    monkeypatch.setattr(hardware, "free_memory", lambda: 1.5 * needed - 3)
    with pytest.raises(UserError, match="counting it and what counts predict in place of each"):
        open_session(config)
    monkeypatch.setattr(hardware, "free_memory", lambda: 1.5 * needed + 3)
    open_session(config)


def test_more_folds_than_characters_are_refused(tmp_path):
    (tmp_path / "text.txt").write_text("abcde" * 100)
    words = [*GRU, f"data.path={tmp_path / 'text.txt'}", "model.count_folds=1000"]
    result = commands.run("train", *words, "--workdir", tmp_path / "run")
    assert result.status == 2
    assert "model.count_folds: 1000 given for a training split of 449 characters" in result.err


@pytest.mark.slow
def test_programs_of_many_runs_probes_and_exports_refuse_counts(own_text, tmp_path):
    swept = commands.run(
        "initlab.commands.sweep", *GRU[1:5], "--arch", "gru", own_text, "--out", tmp_path / "sweep"
    )
    assert swept.status == 2
    assert "model.counts: [2, 4] given" in swept.err
    assert not (tmp_path / "sweep" / "sweep.json").exists()
    axis = ["--arch", "mlp", "--axis", "model.counts=0,4", "--steps", "4", "--lr", "0.1"]
    mixed = commands.run("initlab.commands.sweep", own_text, *axis, "--out", tmp_path / "mixed")
    assert mixed.status == 2
    assert "model.counts: [4] given" in mixed.err
    assert not [path for path in (tmp_path / "mixed").rglob("*") if path.name != ".lock"]
    assert commands.run("train", *GRU, own_text, "--workdir", tmp_path / "run").status == 0
    probe = commands.run("initlab.commands.probe", *GRU, own_text, "--out", tmp_path / "probe")
    assert probe.status == 2
    assert "model.counts: [2, 4] given; a probe measures a network alone" in probe.err
    export = commands.run("interop", "export", tmp_path / "run", tmp_path / "out.safetensors")
    assert export.status == 2
    assert "model.counts: [2, 4] given" in export.err


def test_a_digest_without_counts_is_what_it_was():
    plain = parse_config({"model": {"kind": "gru"}})
    assert plain.digest() == parse_config({"model": {"kind": "gru", "counts": 0}}).digest()
    assert plain.digest() != parse_config({"model": {"kind": "gru", "counts": 4}}).digest()


@pytest.fixture
def tokens():
    """Random tokens of two rows."""
    return np.random.default_rng(3).integers(0, V, (2, CONTEXT)).astype(np.int32)
