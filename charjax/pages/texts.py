"""The parts of the page that need a run's text or model: counts, and the held-out passage."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

from charjax import backend
from charjax.config import DataConfig
from charjax.data.corpora import stand_in
from charjax.data.datasets import Dataset, load_dataset
from charjax.data.tokenizers import CharTokenizer, Tokenizer
from charjax.errors import UserError
from charjax.pages.baselines import Counted, count, keep_counted, read_counted, text_key
from charjax.pages.facts import Facts
from charjax.pages.passage import Character, passage
from charjax.run.load import load_run


@dataclasses.dataclass
class Studied:
    """Results on a run's text.

    Attributes:
      key: equal for runs whose losses can be compared.
      symbols: number of different characters; 0 where it is not known.
      counted: losses of counts; None where the text is not at hand.
      passage: characters of the validation split.
      step: the checkpoint's that predicted them.
      where: the passage's place in the text.
      missing: what could not be found, and why.
    """

    key: str = ""
    symbols: int = 0
    counted: Counted | None = None
    passage: list[Character] = dataclasses.field(default_factory=list)
    step: int = 0
    where: str = ""
    missing: list[str] = dataclasses.field(default_factory=list)

    def lines(self) -> dict[str, float]:
        """Return the horizontal lines of the loss's picture: name and nats per character."""
        lines = {"ln V": math.log(self.symbols)} if self.symbols > 1 else {}
        if self.counted is not None:
            lines["unigram"] = self.counted.unigram
            lines[f"{self.counted.order}-gram Kneser-Ney"] = self.counted.kneser_ney
        return lines


def study(facts: list[Facts], note: Callable[[str], None]) -> list[Studied]:
    """Measure what needs a text or a model, each text once.

    Args:
      facts: the runs.
      note: called with each line about what takes time.
    """
    shelf = _Shelf(note)
    return [_study(run, shelf) for run in facts]


class _Shelf:
    """The texts that are read and the counts that are made for one page."""

    def __init__(self, note: Callable[[str], None]):
        self.note = note
        self._texts: dict[str, Dataset | str] = {}
        self.counted: dict[str, Counted | None] = {}

    def text(self, data: DataConfig, tokenizer: Tokenizer | None, digest: str | None) -> Any:
        """Return a run's text, or the reason why it is not at hand; nothing is downloaded."""
        key = f"{data.model_dump_json()} {tokenizer and tokenizer.digest()} {digest}"
        if key not in self._texts:
            self._texts[key] = _read(data, tokenizer, digest)
        return self._texts[key]


def _read(data: DataConfig, tokenizer: Tokenizer | None, digest: str | None) -> Dataset | str:
    try:
        if stand_in(data) is not None:
            return f"{data.name} is not on this machine"
        return load_dataset(data, tokenizer, digest)
    except (UserError, OSError) as error:
        return str(error)


def _study(facts: Facts, shelf: _Shelf) -> Studied:
    notes = facts.saved.notes if facts.saved else None
    tokenizer, digest = (notes.tokenizer, notes.dataset_digest) if notes else (None, None)
    data = facts.config.data
    text = shelf.text(data, tokenizer, digest)
    at_hand = isinstance(text, Dataset)
    if at_hand:
        tokenizer, digest = text.tokenizer, text.digest
    if tokenizer is None or digest is None:
        return Studied(
            key=str(facts.directory),
            missing=[f"ln V, counts and a passage: not saved yet, and the text: {text}"],
        )
    characters, alphabet = text, tokenizer
    if not isinstance(tokenizer, CharTokenizer):
        # Counts are of characters: all losses of the text are compared per character.
        characters = shelf.text(_in_characters(data), None, digest)
        alphabet = characters.tokenizer if isinstance(characters, Dataset) else tokenizer
    size = alphabet.vocab_size if isinstance(alphabet, CharTokenizer) else 0
    found = Studied(text_key(data, digest, alphabet.digest()), size)
    counted_text = characters if isinstance(characters, Dataset) else None
    found.counted = _count(facts, found.key, counted_text, shelf)
    if not at_hand:
        lost = "a passage" if found.counted else "the losses of counts and a passage"
        found.missing.append(f"{lost}: the text is not at hand: {text}")
    elif "val" not in text.splits:
        found.missing.append("the losses of counts and a passage: no text is held out")
    elif facts.saved is None:
        found.missing.append("a passage: no checkpoint is saved")
    else:
        _predict(facts, text, found, shelf.note)
    return found


def _in_characters(data: DataConfig) -> DataConfig:
    """Return the settings of the same text and split, in characters."""
    return data.model_copy(update={"tokenizer": "char"})


def _count(facts: Facts, key: str, text: Dataset | None, shelf: _Shelf) -> Counted | None:
    """Return the losses of counts: of this page's, an earlier page's, or measured now."""
    if key not in shelf.counted:
        earlier = read_counted(facts.directory, key)
        if earlier is None and text is None:
            return None
        if earlier is None and text is not None and "val" in text.splits:
            shelf.note(f"counting {text.name}")
            _start()
            earlier = count(text)
        shelf.counted[key] = earlier
    counted = shelf.counted[key]
    if counted is not None and read_counted(facts.directory, key) is None:
        keep_counted(facts.directory, key, counted)
    return counted


def _predict(facts: Facts, text: Dataset, found: Studied, note: Callable[[str], None]) -> None:
    assert facts.saved is not None
    note(f"reading {facts.name}")
    _start()
    try:
        run = load_run(facts.saved)
        found.passage = passage(run.model, run.variables, run.tokenizer, text.splits["val"])
    except (UserError, OSError) as error:
        # A run that is training may have replaced the checkpoint meanwhile.
        found.missing.append(f"a passage: {error}")
        return
    found.step = run.step
    found.where = f"The beginning of the validation split of {text.name}"


@functools.cache
def _start() -> None:
    """Start JAX on the CPU, unless it runs already: an accelerator may be training a run."""
    from charjax.config import RuntimeConfig

    backend.start_backend(RuntimeConfig(device="cpu"))
