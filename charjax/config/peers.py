"""Settings under the names that they have in nanoGPT, minGPT, char-rnn, makemore, transformers.

The names come from `train.py` of karpathy/nanoGPT (3adf61e), `mingpt/trainer.py`, `model.py` and
`projects/chargpt/chargpt.py` of karpathy/minGPT (37baab7), `train.lua` of karpathy/char-rnn
(6f9487a) and `makemore.py` of karpathy/makemore (988aa59).
"""

import re
from collections.abc import Mapping
from typing import NamedTuple


class Peer(NamedTuple):
    """A setting of another program.

    Attributes:
      programs: the programs that have it; empty for a common word.
      setting: its counterpart here; empty if there is none.
      example: a value, written if none or no fitting one was given.
      template: what to write, with `{}` for the value; default SETTING=VALUE, or FLAG VALUE.
      remark: a remark on the counterpart, or the reason why there is none.
      values: the values that are written differently here.
    """

    programs: str
    setting: str = ""
    example: str = ""
    template: str = ""
    remark: str = ""
    values: Mapping[str, str] = {}

    def written(self, value: str | None) -> str:
        """Return the words to write for a value; for the example if it does not fit."""
        text = (value or "").strip().strip("\"'")
        text = self.values.get(text, text)
        is_number = _NUMBER.fullmatch(self.example) is not None
        fits = (_NUMBER if is_number else _WORD).fullmatch(text) and not self.values
        known = text in self.values.values()
        separator = "=" if "." in self.setting else " "
        template = self.template or f"{self.setting}{separator}{{}}"
        return template.format(text if fits or known else self.example)


