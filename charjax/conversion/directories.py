"""Directories of Hugging Face's transformers: config.json, the tensors and a tokenizer."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from charjax.config import TransformerConfig
from charjax.config.values import format_value
from charjax.conversion import huggingface, llama_config
from charjax.conversion.config_json import without_defaults
from charjax.conversion.files import Header, TensorFile, read_file, write_file
from charjax.conversion.huggingface import HF_GPT2
from charjax.conversion.layout import Inferred, Layout
from charjax.conversion.llama import LLAMA, QWEN3
from charjax.conversion.tokenizer_json import to_tokenizer_json
from charjax.data.tokenizers import Tokenizer
from charjax.errors import UserError
from charjax.files import replacing, write_json

_CONFIG, _TENSORS, _TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


@dataclasses.dataclass(frozen=True)
class Format:
    """An architecture of transformers.

    Attributes:
      layout: of its tensors.
      to_config: make its config.json of the section `model`, V and whether symbol 0 is a boundary.
      from_config: return the settings of the section `model` of a config.json, and V.
    """

    layout: Layout
    to_config: Callable[..., dict[str, Any]]
    from_config: Callable[[Mapping[str, Any]], tuple[dict[str, Any], int]]


def _like_llama(layout: Layout, model_type: str) -> Format:
    to_config = functools.partial(llama_config.to_config, model_type=model_type)
    return Format(layout, to_config, llama_config.from_config)


# By `model_type` of config.json.
FORMATS = {
    "gpt2": Format(HF_GPT2, huggingface.to_config, huggingface.from_config),
    "llama": _like_llama(LLAMA, "llama"),
    "qwen3": _like_llama(QWEN3, "qwen3"),
}
_WRITTEN = (_CONFIG, _TENSORS, _TOKENIZER, "tokenizer_config.json", "generation_config.json")


@dataclasses.dataclass(frozen=True)
class Described:
    """Facts about a model that its tensors do not show.

    Attributes:
      settings: of the section `model`, from config.json; empty without one.
      layout: of the tensors, by config.json; None without one.
      vocab_size: V, or None.
      tokenizer: path of its tokenizer.json, or None.
    """

    settings: dict[str, Any]
    vocab_size: int | None = None
    tokenizer: Path | None = None
    layout: Layout | None = None

    def check_layout(self, found: Layout) -> None:
        """Raise a UserError unless tensors of this layout can be converted.

        Args:
          found: the layout of the tensors' names.
        """
        if self.layout is None and found.needs_config:
            raise UserError(
                f"FILE: the tensors are of {found.title}, and do not determine heads, norms and "
                f"positions; give the directory with their {_CONFIG}"
            )
        if self.layout not in (None, found):
            raise UserError(
                f"FILE: the tensors are of {found.title}, but {_CONFIG} is of "
                f"{self.layout.title}; save the model again"
            )

    def refine(self, inferred: Inferred, header: Header | None) -> Inferred:
        """Return the settings inferred from tensors, with these in their place.

        Raises:
          UserError: config.json contradicts the tensors or the header.
        """
        if self.vocab_size not in (None, inferred.vocab_size):
            raise UserError(
                f"config.json: vocab_size is {self.vocab_size:,}, but the tensors have a "
                f"vocabulary of {inferred.vocab_size or 0:,}; save the model again"
            )
        # A rate of dropout is no part of the function.
        settings = {name: value for name, value in self.settings.items() if name != "dropout"}
        described = without_defaults(header.config.get("model", {})) if header is not None else {}
        for name, value in settings.items():
            if described.get(name, value) != value:
                raise UserError(
                    f"config.json: it makes model.{name} {format_value(value)}, but the header of "
                    f"{_TENSORS} has {format_value(described[name])}; export the run again"
                )
        return dataclasses.replace(
            inferred,
            settings=inferred.settings | self.settings,
            overridable=inferred.overridable | {"dropout"},
        )


def read_source(path: Path) -> tuple[TensorFile, Described]:
    """Read a safetensors file, or a directory that transformers saved.

    Raises:
      UserError: no such file or directory, or one that is incomplete or of another architecture.
    """
    if not path.is_dir() or not (path / _CONFIG).is_file():
        return read_file(path), Described({})
    tree = _read_config(path)
    form = _find_format(tree)
    settings, vocab_size = form.from_config(tree)
    if not (path / _TENSORS).is_file():
        raise UserError(f"FILE: {str(path)!r} {_explain_missing(path)}")
    tokenizer = path / _TOKENIZER
    described = Described(
        settings, vocab_size, tokenizer if tokenizer.is_file() else None, form.layout
    )
    return read_file(path / _TENSORS), described


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        tree = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"FILE: {str(path / _CONFIG)!r} cannot be read as JSON ({error}); save the model again "
            "with transformers: model.save_pretrained(DIRECTORY)"
        ) from None
    if not isinstance(tree, dict):
        raise UserError(f"FILE: {str(path / _CONFIG)!r} is no configuration of transformers")
    return tree


def _find_format(tree: Mapping[str, Any]) -> Format:
    model_type = tree.get("model_type")
    if not isinstance(model_type, str) or model_type not in FORMATS:
        raise UserError(
            f"config.json: model_type is {model_type!r}; only {', '.join(map(repr, FORMATS))} can "
            "be imported"
        )
    return FORMATS[model_type]


def _explain_missing(path: Path) -> str:
    if (path / f"{_TENSORS}.index.json").exists():
        return (
            "holds its tensors in several files; save them as one with transformers: "
            "model.save_pretrained(DIRECTORY, max_shard_size='100GB')"
        )
    if (path / "pytorch_model.bin").exists():
        return (
            "holds a pickle (pytorch_model.bin), which charjax never loads, as that can run any "
            "code; if you trust it, save it again with transformers: "
            "model.save_pretrained(DIRECTORY, safe_serialization=True)"
        )
    return f"holds no {_TENSORS}; give a directory that model.save_pretrained(DIRECTORY) wrote"


def check_directory(path: Path, overwrite: bool) -> None:
    """Raise a UserError unless an export can be written to this directory."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"OUT: {str(path)!r} is not a directory; give the path of a new one")
    if not path.parent.is_dir():
        raise UserError(
            f"OUT: {str(path)!r} is in a directory that does not exist; give the path of a new one"
        )
    held = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    others = [name for name in held if name not in _WRITTEN]
    if others:
        raise UserError(
            f"OUT: {str(path)!r} holds other files ({', '.join(others[:3])}); give another path"
        )
    if held and not overwrite:
        raise UserError(
            f"OUT: {str(path)!r} already exists; give another path, or --overwrite to replace it"
        )


