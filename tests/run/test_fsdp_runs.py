"""Runs whose parameters are divided over devices: saved, resumed on others, evaluated, refused."""

import json
from pathlib import Path

import pytest

GPT = [
    "model.n_layer=1", "model.n_head=2", "model.d_model=16", "model.context_length=16",
    "train.batch_size=8", "eval.every=10", "checkpoint.every=10", "optim.ema=0.9",
]  # fmt: skip
EIGHT = {"JAX_NUM_CPU_DEVICES": "8"}


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on a mat, and then it ran off.\n" * 200)
    return f"data.path={path}"


@pytest.mark.slow
@pytest.mark.longest
def test_a_run_goes_on_with_other_parts(text: str, tmp_path: Path, run_command):
    def train(name: str, *words: str) -> dict:
        done = run_command("train", *words, "--workdir", tmp_path / name, env=EIGHT, timeout=600)
        assert done.code == 0, done.stderr
        return json.loads((tmp_path / name / "summary.json").read_text())

    whole = train("whole", text, *GPT, "train.steps=30")
    first = train("parts", text, *GPT, "train.steps=20", "runtime.mesh.fsdp=4")
    assert (whole["fsdp"], first["fsdp"], first["devices"]) == (1, 4, 8)
    parts = train("parts", "--resume", "train.steps=30", "runtime.mesh.fsdp=2")
    assert (parts["fsdp"], parts["devices"], parts["steps"]) == (2, 8, 30)
    assert parts["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-5)
    score = run_command("evaluate", tmp_path / "parts", "--json")
    assert json.loads(score.stdout)["loss"] == pytest.approx(parts["val_loss"], rel=1e-5)
    tuned = train(
        "tuned", text, *GPT, "train.steps=1", "runtime.mesh.fsdp=8", "--init-from",
        str(tmp_path / "parts"),
    )  # fmt: skip
    assert tuned["val_loss"] < whole["val_loss"] + 0.5


def test_a_mesh_that_does_not_fit_is_refused_and_nothing_is_written(
    text: str, tmp_path: Path, run_command
):
    workdir, word = tmp_path / "run", "runtime.mesh.fsdp=3"
    done = run_command("train", text, *GPT, word, "--workdir", workdir, env=EIGHT)
    assert done.code == 2
    assert done.stderr == (
        "error: runtime.mesh: {data = -1, fsdp = 3} given; fsdp = 3 must divide the number of "
        "devices, 8\n"
    )
    assert not workdir.exists()
