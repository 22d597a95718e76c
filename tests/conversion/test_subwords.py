"""GPT-2's directories with subword tokens."""

import json
from pathlib import Path

import pytest

from charjax.data.subwords import train_bpe
from charjax.run.checkpoint import state_digest
from charjax.run.load import find_run, load_run
from tests.commands import run

tokenizers = pytest.importorskip("tokenizers", reason="the extra bpe is not installed")
TEXT = "the cat sat on the mat\nthe dog sat too\n" * 40
SIZES = ["model.n_layer=1", "model.n_head=2", "model.d_model=8", "model.context_length=8"]


@pytest.mark.parametrize("layout", ["stream", "lines"])
@pytest.mark.quick("stream")
@pytest.mark.slow
def test_a_run_of_subwords_goes_out_and_comes_back(layout: str, tmp_path: Path):
    (tmp_path / "text.txt").write_text(TEXT)
    words = [f"data.path={tmp_path / 'text.txt'}", f"data.layout={layout}", "data.tokenizer=bpe"]
    words += ["data.vocab_size=270", "train.steps=1", "train.batch_size=2", *SIZES]
    done = run("train", *words, "--workdir", tmp_path / "run")
    assert done.status == 0, done.err
    out = tmp_path / "out"
    done = run("interop", "export", tmp_path / "run", out, "--format", "hf-gpt2")
    assert (done.status, done.err) == (0, "")
    # It numbers the tokens as the model does.
    ours = load_run(find_run(tmp_path / "run"))
    library = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    line = "the dog sat on the mat"
    assert library.encode(line).ids == ours.tokenizer.encode(line).tolist()
    assert library.decode(library.encode(f"{line}\n").ids) == f"{line}\n"
    assert library.token_to_id("\u010a") == ours.tokenizer.encode("\n")[0]
    done = run("interop", "import", out, "--workdir", tmp_path / "again")
    assert (done.status, done.err) == (0, "")
    again = load_run(find_run(tmp_path / "again"))
    assert state_digest(again.variables) == state_digest(ours.variables)
    assert again.tokenizer == ours.tokenizer


def test_a_directory_of_transformers_with_a_bpe(tmp_path: Path):
    """Its tokenizer.json is named as a setting, with a text or without one."""
    (tmp_path / "text.txt").write_text(TEXT)
    words = [f"data.path={tmp_path / 'text.txt'}", "data.tokenizer=bpe", "data.vocab_size=270"]
    done = run(
        *["train", *words, "train.steps=1", "train.batch_size=2", *SIZES],
        *["--workdir", tmp_path / "run"],
    )
    assert done.status == 0, done.err
    out = tmp_path / "out"
    assert run("interop", "export", tmp_path / "run", out, "--format", "hf-gpt2").status == 0
    from safetensors.numpy import load_file, save_file

    save_file(load_file(out / "model.safetensors"), out / "model.safetensors")
    done = run("interop", "import", out, "--workdir", tmp_path / "again")
    assert done.status == 2
    setting = f"data.tokenizer={out / 'tokenizer.json'}"
    assert f"give it as {setting}" in done.err
    done = run("interop", "import", out, setting, "--workdir", tmp_path / "again")
    assert (done.status, done.err) == (0, "")
    assert "symbols are numbered as in tokenizer.json" in done.out
    text = json.loads(load_run(find_run(tmp_path / "again")).tokenizer.json)
    assert text["model"] == json.loads(train_bpe_of(tmp_path))["model"]
    assert run("sample", tmp_path / "again", "--max-new-tokens", 5).status == 0
    words = [setting, f"data.path={tmp_path / 'text.txt'}", "--workdir", tmp_path / "with-text"]
    done = run("interop", "import", out, *words)
    assert (done.status, done.err) == (0, "")
    assert run("evaluate", tmp_path / "with-text").status == 0


def train_bpe_of(folder: Path) -> str:
    """Return the tokenizer.json that the run of this folder has."""
    text = (folder / "text.txt").read_text()
    return train_bpe(text[: int(0.9 * len(text))], 270, boundary=False).json
