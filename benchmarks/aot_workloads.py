"""The programs that `make aot` compiles: tiny models of every family, the configs, GPT-2 124M."""

import dataclasses
from pathlib import Path
from typing import Any

from charjax.config import Config, load_config, shipped_configs
from charjax.training.session import Session, open_session

_SENTENCE = "the quick brown fox jumps over the lazy dog\n"
_PAIRS = ("data.layout=pairs", "data.split=shuffled_lines")
_TINY = ("train.batch_size=8", "optim.schedule=cosine", "model.context_length=16")
_RECURRENT = ("model.n_layer=2", "model.d_embed=16", "model.d_hidden=32", "model.dropout=0.1")
# GPT-2's vocabulary, rounded up as in nanoGPT, of characters in the order of Unicode.
_SYMBOLS = 50_304
_FIRST_SYMBOL = 0x4E00
# Large ones last, whatever the device: they take most of the time.
_LARGE = ("names-transformer-200k", "shakespeare-beyond", "nanogpt-char", "warpeace-gru-beyond")


@dataclasses.dataclass(frozen=True)
class Workload:
    """A training run whose program is compiled.

    Attributes:
      name: of its row.
      config: a shipped configuration, or None for the default of the family.
      words: settings, as on the command line of `charjax.train`.
      symbols: of a text that is made for it; 0 for the text that the config names.
    """

    name: str
    config: str | None
    words: tuple[str, ...] = ()
    symbols: int = 0

    def open(self, folder: Path, devices: int) -> Session:
        """Return its session with the batch rounded up to a multiple of the devices.

        Args:
          folder: where its text is written if one is made.
          devices: of the mesh.
        """
        words = list(self.words)
        if self.symbols:
            text = folder / "text.txt"
            text.write_text(_text(self.symbols), encoding="utf-8")
            words.append(f"data.path={text}")
        config = self._load(words)
        batch = -(-config.train.batch_size // devices) * devices
        words.append(f"train.batch_size={batch}")
        if config.data.sampling == "contiguous":
            words.append(f"data.rows={batch}")
        return open_session(self._load(words))

    def _load(self, words: list[str]) -> Config:
        return load_config(self.config, words)


def workloads() -> dict[str, Workload]:
    """Return the workloads by name, in the order in which they are compiled."""
    # GPT-2's shape is compiled once, with its own vocabulary.
    left_out = ("-kneser-ney", "-bytes")
    configs = [name for name in shipped_configs() if not name.endswith(left_out)]
    configs.sort(key=lambda name: _LARGE.index(name) if name in _LARGE else -1)
    listed = [
        *_families(),
        *(Workload(name, name) for name in configs),
        Workload("gpt2-124m", None, _GPT2, _SYMBOLS),
    ]
    return {each.name: each for each in listed}


_GPT2 = (
    "model.kind=transformer",
    "model.n_layer=12",
    "model.n_head=12",
    "model.d_model=768",
    "model.context_length=1024",
    "model.bias=true",
    "runtime.dtype=bfloat16",
    "train.batch_size=8",
)


def _families() -> list[Workload]:
    """Return a tiny model of every family that trains, and the variants that compile otherwise."""
    tiny: dict[str, tuple[str, ...]] = {
        "bigram": (),
        "bow": ("model.d_embed=16",),
        "mlp": ("model.d_embed=8", "model.hidden=[32]", *_PAIRS),
        "mlp-batch_norm": ("model.d_embed=8", "model.hidden=[32]", "model.norm=batch", *_PAIRS),
        "wavenet": ("model.d_embed=8", "model.d_hidden=16", *_PAIRS),
        "wavenet-batch_norm": ("model.d_embed=8", "model.d_hidden=16", "model.norm=batch", *_PAIRS),
        "rnn": _RECURRENT,
        "gru": _RECURRENT,
        "lstm": _RECURRENT,
        "mingru": _RECURRENT,
        "minlstm": _RECURRENT,
        "transformer": ("model.n_layer=2", "model.n_head=2", "model.d_model=32"),
        "transformer-dropout": (
            "model.n_layer=2",
            "model.n_head=2",
            "model.d_model=32",
            "model.dropout=0.1",
            "model.bias=true",
            "model.positions=rotary",
        ),
    }
    return [
        Workload(
            f"tiny-{name}",
            None,
            (f"model.kind={name.partition('-')[0]}", *_TINY, *words),
            len(set(_SENTENCE)),
        )
        for name, words in tiny.items()
    ]


def _text(symbols: int) -> str:
    """Return a text of so many symbols, each of them several times."""
    if symbols == len(set(_SENTENCE)):
        return _SENTENCE * 100
    line = "".join(map(chr, _printable(symbols - 1))) + "\n"
    return line * 4


def _printable(count: int) -> list[int]:
    """Return code points that stand for characters, from the ideographs on."""
    found: list[int] = []
    point = _FIRST_SYMBOL
    while len(found) < count:
        # Surrogates and private ones are no characters.
        if not 0xD800 <= point < 0xF900:
            found.append(point)
        point += 1
    return found


def words_of(workload: Workload) -> dict[str, Any]:
    """Return the workload as its row holds it."""
    return {"workload": workload.name, "config": workload.config, "words": list(workload.words)}
