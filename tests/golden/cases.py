"""The cases whose results are frozen in batches.json and training.json, and how they are computed.

Every case is a short run on the text below, made of settings as `python -m charjax.train` reads
them. Only the settings that a case names and the defaults of charjax enter.
"""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from charjax.config import load_config
from charjax.data.batches import BatchSource
from charjax.data.datasets import load_dataset
from charjax.random_streams import purpose_key
from charjax.training.program import compile_chunks
from charjax.training.session import (
    Session,
    first_state,
    make_session,
)
from charjax.training.state import fitted_state, variables_of
from charjax.training.validation import score_split

FOLDER = Path(__file__).parent
STEPS = 20
DEVICES = {"one device": 1, "two devices": 2}
# float32's rounding, as far as it can come apart: processors multiply and add in one step or two
# and sum in vectors of other widths, two cores sum a batch in halves, and versions of XLA compute
# exp, log and tanh by other polynomials. Measured: 3e-7 between jax 0.10 and 0.12, with LLVM's
# optimisation and without, with vectors of 4 and of 16 numbers, for all figures. The first step's
# are a few operations away from the parameters; over 20 steps differences are passed on, and Adam
# divides by gradients that may be small.
TOLERANCES = {
    "first_loss": 3e-6,
    "first_grad_norm": 1e-5,
    f"loss_after_{STEPS}_steps": 3e-5,
    "train_loss": 3e-6,
    "val_loss": 3e-6,
}
_COMMON = ["train.batch_size=4", "train.seed=1337", f"train.steps={2 * STEPS}"]
_WORDS = "the a cat dog owl sat ran flew on under over mat hill moon, and then again; why? Because"

# Layout and sampling -> settings. A source's seed, its windows and their order are frozen here.
BATCHES = {
    "stream, random": ["data.sampling=random"],
    "stream, epoch": ["data.sampling=epoch"],
    "stream, contiguous": ["data.sampling=contiguous"],
    "lines, random": ["data.layout=lines", "data.sampling=random"],
    "lines, epoch": ["data.layout=lines", "data.sampling=epoch"],
    "lines in windows, epoch": ["data.layout=lines", "data.split=tail", "data.sampling=epoch"],
    "pairs of one text, random": ["data.layout=pairs", "data.sampling=random"],
    "pairs of one text, epoch": ["data.layout=pairs", "data.sampling=epoch"],
    "pairs of lines, random": ["data.layout=pairs", "data.split=shuffled_lines"],
    "pairs of lines, epoch": [
        "data.layout=pairs",
        "data.split=shuffled_lines",
        "data.sampling=epoch",
    ],
    "interleaved, random": ["data.split=interleaved", "data.rows=4", "data.chunk=10"],
    "interleaved, epoch": [
        "data.split=interleaved",
        "data.rows=4",
        "data.chunk=10",
        "data.sampling=epoch",
    ],
    "interleaved, contiguous": [
        "data.split=interleaved",
        "data.rows=4",
        "data.chunk=10",
        "data.sampling=contiguous",
    ],
}
_MLP = ["model.kind=mlp", "data.layout=pairs", "model.context_length=4"]
_MLP += ["model.d_embed=4", "model.hidden=[16]", "train.batch_size=16"]
_WAVENET = ["model.kind=wavenet", "data.layout=pairs", "model.context_length=4"]
_WAVENET += ["model.d_embed=4", "model.d_hidden=8", "train.batch_size=16"]
_CELL = ["model.context_length=8", "model.d_embed=8", "model.d_hidden=12"]
_GPT = ["model.kind=transformer", "model.context_length=8", "model.n_layer=1"]
_GPT += ["model.n_head=2", "model.d_model=16"]
_ADAM = ["optim.learning_rate=0.01"]
_NANOGPT = [*_ADAM, "optim.weight_decay=0.1", "optim.beta2=0.99", "optim.schedule=cosine"]
_NANOGPT += ["optim.warmup_steps=4", "optim.decay_steps=18", "optim.min_learning_rate=1e-3"]
_ACCUMULATE, _CONTIGUOUS = "optim.accumulate_steps=2", "data.sampling=contiguous"