def write_directory(
    path: Path,
    content: TensorFile,
    form: Format,
    config: TransformerConfig,
    tokenizer: Tokenizer,
) -> None:
    """Write a directory that transformers loads, whole or not at all.

    Args:
      path: checked by `check_directory`.
      content: the tensors under the names of the format.
      form: the architecture.
      config: the section `model`.
      tokenizer: the run's alphabet.
    """
    tree = form.to_config(config, tokenizer.vocab_size, boundary=tokenizer.boundary)
    # transformers writes a tied readout under one name.
    tied = {"lm_head.weight"} if config.tie_embeddings else set()
    tensors = {name: array for name, array in content.tensors.items() if name not in tied}
    # A path such as "." has no name to write beside.
    path = path.absolute().resolve()
    with replacing(path, shared=True) as staging:
        staging.mkdir()
        write_file(staging / _TENSORS, content._replace(tensors=tensors))
        write_json(staging / _CONFIG, tree)
        write_json(staging / _TOKENIZER, to_tokenizer_json(tokenizer))
        write_json(
            staging / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": config.context_length,
                "clean_up_tokenization_spaces": False,
            },
        )
        tokens = {name: tree[name] for name in ("bos_token_id", "eos_token_id")}
        write_json(staging / "generation_config.json", {"do_sample": True, **tokens})
        if path.exists():
            # Only files that an export writes.
            shutil.rmtree(path)