_NUMBER = re.compile(r"[+]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_WORD = re.compile(r"[\w./~+-]+")


def advise(name: str, value: str | None = None) -> str | None:
    """Return the counterpart of a peer's setting, as a part of an error message.

    Args:
      name: the name as the peer writes it; dashes and underscores are equivalent.
      value: the value given with it, as text.

    Returns:
      The advice; None if no peer has the name.
    """
    name = name.replace("-", "_")
    peer = PEERS.get(name)
    if peer is None:
        return None
    full = f"{name} ({peer.programs})" if peer.programs else name
    if not peer.setting:
        return f"{full} has no counterpart here ({peer.remark}): leave it out"
    remark = f" ({peer.remark})" if peer.remark else ""
    return f"{full} is {peer.setting} here: write {peer.written(value)}{remark}"


_GPTS = "nanoGPT, minGPT, makemore"
_ONE_DROPOUT = "one rate for embeddings, attention and residual branches"
_EPOCH = "or train.steps"
_DEVICES = {
    "cuda": "gpu",
    "cuda:0": "gpu",
    "cpu": "cpu",
    "auto": "auto",
    "gpu": "gpu",
    "tpu": "tpu",
}

PEERS: dict[str, Peer] = {
    # nanoGPT, and names that others share with it.
    "out_dir": Peer("nanoGPT", "--workdir", "runs/mine"),
    "eval_interval": Peer("nanoGPT", "eval.every", "250"),
    "log_interval": Peer("nanoGPT", "train.log_every", "10"),
    "eval_iters": Peer(
        "nanoGPT",
        "eval.batches",
        "200",
        template="eval.protocol=random eval.batches={}",
        remark="the default protocol, exact, reads the whole split",
    ),
    "eval_only": Peer("nanoGPT", "a command", template="python -m charjax.evaluate RUN"),
    "always_save_checkpoint": Peer(
        "nanoGPT",
        "checkpoint.every",
        template="checkpoint.every=500 checkpoint.keep=2",
        remark="the best one is always kept beside the newest",
    ),
    "init_from": Peer(
        "nanoGPT, char-rnn",
        "--init-from or --resume",
        template="--init-from RUN",
        remark="to resume a run: --workdir RUN --resume",
    ),
    "wandb_log": Peer("nanoGPT", "log.wandb", template="log.wandb=true"),
    "wandb_project": Peer(
        "nanoGPT", "log.wandb_project", "mine", template="log.wandb=true log.wandb_project={}"
    ),
    "wandb_run_name": Peer(
        "nanoGPT", "--workdir", "runs/mine", remark="a run is named after its directory"
    ),
    "dataset": Peer(
        "nanoGPT",
        "data.name",
        "shakespeare",
        remark="your own file: data.path=...",
        values={"shakespeare_char": "shakespeare", "names": "names"},
    ),
    "gradient_accumulation_steps": Peer("nanoGPT", "optim.accumulate_steps", "4"),
    "block_size": Peer(_GPTS, "model.context_length", "256"),
    "n_embd": Peer(_GPTS, "model.d_model", "384", remark="model.d_embed in the other families"),
    "max_iters": Peer("nanoGPT, minGPT", "train.steps", "5000"),
    "decay_lr": Peer(
        "nanoGPT",
        "optim.schedule",
        "cosine",
        values={"True": "cosine", "true": "cosine", "False": "constant", "false": "constant"},
    ),
    "warmup_iters": Peer("nanoGPT", "optim.warmup_steps", "100"),
    "lr_decay_iters": Peer(
        "nanoGPT",
        "optim.decay_steps",
        "5000",
        template="optim.schedule=cosine optim.decay_steps={}",
        remark="default: train.steps",
    ),
    "min_lr": Peer(
        "nanoGPT",
        "optim.min_learning_rate",
        "1e-4",
        template="optim.schedule=cosine optim.min_learning_rate={}",
    ),
    "backend": Peer("nanoGPT", remark="every device of the machine is used"),
    "device": Peer(_GPTS, "runtime.device", "auto", values=_DEVICES),
    "dtype": Peer(
        "nanoGPT",
        "runtime.dtype",
        "bfloat16",
        remark="float32 or bfloat16",
        values={"float16": "bfloat16", "bfloat16": "bfloat16", "float32": "float32"},
    ),
    "compile": Peer("nanoGPT", remark="every step is compiled"),
    "batch_size": Peer("nanoGPT, minGPT, char-rnn, makemore", "train.batch_size", "64"),
    # minGPT.
    "num_workers": Peer("minGPT, makemore", remark="batches are drawn on the device"),
    "betas": Peer(
        "minGPT", "optim.beta1 and optim.beta2", template="optim.beta1=0.9 optim.beta2=0.95"
    ),
    "grad_norm_clip": Peer("minGPT", "optim.grad_clip", "1.0"),
    "model_type": Peer(
        "minGPT",
        "a set of sizes",
        "model.n_layer=6 model.n_head=6 model.d_model=192",
        template="model.kind=transformer {}",
        remark="the sizes of gpt-mini",
        values={"gpt-mini": "model.n_layer=6 model.n_head=6 model.d_model=192"},
    ),
    "vocab_size": Peer("minGPT, makemore", remark="the text determines it"),
    "embd_pdrop": Peer("minGPT", "model.dropout", "0.1", remark=_ONE_DROPOUT),
    "resid_pdrop": Peer("minGPT", "model.dropout", "0.1", remark=_ONE_DROPOUT),
    "attn_pdrop": Peer("minGPT", "model.dropout", "0.1", remark=_ONE_DROPOUT),
    # char-rnn.
    "data_dir": Peer(
        "char-rnn", "data.path", "data/tinyshakespeare", template="data.path={}/input.txt"
    ),
    "rnn_size": Peer(
        "char-rnn", "model.d_hidden", "128", template="model.kind=lstm model.d_hidden={}"
    ),
    "num_layers": Peer(
        "char-rnn", "model.n_layer", "2", template="model.kind=lstm model.n_layer={}"
    ),
    "model": Peer(
        "char-rnn", "model.kind", "lstm", values={"lstm": "lstm", "gru": "gru", "rnn": "rnn"}
    ),
    "learning_rate_decay": Peer(
        "char-rnn",
        "optim.factor",
        "0.97",
        template="optim.schedule=exponential optim.staircase=true optim.decay_steps=446 "
        "optim.factor={}",
        remark="decay_steps: the steps of an epoch",
    ),
    "learning_rate_decay_after": Peer(
        "char-rnn",
        "optim.boundaries",
        template="optim.schedule=exponential optim.staircase=true optim.boundaries=[4460]",
        remark="steps here, epochs there",
    ),
    "decay_rate": Peer(
        "char-rnn", "optim.rms_decay", "0.95", template="optim.kind=rmsprop optim.rms_decay={}"
    ),
    "seq_length": Peer("char-rnn", "model.context_length", "50"),
    "max_epochs": Peer("char-rnn", "train.epochs", "50", remark=_EPOCH),
    "train_frac": Peer(
        "char-rnn",
        "data.val_fraction",
        template="data.val_fraction=0.05",
        remark="the fraction held out",
    ),
    "val_frac": Peer("char-rnn", "data.val_fraction", "0.05"),
    "print_every": Peer("char-rnn", "train.log_every", "10"),
    "eval_val_every": Peer("char-rnn", "eval.every", "1000"),
    "checkpoint_dir": Peer("char-rnn", "--workdir", "runs/mine"),
    "savefile": Peer("char-rnn", "--workdir", "runs/mine"),
    "accurate_gpu_timing": Peer("char-rnn", remark="speed measurements wait for the device"),
    "gpuid": Peer(
        "char-rnn",
        "runtime.device",
        "gpu",
        remark="to select one: CUDA_VISIBLE_DEVICES",
        values={"-1": "cpu", "0": "gpu"},
    ),
    "opencl": Peer("char-rnn", remark="devices are runtime.device=cpu and runtime.device=gpu"),
    # makemore.
    "input_file": Peer(
        "makemore", "data.path", "names.txt", template="data.path={} data.layout=lines"
    ),
    "work_dir": Peer("makemore, minGPT", "--workdir", "runs/mine"),
    "sample_only": Peer("makemore", "a command", template="python -m charjax.sample RUN"),
    "max_steps": Peer("makemore", "train.steps", "5000"),
    "top_k": Peer(
        "makemore",
        "a flag of charjax.sample",
        "10",
        template="python -m charjax.sample RUN --top-k {}",
    ),
    "type": Peer(
        "makemore",
        "model.kind",
        "transformer",
        values={
            "transformer": "transformer",
            "bigram": "bigram",
            "mlp": "mlp",
            "rnn": "rnn",
            "gru": "gru",
            "bow": "bow",
        },
    ),
    "n_embd2": Peer(
        "makemore",
        "model.d_hidden",
        "64",
        template="model.kind=gru model.d_hidden={}",
        remark="for an mlp model.hidden=[64]",
    ),
    # transformers, as in its configurations of Llama and Gemma 2.
    "num_key_value_heads": Peer("transformers", "model.n_kv_head", "2"),
    "num_attention_heads": Peer("transformers", "model.n_head", "8"),
    "num_hidden_layers": Peer("transformers", "model.n_layer", "6"),
    "intermediate_size": Peer("transformers", "model.d_ff", "1024"),
    "rope_theta": Peer(
        "transformers",
        "model.rotary_base",
        "500000.0",
        template="model.positions=rotary model.rotary_base={}",
    ),
    "rms_norm_eps": Peer("transformers", "model.norm_epsilon", "1e-6"),
    "sliding_window": Peer("transformers", "model.window", "64"),
    "attn_logit_softcapping": Peer("transformers", "model.attn_softcap", "50.0"),
    "final_logit_softcapping": Peer("transformers", "model.final_softcap", "30.0"),
    # Common words.
    "lr": Peer("", "optim.learning_rate", "1e-3"),
    "epochs": Peer("", "train.epochs", "10", remark=_EPOCH),
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
