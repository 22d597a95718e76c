"""`python -m charjax.interop`: convert parameters to and from PyTorch's state dicts.

python -m charjax.interop import FILE.safetensors [CONFIG.toml] [section.key=value ...]
                                 --workdir DIR
python -m charjax.interop export RUN FILE.safetensors [--checkpoint best|latest|STEP]
                                 [--module NAME] [--overwrite]
"""

import argparse
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from charjax import cli
from charjax.errors import UserError, visible

if TYPE_CHECKING:
    from charjax.config import Config
    from charjax.conversion.files import Header
    from charjax.data.tokenizers import Tokenizer


def main(argv: list[str]) -> int:
    """Run the command and return its exit status."""
    args = interop_arguments(argv)
    report = _import(args) if args.action == "import" else _export(args)
    sys.stdout.write(f"{visible(report)}\n")
    return 0


def _export(args: Namespace) -> str:
    from charjax.conversion.files import (
        Header,
        TensorFile,
        check_target,
        write_file,
        write_header,
    )
    from charjax.conversion.state_dicts import original_of, to_state_dict
    from charjax.run.load import find_run, load_run, require_run

    path, directory = Path(args.file), Path(args.workdir)
    require_run(directory)
    check_target(path, args.overwrite)
    saved = find_run(directory, args.checkpoint)
    saved.start_backend()
    run = load_run(saved, args.weights)
    vocab_size = run.tokenizer.vocab_size
    tensors = to_state_dict(run.config.model, vocab_size, run.variables, args.module)
    config = run.config.model_dump(mode="json")
    header = Header(config, run.tokenizer, run.dataset_digest, run.step)
    write_file(path, TensorFile(tensors, write_header(header)))
    module = original_of(run.config.model)
    return f"{path}: {len(tensors)} tensors, float32 (checkpoint of step {run.step})\nfor {module}"


def _import(args: Namespace) -> str:
    from charjax import backend
    from charjax.conversion.files import read_file, read_header
    from charjax.conversion.resolve_config import resolve_config
    from charjax.conversion.runs import check_workdir, write_run
    from charjax.conversion.state_dicts import clean, find_layout, from_state_dict

    workdir = Path(args.workdir)
    check_workdir(workdir)
    held = read_file(Path(args.file))
    header = read_header(held.metadata)
    tensors = clean(held.tensors, held.metadata)
    layout = find_layout(tensors)
    inferred = layout.infer(tensors)
    config, unanswered, text_given = resolve_config(
        layout, inferred, header, args.config, args.overrides
    )
    vocab_size = inferred.vocab_size or 0
    variables, converted = from_state_dict(layout, config.model, vocab_size, tensors)
    if unanswered:
        raise UserError(
            "; ".join(
                f"model.{name}: not given, and no tensor determines it; give model.{name}="
                f"{question.answers}"
                for name, question in unanswered.items()
            )
        )
    config, tokenizer, digest = _text(config, header, text_given, vocab_size)
    devices = backend.start_backend(backend.on_any_device(config.runtime))
    count = write_run(workdir, config, tokenizer, digest, variables, devices)
    notes = f"; {' and '.join(converted)} converted to float32" if converted else ""
    read = f"{layout.original(config.model)}: {config.model.kind}, {count:,} parameters{notes}"
    if header is None:
        assumptions = f"{layout.assumptions(config.model)}; {_order(config, tokenizer)}"
        read += f"\nassumed, as no tensor determines it: {assumptions}"
    return f"run: {workdir}\n{read}"


def _order(config: "Config", tokenizer: "Tokenizer") -> str:
    """Describe which symbol each token stands for."""
    if config.data.tokenizer == "byte":
        return "symbols are bytes" + (", newline and 0 exchanged" * tokenizer.boundary)
    first = "symbol 0 is the boundary of lines, the others" if tokenizer.boundary else "symbols"
    return f"{first} are the characters of the text in the order of their code points"


def _text(
    config: "Config", header: "Header | None", text_given: bool, vocab_size: int
) -> "tuple[Config, Tokenizer, str]":
    """Return the config with its context length, the alphabet, and the digest of the text."""
    from charjax.data.datasets import load_dataset
    from charjax.training.session import with_context

    tokenizer = header.tokenizer if header is not None else None
    if header is None or text_given:
        dataset = load_dataset(config.data, tokenizer)
        config, digest = with_context(config, dataset), dataset.digest
        source, tokenizer = f"the text ({dataset.name})", dataset.tokenizer
    else:
        digest, source, tokenizer = header.dataset_digest, "the header", header.tokenizer
    if tokenizer.vocab_size != vocab_size:
        raise UserError(
            f"data: {source} has {tokenizer.vocab_size} symbols, but the tensors have a "
            f"vocabulary of {vocab_size}; give the text that the model was trained on: "
            "data.name=... or data.path=..."
        )
    return config, tokenizer, digest


def interop_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments: `action` is "import" or "export", the rest depends on it."""
    parser = cli.Parser(
        prog="python -m charjax.interop",
        usage="%(prog)s import|export ...",
        description="Convert parameters to and from PyTorch's state dicts, as safetensors: the GPT "
        "of nanoGPT, minGPT\nand makemore, torch.nn.RNN, GRU and LSTM (emb, rnn or gru, fc), "
        "makemore's MLP and Bigram.\nSee `import --help`, `export --help`.",
    )
    parser.add_argument(
        "action", metavar="import|export", choices=("import", "export"), help="the direction"
    )
    action = parser.parse_args(argv[:1]).action
    args = (_import_arguments if action == "import" else _export_arguments)(argv[1:])
    args.action = action
    return args


def _import_arguments(argv: list[str]) -> argparse.Namespace:
    parser = cli.Parser(
        prog="python -m charjax.interop import",
        usage="%(prog)s FILE.safetensors [CONFIG.toml] [section.key=value ...] --workdir DIR",
        description="Make a run of a state dict: sizes are inferred from the tensors, the rest "
        "comes from\nthe file's header, if charjax wrote it, or from the configuration.",
    )
    parser.add_argument("file", metavar="FILE.safetensors", help="the state dict")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG.toml | section.key=value",
        help="settings that no tensor determines: the text (data.name=...); for a GPT model.n_head "
        "and model.activation (gelu or gelu_tanh); for a torch.nn.RNN model.activation (tanh or "
        "relu)",
    )
    parser.add_argument("--workdir", metavar="DIR", required=True, help="where the run goes")
    args = parser.parse_intermixed_args(argv)
    args.config, args.overrides = cli.config_words(args.words)
    del args.words
    return args


def _export_arguments(argv: list[str]) -> argparse.Namespace:
    parser = cli.Parser(
        prog="python -m charjax.interop export",
        usage="%(prog)s WORKDIR FILE.safetensors [options]",
        description="Write a run's parameters under the names that PyTorch's original has.",
    )
    cli.add_checkpoint(parser)
    parser.add_argument("file", metavar="FILE.safetensors", help="the file to write")
    parser.add_argument(
        "--module",
        metavar="NAME",
        choices=("rnn", "gru", "lstm"),
        help="name of the recurrent module (default: gru for a GRU, else rnn)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
