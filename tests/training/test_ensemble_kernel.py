"""The compiled kernel trains as the vmapped step does, and only what it covers."""

import dataclasses
import functools
import math
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import backend
from charjax.config import load_config
from charjax.data.datasets import load_dataset
from charjax.errors import UserError
from charjax.initlab.sweeps.plan import check_kernels
from charjax.models import build_model
from charjax.ops import kernels
from charjax.training import ensemble_kernel
from charjax.training.ensemble import Ensemble, initial_ensemble, initial_run
from charjax.training.ensemble_kernel import STEPS, is_covered, make_run_loop
from charjax.training.ensemble_state import EnsembleState, RunHyperparameters
from charjax.training.feed import device_source
from charjax.training.session import make_session

MLP = ["model.kind=mlp", "data.layout=pairs", "model.context_length=3", "model.d_embed=10"]
SGD = ["optim.kind=sgd", "optim.grad_clip=0.0"]
ADAMW = ["optim.kind=adamw", "optim.grad_clip=0.5", "optim.weight_decay=0.1"]
WARM = ["optim.schedule=cosine", "optim.decay_steps=60", "optim.warmup_steps=5"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory):
    """Write symbols in cyclic order, with occasional jumps."""
    rng = np.random.default_rng(0)
    moves = np.where(rng.random(1500) < 0.8, 1, rng.integers(0, 10, 1500))
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join("abcdefgh \n"[i] for i in np.cumsum(moves) % 10))
    return path


def needs_kernels() -> None:
    if kernels.find_kernels() is None:
        pytest.skip("charjax-kernels is not installed (pip install ./kernels): not compared")


@dataclasses.dataclass
class RunsAtStart:
    """An ensemble, and its runs at step 0."""

    ensemble: Ensemble
    initial: tuple[EnsembleState, RunHyperparameters]

    def start(self) -> tuple[EnsembleState, RunHyperparameters]:
        # Training donates them.
        return self.ensemble.place(jax.tree.map(jnp.copy, self.initial))

    def trained(self, *chunks: int, largest: float = math.inf) -> EnsembleState:
        state, hyperparameters = self.start()
        bound = np.full(self.ensemble.count, largest, np.float32)
        hyperparameters = hyperparameters._replace(max_loss=self.ensemble.place(bound))
        for steps in chunks:
            state = self.ensemble.run(state, hyperparameters, steps)
        return state


def program(words: list[str], rates: tuple[float, ...]) -> RunsAtStart:
    """Return runs in which a scheme has factors of every kind, different for each parameter."""
    config = load_config(None, [*MLP, *words, "train.steps=100"])
    train = config.train.model_copy(update={"max_skipped": 1})
    config = config.model_copy(update={"train": train})
    devices = backend.start_backend(config.runtime)[:1]
    session = make_session(config, load_dataset(config.data), devices)
    one = functools.partial(initial_run, session, device_source(session.source), with_scales=True)
    seeds_R = jnp.arange(len(rates), dtype=jnp.uint32)
    states, hyperparameters = jax.jit(jax.vmap(one))(seeds_R, jnp.asarray(rates, jnp.float32))
    rng = np.random.default_rng(0)
    factors = jax.tree.map(
        lambda ones_R: ones_R * jnp.float32(rng.uniform(0.5, 2.0)),
        (states.scales, states.adam_scales),
    )
    states = states._replace(scales=factors[0], adam_scales=factors[1])
    assert len(jax.tree.leaves(factors)) == 4 * 5
    initial = initial_ensemble(states), hyperparameters
    return RunsAtStart(Ensemble(session, len(rates), initial, uses_kernels=True), initial)


def both(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> tuple[RunsAtStart, RunsAtStart]:
    """Return the program with the kernel, and that of XLA alone."""
    needs_kernels()
    compiled = program(*arguments)
    monkeypatch.setattr(ensemble_kernel, "find_kernels", lambda: None)
    return compiled, program(*arguments)


@pytest.mark.parametrize(
    ("optim", "hidden", "batch"),
    [
        (SGD, 200, 32),
        ([*ADAMW, *WARM], 200, 32),
        # No whole vectors, no whole tiles.
        ([*ADAMW, "data.sampling=epoch"], 13, 5),
        ([*SGD, "optim.schedule=step", "optim.boundaries=[20]"], 33, 7),
        ([*ADAMW, "optim.eps=1e-3", "model.context_length=1"], 1, 1),
    ],
)
def test_the_kernel_trains_as_xla_does(
    monkeypatch: pytest.MonkeyPatch,
    text: Any,
    optim: list[str],
    hidden: int,
    batch: int,
):
    words = [*optim, f"data.path={text}", f"model.hidden=[{hidden}]", f"train.batch_size={batch}"]
    compiled, plain = both(monkeypatch, words, (0.003, 0.01))
    ours, theirs = compiled.trained(50, 20), plain.trained(70)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5),
        *(each._replace(losses=()) for each in (ours, theirs)),
    )
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-5)
    assert ours.targets.tolist() == theirs.targets.tolist()


def test_runs_diverge_at_the_same_step(monkeypatch: pytest.MonkeyPatch, text: Any):
    words = [*SGD, f"data.path={text}", "model.hidden=[40]"]
    compiled, plain = both(monkeypatch, words, (0.1, 1e4))
    ours, theirs = (each.trained(3, 40, largest=20.0) for each in (compiled, plain))
    assert ours.diverged.tolist() == theirs.diverged.tolist()
    assert min(ours.diverged.tolist()) == -1 < max(ours.diverged.tolist())
    for counted, expected in zip(ours.states.counters, theirs.states.counters, strict=True):
        assert counted.tolist() == expected.tolist()
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-5)


