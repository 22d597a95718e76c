"""`python -m charjax.interop`: bitwise round trips, and one-line messages for mismatches."""

import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from charjax.config import load_config
from charjax.conversion.runs import write_run
from charjax.conversion.state_dicts import flatten
from charjax.data.datasets import load_dataset
from charjax.models import build_model
from charjax.run.checkpoint import state_digest
from charjax.run.load import find_run, load_run
from charjax.training.session import with_context
from charjax.training.state import state_shapes
from tests.commands import run

TEXT = "To be, or not to be: that is the question.\n" * 60
NAMES = "\n".join(["emma", "olivia", "ava", "isabella", "sophia", "mia", "amelia", "ella"] * 10)

# Settings of the transformer below that no tensor determines.
ANSWERS = ["model.n_head=2", "model.activation=gelu"]
# Models without a PyTorch original.
OTHERS = {
    "transformer-rotary": ["model.n_layer=1", "model.d_model=8", "model.positions=rotary"],
    "transformer-rezero": ["model.n_layer=1", "model.d_model=8", "model.residual=rezero"],
    "bow": ["model.d_embed=4"],
}
LLAMA = [
    *["model.n_layer=2", "model.n_head=4", "model.d_model=16", "model.norm=rmsnorm"],
    *["model.positions=rotary", "model.activation=swiglu"],
]
# Those of transformers, as directories alone.
OTHERS |= {
    "transformer-llama": [
        *LLAMA,
        *["model.n_kv_head=1", "model.tie_embeddings=false", "model.d_ff=24"],
        *["model.rotary_base=500.0", "model.norm_epsilon=1e-6"],
    ],
    "transformer-llama-bias": [*LLAMA, "model.bias=true", "model.activation=geglu"],
    "transformer-qwen3": [*LLAMA, "model.qk_norm=true", "model.n_kv_head=2"],
}
MODELS = {
    "transformer": ["model.n_layer=2", "model.n_head=2", "model.d_model=8"],
    "transformer-untied": [
        *["model.n_layer=1", "model.n_head=2", "model.d_model=8"],
        *["model.bias=true", "model.tie_embeddings=false"],
    ],
    "transformer-tanh": [
        *["model.n_layer=1", "model.n_head=2", "model.d_model=8", "model.bias=true"],
        *["model.activation=gelu_tanh", "model.tie_embeddings=false"],
    ],
    "rnn": ["model.d_embed=4", "model.d_hidden=6"],
    "rnn-relu": ["model.d_embed=4", "model.d_hidden=6", "model.activation=relu"],
    "gru": ["model.d_embed=4", "model.d_hidden=6", "model.n_layer=2"],
    "lstm": ["model.d_embed=4", "model.d_hidden=6"],
    "mlp": ["model.d_embed=4", "model.hidden=[6,5]", "model.context_length=3"],
    "mlp-blank": ["model.d_embed=4", "model.hidden=[6]", "model.blank=true"],
    "mlp-norm": ["model.d_embed=4", "model.hidden=[6]", "model.norm=batch", "data.layout=pairs"],
    "bigram": [],
}


def settings(name: str, folder: Path) -> list[str]:
    lines = name == "mlp-blank"
    path = folder / ("names.txt" if lines else "text.txt")
    path.write_text(NAMES if lines else TEXT)
    layout = ["data.layout=lines"] if lines else []
    kind = f"model.kind={name.split('-')[0]}"
    return [f"data.path={path}", *layout, kind, *(MODELS | OTHERS)[name]]


def make(name: str, folder: Path, low: float = 0.1, high: float = 1.0) -> Path:
    """Write a run with random parameters."""
    config = load_config(None, [*settings(name, folder), "runtime.device=cpu"])
    dataset = load_dataset(config.data)
    config = with_context(config, dataset)
    shapes = state_shapes(build_model(config, dataset.tokenizer), config)
    rng = np.random.default_rng(0)
    variables = {
        path: rng.uniform(low, high, leaf.shape).astype(np.float32)
        for path, leaf in flatten({"params": shapes.params, **shapes.model_state}).items()
    }
    write_run(
        folder / name, config, dataset.tokenizer, dataset.digest, variables, jax.local_devices()
    )
    return folder / name


