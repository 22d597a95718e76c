"""`python -m charjax.interop`: convert parameters to and from PyTorch's state dicts.

python -m charjax.interop import FILE.safetensors|DIRECTORY [CONFIG.toml] [section.key=value ...]
                                 [--alphabet FILE] --workdir DIR
python -m charjax.interop export RUN FILE.safetensors|DIRECTORY [--checkpoint best|latest|STEP]
                                 [--format safetensors|hf-gpt2|hf-llama|hf-qwen3] [--module NAME]
                                 [--overwrite]
"""

import argparse
import contextlib
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from charjax import cli
from charjax.errors import UserError, visible


def main(argv: list[str]) -> int:
    """Run the command and return its exit status."""
    args = interop_arguments(argv)
    report = _import(args) if args.action == "import" else _export(args)
    sys.stdout.write(f"{visible(report)}\n")
    return 0


def _export(args: Namespace) -> str:
    from charjax.config import TransformerConfig
    from charjax.conversion.directories import FORMATS, check_directory, write_directory
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
    form = FORMATS.get(args.format.removeprefix("hf-"))
    require_run(directory)
    (check_directory if form else check_target)(path, args.overwrite)
    saved = find_run(directory, args.checkpoint)
    model = saved.config.model
    if form and not isinstance(model, TransformerConfig):
        raise UserError(
            f"--format: {args.format} given, but model.kind is {model.kind} and "
            f"{form.layout.title} is a transformer; leave it out"
        )
    saved.start_backend()
    run = load_run(saved, args.weights)
    vocab_size = run.tokenizer.vocab_size
    layout = form.layout if form else None
    try:
        tensors = to_state_dict(model, vocab_size, run.variables, args.module, layout)
    except UserError as error:
        if layout or not (fitting := _fitting_format(model, vocab_size, run.variables)):
            raise
        raise UserError(f"{error}: give --format {fitting}, which has it") from None
    header = Header(run.config.model_dump(mode="json"), run.tokenizer, run.dataset_digest, run.step)
    content = TensorFile(tensors, write_header(header))
    if form:
        assert isinstance(model, TransformerConfig)
        write_directory(path, content, form, model, run.tokenizer)
    else:
        write_file(path, content)
    original = layout.original(model) if layout else original_of(model)
    step = f"float32 (checkpoint of step {run.step})"
    return f"{path}: {len(tensors)} tensors, {step}\nfor {original}"


def _fitting_format(model: Any, vocab_size: int, variables: Any) -> str | None:
    """Return the first of transformers' formats in which a model can be written, if any."""
    from charjax.config import TransformerConfig
    from charjax.conversion.directories import FORMATS
    from charjax.conversion.state_dicts import to_state_dict

    for name, form in FORMATS.items() if isinstance(model, TransformerConfig) else ():
        with contextlib.suppress(UserError):
            to_state_dict(model, vocab_size, variables, None, form.layout)
            return f"hf-{name}"
    return None


