"""Directories of Hugging Face's Llama and Qwen3, without transformers: tests/parity compares."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from charjax.conversion.state_dicts import flatten
from charjax.run.checkpoint import state_digest
from charjax.run.load import find_run, load_run
from tests.commands import Result, run
from tests.test_interop import make


def export(directory: Path, out: Path, model_type: str = "llama", *words: object) -> Result:
    return run("interop", "export", directory, out, "--format", f"hf-{model_type}", *words)


def digest(directory: Path) -> str:
    return state_digest(load_run(find_run(directory)).variables)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run with grouped queries and export it."""
    folder = tmp_path_factory.mktemp("llama")
    done = export(make("transformer-llama", folder), folder / "out")
    assert (done.status, done.err) == (0, "")
    return folder


@pytest.mark.parametrize("name", ["llama", "llama-bias", "qwen3"])
@pytest.mark.slow
def test_there_and_back_is_bitwise(name: str, tmp_path: Path):
    first, second = make(f"transformer-{name}", tmp_path), tmp_path / "again"
    done = export(first, tmp_path / "out", name.partition("-")[0])
    assert (done.status, done.err) == (0, "")
    # The header holds the config and the alphabet.
    (tmp_path / "text.txt").unlink()
    done = run("interop", "import", tmp_path / "out", "--workdir", second)
    assert (done.status, done.err, "assumed" in done.out) == (0, "", False)
    assert digest(first) == digest(second)
    before, after = (load_run(find_run(directory)) for directory in (first, second))
    assert before.config.model == after.config.model


def test_the_tensors_are_those_of_a_llama(folder: Path):
    """Keys and values are side by side in one kernel here, and two tensors there."""
    tensors = load_file(folder / "out" / "model.safetensors")
    variables = load_run(find_run(folder / "transformer-llama")).variables
    ours = {path: np.asarray(leaf) for path, leaf in flatten(variables).items()}
    kernel = ours["params/block_1/attention/key_value/kernel"]
    there = "model.layers.1.self_attn"
    np.testing.assert_array_equal(tensors[f"{there}.k_proj.weight"], kernel[:, :4].T)
    np.testing.assert_array_equal(tensors[f"{there}.v_proj.weight"], kernel[:, 4:].T)
    assert tensors["model.layers.1.mlp.down_proj.weight"].shape == (16, 24)
    assert "lm_head.weight" in tensors
    config = json.loads((folder / "out" / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 1)
    assert (config["intermediate_size"], config["rms_norm_eps"]) == (24, 1e-6)
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 500.0}


def foreign(folder: Path, target: Path, **changes: Any) -> Path:
    """Copy an export as transformers saves it: without the header; None removes an entry."""
    target.mkdir()
    source = folder / "out"
    save_file(load_file(source / "model.safetensors"), target / "model.safetensors")
    config = json.loads((source / "config.json").read_text()) | changes
    config = {name: value for name, value in config.items() if value != "left out"}
    (target / "config.json").write_text(json.dumps(config))
    (target / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    return target


@pytest.mark.parametrize(
    "changes",
    [{}, {"rope_parameters": "left out", "rope_scaling": None}, {"head_dim": "left out"}],
)
def test_without_a_header(changes: dict[str, Any], folder: Path, tmp_path: Path):
    """Read what config.json alone has, as transformers 5 and 4 write it."""
    source = foreign(folder, tmp_path / "saved", **changes)
    words = ["model.context_length=16", "--workdir", tmp_path / "run"]
    done = run("interop", "import", source, *words)
    assert (done.status, done.err) == (0, "")
    model = load_run(find_run(tmp_path / "run")).config.model
    original = load_run(find_run(folder / "transformer-llama")).config.model
    assert model == original.model_copy(update={"context_length": 16})
    assert digest(tmp_path / "run") == digest(folder / "transformer-llama")


def test_names_without_a_prefix_and_buffers(folder: Path, tmp_path: Path):
    """LlamaModel has no prefix, and older versions saved the rates of the angles."""
    source = foreign(folder, tmp_path / "saved")
    tensors = load_file(source / "model.safetensors")
    tensors = {name.removeprefix("model."): array for name, array in tensors.items()}
    tensors["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    save_file(tensors, source / "model.safetensors")
    done = run("interop", "import", source, "--workdir", tmp_path / "run")
    assert (done.status, done.err) == (0, "")
    assert digest(tmp_path / "run") == digest(folder / "transformer-llama")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu', and charjax's transformer has 'silu' or"),
        ({"head_dim": 8}, "head_dim is 8, and charjax's transformer has hidden_size / num_atten"),
        ({"attention_bias": True}, "mlp_bias is False, and charjax's transformer has True"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0; it must be a number above 0"),
        ({"rms_norm_eps": 2.0}, "model.norm_epsilon: 2.0 given"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn', and charjax's"),
        ({"rope_parameters": [1]}, "rope_parameters is [1]; it must be an object"),
        (
            {"rope_parameters": "left out", "rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_type is 'linear'",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"rope_theta": "500"}}, "rope_theta is '500'; it must be a number"),
        ({"num_attention_heads": 3}, "head_dim is 4, and charjax's transformer has"),
        ({"num_key_value_heads": 2}, "k_proj.weight is (4, 16), expected (8, 16)"),
        ({"num_key_value_heads": 3}, "model.n_kv_head: 3 given; model.n_head (4) must be a mult"),
        ({"intermediate_size": 25}, "mlp.gate_proj.weight is (24, 16), expected (25, 16)"),
        ({"vocab_size": 19}, "vocab_size is 19, but the tensors have a vocabulary of 18"),
        ({"model_type": "gpt2"}, "tensors are of Hugging Face's Llama, but config.json is of Hug"),
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


def test_a_file_alone_needs_its_config(folder: Path, tmp_path: Path):
    source = foreign(folder, tmp_path / "saved") / "model.safetensors"
    done = run("interop", "import", source, "--workdir", tmp_path / "run")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert "give the directory with their config.json" in done.err


@pytest.mark.parametrize(
    ("name", "model_type", "said"),
    [
        ("transformer", "llama", "model.norm: layernorm in this model, but Hugging Face's Llama"),
        ("transformer-qwen3", "llama", "model.qk_norm: true in this model, but Hugging Face's Ll"),
        ("transformer-llama", "qwen3", "model.qk_norm: false in this model, but Hugging Face's Q"),
        ("transformer-llama", "gpt2", "model.norm: rmsnorm in this model, but Hugging Face's GPT"),
        ("gru", "llama", "--format: hf-llama given, but model.kind is gru"),
    ],
)
def test_what_a_llama_is_not(name: str, model_type: str, said: str, tmp_path: Path):
    done = export(make(name, tmp_path), tmp_path / "out", model_type)
    assert (done.status, done.out, (tmp_path / "out").exists()) == (2, "", False)
    assert done.err.count("\n") == 1
    assert said in done.err