def train(name: str, folder: Path) -> Path:
    directory = folder / name
    short = ["train.steps=2", "train.batch_size=4", "checkpoint.every=1"]
    done = run("train", *settings(name, folder), *short, "--workdir", directory)
    assert done.status == 0, done.err
    return directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("interop")


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    """Export a transformer's state dict."""
    path = folder / "transformer.safetensors"
    assert run("interop", "export", train("transformer", folder), path).status == 0
    return path


def foreign(path: Path, target: Path, change=lambda tensors: tensors) -> Path:
    """Write a state dict as another program does, without the header and changed."""
    save_file(change(dict(load_file(path))), target)
    return target


def evaluate(directory: Path) -> float:
    done = run("evaluate", directory, "--json")
    assert done.status == 0, done.err
    return json.loads(done.out)["loss"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.quick("transformer-untied", "gru", "mlp-norm")
def test_there_and_back_is_bitwise(name: str, tmp_path: Path):
    first, second = make(name, tmp_path), tmp_path / "again"
    assert run("interop", "export", first, tmp_path / "1.safetensors").status == 0
    # The header holds the config and the alphabet: the text need not be there any more.
    (tmp_path / ("names.txt" if name == "mlp-blank" else "text.txt")).rename(tmp_path / "moved")
    done = run("interop", "import", tmp_path / "1.safetensors", "--workdir", second)
    assert (done.status, done.err) == (0, "")
    here, there = load_run(find_run(first)).variables, load_run(find_run(second)).variables
    assert state_digest(here) == state_digest(there)
    assert run("interop", "export", second, tmp_path / "2.safetensors").status == 0
    one, two = (load_file(tmp_path / f"{n}.safetensors") for n in (1, 2))
    assert one.keys() == two.keys()
    for key, array in one.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, two[key])


def test_an_imported_run_samples_evaluates_and_goes_on(exported: Path, folder: Path):
    directory = folder / "from-pytorch"
    path = foreign(exported, folder / "foreign.safetensors")
    text = f"data.path={folder / 'text.txt'}"
    done = run("interop", "import", path, text, *ANSWERS, "--workdir", directory)
    assert (done.status, done.err) == (0, "")
    assert evaluate(directory) == evaluate(folder / "transformer")
    few = ["--max-new-tokens", 20]
    samples = [run("sample", folder / name, *few).out for name in ("from-pytorch", "transformer")]
    assert samples[0] == samples[1] != ""
    assert run("sample", directory, "--checkpoint", "latest", *few).status == 0
    for words in (
        ["--init-from", directory, "--workdir", folder / "tuned", text],
        ["--resume", "--workdir", directory],
    ):
        short = ["train.steps=1"]
        done = run("train", *words, *short)
        assert done.status == 0, done.err


def test_names_of_torch_compile_old_masks_and_shared_tensors(exported: Path, folder: Path):
    def change(tensors):
        mask = np.tril(np.ones((1, 1, 64, 64), np.float32))
        tensors |= {f"transformer.h.{i}.attn.bias": mask for i in range(2)}
        del tensors["lm_head.weight"]
        return {f"_orig_mod.{name}": array for name, array in tensors.items()}

    path = foreign(exported, folder / "compiled.safetensors", change)
    words = [path, f"data.path={folder / 'text.txt'}", *ANSWERS]
    done = run("interop", "import", *words, "--workdir", folder / "compiled")
    assert done.status == 0, done.err
    assert evaluate(folder / "compiled") == evaluate(folder / "transformer")
    # As safetensors.torch.save_model writes a tied model: one name, the other in the header.
    tensors = load_file(exported)
    del tensors["transformer.wte.weight"]
    save_file(tensors, path, {"transformer.wte.weight": "lm_head.weight"})
    done = run("interop", "import", *words, "--workdir", folder / "shared")
    assert done.status == 0, done.err
    assert evaluate(folder / "shared") == evaluate(folder / "transformer")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floats_are_converted_and_it_is_said(dtype, exported: Path, tmp_path: Path):
    short = {name: array.astype(dtype) for name, array in load_file(exported).items()}
    save_file(short, tmp_path / "short.safetensors")
    text = f"data.path={exported.parent / 'text.txt'}"
    words = [tmp_path / "short.safetensors", text, *ANSWERS, "--workdir", tmp_path / "run"]
    done = run("interop", "import", *words)
    assert done.status == 0, done.err
    assert f"{np.dtype(dtype).name} converted to float32" in done.out
    table = load_run(find_run(tmp_path / "run")).variables["params"]["token_embedding"]["embedding"]
    expected = short["transformer.wte.weight"].astype(np.float32)
    np.testing.assert_array_equal(np.asarray(table), expected)


