"""GPT-2, Llama and Qwen3 of transformers: the same logits, in both directions."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from charjax.run.checkpoint import state_digest
from charjax.run.load import find_run, load_run
from tests.commands import run
from tests.test_interop import make

torch = pytest.importorskip("torch", reason="the extra torch is not installed: make parity has it")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="not installed: make parity has it")


def logits(model, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(tokens).long()).logits.numpy()


def draw(run_directory: Path, rows: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens that fill the context, and charjax's logits for them."""
    ours = load_run(find_run(run_directory))
    shape = rows, ours.model.context_length
    tokens = np.random.default_rng(1).integers(0, ours.tokenizer.vocab_size, shape, np.int32)
    mine, _ = ours.model.apply(ours.variables, tokens)
    return tokens, np.asarray(mine)


@pytest.mark.parametrize("name", ["transformer", "transformer-untied", "transformer-tanh"])
def test_transformers_computes_what_was_exported(name: str, transformers, tmp_path: Path):
    directory = make(name, tmp_path, -0.5, 0.5)
    done = run("interop", "export", directory, tmp_path / "out", "--format", "hf-gpt2")
    assert (done.status, done.err) == (0, "")
    model, report = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values()), report
    tokens, expected = draw(directory)
    np.testing.assert_allclose(logits(model.eval(), tokens), expected, atol=1e-5, rtol=1e-5)

    # Its tokenizer is the run's.
    symbols = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "To be, or not to be:\n that"
    ours = load_run(find_run(directory)).tokenizer
    assert symbols(text)["input_ids"] == ours.encode(text).tolist()
    assert symbols.decode(symbols(text)["input_ids"]) == text
    generated = model.generate(torch.tensor([[1]]), max_new_tokens=5, do_sample=False)
    assert generated.shape == (1, 6)

    # What transformers saves again has no header: the same bits come back.
    model.save_pretrained(tmp_path / "saved")
    symbols.save_pretrained(tmp_path / "saved")
    words = [] if name != "transformer" else ["model.bias=false"]
    done = run("interop", "import", tmp_path / "saved", *words, "--workdir", tmp_path / "back")
    assert (done.status, done.err) == (0, "")
    again = load_run(find_run(tmp_path / "back"))
    assert state_digest(again.variables) == state_digest(load_run(find_run(directory)).variables)
    assert again.tokenizer == ours


@pytest.mark.parametrize("tied", [True, False])
def test_what_transformers_saved_is_imported(tied: bool, transformers, tmp_path: Path):
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 12, "vocab_size": 20}
    config = transformers.GPT2Config(**sizes, tie_word_embeddings=tied)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4)
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "symbols.txt").write_text("abcdefghijklmnopqrst")
    words = ["--alphabet", tmp_path / "symbols.txt", "--workdir", tmp_path / "run"]
    done = run("interop", "import", tmp_path / "saved", *words)
    assert (done.status, done.err) == (0, "")
    tokens, ours = draw(tmp_path / "run")
    np.testing.assert_allclose(ours, logits(model, tokens), atol=1e-5, rtol=1e-5)
    assert load_run(find_run(tmp_path / "run")).config.model.dropout == 0.1

    # And out again: the same bits under the same names.
    done = run("interop", "export", tmp_path / "run", tmp_path / "out", "--format", "hf-gpt2")
    assert done.status == 0, done.err
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("saved", "out"))
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


@pytest.mark.parametrize("name", ["llama", "llama-bias", "qwen3"])
def test_transformers_computes_an_exported_llama(name: str, transformers, tmp_path: Path):
    directory = make(f"transformer-{name}", tmp_path, -0.5, 0.5)
    kind = name.partition("-")[0]
    done = run("interop", "export", directory, tmp_path / "out", "--format", f"hf-{kind}")
    assert (done.status, done.err) == (0, "")
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert type(model).__name__ == f"{kind.capitalize()}ForCausalLM"
    assert not any(report.values()), report
    tokens, expected = draw(directory)
    np.testing.assert_allclose(logits(model.eval(), tokens), expected, atol=1e-5, rtol=1e-5)

    # What transformers saves again has no header: the same bits come back.
    model.save_pretrained(tmp_path / "saved")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "saved")
    done = run("interop", "import", tmp_path / "saved", "--workdir", tmp_path / "back")
    assert (done.status, done.err) == (0, "")
    again, before = (load_run(find_run(path)) for path in (tmp_path / "back", directory))
    assert state_digest(again.variables) == state_digest(before.variables)
    assert again.config.model == before.config.model


LLAMAS = {
    "default": {},
    "grouped": {"num_key_value_heads": 1, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
    "theta": {"rope_theta": 5e5, "num_key_value_heads": 2, "hidden_act": "gelu"},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
}


@pytest.mark.parametrize("name", LLAMAS)
def test_a_llama_that_transformers_saved_is_imported(name: str, transformers, tmp_path: Path):
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
    sizes |= {"intermediate_size": 50, "max_position_embeddings": 24, "vocab_size": 20}
    kind = "Qwen3" if name == "qwen3" else "Llama"
    config = getattr(transformers, f"{kind}Config")(**(sizes | LLAMAS[name]))
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.5 if parameter.ndim == 1 else 0.0, 0.3)
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "symbols.txt").write_text("abcdefghijklmnopqrst")
    words = ["--alphabet", tmp_path / "symbols.txt", "--workdir", tmp_path / "run"]
    done = run("interop", "import", tmp_path / "saved", *words)
    assert (done.status, done.err) == (0, "")
    tokens, ours = draw(tmp_path / "run")
    np.testing.assert_allclose(ours, logits(model, tokens), atol=1e-5, rtol=1e-5)

    # And out again: the same bits under the same names.
    words = ["--format", f"hf-{kind.lower()}"]
    done = run("interop", "export", tmp_path / "run", tmp_path / "out", *words)
    assert done.status == 0, done.err
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("saved", "out"))
    assert before.keys() == after.keys()
    for key, array in before.items():
        np.testing.assert_array_equal(array, after[key], err_msg=key)
