"""The Python interface: `charjax.fit`, `charjax.load`, `charjax.compare` and `charjax.Run`.

Letters: T characters, V vocabulary.
"""

import contextlib
import functools
import io
import os
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from charjax import arguments, extensions, parallel
from charjax.cli import config_words
from charjax.config import Config
from charjax.data.datasets import load_other_text, run_rules
from charjax.data.reading import read_prompt
from charjax.data.splits import Split
from charjax.data.tokenizers import Tokenizer
from charjax.errors import UserError
from charjax.evaluate import stream_sizes
from charjax.generation.generate import MOST_SAMPLES, PastContext, generate, start_tokens
from charjax.generation.sampling import Sampling
from charjax.initlab import frames
from charjax.models.contract import CharModel
from charjax.run import load as saved_runs
from charjax.run.comparison import Comparison, compare_runs
from charjax.run.directory import run_directory
from charjax.run.display import Display
from charjax.run.loss_rows import Characters, characters
from charjax.run.metrics import MetricsFile
from charjax.signals import Signals
from charjax.training.evaluation import exact_loss, exact_losses, scored_size
from charjax.units import perplexity


class Evaluation(NamedTuple):
    """The exact loss over a text, every target once.

    Attributes:
      loss: mean, in nats per token.
      bpc: in bits per character.
      perplexity: exp(loss), per token.
      targets: number of predicted tokens: characters, bytes (tokenizer byte) or subwords.
      bpb: in bits per byte.
      characters: of these targets; one that is cut counts where its first byte is.
      bytes: of these targets, in UTF-8.
    """

    loss: float
    bpc: float
    perplexity: float
    targets: int
    bpb: float
    characters: int
    bytes: int


