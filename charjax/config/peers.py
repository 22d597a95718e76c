"""Settings under the names that they have in nanoGPT, minGPT, char-rnn and makemore.

The names were read in `train.py` of karpathy/nanoGPT (3adf61e), `mingpt/trainer.py`, `model.py` and
`projects/chargpt/chargpt.py` of karpathy/minGPT (37baab7), `train.lua` of karpathy/char-rnn
(6f9487a) and `makemore.py` of karpathy/makemore (988aa59).
"""

import re
from collections.abc import Mapping
from typing import NamedTuple


class Peer(NamedTuple):
    """A setting of another program.

    Attributes:
      whose: the programs that have it; empty for a common word.
      ours: the name here; empty where there is no counterpart.
      words: what to write; `{}` stands for the value, as it was given or that of the example.
      example: the value where none was given, or none that fits.
      remark: what else there is to know, or the reason why there is no counterpart.
      values: the values that are written differently here.
    """

    whose: str
    ours: str = ""
    words: str = ""
    example: str = ""
    remark: str = ""
    values: Mapping[str, str] = {}


def advise(name: str, value: str | None = None) -> str | None:
    """Return the way from a peer's name to ours, as a part of an error message.

    Args:
      name: the name as the peer writes it; dashes and underscores are alike.
      value: the value that was given with it, as text.

    Returns:
      None for a name that is no peer's.
    """
    name = name.replace("-", "_")
    peer = PEERS.get(name)
    if peer is None:
        return None
    whose = f"{name} ({peer.whose})" if peer.whose else name
    if not peer.ours:
        return f"{whose} has no counterpart here ({peer.remark}): leave it out"
    remark = f" ({peer.remark})" if peer.remark else ""
    return f"{whose} is {peer.ours} here: write {_written(peer, value)}{remark}"


def _written(peer: Peer, value: str | None) -> str:
    text = (value or "").strip().strip("\"'")
    text = peer.values.get(text, text)
    is_number = _NUMBER.fullmatch(peer.example) is not None
    fits = (_NUMBER if is_number else _WORD).fullmatch(text) and not peer.values
    known = text in peer.values.values()
    return peer.words.format(text if fits or known else peer.example)