# Models and their training -> settings.
TRAINING = {
    "bigram": ["model.kind=bigram", *_ADAM],
    "bow, sgd with momentum": [
        "model.kind=bow",
        "model.context_length=8",
        "model.d_embed=8",
        "optim.kind=sgd",
        "optim.momentum=0.9",
        "optim.learning_rate=0.1",
    ],
    "mlp, l2": [*_MLP, *_ADAM, "optim.l2=0.01"],
    "mlp, batch norm, accumulation": [*_MLP, "model.norm=batch", *_ADAM, _ACCUMULATE],
    "wavenet": [*_WAVENET, *_ADAM],
    "wavenet, batch norm": [*_WAVENET, "model.norm=batch", *_ADAM],
    "rnn, contiguous, rmsprop": [
        "model.kind=rnn",
        *_CELL,
        _CONTIGUOUS,
        "optim.kind=rmsprop",
        "optim.learning_rate=2e-3",
    ],
    "rnn": ["model.kind=rnn", *_CELL, *_ADAM],
    "gru, contiguous, dropout": [
        "model.kind=gru",
        *_CELL,
        "model.dropout=0.2",
        _CONTIGUOUS,
        *_ADAM,
    ],
    "gru": ["model.kind=gru", *_CELL, *_ADAM],
    "lstm, contiguous, accumulation": ["model.kind=lstm", *_CELL, _CONTIGUOUS, _ACCUMULATE, *_ADAM],
    "lstm, lines": ["model.kind=lstm", *_CELL, "data.layout=lines", *_ADAM],
    "transformer": [*_GPT, *_NANOGPT],
    "transformer, accumulation": [*_GPT, *_NANOGPT, _ACCUMULATE],
    "transformer, dropout": [*_GPT, *_NANOGPT, "model.dropout=0.2"],
    "transformer, dropout, accumulation": [*_GPT, *_NANOGPT, "model.dropout=0.2", _ACCUMULATE],
    "transformer, rotary, biases, untied": [
        *_GPT,
        *_NANOGPT,
        "model.positions=rotary",
        "model.bias=true",
        "model.tie_embeddings=false",
    ],
}
# Models that count -> settings.
FITTED = {
    "ngram, additive": ["model.kind=ngram", "model.order=3", "model.smoothing=additive"],
    "ngram, kneser_ney": ["model.kind=ngram", "model.order=4", "model.smoothing=kneser_ney"],
    "ngram, modified_kneser_ney": [
        "model.kind=ngram",
        "model.order=4",
        "model.smoothing=modified_kneser_ney",
    ],
}


def write_text(folder: Path) -> Path:
    """Write the text of all cases, 120 short lines of words, and return its path."""
    words, state, lines = _WORDS.split(), 1, []
    for _ in range(120):
        line = []
        for _ in range(2 + state % 5):
            # The next word depends on the one before it, so that there is something to learn.
            state = (state * 1103515245 + 12345) % 2**31
            line.append(words[(len(line) * 5 + state // 65536 % 4) % len(words)])
        lines.append(" ".join(line))
    path = folder / "text.txt"
    path.write_text("\n".join(lines) + "\n", encoding="ascii", newline="\n")
    return path


def open_case(settings: list[str], text: Path, devices: int = 1) -> Session:
    """Open the session of a case on some of this process's devices."""
    # Counts read no setting of training.
    common = [] if "model.kind=ngram" in settings else _COMMON
    config = load_config(None, [*common, f"data.path={text}", *settings])
    return make_session(config, load_dataset(config.data), jax.local_devices()[:devices])


def first_batches(settings: list[str], text: Path) -> list[dict[str, Any]]:
    """Return the batches of the first two steps, for a model that reads four characters at once."""
    session = open_case(["model.kind=mlp", "model.context_length=4", *settings], text)
    assert session.source is not None
    return _batches(session.source, (0, 1))


def validation_batches(text: Path) -> list[dict[str, Any]]:
    """Return the first two batches of eval.protocol=random, drawn from the same seed."""
    settings = ["model.kind=bigram", "model.context_length=4", "eval.protocol=random"]
    session = open_case([*settings, "eval.batch_size=4"], text)
    assert session.val_source is not None
    return _batches(session.val_source, (0, 1))


def _batches(source: BatchSource, steps: tuple[int, ...]) -> list[dict[str, Any]]:
    draw = jax.jit(source.draw)
    batches = [draw(jnp.int32(step)) for step in steps]
    return [
        {
            "inputs": batch.inputs.tolist(),
            "targets": batch.targets.tolist(),
            "weights": batch.weights.astype(jnp.int32).tolist(),
            "restart": bool(batch.restart),
        }
        for batch in batches
    ]


def train(settings: list[str], text: Path, devices: int = 1) -> dict[str, float]:
    """Compute losses (nats per target) and the gradient norm of a short run, in float32."""
    session = open_case(settings, text, devices)
    assert session.source is not None
    assert session.mesh.size == devices
    key = purpose_key(session.config.train.seed, "dropout")
    state = first_state(session)
    program = compile_chunks(
        session.model, session.config, session.source, state, session.mesh, key
    )
    _, rows, _ = program.run(state, STEPS + 1)
    loss, grad_norm = np.asarray(rows)[: STEPS + 1, :2].T
    return {
        "first_loss": float(loss[0]),
        "first_grad_norm": float(grad_norm[0]),
        f"loss_after_{STEPS}_steps": float(loss[STEPS]),
    }


def fit(settings: list[str], text: Path) -> dict[str, float]:
    """Compute the exact losses (nats per target) of a fitted model."""
    session = open_case(settings, text)
    splits = session.dataset.splits
    variables = variables_of(fitted_state(session.model.fit(splits["train"])["params"]))
    score = {
        name: score_split(session, split, variables, lambda: None).loss
        for name, split in splits.items()
    }
    return {f"{name}_loss": loss for name, loss in score.items()}


def read(name: str) -> Any:
    """Read the frozen values of a file of this folder."""
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def write(name: str, values: Any) -> None:
    """Write a file of this folder, one row of numbers per line."""
    text = json.dumps(values, indent=1, ensure_ascii=False)
    flat = re.sub(r"\[[^\[\]{}]*\]", lambda row: " ".join(row.group().split()), text)
    (FOLDER / name).write_text(flat + "\n", encoding="utf-8")
