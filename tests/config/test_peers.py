"""The settings of nanoGPT, minGPT, char-rnn and makemore: each has a counterpart or a reason."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from charjax import evaluate, sample, train
from charjax.config import load_config, parse_config
from charjax.config.errors import full_name
from charjax.config.peers import PEERS, SHORT_FLAGS
from charjax.errors import UserError


# As read in the sources that charjax/config/peers.py names.
def listed(text: str) -> list[str]:
    return text.split()


NANOGPT = listed("""out_dir eval_interval log_interval eval_iters eval_only always_save_checkpoint
init_from wandb_log wandb_project wandb_run_name dataset gradient_accumulation_steps batch_size
block_size n_layer n_head n_embd dropout bias learning_rate max_iters weight_decay beta1 beta2
grad_clip decay_lr warmup_iters lr_decay_iters min_lr backend device dtype compile""")
MINGPT = listed("""device num_workers max_iters batch_size learning_rate betas weight_decay
grad_norm_clip model_type n_layer n_head n_embd vocab_size block_size embd_pdrop resid_pdrop
attn_pdrop seed work_dir""")
CHAR_RNN = listed("""data_dir rnn_size num_layers model learning_rate learning_rate_decay
learning_rate_decay_after decay_rate dropout seq_length batch_size max_epochs grad_clip train_frac
val_frac init_from seed print_every eval_val_every checkpoint_dir savefile accurate_gpu_timing gpuid
opencl""")
MAKEMORE = listed("""input_file work_dir sample_only num_workers max_steps device seed top_k type
n_layer n_head n_embd n_embd2 batch_size learning_rate weight_decay block_size vocab_size""")
# Of LlamaConfig and Gemma2Config; those of other meaning or without a counterpart are left out.
TRANSFORMERS = listed("""num_key_value_heads num_attention_heads num_hidden_layers
intermediate_size rope_theta rms_norm_eps
sliding_window attn_logit_softcapping final_logit_softcapping""")
PROGRAMS = {"nanoGPT": NANOGPT, "minGPT": MINGPT, "char-rnn": CHAR_RNN, "makemore": MAKEMORE}
PROGRAMS["transformers"] = TRANSFORMERS
NAMES = sorted({name for names in PROGRAMS.values() for name in names} | {"lr", "epochs"})


def refused(words: list[str]) -> str:
    """Return the error message for words of train's command line."""
    with pytest.raises(UserError) as error:
        load(words)
    assert str(error.value).isprintable()
    return str(error.value)


def load(words: list[str]) -> None:
    args = train.train_arguments(words)
    load_config(args.config, args.overrides)


def check_way(message: str) -> None:
    """Run the words that a message recommends."""
    if "has no counterpart here (" in message:
        assert message.endswith("): leave it out")
        return
    written = re.search(r"(?:write|as in) (.*?)(?: \(.*)?$", message)
    assert written, message
    words = shlex.split(written[1])
    if words[:2] == ["python", "-m"]:
        command = {
            "charjax.sample": sample.sample_arguments,
            "charjax.evaluate": evaluate.evaluate_arguments,
        }
        command[words[2]](words[3:])
        return
    load(words)


def example(name: str) -> str:
    """Return an allowed value of a peer's setting."""
    if name == "model_type":
        return "gpt-mini"
    return (PEERS[name].example if name in PEERS else "") or "3"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_leads_to_ours(name: str):
    value = example(name)
    for words in (
        [f"{name}={value}"],
        [f"--{name}={value}"],
        [f"--{name}", value],
        [f"--{name.replace('_', '-')}", value],
        [f"-{name}", value],
        [f"trainer.{name}={value}"],
        [f"--trainer.{name}={value}"],
    ):
        if words[0] == "--init-from":
            continue
        message = refused(words)
        assert name in message.replace("-", "_"), words
        if name in PEERS:
            check_way(message)
        else:
            # "trainer" is nearly one of our sections.
            assert full_name(name) in message or "did you mean train?" in message, words


@pytest.mark.parametrize("name", NAMES)
def test_every_name_in_a_file_leads_to_ours(name: str):
    value = tomllib.loads(f"v = '{example(name)}'")["v"]
    for tree in ({name: value}, {"train": {name: value}}):
        if name == "model" or full_name(name) == f"train.{name}":
            continue
        with pytest.raises(UserError) as error:
            parse_config(tree)
        message = str(error.value)
        assert name in message
        if name in PEERS:
            assert "no counterpart" in message or " is " in message
            check_way(message)
        else:
            assert f"did you mean {full_name(name)}?" in message


def test_the_programs_named_have_the_name():
    for name, peer in PEERS.items():
        if peer.programs:
            has = {program for program, names in PROGRAMS.items() if name in names}
            assert set(peer.programs.split(", ")) == has, name
    assert set(SHORT_FLAGS.values()) < set(MAKEMORE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("block_size=256", "block_size: 256 given; block_size (nanoGPT, minGPT, makemore) is "
         "model.context_length here: write model.context_length=256"),
        ("--block_size=256", "write model.context_length=256"),
        ("--lr 3e-4", "--lr: 3e-4 given; lr is optim.learning_rate here: write "
         "optim.learning_rate=3e-4"),
        ("lr=abc", "write optim.learning_rate=1e-3"),
        ("--n-embd2 64", "model.kind=gru model.d_hidden=64"),
        ("-i names.txt", "write data.path=names.txt data.layout=lines"),
        ("-b 32", "write train.batch_size=32"),
        ("-l 5e-4", "as in optim.learning_rate=5e-4"),
        ("--decay_lr=False", "write optim.schedule=constant"),
        ("--device=cuda", "write runtime.device=gpu"),
        ("-gpuid -1", "write runtime.device=cpu"),
        ("--device=tpu", "write runtime.device=tpu"),
        ("--dataset=shakespeare_char", "write data.name=shakespeare"),
        ("--compile=False", "has no counterpart here (every step is compiled): leave it out"),
        ("--model.n_embd=48", "write model.d_model=48"),
        ("--model.n_layer=3", "as in model.n_layer=3"),
        ("n_layer=3", "did you mean model.n_layer? write model.n_layer=3"),
        ("batch_size=8", "write train.batch_size=8"),
        ("model.n_embd=64", "write model.d_model=64 (model.d_embed in the other families)"),
        ("train.max_iters=9", "write train.steps=9"),
        ("trainer.max_iters=9", "max_iters (nanoGPT, minGPT) is train.steps here"),
        ("trainer.learning_rate=9", "did you mean optim.learning_rate?"),
        ("config/train_shakespeare_char.py", "nanogpt-char and nanogpt-cpu here"),
        ("--print_config", "did you mean --print-config?"),
    ],
)  # fmt: skip
def test_messages(words: str, message: str):
    assert message in refused(words.split())


def test_a_python_file_is_told_apart(tmp_path: Path):
    path = tmp_path / "train_shakespeare_char.py"
    path.write_text("out_dir = 'out' # of nanoGPT\nwandb_log = False\n")
    assert "nanogpt-char" in refused([str(path)])