def refused(tmp_path: Path, *words: object) -> str:
    """Return the message of an import that fails and writes no file."""
    before = set(tmp_path.iterdir())
    done = run("interop", "import", *words, "--workdir", tmp_path / "none")
    assert done.status == 2, (done.out, done.err)
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert set(tmp_path.iterdir()) == before
    return done.err


def test_every_tensor_that_does_not_fit_is_named(exported: Path, tmp_path: Path):
    def change(tensors):
        del tensors["transformer.h.1.ln_1.weight"], tensors["transformer.wpe.weight"]
        tensors["transformer.h.0.attn.rotary"] = np.zeros((3, 4), np.float32)
        tensors["transformer.h.0.mlp.c_fc.weight"] = np.zeros((8, 32), np.float32)
        return tensors

    path = foreign(exported, tmp_path / "bad.safetensors", change)
    for header in (None, safe_open(exported, "numpy").metadata()):
        save_file(load_file(path), tmp_path / "bad.safetensors", header)
        message = refused(tmp_path, path)
        assert "missing: transformer.wpe.weight (64, 8), transformer.h.1.ln_1.weight (8)" in message
        assert "not expected: transformer.h.0.attn.rotary (3, 4)" in message
        assert "transformer.h.0.mlp.c_fc.weight is (8, 32), expected (32, 8)" in message


def test_settings_that_contradict_the_tensors(exported: Path, tmp_path: Path):
    path, text = foreign(exported, tmp_path / "f.safetensors"), exported.parent / "text.txt"
    words = [path, f"data.path={text}"]
    assert "model.n_layer: 3 given" in refused(tmp_path, *words, "model.n_layer=3")
    assert "model.kind: 'gru' given" in refused(tmp_path, *words, "model.kind=gru")
    assert "model.positions" in refused(tmp_path, *words, "model.positions=rotary")
    assert "model.n_head: not given" in refused(tmp_path, *words)
    assert "multiple of model.n_head" in refused(tmp_path, *words, "model.n_head=3")
    message = refused(tmp_path, path, "data.path=" + str(Path(__file__)), *ANSWERS)
    assert "symbols, but the tensors have a vocabulary of 18" in message
    assert "model.n_head: 4 given" in refused(tmp_path, exported, "model.n_head=4")


