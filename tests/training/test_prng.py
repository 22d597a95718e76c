"""`runtime.prng`: the generator of dropout masks."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from charjax import parallel
from charjax.config import Config, load_config
from charjax.errors import UserError
from charjax.ops.dropout import keep_mask
from charjax.random_streams import purpose_key
from charjax.training.ensemble import check_config
from charjax.training.program import dropout_key, generator
from tests.commands import run

RATE, SIZE = 0.2, (256, 256)
TINY = ["model.n_layer=1", "model.n_head=1", "model.d_model=8", "model.context_length=8"]


def config_of(prng: str) -> Config:
    return load_config(None, ["model.dropout=0.2", f"runtime.prng={prng}"])


def mesh_of(platform: str) -> Any:
    device = AbstractDevice(f"a {platform}", None, platform)
    return AbstractMesh((1,), ("data",), (AxisType.Auto,), abstract_device=device)


@pytest.mark.parametrize("name", ["threefry", "rbg"])
def test_masks_have_the_rate_and_are_independent(name: Any) -> None:
    """Compare two steps and two places, within five standard deviations."""
    key = purpose_key(0, "dropout", name)
    keys = [jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)]
    masks = np.stack([np.asarray(keep_mask(each, RATE, SIZE)) for each in keys])
    within = 5 * np.sqrt(RATE * (1 - RATE) / masks[0].size)
    assert np.all(np.abs(masks.mean((1, 2)) - (1 - RATE)) < within)
    for a, b in ((masks[0], masks[1]), (masks[0, 1:], masks[0, :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(a.size)


def test_auto_is_rbg_on_a_tpu_alone() -> None:
    here = parallel.make_mesh(jax.local_devices()[:1], 1)
    assert generator(config_of("auto"), mesh_of("tpu")) == "rbg"
    assert generator(config_of("auto"), mesh_of("cuda")) == "threefry"
    assert generator(config_of("auto"), here) == "threefry"
    for name in ("threefry", "rbg"):
        assert {generator(config_of(name), each) for each in (here, mesh_of("tpu"))} == {name}
    assert str(jax.random.key_impl(dropout_key(config_of("rbg"), here))) == "rbg"


def test_threefry_is_the_default_and_draws_as_ever() -> None:
    """Literal words of the key: saved runs depend on them."""
    config = load_config(None, [])
    assert config.runtime.prng == "threefry"
    key = dropout_key(config, parallel.make_mesh(jax.local_devices()[:1], 1))
    expected = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), 2)
    assert key.dtype == expected.dtype
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(expected))


def test_vmapped_rbg_is_refused_because_its_keys_are_not_their_own() -> None:
    keys = jax.random.split(purpose_key(0, "dropout", "rbg"), 4)
    draw = lambda key: jax.random.bits(key, (8,))  # noqa: E731
    alone = jnp.stack([draw(key) for key in keys])
    assert not np.array_equal(jax.vmap(draw)(keys), alone)
    with pytest.raises(UserError, match=r'^runtime.prng: "rbg" given; .*"threefry"'):
        check_config(config_of("rbg"))
    check_config(config_of("auto"))


@pytest.mark.parametrize(
    "words", [("sweep", "--steps", 2, "--seeds", 2), ("probe", "--coordinates", "8,16")]
)
def test_commands_that_train_several_runs_refuse_it(words: tuple[Any, ...], tmp_path: Any) -> None:
    settings = ["model.kind=transformer", "model.dropout=0.1", "runtime.prng=rbg", *TINY]
    (text := tmp_path / "text.txt").write_text("hello world, this is a text\n" * 40)
    done = run(
        "initlab.__main__", *words, *settings, f"data.path={text}", "--out", tmp_path / "out"
    )
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert 'runtime.prng: "rbg" given' in done.err


@pytest.mark.slow
def test_a_run_by_rbg_is_resumed_bit_for_bit_and_by_no_other(tmp_path: Any) -> None:
    (text := tmp_path / "text.txt").write_text("hello world, this is a text\n" * 40)
    words = [f"data.path={text}", "model.kind=gru", "model.d_embed=4", "model.d_hidden=8"]
    words += ["model.dropout=0.3", "model.context_length=8", "train.batch_size=2"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for where, steps in ((whole, 6), (cut, 3)):
        words_of_run = [*words, "runtime.prng=rbg", f"train.steps={steps}"]
        assert run("train", "--workdir", where, *words_of_run).status == 0
    refused = run("train", "--workdir", cut, "--resume", "runtime.prng=threefry")
    assert refused.status == 2
    assert 'runtime.prng was "rbg" and is "threefry"' in refused.err
    assert run("train", "--workdir", cut, "--resume", "train.steps=6").status == 0
    one, other = (json.loads((each / "summary.json").read_text()) for each in (whole, cut))
    assert one["prng"] == other["prng"] == "rbg"
    assert one["state_digest"] == other["state_digest"]


def test_nothing_but_dropout_reads_it() -> None:
    with pytest.raises(UserError, match=r"runtime.prng: .*only dropout reads it"):
        load_config(None, ["runtime.prng=rbg"])
    with pytest.raises(UserError, match=r"runtime.prng"):
        load_config(None, ["model.kind=bigram", "runtime.prng=rbg"])
