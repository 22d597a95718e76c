"""`python -m charjax.sample`: let a run write.

    python -m charjax.sample WORKDIR [--prompt STR | --prompt-file FILE] [--num-samples N]
                             [--max-new-tokens N] [--temperature F] [--top-k N] [--top-p F]
                             [--greedy] [--past-context jump|slide] [--seed N]
                             [--checkpoint best|latest|STEP] [--json]

A text printed, or in the JSON, begins with the prompt. Where documents are lines, each sample is
one, and a tab and its origin follow it: train, val, test or new; or unfinished, where
--max-new-tokens came before its end.
"""

import argparse
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

from charjax import cli, sample
from charjax.errors import UserError, visible

if TYPE_CHECKING:
    from charjax.data.tokenizers import Tokenizer
    from charjax.generation.sampling import Sampling
    from charjax.run.load import Run
    from charjax.signals import Signals

_SEPARATOR = "---------------"
# Bytes of the longest character in UTF-8.
_LONGEST = 4


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    args = sample.sample_arguments(argv)
    from charjax.signals import Interrupted, Signals

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A model may write what the user's encoding does not have.
        sys.stdout.reconfigure(errors="backslashreplace")
    with Signals() as signals:
        try:
            return _sample(args, signals)
        except Interrupted as stop:
            return stop.status


def _sample(args: Namespace, signals: "Signals") -> int:
    settings, given = _settings(args), _given_prompt(args)
    from charjax.run.load import find_run, load_run

    saved = find_run(Path(args.workdir), args.checkpoint)
    saved.start_backend(core_devices=True)
    run = load_run(saved)
    # JAX has been imported meanwhile, which takes seconds.
    signals.poll()
    prompt, notes = _prompt(args, given, run)
    live = args.num_samples == 1 and not args.json and sys.stdout.isatty()
    made = _write_texts(run, prompt, settings, args, signals, live)
    texts = [prompt + run.tokenizer.decode(tokens) for tokens in made.tokens]
    looked_up = run.tokenizer.boundary and not made.status
    origins = _origins(run, prompt, made) if looked_up else None
    if args.json:
        result = _json(args, prompt, settings, run.step, texts, origins, made)
        result["notes"] = list(notes)
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    else:
        _print(texts, origins or _unfinished(made), run.tokenizer.boundary, live)
    sys.stdout.flush()
    if not args.json:
        sys.stderr.write("".join(f"note: {note}\n" for note in notes))
    sys.stderr.write(_summary(made, origins))
    return made.status


def _settings(args: Namespace) -> "Sampling":
    from charjax.generation.sampling import Sampling

    asked = {
        "--temperature": args.temperature != 1,
        "--top-k": args.top_k is not None,
        "--top-p": args.top_p is not None,
    }
    if args.greedy and any(asked.values()):
        others = ", ".join(flag for flag, given in asked.items() if given)
        raise UserError(
            f"--greedy: given with {others}; greedy always takes the likeliest character: leave "
            "one out"
        )
    return Sampling(args.temperature, args.top_k, args.top_p, args.greedy)


def _given_prompt(args: Namespace) -> str | bytes:
    """The prompt as it was given: words, or the bytes of a file."""
    if args.prompt_file is None:
        return str(args.prompt)
    from charjax.data.reading import read_bytes

    return read_bytes(Path(args.prompt_file), "--prompt-file")


def _prompt(args: Namespace, given: str | bytes, run: "Run") -> tuple[str, tuple[str, ...]]:
    """The prompt, read as the run's own text was, and notes of what that changed."""
    from charjax.data.datasets import run_rules
    from charjax.data.reading import read_prompt

    field = "--prompt" if args.prompt_file is None else f"--prompt-file: {args.prompt_file!r}"
    rules = run_rules(run.config.data, run.tokenizer)
    prompt, notes = read_prompt(given, rules, run.tokenizer, field)
    if run.tokenizer.boundary and args.prompt_file is not None:
        # A file ends with a newline, which would end the document.
        prompt = prompt.removesuffix("\n")
    return prompt, notes


@dataclasses.dataclass
class _Made:
    """Generated samples.

    Attributes:
      tokens: new tokens of each sample, without what ended it.
      finished: for each sample whether it came to its end; None where a text has none.
      seconds: of generation, compilation left out.
      compile_seconds: of compilation.
      status: exit status.
    """

    tokens: list[np.ndarray]
    finished: list[bool] | None
    seconds: float
    compile_seconds: float
    status: int

    @property
    def characters(self) -> int:
        return sum(len(tokens) for tokens in self.tokens)

    @property
    def characters_per_second(self) -> float:
        return self.characters / self.seconds if self.seconds else 0.0


def _write_texts(
    run: "Run", prompt: str, settings: "Sampling", args: Namespace, signals: "Signals", live: bool
) -> _Made:
    """Generate; a signal ends it, and what came until then is kept."""
    from charjax.generation.generate import join, start_tokens, stop_token, stream
    from charjax.signals import Interrupted

    try:
        prompt_T = start_tokens(run.tokenizer, prompt)
    except UserError as error:
        flag = "--prompt" if args.prompt_file is None else "--prompt-file"
        raise UserError(f"{flag}: {error}") from None
    stop, chunks, status = stop_token(run.tokenizer), [], 0
    coming = stream(
        run.model,
        run.variables,
        prompt_T,
        num_samples=args.num_samples,
        max_new_tokens=args.max_new_tokens,
        settings=settings,
        seed=args.seed,
        stop=stop,
        past_context=args.past_context,
    )
    terminal = _Terminal(run.tokenizer) if live else None
    if terminal:
        terminal.write(prompt)
    try:
        for chunk in coming:
            chunks.append(chunk)
            if terminal:
                terminal.add(join([chunk.tokens_BK], stop)[0])
            signals.poll()
    except Interrupted as interrupted:
        status = interrupted.status
    if terminal:
        terminal.end()
    parts = [np.zeros((args.num_samples, 0), np.int32), *(chunk.tokens_BK for chunk in chunks)]
    seconds, compiling = sum(c.seconds for c in chunks), sum(c.compile_seconds for c in chunks)
    ended_B = (np.concatenate(parts, axis=1) == stop).any(axis=1)
    finished = None if stop is None else ended_B.tolist()
    return _Made(join(parts, stop), finished, seconds, compiling, status)


