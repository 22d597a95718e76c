"""The configurations in GPT-2's shapes: what they build, what is planned, and a step of one."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from charjax import models
from charjax.config import load_config, shipped_configs
from charjax.training.state import parameter_count
from tests.commands import run

# By name: blocks, heads, width, and the parameters with 256 symbols, by GPT-2's own formula.
SHAPES = {"gpt2-124m-bytes": (12, 12, 768), "gpt2-350m-bytes": (24, 16, 1024)}


def parameters(L: int, D: int, V: int = 256, T: int = 1024) -> int:
    """Count V D + T D, of each block 12 D D + 13 D, and the last norm's 2 D."""
    return V * D + T * D + L * (12 * D * D + 13 * D) + 2 * D


@pytest.mark.parametrize("name", SHAPES)
def test_it_has_the_shape_of_gpt2(name: str) -> None:
    config = load_config(name)
    L, H, D = SHAPES[name]
    found = models.build(config.model, 256, config.runtime.dtype)
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    shapes = jax.eval_shape(found.init, jax.random.key(0), tokens)
    assert parameter_count(shapes["params"]) == parameters(L, D)
    assert (found.n_head, found.context_length) == (H, 1024)
    # GPT-2 itself, whose 50,257 symbols make up the rest.
    assert round(parameters(L, D, 50_257) / 1e6) in (124, 355)


@pytest.mark.parametrize("name", SHAPES)
def test_the_header_gives_the_command(name: str) -> None:
    text = shipped_configs()[name].read_text(encoding="utf-8")
    assert f"# Measured: not run yet; python -m charjax.train {name}\n" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_it_is_planned_to_fit_on_a_gpu(name: str) -> None:
    done = run("commands.plan", name, "--device", "h100", "--no-compile", "--json")
    assert done.status == 0, done.err
    plan = json.loads(done.out)
    assert plan["fits"]
    assert plan["parameters"] == parameters(SHAPES[name][0], SHAPES[name][2])


@pytest.mark.slow
@pytest.mark.longest
def test_a_step_of_124m_on_a_processor(tmp_path: Path) -> None:
    """In float32 with a batch of one, and blocks that are computed again."""
    small = ["train.batch_size=1", "train.steps=1", "runtime.dtype=float32", "model.remat=block"]
    off = ["eval.every=0", "checkpoint.every=0", "optim.warmup_steps=0"]
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 200, encoding="ascii")
    done = run(
        *("train", "gpt2-124m-bytes", f"data.path={text}", *small, *off),
        *("--workdir", tmp_path / "run"),
    )
    assert done.status == 0, done.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["steps"], summary["params"]) == (1, parameters(12, 768))