_NUMBER = re.compile(r"[+]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_WORD = re.compile(r"[\w./~+-]+")

_GPTS = "nanoGPT, minGPT, makemore"
_NO_WANDB = "metrics.jsonl in the run's directory holds every figure"
_ONE_DROPOUT = "one rate for embeddings, attention and residual branches"
_DEVICES = {"cuda": "gpu", "cuda:0": "gpu", "cpu": "cpu", "auto": "auto", "gpu": "gpu"}

PEERS: dict[str, Peer] = {
    # nanoGPT, and what others share with it.
    "out_dir": Peer("nanoGPT", "--workdir", "--workdir {}", "runs/mine"),
    "eval_interval": Peer("nanoGPT", "eval.every", "eval.every={}", "250"),
    "log_interval": Peer("nanoGPT", "train.log_every", "train.log_every={}", "10"),
    "eval_iters": Peer(
        "nanoGPT",
        "eval.batches",
        "eval.protocol=random eval.batches={}",
        "200",
        "the default protocol, exact, reads the whole split",
    ),
    "eval_only": Peer("nanoGPT", "a command", "python -m charjax.evaluate RUN"),
    "always_save_checkpoint": Peer(
        "nanoGPT",
        "checkpoint.every",
        "checkpoint.every=500 checkpoint.keep=2",
        remark="the best one is always kept beside the newest",
    ),
    "init_from": Peer(
        "nanoGPT, char-rnn",
        "--init-from or --resume",
        "--init-from RUN",
        "",
        "to go on with a run: --workdir RUN --resume",
    ),
    "wandb_log": Peer("nanoGPT", remark=_NO_WANDB),
    "wandb_project": Peer("nanoGPT", remark=_NO_WANDB),
    "wandb_run_name": Peer("nanoGPT", remark=_NO_WANDB),
    "dataset": Peer(
        "nanoGPT",
        "data.name",
        "data.name={}",
        "shakespeare",
        "a file of your own: data.path=...",
        {"shakespeare_char": "shakespeare", "names": "names"},
    ),
    "gradient_accumulation_steps": Peer(
        "nanoGPT", "optim.accumulate_steps", "optim.accumulate_steps={}", "4"
    ),
    "block_size": Peer(_GPTS, "model.context_length", "model.context_length={}", "256"),
    "n_embd": Peer(
        _GPTS, "model.d_model", "model.d_model={}", "384", "model.d_embed in the other families"
    ),
    "max_iters": Peer("nanoGPT, minGPT", "train.steps", "train.steps={}", "5000"),
    "decay_lr": Peer(
        "nanoGPT",
        "optim.schedule",
        "optim.schedule={}",
        "cosine",
        values={"True": "cosine", "true": "cosine", "False": "constant", "false": "constant"},
    ),
    "warmup_iters": Peer("nanoGPT", "optim.warmup_steps", "optim.warmup_steps={}", "100"),
    "lr_decay_iters": Peer(
        "nanoGPT",
        "optim.decay_steps",
        "optim.schedule=cosine optim.decay_steps={}",
        "5000",
        "unset, it is train.steps",
    ),
    "min_lr": Peer(
        "nanoGPT",
        "optim.min_learning_rate",
        "optim.schedule=cosine optim.min_learning_rate={}",
        "1e-4",
    ),
    "backend": Peer("nanoGPT", remark="every device of the machine is used"),
    "device": Peer(
        "nanoGPT, minGPT, makemore", "runtime.device", "runtime.device={}", "auto", "", _DEVICES
    ),
    "dtype": Peer(
        "nanoGPT",
        "runtime.dtype",
        "runtime.dtype={}",
        "bfloat16",
        "float32 or bfloat16",
        {"float16": "bfloat16", "bfloat16": "bfloat16", "float32": "float32"},
    ),
    "compile": Peer("nanoGPT", remark="every step is compiled"),
    "batch_size": Peer(
        "nanoGPT, minGPT, char-rnn, makemore", "train.batch_size", "train.batch_size={}", "64"
    ),
    # minGPT.
    "num_workers": Peer("minGPT, makemore", remark="batches are drawn on the device"),
    "betas": Peer("minGPT", "optim.beta1 and optim.beta2", "optim.beta1=0.9 optim.beta2=0.95"),
    "grad_norm_clip": Peer("minGPT", "optim.grad_clip", "optim.grad_clip={}", "1.0"),
    "model_type": Peer(
        "minGPT",
        "sizes of their own",
        "model.kind=transformer {}",
        "model.n_layer=6 model.n_head=6 model.d_model=192",
        "these are gpt-mini's",
        {"gpt-mini": "model.n_layer=6 model.n_head=6 model.d_model=192"},
    ),
    "vocab_size": Peer("minGPT, makemore", remark="it is the number of symbols of the text"),
    "embd_pdrop": Peer("minGPT", "model.dropout", "model.dropout={}", "0.1", _ONE_DROPOUT),
    "resid_pdrop": Peer("minGPT", "model.dropout", "model.dropout={}", "0.1", _ONE_DROPOUT),
    "attn_pdrop": Peer("minGPT", "model.dropout", "model.dropout={}", "0.1", _ONE_DROPOUT),
    # char-rnn.
    "data_dir": Peer("char-rnn", "data.path", "data.path={}/input.txt", "data/tinyshakespeare"),
    "rnn_size": Peer("char-rnn", "model.d_hidden", "model.kind=lstm model.d_hidden={}", "128"),
    "num_layers": Peer("char-rnn", "model.n_layer", "model.kind=lstm model.n_layer={}", "2"),
    "model": Peer(
        "char-rnn",
        "model.kind",
        "model.kind={}",
        "lstm",
        values={kind: kind for kind in ("lstm", "gru", "rnn")},
    ),
    "learning_rate_decay": Peer(
        "char-rnn",
        "optim.factor",
        "optim.schedule=exponential optim.staircase=true optim.decay_steps=446 optim.factor={}",
        "0.97",
        "decay_steps: the steps of an epoch",
    ),
    "learning_rate_decay_after": Peer(
        "char-rnn",
        "optim.boundaries",
        "optim.schedule=exponential optim.staircase=true optim.boundaries=[4460]",
        remark="steps here, epochs there",
    ),
    "decay_rate": Peer(
        "char-rnn", "optim.rms_decay", "optim.kind=rmsprop optim.rms_decay={}", "0.95"
    ),
    "seq_length": Peer("char-rnn", "model.context_length", "model.context_length={}", "50"),
    "max_epochs": Peer(
        "char-rnn",
        "train.steps",
        "train.steps=22300",
        remark="an epoch is the training text's length / (train.batch_size x context_length) steps",
    ),
    "train_frac": Peer(
        "char-rnn", "data.val_fraction", "data.val_fraction=0.05", remark="the part held out"
    ),
    "val_frac": Peer("char-rnn", "data.val_fraction", "data.val_fraction={}", "0.05"),
    "print_every": Peer("char-rnn", "train.log_every", "train.log_every={}", "10"),
    "eval_val_every": Peer("char-rnn", "eval.every", "eval.every={}", "1000"),
    "checkpoint_dir": Peer("char-rnn", "--workdir", "--workdir {}", "runs/mine"),
    "savefile": Peer("char-rnn", "--workdir", "--workdir {}", "runs/mine"),
    "accurate_gpu_timing": Peer(
        "char-rnn", remark="speeds are measured with the device waited for"
    ),
    "gpuid": Peer(
        "char-rnn",
        "runtime.device",
        "runtime.device={}",
        "gpu",
        "which one of them: CUDA_VISIBLE_DEVICES",
        {"-1": "cpu", "0": "gpu"},
    ),
    "opencl": Peer("char-rnn", remark="there are runtime.device=cpu and runtime.device=gpu"),
    # makemore.
    "input_file": Peer("makemore", "data.path", "data.path={} data.layout=lines", "names.txt"),
    "work_dir": Peer("makemore, minGPT", "--workdir", "--workdir {}", "runs/mine"),
    "sample_only": Peer("makemore", "a command", "python -m charjax.sample RUN"),
    "max_steps": Peer("makemore", "train.steps", "train.steps={}", "5000"),
    "top_k": Peer(
        "makemore", "a flag of charjax.sample", "python -m charjax.sample RUN --top-k {}", "10"
    ),
    "type": Peer(
        "makemore",
        "model.kind",
        "model.kind={}",
        "transformer",
        values={k: k for k in ("transformer", "bigram", "mlp", "rnn", "gru", "bow")},
    ),
    "n_embd2": Peer(
        "makemore",
        "model.d_hidden",
        "model.kind=gru model.d_hidden={}",
        "64",
        "of an mlp model.hidden=[64]",
    ),
    # Words that all of them understand.
    "lr": Peer("", "optim.learning_rate", "optim.learning_rate={}", "1e-3"),
    "epochs": Peer(
        "",
        "train.steps",
        "train.steps=5000",
        remark="an epoch is the training text's length / (train.batch_size x context_length) steps",
    ),
}
# makemore's short flags.
SHORT_FLAGS = {
    "i": "input_file",
    "o": "work_dir",
    "n": "num_workers",
    "b": "batch_size",
    "l": "learning_rate",
    "w": "weight_decay",
}
