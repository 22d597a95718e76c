"""Every program lowers for CUDA, TPU and ROCm on a machine that has none of them.

What is special to a CPU would be compiled for the others in silence, or fail there: a layout's
constraint, a blocked product. So the lowered text must hold nothing that only a CPU knows.
"""

import dataclasses
import functools
import itertools
import re
import types
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh

from charjax import parallel
from charjax.config import load_config
from charjax.generation.sampling import Sampling
from charjax.ops import activation, choice, linear
from charjax.performance import programs
from charjax.training.program import uses_onednn
from charjax.training.session import Session, open_session
from tests.models.families import FAMILIES, V, make_model, make_variables

KINDS = itertools.count()
ACCELERATORS = ("cuda", "tpu", "rocm")
CUSTOM_CALL = re.compile(r"custom_call @(\w+)")
# Where a line of the program comes from, in the source and in this test.
LOCATION = re.compile(r"^#loc.*\n| loc\([^\n]*$", re.MULTILINE)
# What XLA's partitioner and every platform's compiler take.
EVERYWHERE = {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}


def accelerator() -> Mesh:
    """Return the mesh of one device that is no CPU, of a kind of which nothing is traced yet."""
    device = AbstractDevice(f"accelerator {next(KINDS)}", None, "accelerator")
    mesh = AbstractMesh((1,), ("data",), (AxisType.Auto,), abstract_device=device)
    return mesh  # type: ignore[return-value]


@functools.cache
def session_of(name: str, folder: Path) -> Session:
    text = folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 40, encoding="ascii")
    settings = FAMILIES[name] | {"context_length": FAMILIES[name].get("context_length", 12)}
    data = [f"data.path={text}", "optim.schedule=cosine", "train.batch_size=4"]
    if settings["kind"] in ("mlp", "wavenet"):
        data += ["data.layout=pairs", "data.split=shuffled_lines"]
    words = [f"model.{key}={toml(value)}" for key, value in settings.items()]
    return open_session(load_config(None, data + words))


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def programs_of(name: str, folder: Path, mesh: Mesh) -> list[programs.Program]:
    """Return a family's training loop, if it has one, its evaluation and its decoding."""
    model = make_model(name)
    if model.fitted:
        found, variables = [], jax.tree.map(jnp.asarray, make_variables(model))
    else:
        found = [programs.training(session_of(name, folder), mesh)]
        tokens = jnp.zeros((1, model.lookback + 1), jnp.int32)
        variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    settings = Sampling(temperature=0.8, top_k=V - 2, top_p=0.9)
    return [
        *found,
        programs.evaluation(model, variables, mesh, rows=4, window=8, tokens=500),
        programs.decoding(model, variables, mesh, samples=3, settings=settings),
    ]


def texts(name: str, folder: Path, mesh: Mesh) -> dict[str, str]:
    exported = [program.export(*ACCELERATORS) for program in programs_of(name, folder, mesh)]
    assert {each.platforms for each in exported} == {ACCELERATORS}
    names = [program.name for program in programs_of(name, folder, mesh)]
    return {
        name: LOCATION.sub("", str(each.mlir_module()))
        for name, each in zip(names, exported, strict=True)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.quick("gru", "transformer-gated")
def test_programs_lower_for_every_accelerator(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not depend on the devices of the machine that lowers them."""
    here = texts(name, folder, accelerator())
    for text in here.values():
        assert set(CUSTOM_CALL.findall(text)) <= EVERYWHERE
    pretend_to_have_an_accelerator(monkeypatch)
    assert texts(name, folder, accelerator()) == here


def pretend_to_have_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    client = types.SimpleNamespace(platform="tpu", platform_version="a TPU")
    device = types.SimpleNamespace(platform="tpu", device_kind="TPU", client=client, id=0)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    for name in ("devices", "local_devices"):
        monkeypatch.setattr(jax, name, lambda *_, **__: [device])


@pytest.mark.parametrize(
    ("module", "attribute"),
    [(linear, "on_cpu"), (activation, "on_cpu"), (choice, "on_cpu")],
    ids=["a product", "an activation", "attention"],
)
@pytest.mark.quick("an activation")
@pytest.mark.slow
def test_a_branch_by_the_default_device_is_caught(
    module: object, attribute: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plant one: an accelerator's program would be the CPU's in silence."""
    monkeypatch.setattr(module, attribute, lambda: jax.default_backend() == "cpu")
    with pytest.raises((AssertionError, ValueError)), pytest.MonkeyPatch.context() as patch:
        test_programs_lower_for_every_accelerator("transformer", folder, patch)


def test_a_tpu_trains_blocks_in_a_loop_and_stores_masks(folder: Path) -> None:
    """So each layer's fusions are compiled once, without the drawing of the masks in them."""
    device = AbstractDevice("TPU v5 lite", None, "tpu")
    mesh: Any = AbstractMesh((1,), ("data",), (AxisType.Auto,), abstract_device=device)
    session = session_of("transformer", folder)
    session = dataclasses.replace(session, model=session.model.clone(dropout=0.5))
    tpu, other = (
        str(programs.training(session, where).export("tpu").mlir_module())
        for where in (mesh, accelerator())
    )
    assert set(CUSTOM_CALL.findall(tpu)) <= EVERYWHERE
    # The training loop itself, and the layers forward and backward.
    assert tpu.count("stablehlo.while") == other.count("stablehlo.while") + 2
    assert "optimization_barrier" in tpu
    assert "optimization_barrier" not in other


def test_the_target_is_the_mesh_not_the_default_device() -> None:
    assert choice.on_cpu()
    with parallel.target(accelerator()):
        assert not choice.on_cpu()
        with parallel.target(parallel.make_mesh(jax.local_devices()[:1], 1)):
            assert choice.on_cpu()
    assert choice.on_cpu()


def test_onednn_is_for_a_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's processor is."""
    monkeypatch.setattr(choice.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    large = ["model.d_model=512", "train.batch_size=64", "model.n_layer=1"]
    config = load_config(None, large)
    assert uses_onednn(config, parallel.make_mesh(jax.local_devices()[:1], 1))
    assert not uses_onednn(config, accelerator())


def test_cudnn_attention_is_for_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_has_cudnn", lambda: True)
    q = jax.ShapeDtypeStruct((1, 128, 2, 64), jnp.bfloat16)
    versions = {}
    for kind, platform in (("NVIDIA H100", "cuda"), ("TPU v5 lite", "tpu"), ("MI300X", "rocm")):
        device = AbstractDevice(kind, None, platform)
        mesh = AbstractMesh((1,), ("data",), (AxisType.Auto,), abstract_device=device)
        with parallel.target(mesh):  # type: ignore[arg-type]
            versions[platform] = choice.attention_version(q, 0.0)  # type: ignore[arg-type]
    assert versions == {"cuda": "cudnn", "tpu": "plain", "rocm": "plain"}