def test_files_that_are_no_safetensors(exported: Path, tmp_path: Path):
    whole = exported.read_bytes()
    for name, content, said in (
        ("cut", whole[:-7], "not a whole safetensors file"),
        ("noise", b"nothing of the kind" * 9, "not a whole safetensors file"),
        ("empty", b"", "not a whole safetensors file"),
        ("zip.pt", b"PK\x03\x04" + bytes(99), "safetensors.torch.save_model"),
        ("old.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "is a pickle"),
    ):
        (tmp_path / name).write_bytes(content)
        assert said in refused(tmp_path, tmp_path / name)
    assert "is not a file" in refused(tmp_path, tmp_path / "none.safetensors")
    save_file({"fc1.weight": np.zeros((2, 2), np.float32)}, tmp_path / "mnist")
    assert "match no known layout" in refused(tmp_path, tmp_path / "mnist")


def test_numbers_that_are_not_finite(exported: Path, tmp_path: Path):
    def change(tensors):
        tensors["transformer.ln_f.weight"] = np.array([1, np.nan] * 4, np.float32)
        return tensors

    path = foreign(exported, tmp_path / "nan.safetensors", change)
    message = refused(tmp_path, path, f"data.path={exported.parent / 'text.txt'}", *ANSWERS)
    assert "not finite" in message
    assert "transformer.ln_f.weight" in message


def test_the_lectures_mlp(tmp_path: Path):
    """C, W1, b1, W2, b2, with and without batch norm after the bias (Building makemore, part 3)."""
    rng = np.random.default_rng(0)
    tensors = {
        "C": rng.normal(size=(27, 4)),
        "W1": rng.normal(size=(12, 6)),
        "b1": rng.normal(size=6),
        "W2": rng.normal(size=(6, 27)),
        "b2": rng.normal(size=27),
    }
    norm = {
        name: rng.uniform(0.5, 2.0, size=(1, 6))
        for name in ("bngain", "bnbias", "bnmean_running", "bnstd_running")
    }
    (tmp_path / "all.txt").write_text("\n".join(["abcdefghijklm", "nopqrstuvwxyz"] * 10))
    for part, layout in ((tensors, "lines"), (tensors | norm, "pairs")):
        path, directory = tmp_path / "lecture.safetensors", tmp_path / layout
        save_file({name: array.astype(np.float32) for name, array in part.items()}, path)
        words = [f"data.path={tmp_path / 'all.txt'}", f"data.layout={layout}"]
        split = ["data.split=shuffled_lines"]
        done = run("interop", "import", path, *words, *split, "--workdir", directory)
        assert done.status == 0, done.err
        model = load_run(find_run(directory))
        tokens = rng.integers(0, 27, (5, 3)).astype(np.int32)
        logits, _ = model.model.apply(model.variables, tokens, num_outputs=1)
        h = tensors["C"][tokens].reshape(5, -1) @ tensors["W1"] + tensors["b1"]
        if part is not tensors:
            unit = (h - norm["bnmean_running"]) / norm["bnstd_running"]
            h = norm["bngain"] * unit + norm["bnbias"]
        expected = np.tanh(h) @ tensors["W2"] + tensors["b2"]
        np.testing.assert_allclose(logits[:, 0], expected, atol=1e-4, rtol=1e-4)


def test_modules_by_other_names(folder: Path, tmp_path: Path):
    directory = make("lstm", tmp_path)
    path = tmp_path / "lstm.safetensors"
    assert run("interop", "export", directory, path, "--module", "lstm").status == 0
    assert {name for name in load_file(path) if "l0" in name} == {
        f"lstm.{kind}_{part}_l0" for kind in ("weight", "bias") for part in ("ih", "hh")
    }
    again = foreign(path, tmp_path / "again.safetensors")
    text = f"data.path={tmp_path / 'text.txt'}"
    done = run("interop", "import", again, text, "--workdir", tmp_path / "again")
    assert done.status == 0, done.err
    assert evaluate(tmp_path / "again") == evaluate(directory)


def test_what_cannot_be_exported(folder: Path, exported: Path, tmp_path: Path):
    directory = folder / "transformer"
    done = run("interop", "export", directory, exported)
    assert (done.status, "already exists" in done.err) == (2, True)
    assert run("interop", "export", directory, exported, "--overwrite").status == 0
    done = run("interop", "export", directory, tmp_path / "x", "--module", "gru")
    assert (done.status, "no recurrent module" in done.err) == (2, True)
    done = run("interop", "export", directory, tmp_path / "none" / "x")
    assert (done.status, "does not exist" in done.err) == (2, True)
    for name, said in (
        ("transformer-rotary", "rotary"),
        ("transformer-rezero", "model.residual"),
        ("bow", "no PyTorch original"),
    ):
        done = run("interop", "export", make(name, tmp_path), tmp_path / "x")
        assert (done.status, said in done.err, (tmp_path / "x").exists()) == (2, True, False)


def tensors_of(name: str, folder: Path, low: float = 0.1, high: float = 1.0) -> Path:
    """Write the state dict of a run with random parameters, as another program does."""
    whole, bare = folder / f"{name}-whole.safetensors", folder / f"{name}.safetensors"
    assert run("interop", "export", make(name, folder, low, high), whole).status == 0
    return foreign(whole, bare)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "rnn-relu",
            ["model.activation: not given", "activation=tanh", "relu (nonlinearity='relu"],
        ),
        (
            "transformer-tanh",
            ["model.n_head: not given", "activation: not given", "gelu (nn.GELU()", "or gelu_tanh"],
        ),
    ],
)
def test_which_function_it_is_is_asked(name: str, said: list[str], tmp_path: Path):
    """Require the activation: the same tensors with another activation are another function."""
    size = 0.5 if name == "rnn-relu" else 1.4
    path, text = tensors_of(name, tmp_path, -size, size), f"data.path={tmp_path / 'text.txt'}"
    message = refused(tmp_path, path, text)
    assert all(part in message for part in said), message
    heads = ["model.n_head=2"] * name.startswith("transformer")
    assert "model.activation: not given" in refused(tmp_path, path, text, *heads)
    losses = []
    for activation in {"rnn-relu": ("relu", "tanh")}.get(name, ("gelu_tanh", "gelu")):
        words = [path, text, *heads, f"model.activation={activation}"]
        done = run("interop", "import", *words, "--workdir", tmp_path / activation)
        assert done.status == 0, done.err
        losses.append(evaluate(tmp_path / activation))
    right, wrong = losses
    assert right == evaluate(tmp_path / name)
    assert abs(wrong - right) > 1e-5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gru", "a text starts from a state of zeros"),
        ("mlp", "tanh (not ReLU); the context's embeddings newest first (not oldest first)"),
        ("bigram", "a row (not a column) holds the logits after its symbol"),
    ],
)
def test_what_else_no_tensor_shows_is_stated(name: str, said: str, tmp_path: Path):
    path, text = tensors_of(name, tmp_path), f"data.path={tmp_path / 'text.txt'}"
    done = run("interop", "import", path, text, "--workdir", tmp_path / "again")
    assert done.status == 0, done.err
    (line,) = [line for line in done.out.splitlines() if line.startswith("assumed")]
    assert said in line
    assert "in the order of their code points" in line
    # A file that charjax wrote shows all of it.
    whole = tmp_path / f"{name}-whole.safetensors"
    done = run("interop", "import", whole, "--workdir", tmp_path / "whole")
    assert (done.status, "assumed" in done.out) == (0, False)


