"""`python -m charjax.sample`: generate text with a trained model.

    python -m charjax.sample WORKDIR [--prompt STR | --prompt-file FILE] [--num-samples N]
                             [--max-new-tokens N] [--temperature F] [--top-k N] [--top-p F]
                             [--min-p F] [--typical-p F] [--repetition-penalty F] [--greedy]
                             [--past-context jump|slide] [--stop STR] [--seed N]
                             [--checkpoint best|latest|STEP] [--json]

Each text, printed or in the JSON, begins with the prompt. With data.layout=lines each sample is one
line, followed by a tab and its origin: train, val, test or new; or unfinished, if
--max-new-tokens was reached before its end.
"""

import argparse
import codecs
import dataclasses
import io
import json
import math
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from charjax import cli
from charjax.errors import UserError, visible

if TYPE_CHECKING:
    from charjax.data.tokenizers import Tokenizer
    from charjax.generation.sampling import Sampling
    from charjax.run.load import Run
    from charjax.signals import Signals

_SEPARATOR = "---------------"


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    args = sample_arguments(argv)
    from charjax.signals import Interrupted, Signals

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A model may generate characters that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    with Signals() as signals:
        try:
            return _sample(args, signals)
        except Interrupted as stop:
            return stop.status


def _sample(args: Namespace, signals: "Signals") -> int:
    with cli.importing():
        settings, raw_prompt = _settings(args), _raw_prompt(args)
        from charjax.programs.command import use_stored
        from charjax.run.load import find_run, load_run

    saved = find_run(Path(args.workdir), args.checkpoint)
    saved.start_backend(core_devices=True)
    use_stored("sample", saved.config)
    run = load_run(saved, args.weights)
    # Importing JAX has taken seconds.
    signals.poll()
    prompt, notes = _prompt(args, raw_prompt, run)
    live = args.num_samples == 1 and not args.json and not args.stop and sys.stdout.isatty()
    generated = _generate(run, prompt, settings, args, signals, live)
    texts = [prompt + text for text in generated.texts]
    has_origins = run.tokenizer.boundary and not generated.status
    origins = _origins(run, prompt, generated) if has_origins else None
    if args.json:
        result = _json(args, prompt, settings, run.step, texts, origins, generated)
        result["notes"] = list(notes)
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    else:
        # Only a line has room for a label.
        labels = _unfinished(generated) if run.tokenizer.boundary else [""] * len(texts)
        _print(texts, origins or labels, run.tokenizer.boundary, live)
    sys.stdout.flush()
    if not args.json:
        sys.stderr.write("".join(f"note: {note}\n" for note in notes))
    sys.stderr.write(_summary(generated, origins))
    return generated.status


def _settings(args: Namespace) -> "Sampling":
    from charjax.generation.sampling import Sampling

    are_set = {
        "--temperature": args.temperature != 1,
        "--top-k": args.top_k is not None,
        "--top-p": args.top_p is not None,
        "--min-p": args.min_p is not None,
        "--typical-p": args.typical_p is not None,
    }
    if args.greedy and any(are_set.values()):
        others = ", ".join(flag for flag, is_set in are_set.items() if is_set)
        raise UserError(
            f"--greedy: given with {others}; greedy always takes the likeliest character: leave "
            "one out"
        )
    return Sampling(
        args.temperature,
        args.top_k,
        args.top_p,
        args.greedy,
        args.min_p,
        args.typical_p,
        args.repetition_penalty,
    )


def _raw_prompt(args: Namespace) -> str | bytes:
    """Return the text of --prompt, or the bytes of --prompt-file."""
    if args.prompt_file is None:
        return str(args.prompt)
    from charjax.data.reading import read_bytes

    return read_bytes(Path(args.prompt_file), "--prompt-file")


def _prompt(args: Namespace, raw: str | bytes, run: "Run") -> tuple[str, tuple[str, ...]]:
    """Return the prompt, normalized as the run's text was, and notes on what that changed."""
    from charjax.data.datasets import run_rules
    from charjax.data.reading import read_prompt

    field = "--prompt" if args.prompt_file is None else f"--prompt-file: {args.prompt_file!r}"
    rules = run_rules(run.config.data, run.tokenizer)
    prompt, notes = read_prompt(raw, rules, run.tokenizer, field)
    if run.tokenizer.boundary and args.prompt_file is not None:
        # A file ends with a newline, which would end the document.
        prompt = prompt.removesuffix("\n")
    return prompt, notes


