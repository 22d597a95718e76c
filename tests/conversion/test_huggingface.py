"""Directories of Hugging Face's GPT-2, without transformers: tests/parity compares with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from charjax.run.checkpoint import state_digest
from charjax.run.load import find_run, load_run
from tests.commands import Result, run
from tests.test_interop import make

FILES = {
    *("config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json"),
}


def export(directory: Path, out: Path, *words: object) -> Result:
    return run("interop", "export", directory, out, "--format", "hf-gpt2", *words)


def digest(directory: Path) -> str:
    return state_digest(load_run(find_run(directory)).variables)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run and export it."""
    folder = tmp_path_factory.mktemp("huggingface")
    assert export(make("transformer", folder), folder / "out").status == 0
    return folder


@pytest.mark.parametrize("name", ["transformer", "transformer-untied", "transformer-tanh"])
@pytest.mark.quick("transformer", "transformer-untied")
def test_there_and_back_is_bitwise(name: str, tmp_path: Path):
    first, second = make(name, tmp_path), tmp_path / "again"
    done = export(first, tmp_path / "out")
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith("for Hugging Face's GPT2LMHeadModel\n")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    # The header holds the config and the alphabet.
    (tmp_path / "text.txt").unlink()
    done = run("interop", "import", tmp_path / "out", "--workdir", second)
    assert (done.status, done.err, "assumed" in done.out) == (0, "", False)
    assert digest(first) == digest(second)
    before, after = (load_run(find_run(directory)) for directory in (first, second))
    assert before.config.model == after.config.model
    assert before.tokenizer == after.tokenizer


def test_the_kernels_are_those_of_conv1d(folder: Path):
    """The weights are (fan_in, fan_out), all layers have biases, and a tied readout has no name."""
    tensors = load_file(folder / "out" / "model.safetensors")
    assert tensors["transformer.h.1.attn.c_attn.weight"].shape == (8, 24)
    assert tensors["transformer.h.1.mlp.c_fc.weight"].shape == (8, 32)
    assert not tensors["transformer.h.1.mlp.c_fc.bias"].any()
    assert not tensors["transformer.ln_f.bias"].any()
    assert "lm_head.weight" not in tensors
    config = json.loads((folder / "out" / "config.json").read_text())
    assert config["model_type"] == "gpt2"
    assert (config["n_layer"], config["n_head"], config["n_embd"]) == (2, 2, 8)
    assert (config["n_positions"], config["vocab_size"]) == (64, 18)
    assert (config["activation_function"], config["eos_token_id"]) == ("gelu", None)


def foreign(folder: Path, target: Path, **changes: Any) -> Path:
    """Copy an export as transformers saves it: without the header; None removes an entry."""
    target.mkdir()
    source = folder / "out"
    save_file(
        load_file(source / "model.safetensors"), target / "model.safetensors", {"format": "pt"}
    )
    config = json.loads((source / "config.json").read_text()) | changes
    config = {name: value for name, value in config.items() if value != "left out"}
    (target / "config.json").write_text(json.dumps(config))
    (target / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    return target


def test_without_a_header(folder: Path, tmp_path: Path):
    """Read heads and activation from config.json, and the alphabet from tokenizer.json."""
    source = foreign(folder, tmp_path / "saved", n_inner=32, torch_dtype="left out")
    done = run("interop", "import", source, "--workdir", tmp_path / "run")
    assert (done.status, done.err) == (0, "")
    assert "symbols are those of tokenizer.json" in done.out
    imported = load_run(find_run(tmp_path / "run"))
    assert imported.tokenizer == load_run(find_run(folder / "transformer")).tokenizer
    model = imported.config.model
    # Biases of zeros stay: GPT-2 has them.
    assert (model.n_head, model.activation, model.bias) == (2, "gelu", True)
    done = run("interop", "import", source, "model.bias=false", "--workdir", tmp_path / "bare")
    assert (done.status, done.err) == (0, "")
    assert digest(tmp_path / "bare") == digest(folder / "transformer")


def test_names_without_a_prefix_and_masks(folder: Path, tmp_path: Path):
    """The checkpoint "gpt2" was saved from GPT2Model, with its masks."""
    source = foreign(folder, tmp_path / "saved")
    tensors = load_file(source / "model.safetensors")
    tensors = {name.removeprefix("transformer."): array for name, array in tensors.items()}
    tensors |= {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 64, 64), np.float32)) for i in (0, 1)}
    save_file(tensors, source / "model.safetensors")
    done = run("interop", "import", source, "model.bias=false", "--workdir", tmp_path / "run")
    assert (done.status, done.err) == (0, "")
    assert digest(tmp_path / "run") == digest(folder / "transformer")


