"""Import by the commands: the loss of an imported model equals PyTorch's."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands import run

torch = pytest.importorskip("torch", reason="the extra torch is not installed: make parity has it")
# safetensors.torch imports torch, and so comes after it.
safetensors_torch = pytest.importorskip("safetensors.torch")


def test_a_gpt_trained_elsewhere(tmp_path: Path):
    from charjax.pytorch.gpt import GPT
    from tests.parity.nanogpt_training import configure_adamw, mean_loss, train_step

    text = "".join(f"{n} bottles of beer on the wall, {n - 1} left.\n" for n in range(999, 0, -1))
    (tmp_path / "text.txt").write_text(text)
    symbols = sorted(set(text))
    tokens = torch.tensor([symbols.index(symbol) for symbol in text])
    torch.manual_seed(0)
    model = GPT(len(symbols), 16, n_layer=2, n_head=2, n_embd=16, bias=False)
    optimizer = configure_adamw(model, 0.1, 1e-2, (0.9, 0.99))
    windows = tokens[: 16 * 8 * 50 + 1]
    for i in range(50):
        part = windows[i * 128 : i * 128 + 129]
        inputs, targets = part[:-1].view(8, 16), part[1:].view(8, 16)
        train_step(model, optimizer, inputs, targets, 1e-2, 1.0)
    safetensors_torch.save_model(model, str(tmp_path / "gpt.safetensors"))

    words = [tmp_path / "gpt.safetensors", f"data.path={tmp_path / 'text.txt'}", "model.n_head=2"]
    words.append("model.activation=gelu")
    done = run("interop", "import", *words, "--workdir", tmp_path / "run")
    assert done.status == 0, done.err
    val = tokens[int(0.9 * len(tokens)) :]
    with torch.no_grad():
        count = (len(val) - 1) // 16
        whole = count * 16
        mean = mean_loss(model, val[:whole].view(count, 16), val[1 : whole + 1].view(count, 16))
        total = mean.item() * whole
        if len(val) - 1 > whole:
            rest = val[whole:]
            total += mean_loss(model, rest[None, :-1], rest[None, 1:]).item() * (len(rest) - 1)
    ours = json.loads(run("evaluate", tmp_path / "run", "--json").out)
    assert ours["tokens"] == len(val) - 1
    assert ours["loss"] == pytest.approx(total / (len(val) - 1), rel=1e-5)
    assert ours["loss"] < 2.5
    sample = run("sample", tmp_path / "run", "--prompt", "99 bot", "--max-new-tokens", 30)
    assert sample.status == 0
    assert sample.out.startswith("99 bot")

    # And back: nanoGPT's load_state_dict takes all names, strictly.
    assert run("interop", "export", tmp_path / "run", tmp_path / "back.safetensors").status == 0
    again = GPT(len(symbols), 16, n_layer=2, n_head=2, n_embd=16, bias=False)
    again.load_state_dict(safetensors_torch.load_file(tmp_path / "back.safetensors"), strict=True)
    for old, new in zip(model.parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(old.detach().numpy(), new.detach().numpy())


def test_makemores_transformer(tmp_path: Path):
    """Compare to 1e-5 with the tanh GELU; with the other GELU the function differs."""
    from charjax.run.load import find_run, load_run
    from tests.parity.mingpt import GPT

    names = ["emma", "olivia", "ava", "isabella", "sophia", "mia", "amelia", "ella", "zoe", "ada"]
    (tmp_path / "names.txt").write_text("\n".join(names))
    V = 1 + len(set("".join(names)))
    torch.manual_seed(0)
    model = GPT(V, 9, n_layer=2, n_head=2, n_embd=16).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "ln" in name and "weight" in name else 0.0, 0.4)
    safetensors_torch.save_model(model, str(tmp_path / "model.safetensors"))
    tokens = torch.randint(0, V, (8, 9))
    with torch.no_grad():
        expected = model(tokens).numpy()
    distances = {}
    for activation in ("gelu_tanh", "gelu"):
        words = [f"data.path={tmp_path / 'names.txt'}", "data.layout=lines", "model.n_head=2"]
        done = run(
            *["interop", "import", tmp_path / "model.safetensors", *words],
            *[f"model.activation={activation}", "--workdir", tmp_path / activation],
        )
        assert done.status == 0, done.err
        ours = load_run(find_run(tmp_path / activation))
        logits, _ = ours.model.apply(ours.variables, tokens.numpy().astype(np.int32))
        distances[activation] = np.abs(logits - expected).max() / np.abs(expected).max()
    assert distances["gelu_tanh"] < 1e-5
    assert distances["gelu"] > 1e-4

    # And back: all but the masks, which are no parameters.
    assert run("interop", "export", tmp_path / "gelu_tanh", tmp_path / "back").status == 0
    again = GPT(V, 9, n_layer=2, n_head=2, n_embd=16)
    missing, unexpected = again.load_state_dict(
        safetensors_torch.load_file(tmp_path / "back"), strict=False
    )
    assert not unexpected
    assert all(name.endswith(".attn.bias") for name in missing)
    np.testing.assert_array_equal(again.eval()(tokens).detach().numpy(), expected)


@pytest.mark.parametrize("kind", ["gru", "lstm", "mlp", "bigram"])
def test_a_model_of_names(kind: str, tmp_path: Path):
    from charjax.pytorch.original import Bigram
    from charjax.pytorch.recurrent import RecurrentModel
    from tests.parity.makemore import MLP

    names = ["emma", "olivia", "ava", "isabella", "sophia", "mia", "amelia", "ella", "zoe", "ada"]
    (tmp_path / "names.txt").write_text("\n".join(names))
    symbols = ["\n", *sorted(set("".join(names)))]
    V = len(symbols)
    torch.manual_seed(0)
    models = {"mlp": lambda: MLP(V, 3, 4, (8,)), "bigram": lambda: Bigram(V)}
    model = models.get(kind, lambda: RecurrentModel(kind, V, 4, 6, 2))()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    safetensors_torch.save_model(model, str(tmp_path / "model.safetensors"))
    words = [f"data.path={tmp_path / 'names.txt'}", "data.layout=lines", "data.val_fraction=0.0"]
    done = run(
        *["interop", "import", tmp_path / "model.safetensors", *words],
        *["--workdir", tmp_path / "run"],
    )
    assert done.status == 0, done.err
    losses, count = 0.0, 0
    for name in names:
        line = torch.tensor([[0, *(symbols.index(symbol) for symbol in name), 0]])
        with torch.no_grad():
            out = model(line[:, :-1])
            logits = out[0] if isinstance(out, tuple) else out
            loss = torch.nn.functional.cross_entropy(logits[0], line[0, 1:], reduction="sum")
        losses, count = losses + loss.item(), count + len(name) + 1
    ours = json.loads(run("evaluate", tmp_path / "run", "--split", "train", "--json").out)
    assert ours["tokens"] == count
    assert ours["loss"] == pytest.approx(losses / count, rel=1e-5)
    sample = run("sample", tmp_path / "run", "--num-samples", 3)
    assert sample.status == 0, sample.err