def _import(args: Namespace) -> str:
    from charjax import backend
    from charjax.conversion.directories import read_source
    from charjax.conversion.files import read_header
    from charjax.conversion.resolve_config import resolve_config
    from charjax.conversion.runs import check_workdir, write_run
    from charjax.conversion.state_dicts import clean, find_layout, from_state_dict
    from charjax.conversion.text import find_text

    workdir = Path(args.workdir)
    check_workdir(workdir)
    held, described = read_source(Path(args.file))
    header = read_header(held.metadata)
    tensors = clean(held.tensors, held.metadata)
    layout = find_layout(tensors)
    if header is None:
        described.check_layout(layout)
    inferred = described.refine(layout.infer(tensors), header)
    resolved = resolve_config(layout, inferred, header, args.config, args.overrides)
    config, vocab_size = resolved.config, inferred.vocab_size or 0
    variables, converted = from_state_dict(layout, config.model, vocab_size, tensors)
    if resolved.unanswered:
        raise UserError(
            "; ".join(
                f"model.{name}: not given, and no tensor determines it; give model.{name}="
                f"{question.answers}"
                for name, question in resolved.unanswered.items()
            )
        )
    if header is not None and args.alphabet is not None:
        raise UserError("--alphabet: given, but the file's header has the alphabet; leave it out")
    alphabet = args.alphabet
    if alphabet is None and config.data.tokenizer in ("char", "byte"):
        alphabet = described.tokenizer
    text = find_text(resolved, header, alphabet and Path(alphabet), vocab_size)
    config = text.config
    devices = backend.start_backend(backend.on_any_device(config.runtime))
    count = write_run(workdir, config, text.tokenizer, text.digest, variables, devices)
    notes = f"; {' and '.join(converted)} converted to float32" if converted else ""
    read = f"{layout.original(config.model)}: {config.model.kind}, {count:,} parameters{notes}"
    if header is None:
        assumptions = f"{layout.assumptions(config.model)}; {text.order}"
        read += f"\nassumed, as no tensor determines it: {assumptions}"
    return f"run: {workdir}\n{read}"


def interop_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments: `action` is "import" or "export", the rest depends on it."""
    parser = cli.Parser(
        prog="charjax interop",
        usage="%(prog)s import|export ...",
        description="Convert parameters to and from PyTorch's state dicts, as safetensors: the GPT "
        "of nanoGPT, minGPT\nand makemore, Hugging Face's GPT-2, Llama and Qwen3, torch.nn.RNN, "
        "GRU and LSTM (emb, rnn or\ngru, fc), makemore's MLP and Bigram. See `import --help`, "
        "`export --help`.",
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
        prog="charjax interop import",
        usage="%(prog)s FILE.safetensors|DIRECTORY [CONFIG.toml] [section.key=value ...] "
        "[--alphabet FILE] --workdir DIR",
        description="Make a run of a state dict: sizes are inferred from the tensors, the rest "
        "comes from\nthe file's header, if charjax wrote it, or from the configuration.",
    )
    parser.add_argument(
        "file",
        metavar="FILE.safetensors|DIRECTORY",
        help="the state dict, or a directory that transformers saved (GPT-2, Llama, Qwen3)",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG.toml | section.key=value",
        help="settings that no tensor determines: the text (data.name=...); for a GPT model.n_head "
        "and model.activation (gelu or gelu_tanh); for a torch.nn.RNN model.activation (tanh or "
        "relu)",
    )
    parser.add_argument(
        "--alphabet",
        metavar="FILE",
        help="what the symbols 0, 1, ... stand for, where the file does not say it: nanoGPT's "
        "meta.pkl or meta.json, the symbols in their order, or the text that the model was "
        "trained on",
    )
    parser.add_argument("--workdir", metavar="DIR", required=True, help="where the run goes")
    args = parser.parse_intermixed_args(argv)
    args.config, args.overrides = cli.config_words(args.words)
    del args.words
    return args


def _export_arguments(argv: list[str]) -> argparse.Namespace:
    parser = cli.Parser(
        prog="charjax interop export",
        usage="%(prog)s WORKDIR FILE.safetensors|DIRECTORY [options]",
        description="Write a run's parameters under the names that PyTorch's original has.",
    )
    cli.add_checkpoint(parser)
    parser.add_argument(
        "file", metavar="FILE.safetensors|DIRECTORY", help="the file or directory to write"
    )
    parser.add_argument(
        "--format",
        choices=("safetensors", "hf-gpt2", "hf-llama", "hf-qwen3"),
        default="safetensors",
        help="safetensors: a file for the PyTorch original; the others: a directory "
        "for transformers' GPT2LMHeadModel, LlamaForCausalLM or Qwen3ForCausalLM (a "
        "transformer's)",
    )
    parser.add_argument(
        "--module",
        metavar="NAME",
        choices=("rnn", "gru", "lstm"),
        help="name of the recurrent module (default: gru for a GRU, else rnn)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing file or directory"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
