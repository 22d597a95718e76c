"""Runs of several processes against the same run of one device: losses within 1e-5."""

from pathlib import Path

import pytest

from charjax.config import FAMILIES
from tests.commands import tiny
from tests.several import Several, largest_difference

pytestmark = [pytest.mark.slow, pytest.mark.longest]
# A device for each process, or so many; cores are shared by the machine's other work.
DEVICES = "JAX_NUM_CPU_DEVICES"


def words_of(kind: str, folder: Path, steps: int) -> list[str]:
    text = folder / "text.txt"
    text.write_text("".join(f"the cat {n % 7} sat on the mat and ran off\n" for n in range(120)))
    if kind == "ngram":
        return [f"data.path={text}", *tiny(kind)]
    words = [f"data.path={text}", *tiny(kind), f"train.steps={steps}", "train.sample_every=100"]
    words = [word for word in words if not word.startswith(("eval.every", "checkpoint.every"))]
    # Each device has numbers of its own for dropout, so with dropout runs differ.
    dropout = ["model.dropout=0"] if kind == "transformer" else []
    return [*words, "eval.every=50", *dropout]


def alone(words: list[str], folder: Path) -> Path:
    directory = folder / "alone"
    with Several(folder, 1, [*words, "--workdir", directory], {DEVICES: "1"}, lambda _: []) as one:
        assert one.wait(300) == [0], one.report()
    return directory


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind != "own"])
def test_every_family_over_two_processes(kind: str, tmp_path: Path) -> None:
    words, pair = words_of(kind, tmp_path, 200), tmp_path / "pair"
    with Several(tmp_path, 2, [*words, "--workdir", pair], {DEVICES: "1"}) as several:
        assert several.wait(300) == [0, 0], several.report()
    assert largest_difference(pair, alone(words, tmp_path)) < 1e-5


@pytest.mark.longest
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("kind", ["transformer", "gru", "mlp"])
def test_parameters_divided_over_processes(kind: str, count: int, tmp_path: Path) -> None:
    words, several_run = words_of(kind, tmp_path, 200), tmp_path / "several"
    mesh = ["runtime.mesh.fsdp=2", "--workdir", several_run]
    with Several(tmp_path, count, [*words, *mesh], {DEVICES: "1"}) as several:
        assert several.wait(400) == [0] * count, several.report()
    # config.toml and the metrics hold the same, but for the mesh.
    assert largest_difference(several_run, alone(words, tmp_path)) < 1e-5


@pytest.mark.longest
def test_four_processes(tmp_path: Path) -> None:
    words, four = words_of("transformer", tmp_path, 200), tmp_path / "four"
    with Several(tmp_path, 4, [*words, "--workdir", four], {DEVICES: "1"}) as several:
        assert several.wait(400) == [0] * 4, several.report()
    assert largest_difference(four, alone(words, tmp_path)) < 1e-5


@pytest.mark.longest
@pytest.mark.parametrize("fsdp", [1, 2])
def test_eight_devices_are_resumed_by_two(fsdp: int, tmp_path: Path) -> None:
    words = [*words_of("transformer", tmp_path, 100), "train.batch_size=8"]
    run = tmp_path / "run"
    mesh = [f"runtime.mesh.fsdp={fsdp}", "--workdir", run]
    with Several(tmp_path, 2, [*words, *mesh], {DEVICES: "4"}) as several:
        assert several.wait(400) == [0, 0], several.report()
    longer = [*words, "train.steps=200", "--workdir", run, "--resume"]
    with Several(tmp_path, 2, [*longer, "runtime.mesh.fsdp=1"], {DEVICES: "1"}) as several:
        assert several.wait(400) == [0, 0], several.report()
    # At step 100 the first part was evaluated and sampled, as its last step.
    every = [*words, "train.steps=200"]
    assert largest_difference(run, alone(every, tmp_path)) < 1e-5