class Run:
    """A trained model, loaded by `charjax.load` or trained by `charjax.fit`.

    Attributes:
      directory: of the run.
      step: the step of the checkpoint that was loaded.
    """

    def __init__(self, loaded: "saved_runs.Run", devices: list[jax.Device]):
        self._loaded, self._devices = loaded, devices
        self.directory: Path = loaded.directory
        self.step: int = loaded.step

    def __repr__(self) -> str:
        kind = self.config.model.kind
        return f"charjax.Run({str(self.directory)!r}, model.kind={kind!r}, step={self.step})"

    def _repr_html_(self) -> str:
        """Return a small table for a notebook."""
        rows = {
            "run": str(self.directory),
            "model.kind": self.config.model.kind,
            "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(self.params)):,}",
            "text": self.config.data.path or self.config.data.name,
            "step": f"{self.step:,}",
        }
        here = self.metrics.query("split == 'val' and step == @self.step").loss.dropna()
        if len(here):
            rows["validation loss"] = f"{here.iloc[-1]:.4f} nats per character"
        # A long path is not cut off.
        with pd.option_context("display.max_colwidth", None):
            return str(pd.Series(rows).to_frame().to_html(header=False))

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return self._loaded.config

    @property
    def model(self) -> CharModel:
        """The flax module: `run.model.apply({"params": run.params}, tokens_BT)`."""
        return self._loaded.model

    @property
    def params(self) -> Any:
        """The parameters, a nested dict of float32 arrays, multipliers of the scheme applied."""
        return self._loaded.variables["params"]

    @property
    def variables(self) -> dict[str, Any]:
        """The parameters and the model's other collections (statistics of batch norm)."""
        return self._loaded.variables

    @property
    def tokenizer(self) -> Tokenizer:
        """The alphabet: `encode`, `decode`, `vocab_size`."""
        return self._loaded.tokenizer

    @property
    def metrics(self) -> pd.DataFrame:
        """The lines of metrics.jsonl: step, split, loss, bpc, learning_rate, grad_norm, ..."""
        lines = MetricsFile(self.directory / "metrics.jsonl").read()
        return pd.DataFrame(lines, columns=None if lines else ["step", "split", "loss", "bpc"])

    def sample(
        self,
        prompt: str = "",
        n: int = 1,
        *,
        max_new_tokens: int = 500,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        greedy: bool = False,
        seed: int = 0,
        past_context: PastContext = "jump",
        stop: str | None = None,
        min_p: float | None = None,
        typical_p: float | None = None,
        repetition_penalty: float = 1.0,
    ) -> list[str]:
        """Generate texts, as `charjax sample` does.

        Args:
          prompt: the beginning of each text.
          n: number of texts.
          max_new_tokens: after the prompt, for each; a line ends at its end.
          temperature: divides the logits; below 1 favours likely characters.
          top_k: only the k likeliest characters.
          top_p: only the likeliest characters that make up this probability.
          greedy: always the likeliest character.
          seed: 0 to 2**32 - 1; the same seed gives the same texts.
          past_context: "jump" or "slide", for texts longer than the context.
          stop: a text ends before it.
          min_p: only characters at least this many times as likely as the likeliest.
          typical_p: only the characters nearest the expected surprise that make up this
            probability.
          repetition_penalty: above 1 makes characters of the text so far less likely.

        Returns:
          n texts, prompt included.

        Raises:
          UserError: a number out of its bounds, a value of another type, or a character that the
            run does not know.
        """
        whole = arguments.whole_number
        arguments.choice("past_context", past_context, ("jump", "slide"))
        settings = Sampling(
            arguments.finite_number("temperature", temperature),
            None if top_k is None else whole("top_k", top_k, 1),
            None if top_p is None else arguments.finite_number("top_p", top_p),
            arguments.flag("greedy", greedy),
            None if min_p is None else arguments.finite_number("min_p", min_p),
            None if typical_p is None else arguments.finite_number("typical_p", typical_p),
            arguments.finite_number("repetition_penalty", repetition_penalty),
        )
        return generate(
            self.model,
            self.variables,
            self.tokenizer,
            self._read(prompt, "prompt"),
            num_samples=whole("n", n, 1, MOST_SAMPLES),
            max_new_tokens=whole("max_new_tokens", max_new_tokens, 1),
            settings=settings,
            seed=whole("seed", seed, 0, 2**32 - 1),
            past_context=past_context,
            stop_text=None if stop is None else arguments.text("stop", stop),
        )

    def evaluate(
        self,
        split: Literal["train", "val", "test"] = "val",
        *,
        file: str | Path | None = None,
        unseen: Literal["error", "skip"] = "error",
        context: int | None = None,
        stride: int | None = None,
        max_targets: int | None = None,
        streams: int | None = None,
        warmup: int | None = None,
    ) -> Evaluation:
        """Measure the exact loss, as `charjax evaluate` does.

        Args:
          split: of the run's own text.
          file: another text, instead of a split.
          unseen: characters of the file that the run does not know: refused, or left out.
          context: tokens per window; by default that of the model.
          stride: tokens between the starts of windows; by default `context`.
          max_targets: targets to score at most, in windows spread evenly; by default all.
          streams: of a family that carries a state: parts of the text to read in parallel.
          warmup: tokens read before each of these parts, or windows of `max_targets`, without
            being scored; by default 256.

        Raises:
          UserError: no such split or file, unknown characters, numbers out of their bounds, or
            "skip" without a file.
        """
        arguments.choice("unseen", unseen, ("error", "skip"))
        if file is None and unseen == "skip":
            raise UserError(
                "unseen: 'skip' given without a file; a run knows every symbol of its own text: "
                "leave it out"
            )
        sizes = {
            name: None if value is None else arguments.whole_number(name, value, least)
            for name, value, least in (
                ("context", context, 1),
                ("stride", stride, 1),
                ("streams", streams, 1),
                ("warmup", warmup, 0),
            )
        }
        if max_targets is not None:
            max_targets = arguments.whole_number("max_targets", max_targets, 1)
        if warmup is not None and streams is None and max_targets is None:
            raise UserError(
                f"warmup: {warmup} given without streams or max_targets, whose parts begin within "
                "the text: add one, or leave it out"
            )
        parts = stream_sizes(self.model, self.config.model.kind, **sizes)
        if file is None:
            text = saved_runs.load_split(self._loaded, split)
        else:
            text = load_other_text(
                str(arguments.path("file", file)),
                self.config.data,
                self.tokenizer,
                field="file",
                unseen=unseen,
            ).split
        windows = {"context": sizes["context"], "stride": sizes["stride"], **self._sizes(), **parts}
        windows["max_targets"] = max_targets
        score = exact_loss(self.model, self.variables, text, self._mesh(), **windows)
        size = scored_size(self.model, text, self._mesh(), self.tokenizer, **windows)
        loss = score.loss
        return Evaluation(
            loss=loss,
            bpc=size.bpc(loss),
            perplexity=perplexity(loss),
            targets=score.targets,
            bpb=size.bpb(loss),
            characters=size.characters,
            bytes=size.bytes,
        )

    def score(self, text: str) -> np.ndarray:
        """Return the loss of each character, (T,) float64, in nats: -log p(character | before).

        The characters are read as `evaluate` reads a text, so that the mean (without NaN) is its
        loss per character. The loss of a token is divided equally among its bytes, and a character
        has the sum over its own: with subwords, and with the bytes of one character. Where the
        first token ends within a character, that character has the loss of its other bytes;
        `evaluate` does not count it.

        Args:
          text: T characters; after normalization (line ends, byte order mark) as the run's text.

        Returns:
          One number per character; NaN for the first one, which nothing precedes, unless documents
          are lines: then a line's end stands before it.

        Raises:
          UserError: the text has characters that the run does not know.
        """
        return self._score(text).losses_C

    def perplexity(self, text: str) -> float:
        """Return the perplexity per character: exp of the mean of `score`.

        Raises:
          UserError: unknown characters, or no character with another one before it.
        """
        found = self._score(text)
        count = found.begins_C.sum()
        if not count:
            raise UserError(
                f"text: {text!r} given; its perplexity needs a character with another one before "
                "it: give a longer text"
            )
        return perplexity(float(np.nansum(found.losses_C) / count))

    def logits(self, text: str) -> np.ndarray:
        """Return the logits after each token: (T, V) float32, softmax not applied.

        Where documents are lines, a line's end stands first, and its row is the first of T + 1. An
        empty text is read as `sample` reads an empty prompt: one row.

        Raises:
          UserError: unknown characters, or more of them than the context of a windowed model.
        """
        tokens_T = start_tokens(self.tokenizer, self._read(text, "text"))
        capacity = self.model.capacity
        if capacity is not None and len(tokens_T) > capacity:
            raise UserError(
                f"text: {len(tokens_T):,} tokens given; at most {capacity}, the model's "
                "context_length: give its end, or use score for a long text"
            )
        logits_BTV = _apply(self.model, self.variables, jnp.asarray(tokens_T)[None])
        return np.asarray(logits_BTV[0])

    def report(self, out: str | Path | None = None) -> Path:
        """Write one HTML page about the run, as `charjax report` does, and return its path.

        Args:
          out: the page's file; by default report.html in the run's directory.

        Raises:
          UserError: `out` is a directory, or in none.
        """
        from charjax.pages import write_report

        return write_report([self.directory], None if out is None else arguments.path("out", out))

    def _score(self, text: str) -> Characters:
        text = self._read(text, "text")
        tokens = self.tokenizer.encode(text)
        losses = np.full(len(tokens), np.nan)
        if self.tokenizer.boundary and text:
            losses = exact_losses(
                self.model, self.variables, _lines(tokens), self._mesh(), **self._sizes()
            )[1 : len(tokens) + 1].astype(np.float64)
        elif len(tokens) > 1:
            split = Split(tokens, np.array([0]), np.array([len(tokens) - 1]))
            losses = exact_losses(
                self.model, self.variables, split, self._mesh(), **self._sizes()
            ).astype(np.float64)
        return characters(self.tokenizer, tokens, losses)

    def _read(self, text: str, name: str) -> str:
        """Normalize a text as the run's own was."""
        arguments.text(name, text)
        rules = run_rules(self.config.data, self.tokenizer)
        return read_prompt(text, rules, self.tokenizer, name)[0]

    def _mesh(self) -> Any:
        return parallel.make_mesh(self._devices, len(self._devices))

    def _sizes(self) -> dict[str, Any]:
        length = self.config.model.context_length
        assert length is not None
        return {
            "context_length": length,
            "batch_size": self.config.eval.batch_size,
            "device_bytes": self.config.data.device_bytes,
        }