def test_a_loss_that_is_no_number_changes_nothing(text: Any):
    needs_kernels()
    one = program([*ADAMW, f"data.path={text}", "model.hidden=[40]"], (0.01, 0.01))
    start, hyperparameters = one.start()
    params = jax.tree.map(np.array, start.states.params)
    params["hidden_0"]["kernel"][0, 3, 3] = np.nan
    before = jax.tree.map(np.array, params)
    broken = start._replace(states=start.states._replace(params=one.ensemble.place(params)))
    after = one.ensemble.run(broken, hyperparameters, 2)
    assert after.diverged.tolist() == [0, -1]
    assert after.targets.tolist()[0] == 0 < after.targets.tolist()[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[0], b[0]), after.states.params, before
    )
    assert not np.any(after.states.opt_state[2].mu["readout"]["kernel"][0])


def test_the_same_bits_however_steps_are_cut_and_whatever_is_trained_beside(text: Any):
    needs_kernels()
    words = [*ADAMW, f"data.path={text}", "model.hidden=[40]"]
    four, two = (program(words, rates) for rates in ((0.003, 0.01, 0.01, 0.02), (0.003, 0.01)))
    steps = 2 * STEPS + 5
    whole = four.trained(steps)
    for cut in ((1, STEPS, STEPS + 4), (STEPS - 1, 2, STEPS + 4)):
        assert sum(cut) == steps
        jax.tree.map(np.testing.assert_array_equal, four.trained(*cut), whole)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[: len(b)], b), whole, two.trained(steps)
    )


@pytest.mark.parametrize(
    ("words", "covered"),
    [
        (["optim.kind=adamw"], True),
        (["optim.kind=adamw", "optim.schedule=wsd", "optim.warmup_steps=3"], True),
        (["optim.kind=sgd", "data.sampling=epoch"], True),
        (["model.hidden=[512]"], True),
        (["model.hidden=[513]"], False),
        (["model.hidden=[20,20]"], False),
        (["model.hidden=[]"], False),
        (["model.norm=batch"], False),
        (["model.activation=relu"], False),
        (["runtime.dtype=bfloat16"], False),
        (["runtime.dtype=auto"], False),
        (["data.layout=stream"], False),
        (["optim.kind=sgd", "optim.momentum=0.9"], False),
        (["optim.kind=sgd", "optim.weight_decay=0.1"], False),
        (["optim.kind=lion"], False),
        (["optim.weight_decay=0.1", "optim.cautious_decay=true"], False),
        (["optim.l2=0.1"], False),
        (["optim.clip_value=0.1"], False),
        (["optim.accumulate_steps=2"], False),
        (["optim.ema=0.9"], False),
        (["train.label_smoothing=0.1"], False),
        (["train.z_loss=0.1"], False),
        (["model.kind=bigram"], False),
    ],
)
def test_all_other_settings_take_the_vmapped_step(text: Any, words: list[str], covered: bool):
    first = [] if any("model.kind" in word for word in words) else [*MLP, "model.hidden=[40]"]
    config = load_config(None, [*first, f"data.path={text}", *words], unread=lambda *_: None)
    model = build_model(config, load_dataset(config.data).tokenizer)
    assert is_covered(model, config) == covered


def test_settings_that_differ_from_run_to_run(text: Any):
    config = load_config(None, [*MLP, "model.hidden=[40]", f"data.path={text}"])
    model = build_model(config, load_dataset(config.data).tokenizer)
    assert is_covered(model, config, ["optim.weight_decay", "optim.eps"])
    assert not is_covered(model, config, ["optim.beta2"])


def test_without_the_package_there_is_no_loop(monkeypatch: pytest.MonkeyPatch, text: Any):
    monkeypatch.setattr(ensemble_kernel, "find_kernels", lambda: None)
    config = load_config(None, [*MLP, "model.hidden=[40]", f"data.path={text}"])
    model = build_model(config, load_dataset(config.data).tokenizer)
    assert is_covered(model, config)
    assert make_run_loop(model, config) is None


def test_the_package_is_left_out_where_that_is_asked(monkeypatch: pytest.MonkeyPatch):
    found = types.SimpleNamespace(__version__="1.2", register=lambda: "avx9")
    monkeypatch.setattr(kernels.importlib, "import_module", lambda name: found)
    monkeypatch.delenv("CHARJAX_KERNELS", raising=False)
    find = kernels.find_kernels.__wrapped__
    assert find() is found
    monkeypatch.setattr(kernels, "find_kernels", find)
    assert kernels.kernels_in_words() == "1.2 avx9"
    monkeypatch.setenv("CHARJAX_KERNELS", "0")
    assert find() is None
    assert kernels.kernels_in_words() is None


def test_kernels_that_cannot_be_loaded_are_left_out_aloud(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail() -> str:
        raise OSError("no library 4711")

    found = types.SimpleNamespace(__version__="1.2", register=fail)
    monkeypatch.setattr(kernels.importlib, "import_module", lambda name: found)
    monkeypatch.delenv("CHARJAX_KERNELS", raising=False)
    assert kernels.find_kernels.__wrapped__() is None
    assert "no library 4711" in capsys.readouterr().err


def test_a_sweep_is_continued_by_the_kernels_that_began_it():
    check_kernels({"kernels": "0.1.0 avx2"}, {"kernels": "0.1.0 avx2"}, "--resume")
    check_kernels({}, {}, "--resume")
    with pytest.raises(UserError, match=r"--resume: .* XLA alone, .* 0\.1\.0 avx512"):
        check_kernels({}, {"kernels": "0.1.0 avx512"}, "--resume")
    with pytest.raises(UserError, match=r"--extend: .* 0\.1\.0 avx2, .* 0\.1\.0 avx512"):
        check_kernels({"kernels": "0.1.0 avx2"}, {"kernels": "0.1.0 avx512"}, "--extend")