@dataclasses.dataclass
class _Generated:
    """Generated samples.

    Attributes:
      tokens: new tokens of each sample, without the stop token.
      texts: their text, up to that of --stop.
      finished: whether each sample ended by a line's end or --stop; None if neither can be.
      seconds: time of generation, without compilation.
      compile_seconds: time of compilation.
      kernels: the compiled kernels that generated them, in words; None: XLA's program alone.
      status: exit status.
    """

    tokens: list[np.ndarray]
    texts: list[str]
    finished: list[bool] | None
    seconds: float
    compile_seconds: float
    kernels: str | None
    status: int

    @property
    def characters(self) -> int:
        return sum(map(len, self.texts))

    @property
    def characters_per_second(self) -> float:
        return self.characters / self.seconds if self.seconds else 0.0


def _generate(
    run: "Run", prompt: str, settings: "Sampling", args: Namespace, signals: "Signals", live: bool
) -> _Generated:
    """Generate until the end or a signal, whichever is first."""
    from charjax.generation.generate import (
        cut_at_stop,
        start_tokens,
        stop_token,
        stream,
        whole_rows,
    )
    from charjax.generation.kernel_decoder import kernels_of
    from charjax.generation.stop_text import StopText
    from charjax.signals import Interrupted

    try:
        prompt_T = start_tokens(run.tokenizer, prompt)
    except UserError as error:
        flag = "--prompt" if args.prompt_file is None else "--prompt-file"
        raise UserError(f"{flag}: {error}") from None
    try:
        ending = StopText(run.tokenizer, args.stop, args.num_samples)
    except UserError as error:
        raise UserError(f"--stop: {error}") from None
    stop, chunks, status = stop_token(run.tokenizer), [], 0
    calls = stream(
        run.model,
        run.variables,
        prompt_T,
        num_samples=args.num_samples,
        max_new_tokens=args.max_new_tokens,
        settings=settings,
        seed=args.seed,
        stop=stop,
        past_context=args.past_context,
        ended=lambda chunk: ending.reached(chunk.tokens_BK, chunk.rows),
    )
    terminal = _Terminal(run.tokenizer) if live else None
    if terminal:
        terminal.write(prompt)
    try:
        for chunk in calls:
            chunks.append(chunk)
            if terminal:
                terminal.add(cut_at_stop(chunk.tokens_BK, stop)[0])
            signals.poll()
    except Interrupted as interrupted:
        status = interrupted.status
    if terminal:
        terminal.end()
    seconds, compiling = sum(c.seconds for c in chunks), sum(c.compile_seconds for c in chunks)
    rows = whole_rows(chunks, args.num_samples)
    ended_B = np.array([stop is not None and bool((row == stop).any()) for row in rows])
    tokens = cut_at_stop(rows, stop)
    cut = [ending.cut(row) for row in tokens]
    is_cut_B = np.array([len(a) < len(b) for a, b in zip(cut, tokens, strict=True)])
    finished = None if stop is None and args.stop is None else (ended_B | is_cut_B).tolist()
    kernels = kernels_of(run.model, settings, args.num_samples, args.past_context)
    texts = [ending.decode(row) for row in tokens]
    return _Generated(cut, texts, finished, seconds, compiling, kernels, status)


class _Terminal:
    """Prints one text while it is generated."""

    def __init__(self, tokenizer: "Tokenizer"):
        self._to_bytes = tokenizer.to_bytes
        # Bytes that may be the beginning of a character wait for its rest.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, tokens: np.ndarray) -> None:
        """Print tokens, as far as they are whole characters."""
        self.write(self._decoder.decode(self._to_bytes(tokens)))

    def end(self) -> None:
        """Print what is still waiting."""
        self.write(self._decoder.decode(b"", True))

    def write(self, text: str) -> None:
        """Print a text, control characters escaped."""
        sys.stdout.write(visible(text))
        sys.stdout.flush()


def _origins(run: "Run", prompt: str, generated: _Generated) -> list[str] | None:
    """Find the split that holds each document, or None if the text is missing (reported).

    Unfinished documents are not looked up.
    """
    from charjax.data.datasets import load_dataset
    from charjax.data.origins import find_origins
    from charjax.data.subwords import BpeTokenizer

    try:
        dataset = load_dataset(run.config.data, run.tokenizer, run.dataset_digest)
    except UserError as error:
        sys.stderr.write(f"samples are not looked up in the text: {error}\n")
        return None
    # Of several lines in the prompt, the model continued the last.
    line = run.tokenizer.encode(prompt.rpartition("\n")[2])
    whole = [generated.tokens[i] for i, finished in enumerate(generated.finished or []) if finished]
    documents = [np.append(line, tokens) for tokens in whole]
    if isinstance(run.tokenizer, BpeTokenizer):
        # A model may spell a line in other tokens than those of the text.
        documents = [run.tokenizer.encode(run.tokenizer.decode(each)) for each in documents]
    found = iter(find_origins(dataset.splits, documents))
    return [label or next(found) for label in _unfinished(generated)]


def _unfinished(generated: _Generated) -> list[str]:
    """Return the label of each sample: "unfinished", or empty."""
    finished = generated.finished or [True] * len(generated.tokens)
    return ["" if ended else "unfinished" for ended in finished]