def fit(
    config: str | Path | Config | None = None,
    *overrides: str,
    workdir: str | Path | None = None,
    resume: bool = False,
    init_from: str | Path | None = None,
    quiet: bool = False,
    code: str | Path | Sequence[str | Path] = (),
    accept_changed_code: bool = False,
) -> Run:
    """Train a model, as `charjax train` does, and return the run at its best checkpoint.

    Args:
      config: a TOML file, the name of a shipped configuration, a setting `section.key=value`, or a
        Config; by default the small transformer on Python's own source.
      overrides: settings `section.key=value`.
      workdir: the run's directory; by default a new one in runs/.
      resume: continue the run in `workdir`.
      init_from: directory of another run, whose parameters are the initial ones.
      quiet: print nothing.
      code: files of the user's own code that the configuration or the run names; those named in an
        override need no naming here. No other file is executed.
      accept_changed_code: use a file although it has changed since the run was begun.

    Raises:
      UserError: a mistake in the settings or the data, or the run has diverged.
      KeyboardInterrupt: after Ctrl-C, with the state saved: continue with `resume=True`.
    """
    with _own_code(code, accept_changed_code):
        return _fit(config, overrides, workdir, resume, init_from, quiet)


def _fit(
    config: str | Path | Config | None,
    overrides: Sequence[str],
    workdir: str | Path | None,
    resume: bool,
    init_from: str | Path | None,
    quiet: bool,
) -> Run:
    from charjax import train
    from charjax.progress import plain_console

    if config is not None and not isinstance(config, str | Path | Config):
        raise UserError(
            f"fit: config of type {type(config).__name__} given; it must be words of the command "
            "line, a Path or a charjax.Config"
        )
    notes: list[str] = []
    words = [str(config)] if isinstance(config, str | Path) else []
    words += [arguments.text("fit: a setting", word) for word in overrides]
    file, settings = config_words(words, notes.append)
    directory = None if workdir is None else arguments.path("workdir", workdir)
    source = None if init_from is None else arguments.path("init_from", init_from)
    args = Namespace(
        config=file,
        overrides=settings,
        workdir=None if directory is None else str(directory),
        resume=resume,
        init_from=None if source is None else str(source),
        checkpoint=None,
        profile=None,
        measure=None,
        measure_at=None,
        several=False,
    )
    if isinstance(config, Config):
        if overrides or resume or init_from is not None:
            raise UserError(
                "fit: a Config given with overrides, resume or init_from; give the words of the "
                "command line instead, or a Config that has the settings"
            )
        resolved = config
    else:
        resolved, directory = train.resolve_config(args, notes.append)
    display = Display(plain_console(io.StringIO() if quiet else None))
    stopping = Signals(ends_at_second=False)
    with run_directory(directory, resolved) as target:
        status = train.train_run(args, resolved, target, notes, display, stopping)
    if status >= 128:
        raise KeyboardInterrupt(f"the state is saved in {target}; continue with resume=True")
    if status:
        raise UserError(
            f"fit: the run in {str(target)!r} has diverged, or its loss is not finite; lower "
            "optim.learning_rate, and train again in another directory"
        )
    return load(target)