def test_a_header_from_before_there_was_a_choice(exported: Path, tmp_path: Path):
    """Older files without the setting had today's default."""
    with safe_open(exported, "numpy") as file:
        metadata = file.metadata()
    header = json.loads(metadata["charjax"])
    assert header["config"]["model"].pop("activation") == "gelu"
    path = tmp_path / "old.safetensors"
    save_file(load_file(exported), path, metadata | {"charjax": json.dumps(header)})
    done = run("interop", "import", path, "--workdir", tmp_path / "run")
    assert done.status == 0, done.err
    assert load_run(find_run(tmp_path / "run")).config.model.activation == "gelu"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("transformer", "for nanoGPT's GPT\n"),
        ("transformer-tanh", "for minGPT's GPT or makemore's Transformer\n"),
        ("rnn-relu", "for torch.nn.RNN(nonlinearity='relu') with emb and fc\n"),
    ],
)
def test_an_export_names_the_module_that_computes_the_same(name: str, said: str, tmp_path: Path):
    done = run("interop", "export", make(name, tmp_path), tmp_path / "x.safetensors")
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith(said)


def test_modules_that_no_family_is(tmp_path: Path):
    path, text = tensors_of("lstm", tmp_path), f"data.path={tmp_path / 'text.txt'}"
    tensors = load_file(path)
    backward = {f"{name}_reverse": a for name, a in tensors.items() if name.startswith("rnn.")}
    wide = {"fc.weight": np.zeros((tensors["fc.weight"].shape[0], 12), np.float32)}
    save_file(tensors | backward | wide, path)
    message = refused(tmp_path, path, text)
    assert "_l0_reverse is of a bidirectional module" in message
    projected = {"rnn.weight_hr_l0": np.zeros((3, 6), np.float32)}
    save_file(tensors | projected, path)
    assert "rnn.weight_hr_l0 is of an LSTM with a projected state" in refused(tmp_path, path, text)