def _json(
    args: Namespace,
    prompt: str,
    settings: "Sampling",
    step: int,
    texts: list[str],
    origins: list[str] | None,
    generated: _Generated,
) -> dict[str, Any]:
    numbers = {"num_samples": args.num_samples, "max_new_tokens": args.max_new_tokens}
    return {
        "samples": texts,
        **({"origin": origins} if origins else {}),
        **({} if generated.finished is None else {"finished": generated.finished}),
        "prompt": prompt,
        "seed": args.seed,
        "settings": dataclasses.asdict(settings) | numbers,
        "past_context": args.past_context,
        **({} if args.stop is None else {"stop": args.stop}),
        "step": step,
        "tokens": sum(map(len, generated.tokens)),
        "characters": generated.characters,
        "seconds": generated.seconds,
        "characters_per_second": generated.characters_per_second,
        "compile_seconds": generated.compile_seconds,
        **({} if generated.kernels is None else {"kernels": generated.kernels}),
        "interrupted": generated.status != 0,
    }


def _print(texts: list[str], labels: list[str], lines: bool, live: bool) -> None:
    """Print the texts with their labels; only the label of one that was printed live."""
    tabbed = [f"\t{label}" if label else "" for label in labels]
    shown = [("" if live else text) + label for text, label in zip(texts, tabbed, strict=True)]
    output = ("\n" if lines else f"\n{_SEPARATOR}\n").join(shown) + "\n"
    sys.stdout.write(visible(output) if sys.stdout.isatty() else output)


def _summary(generated: _Generated, origins: list[str] | None) -> str:
    """Return one line: the speed, and the number of samples of each origin, if known."""
    counts = Counter(origins or _unfinished(generated))
    names = [*(("train", "val", "test", "new") if origins else ())]
    names += ["unfinished"] if counts["unfinished"] else []
    counted = ", ".join(f"{counts[name]} {name}" for name in names)
    kernels = f"; charjax-kernels {generated.kernels}" if generated.kernels else ""
    return (
        f"{generated.characters:,} characters in {generated.seconds:.2f} s, "
        f"{generated.characters_per_second:,.0f} characters/s; compiled in "
        f"{generated.compile_seconds:.2f} s{kernels}{counted and f'; {counted}'}\n"
    )


def sample_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments; `checkpoint` is "best", "latest" or a step's digits."""
    parser = cli.Parser(
        prog="charjax sample",
        usage="%(prog)s WORKDIR [options]",
        description="Generate text with a trained model.",
    )
    cli.add_run(parser)
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="STR", default="", help="the beginning of each text")
    prompt.add_argument("--prompt-file", metavar="FILE", help="the same, from a file")
    count = cli.whole_number(1)
    parser.add_argument("--num-samples", metavar="N", type=count, default=1, help="how many (1)")
    parser.add_argument(
        "--max-new-tokens", metavar="N", type=count, default=500, help="length of each (500)"
    )
    parser.add_argument(
        "--temperature",
        metavar="F",
        type=cli.number_above_zero(
            math.inf, "; for the likeliest character every time use --greedy"
        ),
        default=1.0,
        help="below 1 favours likely characters, above 1 unlikely ones (1.0)",
    )
    parser.add_argument("--top-k", metavar="N", type=count, help="only the N likeliest characters")
    parser.add_argument(
        "--top-p",
        metavar="F",
        type=cli.number_above_zero(1.0),
        help="only the likeliest characters that make up this probability",
    )
    parser.add_argument(
        "--min-p",
        metavar="F",
        type=cli.number_above_zero(1.0),
        help="only characters at least F times as likely as the likeliest",
    )
    parser.add_argument(
        "--typical-p",
        metavar="F",
        type=cli.number_above_zero(1.0),
        help="only the characters nearest the expected surprise that make up this probability",
    )
    parser.add_argument(
        "--repetition-penalty",
        metavar="F",
        type=cli.number_above_zero(math.inf, "; 1 leaves repetitions as likely as they are"),
        default=1.0,
        help="above 1 makes characters of the text so far, prompt included, less likely (1.0)",
    )
    parser.add_argument("--greedy", action="store_true", help="always the likeliest character")
    parser.add_argument(
        "--past-context",
        metavar="jump|slide",
        choices=("jump", "slide"),
        default="jump",
        help="transformer and bow, when the text is longer than the context: jump keeps the newest "
        "half of it and continues from there, with the cache (fast); slide draws every character "
        "from the newest context_length ones, as nanoGPT does (a full forward pass each) (jump)",
    )
    parser.add_argument(
        "--stop", metavar="STR", help="end each text before this one, wherever it is generated"
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=cli.whole_number(0, 2**32 - 1),
        default=0,
        help="seed of the random draws (0)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