def compare(runs: Sequence[str | Path | Run]) -> Comparison:
    """Compare runs on the same text: their scores, the settings that differ, and a figure.

    Args:
      runs: directories, or runs; unfinished ones too.

    Returns:
      `scores` and `settings` (pandas DataFrames) and `figure` (a matplotlib Figure); see
      `charjax.run.comparison.Comparison`.

    Raises:
      UserError: fewer than two runs, an unknown one, one given twice, or different vocabularies.
    """
    if isinstance(runs, str | os.PathLike) or not isinstance(runs, Iterable):
        raise UserError(
            f"compare: {type(runs).__name__} given; it must be a list of runs, as in "
            '["runs/a", "runs/b"]'
        )
    return compare_runs(
        [run.directory if isinstance(run, Run) else arguments.path("compare", run) for run in runs]
    )


def load(
    workdir: str | Path,
    checkpoint: str | int = "best",
    weights: Literal["averaged", "trained"] | None = None,
    *,
    code: str | Path | Sequence[str | Path] = (),
    accept_changed_code: bool = False,
) -> Run:
    """Load a run from its directory.

    Args:
      workdir: the directory that training printed.
      checkpoint: "best", "latest" or a step.
      weights: the parameters as they were trained, or their average (optim.ema,
        schedule_free_adamw); None: the average where the run keeps one.
      code: files of the user's own code that the run names. No other file is executed.
      accept_changed_code: use a file although it has changed since the run was begun.

    Raises:
      UserError: there is no run, no such checkpoint, none that can be read, or no average.
    """
    directory = arguments.path("workdir", workdir)
    if not isinstance(checkpoint, str):
        checkpoint = arguments.whole_number("checkpoint", checkpoint, 1)
    if weights is not None:
        arguments.choice("weights", weights, ("averaged", "trained"))
    with _own_code(code, accept_changed_code):
        saved = saved_runs.find_run(directory, str(checkpoint))
        devices = saved.start_backend(core_devices=True)
        return Run(saved_runs.load_run(saved, weights), devices)


