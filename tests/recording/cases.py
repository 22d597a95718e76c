"""The commands that are recorded, by case: every family, layout, scheme and way to train."""

from pathlib import Path
from typing import NamedTuple

_WORDS = "the a cat dog owl sat ran flew on under over mat hill moon, and then again; why? Because"


class Case(NamedTuple):
    """Commands that are run one after the other in one folder.

    Attributes:
      commands: words after `python -m charjax.`; `without-header A B` copies a state dict.
      devices: as many as a CPU shall be; 0: as charjax chooses.
      status: the exit status of each.
      long: seconds, about, that a case takes beyond one for each command.
    """

    commands: list[list[str]]
    devices: int = 0
    status: int = 0
    long: int = 0

    @property
    def cost(self) -> int:
        """About how long the case takes, beside others."""
        return len(self.commands) + self.long


def write_texts(folder: Path) -> None:
    """Write text.txt, 120 short lines of words, and other.txt, with characters it does not have."""
    words, state, lines = _WORDS.split(), 1, []
    for _ in range(120):
        line = []
        for _ in range(2 + state % 5):
            # The next word depends on the one before it, so that there is something to learn.
            state = (state * 1103515245 + 12345) % 2**31
            line.append(words[(len(line) * 5 + state // 65536 % 4) % len(words)])
        lines.append(" ".join(line))
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="ascii")
    (folder / "other.txt").write_text("the owl sat: ZZ\nthen the dog ran, why?\n" * 9)


TEXT = "data.path=text.txt"
SHORT = [TEXT, "train.batch_size=4", "train.steps=12", "train.log_every=4", "eval.every=6"]
SHORT += ["checkpoint.every=6"]
FAST = ["optim.learning_rate=0.01"]
LINES, PAIRS, SHUFFLED = "data.layout=lines", "data.layout=pairs", "data.split=shuffled_lines"
EPOCH, CONTIGUOUS = "data.sampling=epoch", "data.sampling=contiguous"
INTERLEAVED = ["data.split=interleaved", "data.rows=4", "data.chunk=10"]
ACCUMULATE, BFLOAT16 = "optim.accumulate_steps=2", "runtime.dtype=bfloat16"
BIGRAM = ["model.kind=bigram"]
BOW = ["model.kind=bow", "model.context_length=8", "model.d_embed=8"]
MLP = ["model.kind=mlp", PAIRS, "model.context_length=4", "model.d_embed=4", "model.hidden=[16,8]"]
NORMED = [*MLP, "model.norm=batch", "train.batch_size=16"]
WAVENET = ["model.kind=wavenet", PAIRS, "model.context_length=4", "model.d_embed=4"]
WAVENET += ["model.d_hidden=8"]
_CELLS = ["model.context_length=8", "model.d_embed=8", "model.d_hidden=12"]
RNN, GRU, LSTM = ([f"model.kind={kind}", *_CELLS] for kind in ("rnn", "gru", "lstm"))
GRU_2 = [*GRU, "model.n_layer=2", "model.dropout=0.2"]
GPT = ["model.kind=transformer", "model.context_length=8", "model.n_layer=2", "model.n_head=2"]
GPT += ["model.d_model=16"]
UNTIED = [*GPT, "model.tie_embeddings=false"]
OTHER = [*UNTIED, "model.positions=rotary", "model.bias=true", "model.activation=gelu_tanh"]
DROPOUT = "model.dropout=0.2"
NANOGPT = [*FAST, "optim.weight_decay=0.1", "optim.beta2=0.99", "optim.schedule=cosine"]
NANOGPT += ["optim.warmup_steps=4", "optim.decay_steps=10", "optim.min_learning_rate=1e-3"]
SGD = ["optim.kind=sgd", "optim.momentum=0.9", "optim.learning_rate=0.1"]
RMSPROP = ["optim.kind=rmsprop", "optim.momentum=0.5", "optim.learning_rate=2e-3"]
NARROW = ["init.base_width=4"]

# Each is one run.
TRAINED = {
    "bigram": BIGRAM,
    "bow": [*BOW, *FAST],
    "mlp": [*MLP, *FAST],
    "mlp, batch norm": NORMED,
    "mlp, blank": ["model.kind=mlp", LINES, "model.blank=true", "model.context_length=4"],
    "wavenet": WAVENET,
    "wavenet, batch norm": [*WAVENET, "model.norm=batch", "train.batch_size=16"],
    "rnn": [*RNN, *FAST],
    "rnn, relu, 2 layers": [*RNN, "model.activation=relu", "model.n_layer=2"],
    "gru": [*GRU, *FAST],
    "gru, 2 layers, dropout": [*GRU_2, *FAST],
    "lstm": [*LSTM, *FAST],
    "transformer": [*GPT, *NANOGPT],
    "transformer, biases, untied": [*UNTIED, "model.bias=true"],
    "transformer, dropout": [*GPT, DROPOUT, *FAST],
    "transformer, rotary, untied, biases, tanh": [*OTHER, *FAST],
    "transformer, lines": [*GPT, LINES, EPOCH, DROPOUT],
    "residual deepnorm": [*GPT, "model.residual=deepnorm", "init.scheme=deepnorm", DROPOUT],
    "residual rezero": [*GPT, "model.residual=rezero", "init.scheme=rezero", DROPOUT],
    "residual layerscale": [*GPT, "model.residual=layerscale", "init.scheme=layerscale", DROPOUT],
    "residual plain, tfixup": [*GPT, "model.residual=plain", "init.scheme=tfixup", DROPOUT],
    "stream, epoch": [*BIGRAM, EPOCH],
    "stream, contiguous": [*LSTM, CONTIGUOUS],
    "lines, random": [*BOW, LINES],
    "lines, epoch": [*GRU, LINES, EPOCH],
    "lines, context from the text": ["model.kind=bow", LINES],
    "pairs of one text, epoch": [*MLP, EPOCH],
    "pairs of lines, epoch": [*WAVENET, SHUFFLED, EPOCH],
    "interleaved, epoch": [*BOW, *INTERLEAVED, EPOCH],
    "interleaved, contiguous": [*RNN, *INTERLEAVED, CONTIGUOUS],
    "bytes, nothing held out": [*BIGRAM, "data.tokenizer=byte", "data.val_fraction=0"],
    "accumulation, batch norm": [*NORMED, ACCUMULATE],
    "accumulation, contiguous": [*GRU, CONTIGUOUS, ACCUMULATE],
    "accumulation, dropout": [*GPT, DROPOUT, ACCUMULATE, *NANOGPT],
    "sgd with momentum": [*BOW, *SGD],
    "sgd, l2": [*MLP, *SGD, "optim.l2=0.01", "optim.grad_clip=0"],
    "rmsprop, contiguous": [*RNN, *RMSPROP, CONTIGUOUS],
    "clipping, step schedule": [
        *LSTM, *FAST, "optim.grad_clip=0.1", "optim.schedule=step", "optim.boundaries=[4,8]"
    ],
    "exponential schedule": [
        *BIGRAM, "optim.schedule=exponential", "optim.factor=0.5", "optim.decay_steps=3",
        "optim.boundaries=[2]", "optim.staircase=true", "optim.warmup_steps=2",
    ],
    "bfloat16, transformer": [*GPT, BFLOAT16, DROPOUT, *FAST],
    "bfloat16, lstm": [*LSTM, BFLOAT16, *FAST],
    "bfloat16, batch norm": [*NORMED, BFLOAT16],
    "random protocol": [*GRU, "eval.protocol=random", "eval.batches=5", "train.sample_every=4"],
    "another seed, no evaluation": [*GPT, "train.seed=7", "eval.every=0", "checkpoint.keep=1"],
    "scheme pytorch": [*GRU, "init.scheme=pytorch"],
    "scheme lsuv": [*MLP, "init.scheme=lsuv"],
    "scheme irnn": [*RNN, "model.activation=relu", "init.scheme=irnn"],
    "scheme chrono": [*LSTM, "init.scheme=chrono"],
    "scheme mup": [*UNTIED, "init.scheme=mup", *NARROW],
    "scheme mup, lstm": [*LSTM, "init.scheme=mup", *NARROW],
    "scheme spectral": [*MLP, "init.scheme=spectral", *NARROW],
    "scheme depth_mup": [
        *UNTIED, "init.scheme=depth_mup", *NARROW, "init.base_depth=1", "optim.weight_decay=0.1"
    ],
    "scheme completep": [*UNTIED, "init.scheme=completep", *NARROW, "init.base_depth=1"],
}  # fmt: skip
# The same on two devices.
PARALLEL = {
    "mlp, batch norm, accumulation": [*NORMED, ACCUMULATE],
    "wavenet, l2": [*WAVENET, "optim.l2=0.01"],
    "gru, contiguous, dropout": [*GRU_2, CONTIGUOUS],
    "lstm, lines": [*LSTM, LINES],
    "transformer, dropout, accumulation": [*GPT, DROPOUT, ACCUMULATE, *NANOGPT],
    "transformer, bfloat16": [*GPT, BFLOAT16],
    "completep": [*UNTIED, "init.scheme=completep", *NARROW, "init.base_depth=1"],
}
NGRAM = ["train", TEXT, "model.kind=ngram", "model.order=4"]
NGRAMS = {
    "additive": ["model.smoothing=additive", "model.alpha=0.5"],
    "kneser_ney": [LINES],
    "modified_kneser_ney": ["model.smoothing=modified_kneser_ney"],
}
RUN = ["--workdir", "run"]
SLIDE = ["sample", "run", "--json", "--past-context", "slide", "--max-new-tokens", "40"]


def train(*words: str) -> list[str]:
    """Return a short run in the directory `run`; of a setting given twice the last counts."""
    return ["train", *SHORT, *words, *RUN]


def samples(*prompts: str) -> list[list[str]]:
    """Return commands that sample in every way; the longest samples go past the context."""
    few = ["sample", "run", "--json", "--max-new-tokens", "40"]
    return [
        [*few, "--greedy"],
        [*few, "--num-samples", "3", "--temperature", "0.7", "--top-k", "5", "--seed", "3"],
        *([*few, "--top-p", "0.8", "--prompt", prompt] for prompt in prompts),
    ]


def evaluations() -> list[list[str]]:
    """Return commands that evaluate a run in every way."""
    score = ["evaluate", "run", "--json"]
    return [
        score,
        [*score, "--split", "train", "--checkpoint", "latest"],
        [*score, "--context", "6", "--stride", "2"],
        [*score, "--text", "other.txt", "--unseen", "skip"],
    ]


def exchange(*words: str) -> list[list[str]]:
    """Export a run's state dict, and import it with and without charjax's header."""
    return [
        ["interop", "export", "run", "1.safetensors"],
        ["interop", "import", "1.safetensors", "--workdir", "again"],
        ["without-header", "1.safetensors", "2.safetensors"],
        ["interop", "import", "2.safetensors", TEXT, *words, "--workdir", "foreign"],
    ]


def resumed(*words: str, layout: tuple[str, ...] = ()) -> list[list[str]]:
    """Resume a run past its end, and start another one from its parameters."""
    few = ["train.steps=5", "checkpoint.every=2", "eval.every=2"]
    source = ["--init-from", "run", "--checkpoint", "10"]
    return [
        train(*words, *few),
        ["train", "train.steps=12", "--resume", *RUN],
        ["train", *SHORT, *layout, *source, "--workdir", "tuned"],
    ]


def sweep(*words: str) -> Case:
    """Run a sweep and its report."""
    out = ["--out", "sweep"]
    return Case(
        [["initlab", "sweep", TEXT, "train.batch_size=8", "--steps", "8", *words, *out]], long=12
    )


def probe(*words: str) -> Case:
    """Probe a network at its first step."""
    few = ["--seeds", "2", "--json", "--out", "probe"]
    return Case([["initlab", "probe", TEXT, "train.batch_size=4", *words, *few]], long=3)


# Further commands on trained runs.
_GELU = ["model.n_head=2", "model.activation=gelu"]
AFTERWARDS: dict[str, list[list[str]]] = {
    "bigram": exchange(),
    "mlp": exchange(),
    "mlp, batch norm": exchange(PAIRS),
    "mlp, blank": [*samples("the"), *evaluations()],
    "rnn": exchange("model.activation=tanh"),
    "gru, 2 layers, dropout": exchange(),
    "lstm": [*exchange(), *samples("the owl sat"), *evaluations()],
    "transformer": [*exchange(*_GELU), *samples("the owl sat"), *evaluations(), SLIDE],
    "transformer, rotary, untied, biases, tanh": [*samples("the owl"), *evaluations()[-1:]],
    "transformer, biases, untied": exchange(*_GELU),
}
_CLASSIC = "zeros,lecun_normal,lecun_uniform,glorot_normal,glorot_uniform,he_normal,he_uniform"
_CLASSIC += ",orthogonal,critical,small_readout,zero_readout,unigram_readout,naive,naive_readout"
_CLASSIC += ",naive_hidden,kaiming_tanh,lecun_readout,mup,spectral"
CASES: dict[str, Case] = {
    **{
        f"train: {name}": Case([train(*words), *AFTERWARDS.get(name, [])])
        for name, words in TRAINED.items()
    },
    # Every step is skipped, and the last loss is not finite.
    "train: not finite": Case(
        [train(*BOW, "optim.kind=sgd", "optim.learning_rate=1e38", "optim.grad_clip=0")], status=1
    ),
    **{f"two devices: {name}": Case([train(*words)], 2) for name, words in PARALLEL.items()},
    **{
        f"ngram: {name}": Case([[*NGRAM, *words, *RUN], *samples("the"), *evaluations()])
        for name, words in NGRAMS.items()
    },
    "resume: mlp, batch norm": Case(resumed(*NORMED, layout=(PAIRS,))),
    "resume: gru, contiguous": Case(resumed(*GRU_2, CONTIGUOUS, *FAST)),
    "resume: transformer on two devices": Case(resumed(*GPT, DROPOUT, ACCUMULATE), 2),
    "resume: mup": Case(resumed(*UNTIED, "init.scheme=mup", *NARROW, EPOCH)),
    "sweep: mlp": sweep(*MLP, "--scheme", _CLASSIC, "--seeds", "2"),
    "sweep: gru": sweep(
        *GRU, "--scheme", "forget_bias,chrono,orthogonal", "--depth", "1,2", "--seeds", "2"
    ),
    "sweep: transformer": sweep(
        *UNTIED, "--scheme", "gpt2,small_init,mup", "--width", "8,16", "--lr", "1e-3,1e-2",
        "--seeds", "2",
    ),
    "probe: bow": probe(*BOW),
    "probe: mlp": probe(*MLP, "init.scheme=critical"),
    "probe: wavenet": probe(*WAVENET),
    "probe: lstm": probe(*LSTM),
    "probe: transformer": probe(*UNTIED, "init.scheme=mup", "--coordinates", "8,16"),
    "report": Case([
        [*sweep(*WAVENET, "--scheme", "lecun_normal,he_normal", "--seeds", "2").commands[0]],
        ["initlab", "report", "sweep", "--out", "page.html"],
    ], long=12),
    "lists": Case([
        ["initlab", "reproduce", "--list"],
        ["reproduce", "--list"],
        ["initlab", "reproduce", "tanh-stack", "--out", "reproduced"],
        *(["train", TEXT, f"model.kind={kind}", "--print-config"]
          for kind in ("ngram", "mlp", "gru", "transformer")),
    ]),
}  # fmt: skip
