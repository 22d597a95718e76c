"""The text and the alphabet of an imported model."""

from pathlib import Path
from typing import NamedTuple

from charjax.config import Config
from charjax.conversion.alphabets import Alphabet, read_alphabet
from charjax.conversion.files import Header
from charjax.conversion.resolve_config import Resolved
from charjax.data.datasets import NO_TEXT, Dataset, load_dataset
from charjax.data.subwords import read_tokenizer
from charjax.data.tokenizers import ByteTokenizer, Tokenizer
from charjax.errors import UserError
from charjax.training.session import with_context


class ImportedText(NamedTuple):
    """Alphabet and text of an imported model.

    Attributes:
      config: the configuration, with its context length.
      tokenizer: the alphabet.
      digest: SHA-256 of the text, or NO_TEXT.
      order: a description of what each symbol stands for.
    """

    config: Config
    tokenizer: Tokenizer
    digest: str
    order: str = ""


def find_text(
    resolved: Resolved, header: Header | None, alphabet: Path | None, vocab_size: int
) -> ImportedText:
    """Find what a model's symbols stand for, and read the text that the user named, if any.

    Args:
      resolved: the configuration.
      header: the file's header, or None.
      alphabet: a file with the alphabet, or None.
      vocab_size: V.

    Raises:
      UserError: nothing gives the alphabet, or one with another number of symbols.
    """
    config = resolved.config
    if header is not None:
        if not resolved.gives_data:
            _check_size("the header", header.tokenizer, vocab_size, config)
            return ImportedText(config, header.tokenizer, header.dataset_digest)
        return _with_text(config, Alphabet(header.tokenizer, ""), vocab_size)
    boundary = config.data.documents == "lines"
    found: Alphabet | None = None
    if alphabet is not None:
        found = read_alphabet(alphabet, vocab_size, boundary=boundary)
        _check_unit(config, found.tokenizer)
    elif config.data.subwords and config.data.tokenizer != "bpe" and not resolved.names_text:
        found = Alphabet(
            read_tokenizer(config.data.tokenizer, boundary=boundary), _numbered(boundary)
        )
    elif config.data.tokenizer == "byte" and not resolved.names_text:
        found = Alphabet(ByteTokenizer(boundary), _order(boundary, is_bytes=True))
    if resolved.names_text:
        return _with_text(config, found, vocab_size)
    if found is None:
        raise UserError(
            f"alphabet: the file does not say what its {vocab_size:,} symbols stand for; give "
            "--alphabet FILE (nanoGPT's meta.pkl or meta.json, the symbols in their order, or the "
            "text that the model was trained on), that text itself (data.path=... or "
            "data.name=...), or data.tokenizer=FILE.json for subword tokens"
        )
    _check_size(f"data.tokenizer={config.data.tokenizer}", found.tokenizer, vocab_size, config)
    if config.model.context_length is None:
        # No line is there to take it from.
        model = config.model.model_copy(update={"context_length": config.model.default_context})
        config = config.model_copy(update={"model": model})
    return ImportedText(config, found.tokenizer, NO_TEXT, found.order)


def _with_text(config: Config, found: Alphabet | None, vocab_size: int) -> ImportedText:
    """Read the text that the configuration names, in the alphabet found or its own."""
    dataset = load_dataset(config.data, found and found.tokenizer)
    source = f"the text ({dataset.name})"
    _check_size(source, dataset.tokenizer, vocab_size, config, dataset)
    boundary = dataset.tokenizer.boundary
    if config.data.subwords:
        order = _numbered(boundary)
    else:
        order = _order(boundary, is_bytes=isinstance(dataset.tokenizer, ByteTokenizer))
    return ImportedText(
        with_context(config, dataset),
        dataset.tokenizer,
        dataset.digest,
        order if found is None else found.order,
    )


def _check_size(
    source: str,
    tokenizer: Tokenizer,
    vocab_size: int,
    config: Config,
    dataset: Dataset | None = None,
) -> None:
    if tokenizer.vocab_size == vocab_size:
        return
    hint = ""
    if dataset is not None and config.data.path is not None and config.data.tokenizer == "char":
        hint = _other_reading(config, vocab_size)
    raise UserError(
        f"data: {source} has {tokenizer.vocab_size} symbols, but the tensors have a "
        f"vocabulary of {vocab_size}; "
        + (
            hint
            or "give the text that the model was trained on: data.name=... or data.path=... (of "
            "subword tokens, also data.tokenizer=FILE.json)"
        )
    )


def _other_reading(config: Config, vocab_size: int) -> str:
    """Return the setting by which the text has V symbols, as a remedy; empty if none does."""
    for update, remedy in (
        (
            {"byte_order_mark": "keep"},
            "with the byte order mark at its start, which nanoGPT keeps, it has as many: add "
            "data.byte_order_mark=keep",
        ),
        (
            {"strip_lines": True},
            "without the blanks at the ends of its lines, which makemore strips, it has as many: "
            "add data.strip_lines=true",
        ),
    ):
        other = load_dataset(config.data.model_copy(update=update))
        if other.tokenizer.vocab_size == vocab_size:
            return remedy
    return ""


def _check_unit(config: Config, tokenizer: Tokenizer) -> None:
    """Raise a UserError unless the alphabet is of the unit that the configuration has."""
    unit = "byte" if isinstance(tokenizer, ByteTokenizer) else "char"
    if config.data.tokenizer != unit:
        raise UserError(
            f"data.tokenizer: {config.data.tokenizer} given, but the alphabet is of {unit}s; give "
            f"data.tokenizer={unit}"
        )


def _numbered(boundary: bool) -> str:
    return "symbols are numbered as in tokenizer.json" + ", newline and 0 exchanged" * boundary


def _order(boundary: bool, *, is_bytes: bool) -> str:
    """Describe which symbol each token stands for."""
    if is_bytes:
        return "symbols are bytes" + (", newline and 0 exchanged" * boundary)
    first = "symbol 0 is the boundary of lines, the others" if boundary else "symbols"
    return f"{first} are the characters of the text in the order of their code points"
