"""The Python interface: `charjax.fit`, `charjax.load`, `charjax.compare` and `charjax.Run`.

Letters: T characters, V vocabulary.
"""

import functools
import io
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from charjax import parallel
from charjax.cli import config_words
from charjax.config import Config
from charjax.data.datasets import load_other_text, run_rules
from charjax.data.reading import read_prompt
from charjax.data.splits import Split
from charjax.data.tokenizers import Tokenizer
from charjax.errors import UserError
from charjax.generation.generate import PastContext, generate, start_tokens
from charjax.generation.sampling import Sampling
from charjax.models.contract import CharModel
from charjax.run import load as saved_runs
from charjax.run.comparison import Comparison, compare_runs
from charjax.run.display import Display
from charjax.run.loss_rows import characters
from charjax.run.metrics import MetricsFile
from charjax.signals import Signals
from charjax.training.evaluation import exact_loss, exact_losses
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

        Returns:
          n texts, prompt included.

        Raises:
          UserError: a number out of its bounds, or a character that the run does not know.
        """
        return generate(
            self.model,
            self.variables,
            self.tokenizer,
            self._read(prompt, "prompt"),
            num_samples=n,
            max_new_tokens=max_new_tokens,
            settings=Sampling(temperature, top_k, top_p, greedy),
            seed=seed,
            past_context=past_context,
            stop_text=stop,
        )

    def evaluate(
        self,
        split: Literal["train", "val", "test"] = "val",
        *,
        file: str | Path | None = None,
        unseen: Literal["error", "skip"] = "error",
        context: int | None = None,
        stride: int | None = None,
    ) -> Evaluation:
        """Measure the exact loss, as `charjax evaluate` does.

        Args:
          split: of the run's own text.
          file: another text, instead of a split.
          unseen: characters of the file that the run does not know: refused, or left out.
          context: tokens per window; by default that of the model.
          stride: tokens between the starts of windows; by default `context`.

        Raises:
          UserError: no such split or file, unknown characters, or numbers out of their bounds.
        """
        if file is None:
            text = saved_runs.load_split(self._loaded, split)
        else:
            text = load_other_text(
                str(file), self.config.data, self.tokenizer, field="file", unseen=unseen
            ).split
        sizes = {**self._sizes(), "context": context, "stride": stride}
        score = exact_loss(self.model, self.variables, text, self._mesh(), **sizes)
        loss, size = score.loss, text.size
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
        has the sum over its own: with subwords, and with the bytes of one character.

        Args:
          text: T characters; after normalization (line ends, byte order mark) as the run's text.

        Returns:
          One number per character; NaN for the first one, which nothing precedes, unless documents
          are lines: then a line's end stands before it.

        Raises:
          UserError: the text has characters that the run does not know.
        """
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
        return characters(self.tokenizer, tokens, losses)[1]

    def perplexity(self, text: str) -> float:
        """Return exp of the mean of `score`: the perplexity per character.

        Raises:
          UserError: unknown characters, or no character with another one before it.
        """
        losses = self.score(text)
        counted = losses[~np.isnan(losses)]
        if not counted.size:
            raise UserError(
                f"text: {text!r} given; its perplexity needs a character with another one before "
                "it: give a longer text"
            )
        return perplexity(float(counted.mean()))

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

        return write_report([self.directory], None if out is None else Path(out))

    def _read(self, text: str, name: str) -> str:
        """Normalize a text as the run's own was."""
        if not isinstance(text, str):
            raise UserError(f"{name}: {type(text).__name__} given; it must be a str")
        rules = run_rules(self.config.data, self.tokenizer)
        return read_prompt(text, rules, self.tokenizer, name)[0]

    def _mesh(self) -> Any:
        return parallel.make_mesh(self._devices, len(self._devices))

    def _sizes(self) -> dict[str, Any]:
        length = self.config.model.context_length
        assert length is not None
        return {"context_length": length, "batch_size": self.config.eval.batch_size}


def fit(
    config: str | Path | Config | None = None,
    *overrides: str,
    workdir: str | Path | None = None,
    resume: bool = False,
    init_from: str | Path | None = None,
    quiet: bool = False,
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

    Raises:
      UserError: a mistake in the settings or the data, or the run has diverged.
      KeyboardInterrupt: after Ctrl-C, with the state saved: continue with `resume=True`.
    """
    from charjax import train
    from charjax.progress import plain_console

    words = [str(config)] if isinstance(config, str | Path) else []
    notes: list[str] = []
    file, settings = config_words([*words, *overrides], notes.append)
    args = Namespace(
        config=file,
        overrides=settings,
        workdir=None if workdir is None else str(workdir),
        resume=resume,
        init_from=None if init_from is None else str(init_from),
        checkpoint=None,
        profile=None,
    )
    if isinstance(config, Config):
        if overrides or resume or init_from is not None:
            raise UserError(
                "fit: a Config given with overrides, resume or init_from; give the words of the "
                "command line instead, or a Config that has the settings"
            )
        resolved, directory = config, None if workdir is None else Path(workdir)
    else:
        resolved, directory = train.resolve_config(args, notes.append)
    display = Display(plain_console(io.StringIO() if quiet else None))
    stopping = Signals(ends_at_second=False)
    with train.run_directory(directory, resolved) as target:
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
    return compare_runs([run.directory if isinstance(run, Run) else Path(run) for run in runs])


def load(
    workdir: str | Path,
    checkpoint: str | int = "best",
    weights: Literal["averaged", "trained"] | None = None,
) -> Run:
    """Load a run from its directory.

    Args:
      workdir: the directory that training printed.
      checkpoint: "best", "latest" or a step.
      weights: the parameters as they were trained, or their average (optim.ema,
        schedule_free_adamw); None: the average where the run keeps one.

    Raises:
      UserError: there is no run, no such checkpoint, none that can be read, or no average.
    """
    saved = saved_runs.find_run(Path(workdir), str(checkpoint))
    devices = saved.start_backend(core_devices=True)
    return Run(saved_runs.load_run(saved, weights), devices)


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