def test_a_file_alone_needs_what_config_json_says(folder: Path, tmp_path: Path):
    source = foreign(folder, tmp_path / "saved") / "model.safetensors"
    words = ["--alphabet", folder / "text.txt", "--workdir", tmp_path / "run"]
    done = run("interop", "import", source, *words)
    assert done.status == 2
    assert "model.n_head: not given" in done.err
    assert "give the directory that holds config.json" in done.err
    answers = ["model.n_head=2", "model.activation=gelu"]
    done = run("interop", "import", source, *answers, *words)
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "opt"}, "model_type is 'opt'; only 'gpt2', 'llama', 'qwen3' can be impor"),
        ({"model_type": ["gpt2"]}, "model_type is ['gpt2']"),
        ({"activation_function": "relu"}, "activation_function is 'relu', and charjax's transfo"),
        ({"activation_function": ["gelu"]}, "activation_function is ['gelu']"),
        ({"layer_norm_epsilon": "1e-6"}, "layer_norm_epsilon is '1e-6'; it must be a number above"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"n_inner": 16}, "transformer.h.0.mlp.c_fc.weight is (8, 32), expected (8, 16)"),
        ({"n_inner": 0}, "n_inner is 0; it must be a whole number from 1"),
        ({"n_head": 3}, "must be a multiple of model.n_head"),
        ({"n_head": "2"}, "n_head is '2'; it must be a whole number from 1"),
        ({"n_layer": 3}, "missing: transformer.h.2.attn.c_attn.weight (8, 24)"),
        ({"n_layer": 10**9}, "model.n_layer: 1000000000"),
        ({"n_positions": 32}, "transformer.wpe.weight is (64, 8), expected (32, 8)"),
        ({"n_embd": 16}, "transformer.wte.weight is (18, 8), expected (18, 16)"),
        ({"vocab_size": 19}, "vocab_size is 19, but the tensors have a vocabulary of 18"),
        ({"tie_word_embeddings": False}, "missing: lm_head.weight (18, 8)"),
        ({"n_head": "left out"}, "model.d_model: 8 given; it must be a multiple of model.n_head"),
    ],
)
def test_a_config_that_does_not_fit(
    changes: dict[str, Any], said: str, folder: Path, tmp_path: Path
):
    source = foreign(folder, tmp_path / "saved", **changes)
    done = run("interop", "import", source, "--workdir", tmp_path / "run")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert said in done.err
    assert not (tmp_path / "run").exists()


def test_directories_that_are_incomplete(folder: Path, tmp_path: Path):
    source = foreign(folder, tmp_path / "saved")
    tensors, config = source / "model.safetensors", source / "config.json"
    for write, said in (
        (lambda: config.write_text("{"), "cannot be read as JSON"),
        (lambda: config.write_text("3"), "is no configuration of transformers"),
        (config.unlink, "is a directory without config.json"),
        (lambda: config.write_bytes((folder / "out" / "config.json").read_bytes()), ""),
        (tensors.unlink, "holds no model.safetensors"),
        (lambda: (source / "pytorch_model.bin").touch(), "which charjax never loads"),
        (lambda: (source / "model.safetensors.index.json").touch(), "in several files"),
    ):
        write()
        if said:
            done = run("interop", "import", source, "--workdir", tmp_path / "run")
            assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
            assert said in done.err


def test_a_config_and_a_header_that_differ(folder: Path, tmp_path: Path):
    assert export(folder / "transformer", tmp_path / "out").status == 0
    path = tmp_path / "out" / "config.json"
    path.write_text(path.read_text().replace('"n_head": 2', '"n_head": 4'))
    done = run("interop", "import", tmp_path / "out", "--workdir", tmp_path / "run")
    assert done.status == 2
    assert "config.json: it makes model.n_head 4, but the header" in done.err
    done = run(
        *["interop", "import", folder / "out", "--workdir", tmp_path / "run"],
        *["--alphabet", folder / "text.txt"],
    )
    assert done.status == 2
    assert "--alphabet: given, but the file's header has the alphabet" in done.err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("transformer-rotary", "model.positions: rotary in this model, but Hugging Face's GPT-2"),
        ("transformer-rezero", "model.residual: rezero in this model, but Hugging Face's GPT-2"),
        ("gru", "--format: hf-gpt2 given, but model.kind is gru"),
    ],
)
def test_what_gpt_2_is_not(name: str, said: str, tmp_path: Path):
    done = export(make(name, tmp_path), tmp_path / "out")
    assert (done.status, done.out, (tmp_path / "out").exists()) == (2, "", False)
    assert said in done.err


def test_no_other_file_is_replaced(folder: Path, tmp_path: Path):
    directory, out = folder / "transformer", tmp_path / "out"
    assert export(directory, out).status == 0
    assert "already exists" in export(directory, out).err
    (out / "config.json").write_text("older")
    assert export(directory, out, "--overwrite").status == 0
    assert json.loads((out / "config.json").read_text())["n_head"] == 2
    (out / "notes.txt").touch()
    done = export(directory, out, "--overwrite")
    assert (done.status, "holds other files (notes.txt)" in done.err) == (2, True)
    assert "is not a directory" in export(directory, out / "notes.txt").err
    assert "does not exist" in export(directory, tmp_path / "none" / "out").err
    (tmp_path / "link").symlink_to(out)
    assert "is not a directory" in export(directory, tmp_path / "link", "--overwrite").err