def load_sweep(directory: str | Path, table: frames.Table = "runs") -> pd.DataFrame:
    """Load a table of a finished sweep of the initialisation laboratory.

    Args:
      directory: that `charjax initlab sweep` or `merge` wrote.
      table: "runs", a row per run; "curves", per run and recorded step; "layers", per run, step
        and layer; "measurements", per run, step, quantity and place (sweep --measure).

    Returns:
      The table; a setting that is an axis has a column by its name. `attrs["sweep"]` holds
      sweep.json.

    Raises:
      UserError: no finished sweep there, no such table, or a damaged file.
    """
    return frames.read_frame(Path(directory), table)


@contextlib.contextmanager
def _own_code(code: str | Path | Sequence[str | Path], accepts: bool) -> Iterator[None]:
    """Name files of the user's own; an error out of one becomes a UserError with its line."""
    for path in [code] if isinstance(code, str | Path) else code:
        extensions.name_file(path)
    try:
        with extensions.accepting_changes(accepts):
            yield
    except UserError as error:
        placed = extensions.with_place(str(error))
        if placed == str(error):
            raise
        raise UserError(placed) from error
    except (Exception, SystemExit) as error:  # sys.exit() in a file of the user's
        if message := extensions.describe_failure(error):
            raise UserError(message) from error
        raise


def _lines(tokens: np.ndarray) -> Split:
    """Return the documents of the tokens of some lines, with a boundary before and after them."""
    whole = np.concatenate([np.zeros(1, tokens.dtype), tokens])
    if whole[-1]:
        whole = np.append(whole, np.zeros(1, tokens.dtype))
    boundaries = np.flatnonzero(whole == 0)
    return Split(whole, boundaries[:-1], np.diff(boundaries))


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: CharModel, variables: Any, tokens_BT: Array) -> Array:
    logits_BTV, _ = model.apply(variables, tokens_BT)
    return logits_BTV
