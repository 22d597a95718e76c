"""Models with options that no PyTorch original has are refused in one line."""

import jax
import jax.numpy as jnp
import pytest

from charjax.config import parse_config
from charjax.conversion.state_dicts import to_state_dict
from charjax.errors import UserError
from charjax.models import build
from charjax.performance.same_work import why_not
from tests.commands import run

_LLAMA = ["model.norm=rmsnorm", "model.activation=swiglu", "model.positions=rotary"]
_GPT = {"kind": "transformer", "n_layer": 1, "n_head": 2, "d_model": 8, "context_length": 4}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({**_GPT, "norm": "rmsnorm"}, "^model.norm: rmsnorm in this model, but nanoGPT's GPT"),
        ({**_GPT, "qk_norm": True}, "^model.qk_norm: true in this model"),
        ({**_GPT, "n_kv_head": 1}, "^model.n_kv_head: 1 in this model"),
        ({**_GPT, "activation": "relu2"}, "^model.activation: relu2 in this model"),
        ({**_GPT, "activation": "swiglu"}, "^model.activation: swiglu in this model"),
        ({**_GPT, "window": 2}, "^model.window: 2 in this model"),
        ({**_GPT, "attn_softcap": 5.0}, "^model.attn_softcap: 5.0 in this model"),
        (
            {**_GPT, "attention_scale": "inverse"},
            "^model.attention_scale: inverse in this model, but nanoGPT's GPT divides scores by",
        ),
        ({**_GPT, "final_softcap": 5.0}, "^model.final_softcap: 5.0 in this model"),
        ({"kind": "gru", "norm": "layernorm"}, "^model.norm: layernorm .* torch.nn.GRU has no"),
        ({"kind": "lstm", "norm": "layernorm"}, "^model.norm: layernorm .* torch.nn.LSTM has no"),
        ({"kind": "minlstm"}, "^model.kind: 'minlstm' cannot be exported"),
    ],
)
def test_export_is_refused(section, message):
    config = parse_config({"model": section}).model
    model = build(config, 5, jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    with pytest.raises(UserError, match=message) as error:
        to_state_dict(config, 5, variables)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        (_LLAMA, "hf-llama"),
        ([*_LLAMA, "model.qk_norm=true"], "hf-qwen3"),
        (["model.norm=rmsnorm"], None),
    ],
)
@pytest.mark.slow
def test_a_format_that_has_it_is_named(settings, advice, tmp_path):
    (tmp_path / "text.txt").write_text("the world is all that is the case. " * 20)
    tiny = ["model.kind=transformer", "model.n_layer=1", "model.n_head=2", "model.d_model=8"]
    short = ["model.context_length=4", "train.steps=2", "train.batch_size=2"]
    asked = [f"data.path={tmp_path / 'text.txt'}", *tiny, *short, *settings]
    assert run("train", *asked, "--workdir", tmp_path / "run").status == 0
    done = run("interop", "export", tmp_path / "run", tmp_path / "model.safetensors")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("error: model.norm: rmsnorm in this model, but nanoGPT's GPT")
    ending = f": give --format {advice}, which has it" if advice else " can be written as one"
    assert done.err.endswith(f"{ending}\n")


def test_as_many_heads_of_keys_are_no_option():
    config = parse_config({"model": {**_GPT, "n_kv_head": 2}}).model
    model = build(config, 5, jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    assert "transformer.h.0.attn.c_attn.weight" in to_state_dict(config, 5, variables)


@pytest.mark.parametrize(
    "tree",
    [
        {"optim": {"clip_value": 1.0}},
        {"train": {"label_smoothing": 0.1}},
        {"train": {"z_loss": 1e-4}},
    ],
)
def test_pytorchs_original_trains_without_them(tree):
    assert why_not(parse_config({})) is None
    assert "cross-entropy" in str(why_not(parse_config(tree)))