class _Terminal:
    """Shows one text as it comes."""

    def __init__(self, tokenizer: "Tokenizer"):
        self._decode = tokenizer.decode
        self._held = np.zeros(0, np.int32)

    def add(self, tokens: np.ndarray) -> None:
        """Show the tokens; bytes that may be the beginning of a character wait for the rest."""
        tokens = np.append(self._held, tokens)
        for shown in range(tokens.size, max(-1, tokens.size - _LONGEST), -1):
            text = self._decode(tokens[:shown])
            if not text.endswith("\ufffd"):
                break
        self._held = tokens[shown:]
        self.write(text)

    def end(self) -> None:
        """Show what was held back."""
        self.write(self._decode(self._held))

    def write(self, text: str) -> None:
        """Show the text, control characters made visible."""
        sys.stdout.write(visible(text))
        sys.stdout.flush()


def _origins(run: "Run", prompt: str, made: _Made) -> list[str] | None:
    """Where each document comes from; None, and the reason on stderr, if the text is gone.

    A document that did not come to its end is only the beginning of one, and is not looked up.
    """
    from charjax.data.datasets import load_dataset
    from charjax.data.origins import find_origins

    try:
        dataset = load_dataset(run.config.data, run.tokenizer, run.dataset_digest)
    except UserError as error:
        sys.stderr.write(f"samples are not looked up in the text: {error}\n")
        return None
    # A prompt may hold whole documents; the one that the model ended is the last.
    begun = run.tokenizer.encode(prompt.rpartition("\n")[2])
    whole = [made.tokens[i] for i, finished in enumerate(made.finished or []) if finished]
    found = iter(find_origins(dataset.splits, [np.append(begun, tokens) for tokens in whole]))
    return [label or next(found) for label in _unfinished(made)]


def _unfinished(made: _Made) -> list[str]:
    """A label for each sample that did not come to its end, an empty one for the others."""
    finished = made.finished or [True] * len(made.tokens)
    return ["" if ended else "unfinished" for ended in finished]


def _json(
    args: Namespace,
    prompt: str,
    settings: "Sampling",
    step: int,
    texts: list[str],
    origins: list[str] | None,
    made: _Made,
) -> dict[str, Any]:
    numbers = {"num_samples": args.num_samples, "max_new_tokens": args.max_new_tokens}
    return {
        "samples": texts,
        **({"origin": origins} if origins else {}),
        **({} if made.finished is None else {"finished": made.finished}),
        "prompt": prompt,
        "seed": args.seed,
        "settings": dataclasses.asdict(settings) | numbers,
        "past_context": args.past_context,
        "step": step,
        "characters": made.characters,
        "seconds": made.seconds,
        "characters_per_second": made.characters_per_second,
        "compile_seconds": made.compile_seconds,
        "interrupted": made.status != 0,
    }


def _print(texts: list[str], labels: list[str], lines: bool, live: bool) -> None:
    """The texts, or what is still to come of one that was shown live."""
    tabbed = [f"\t{label}" if label else "" for label in labels]
    shown = [("" if live else text) + label for text, label in zip(texts, tabbed, strict=True)]
    output = ("\n" if lines else f"\n{_SEPARATOR}\n").join(shown) + "\n"
    sys.stdout.write(visible(output) if sys.stdout.isatty() else output)


def _summary(made: _Made, origins: list[str] | None) -> str:
    """One line: the speed, and how many samples are of which origin, where that is known."""
    counts = Counter(origins or _unfinished(made))
    names = [*(("train", "val", "test", "new") if origins else ())]
    names += ["unfinished"] if counts["unfinished"] else []
    counted = ", ".join(f"{counts[name]} {name}" for name in names)
    return (
        f"{made.characters:,} characters in {made.seconds:.2f} s, "
        f"{made.characters_per_second:,.0f} characters/s; compiled in "
        f"{made.compile_seconds:.2f} s{counted and f'; {counted}'}\n"
    )


def sample_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse `charjax.sample`'s; `checkpoint` is "best", "latest" or a step's digits."""
    parser = cli.Parser(
        prog="python -m charjax.sample",
        usage="%(prog)s WORKDIR [options]",
        description="Let a trained model write.",
    )
    cli.add_run(parser)
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="STR", default="", help="the text to go on from")
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
        help="below 1 safer, above 1 wilder (1.0)",
    )
    parser.add_argument("--top-k", metavar="N", type=count, help="only the N likeliest characters")
    parser.add_argument(
        "--top-p",
        metavar="F",
        type=cli.number_above_zero(1.0),
        help="only the likeliest characters that make up this probability",
    )
    parser.add_argument("--greedy", action="store_true", help="always the likeliest character")
    parser.add_argument(
        "--past-context",
        metavar="jump|slide",
        choices=("jump", "slide"),
        default="jump",
        help="transformer and bow, when the text is longer than the context: jump keeps the newest "
        "half of it and reads on from there, with the cache (fast); slide draws every character "
        "from the newest context_length ones, as nanoGPT does (a whole pass each) (jump)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=cli.whole_number(0, 2**32 - 1),
        default=0,
        help="of the draws (0)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
