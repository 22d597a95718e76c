"""The run as it is written: its directory, its checkpoints and its summary."""

import contextlib
import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from charjax import backend, files, hardware
from charjax.errors import UserError
from charjax.files import check_directory, make_directory, write_json
from charjax.generation.generate import Sampling, generate
from charjax.hardware import environment
from charjax.random_streams import purpose_key
from charjax.run.checkpoint import Checkpoints, state_digest
from charjax.run.display import Display, loss_warning, shown_loss
from charjax.run.load import has_checkpoints, require_run
from charjax.run.lock import Lock
from charjax.run.loop import DivergedError, Loop
from charjax.run.metrics import MetricsFile, draw_curves, loss_fields
from charjax.run.notes import check_resumed, checkpoint_meta, read_notes
from charjax.run.progress import Progress
from charjax.signals import Interrupted, Signals
from charjax.training.program import compile_chunks
from charjax.training.session import (
    Session,
    evaluator,
    first_state,
    place,
    score_split,
    state_shardings,
)
from charjax.training.state import ADAM_SCALES, TrainState, fitted_state, state_shapes, variables_of

_SAMPLES = 4
_SAMPLE_LENGTH = 300


@dataclasses.dataclass
class Recorder:
    """Trains or fits one run and writes everything down.

    Attributes:
      directory: the run's.
      session: text, model, devices.
      display: what the user sees.
      signals: asked wherever a stop loses nothing.
      checkpoints: the store.
      lock: held while the process lives.
      resumed: whether the run goes on from a checkpoint.
    """

    directory: Path
    session: Session
    display: Display
    signals: Signals
    checkpoints: Checkpoints
    lock: Lock
    resumed: bool

    @staticmethod
    def open(
        directory: Path, session: Session, display: Display, signals: Signals, *, resume: bool
    ) -> "Recorder":
        """Take a directory for a run.

        Raises:
          UserError: it holds a run and `resume` is false, it holds none and `resume` is true,
            another process writes there, or it cannot be made.
        """
        if resume:
            require_run(directory)
        make_directory(directory, "--workdir")
        lock = Lock(directory)
        lock.acquire()
        # Only now: another process may have begun a run there, and even ended it, meanwhile.
        if not resume:
            try:
                _refuse_begun(directory)
            except UserError:
                lock.release()
                raise
        store = Checkpoints(directory / "checkpoints", session.config.checkpoint.keep)
        return Recorder(directory, session, display, signals, store, lock, resume)

    def train(self, params: Any = None) -> int:
        """Train to the last step; returns the exit status."""
        began = time.perf_counter()
        state, progress = self._start(params)
        step = int(state.counters.step)
        self._header(state)
        if step >= self.session.config.train.steps and progress.events_done >= step:
            return self._already_done(step, state, progress)
        if params is not None:
            # A resumed run has no other way to them; config.toml says that there is one to resume.
            self._save(step, state, progress, False)
            self.checkpoints.wait()
        self._begin(step, progress)
        metrics = MetricsFile(self.directory / "metrics.jsonl")
        evaluate = evaluator(self.session, self.signals.poll)
        key = purpose_key(self.session.config.train.seed, "dropout")
        program = self._compile(state, key)
        progress.compile_seconds += program.compile_seconds
        earlier = progress.wall_seconds

        def save(step: int, state: TrainState, progress: Progress, best: bool) -> None:
            progress.wall_seconds = earlier + time.perf_counter() - began
            self._save(step, state, progress, best)

        loop = Loop(
            config=self.session.config,
            program=program,
            state=state,
            progress=progress,
            metrics=metrics,
            display=self.display,
            signals=self.signals,
            evaluate=evaluate,
            sample=self._sample,
            save=save,
            check=self.checkpoints.check,
        )
        self.display.start(step, self.session.config.train.steps)
        try:
            loop.run()
        except Interrupted as stop:
            # Stopped between an evaluation and its checkpoint, this may be the best one.
            best = loop.progress.best_step == loop.step
            save(loop.step, loop.state, loop.progress, best)
            self.checkpoints.close()
            self.display.stop()
            self.display.say(
                f"stopped by {stop} at step {loop.step}; the state is saved: go on with "
                f"--workdir {self.directory} --resume"
            )
            return stop.status
        except DivergedError as error:
            save(loop.step, loop.state, loop.progress, False)
            self.checkpoints.close()
            self.display.stop()
            print(f"error: {error}", file=sys.stderr)
            return 1
        except OSError:
            # What is being saved may still be saved, whatever else could not be written.
            with contextlib.suppress(OSError):
                self.checkpoints.wait()
            raise
        finally:
            self.display.stop()
        self.checkpoints.wait()
        progress.wall_seconds = earlier + time.perf_counter() - began
        return self._finish(loop.step, loop.state, progress, metrics)

    def fit(self) -> int:
        """Fit a family that counts, in one step; returns the exit status."""
        began = time.perf_counter()
        if self.resumed and self.checkpoints.steps():
            state, progress = self._start(None)
            return self._already_done(1, state, progress)
        self._begin(0, Progress())
        self.display.start(0, 1)
        train = self.session.dataset.splits["train"]
        counting = time.perf_counter()
        with self.display.doing("counting"):
            params = self.session.model.fit(train, self.signals.poll)["params"]
        seconds = time.perf_counter() - counting
        state = place(self.session, fitted_state(params))
        self._header(state)
        progress = Progress(seconds=seconds, targets=float(train.num_targets), events_done=1)
        metrics = MetricsFile(self.directory / "metrics.jsonl")
        self.signals.poll()
        self.display.say(f"counted {train.num_targets:,} targets in {seconds:.2f} s; scoring")
        for name in ("train", "val"):
            if (split := self.session.dataset.splits.get(name)) is None:
                continue
            with self.display.doing(f"scoring {name}"):
                score = score_split(self.session, split, variables_of(state), self.signals.poll)
            progress.scoring_seconds += score.seconds
            progress.scored += score.targets
            rate = train.num_targets / seconds if name == "train" else None
            fields = {"learning_rate": None, "grad_norm": None, "tokens_per_second": rate}
            metrics.write(1, name, **loss_fields(score.loss), **fields)
            if name == "val":
                progress.val_loss, best = score.loss, math.isfinite(score.loss)
                if best:
                    progress.best_val_loss, progress.best_step = score.loss, 1
                self.display.evaluated(1, score.loss, best)
        self.display.say(
            f"scored {int(progress.scored):,} targets in {progress.scoring_seconds:.2f} s"
        )
        self._sample(1, state)
        progress.wall_seconds = time.perf_counter() - began
        self._save(1, state, progress, True)
        self.checkpoints.wait()
        self.display.stop()
        return self._finish(1, state, progress, metrics)

    def _already_done(self, step: int, state: TrainState, progress: Progress) -> int:
        """Change nothing, but for a summary that a crash at the very end has left unwritten."""
        if (self.directory / "summary.json").exists():
            self.display.say(f"nothing to do: the run is at step {step}, its last")
            return 0
        return self._finish(step, state, progress, MetricsFile(self.directory / "metrics.jsonl"))

    def _start(self, params: Any) -> tuple[TrainState, Progress]:
        """The state to begin from: a checkpoint's, another run's parameters, or a fresh one."""
        if self.resumed and self.checkpoints.steps():
            notes = read_notes(self.checkpoints.read_meta("latest"))
            check_resumed(notes, self.session)
            Progress.from_json(notes.progress)
            shapes = state_shapes(self.session.model, self.session.config, notes.tables)
            like = jax.tree.map(
                lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
                shapes,
                state_shardings(self.session, shapes),
            )
            # Arrays may be found bad only now; then the notes are those of the step before, too.
            state, meta, step = self.checkpoints.restore("latest", like, ones=ADAM_SCALES)
            notes = read_notes(meta)
            progress = Progress.from_json(notes.progress)
            self.display.say(f"going on from step {step}")
            now = environment(self.session.devices, self.session.mesh)
            then = notes.environment
            for name in [name for name, value in now.items() if then.get(name) != value]:
                self.display.say(
                    f"note: {name} was {then.get(name)}, is {now[name]}: the bits may "
                    "differ from those of an uninterrupted run"
                )
            return place(self.session, state), progress
        if self.resumed:
            self.display.say("no checkpoint was saved yet: beginning at step 0")
        return first_state(self.session, params), Progress()

    def _begin(self, step: int, progress: Progress) -> None:
        """Write what must be there from the start, and cut what will be written again."""
        files.replace(self.directory / "config.toml", self.session.config.to_toml())
        (self.directory / "summary.json").unlink(missing_ok=True)
        MetricsFile(self.directory / "metrics.jsonl").cut(step, progress.events_done)
        _cut_samples(self.directory / "samples.txt", progress.events_done)

    def _compile(self, state: TrainState, key: Any) -> Any:
        session = self.session
        assert session.source is not None
        with self.display.doing("compiling"):
            program = compile_chunks(
                session.model, session.config, session.source, state, session.mesh, key
            )
        self.display.say(f"compiled in {program.compile_seconds:.1f} s")
        return program

    def _save(self, step: int, state: TrainState, progress: Progress, best: bool) -> None:
        session = self.session
        meta = checkpoint_meta(
            session.config,
            session.dataset.tokenizer,
            session.dataset.digest,
            environment(session.devices, session.mesh),
            progress.to_json(),
        )
        if session.model.fitted:
            meta["tables"] = {
                name: [list(table.shape), str(table.dtype)] for name, table in state.params.items()
            }
        self.checkpoints.save(step, state, meta, best=best)

    def _sample(self, step: int, state: TrainState) -> None:
        """Append a few samples to samples.txt, and show the first."""
        dataset, config = self.session.dataset, self.session.config
        texts = generate(
            self.session.model,
            variables_of(state),
            dataset.tokenizer,
            "",
            num_samples=_SAMPLES,
            max_new_tokens=_SAMPLE_LENGTH,
            settings=Sampling(),
            seed=config.train.seed,
            poll=self.signals.poll,
        )
        told = "".join(f"{_SAMPLE_HEAD}{step} ---\n{text}\n" for text in texts)
        files.append(self.directory / "samples.txt", told)
        self.display.say(f"--- sample at step {step} ---\n{texts[0]}\n---")

    def _header(self, state: TrainState) -> None:
        """The size of the model, a table of its parameters, the text and the devices."""
        session, config = self.session, self.session.config
        tokenizer, splits = session.dataset.tokenizer, session.dataset.splits
        leaves, _ = jax.tree_util.tree_flatten_with_path(state.params)
        table = Table(box=None, pad_edge=False)
        for title in ("parameter", "shape", "number"):
            table.add_column(title, justify="left" if title == "parameter" else "right")
        for path, leaf in leaves:
            name = "/".join(str(part.key) for part in path)
            table.add_row(name, " x ".join(map(str, leaf.shape)), f"{leaf.size:,}")
        self.display.table(table)
        sizes = ", ".join(f"{name} {split.num_targets:,}" for name, split in splits.items())
        for note in session.dataset.notes:
            self.display.say(f"note: {note}")
        self.display.say(
            f"text: {session.dataset.name}, {tokenizer.vocab_size} symbols; targets: {sizes}"
        )
        self.display.say(
            f"model: {config.model.kind}, {parameter_count(state):,} parameters, "
            f"{config.runtime.dtype}"
        )
        self.display.say(f"device: {hardware.describe(session.devices)}, {self._used()}")
        if 1 < session.mesh.size < len(session.devices):
            self.display.say(
                f"note: {session.mesh.size} devices is the largest number that divides "
                f"train.batch_size ({config.train.batch_size})"
            )

    def _used(self) -> str:
        """How much of the devices a batch is divided over."""
        used, there = self.session.mesh.size, len(self.session.devices)
        are_cores = self.session.devices[0].platform == "cpu" and not backend.devices_are_given()
        if are_cores and there > 1:
            return "each batch shared by the cores" if used > 1 else "each operation shared by them"
        return f"{used} of {there} used"

    def _finish(
        self, step: int, state: TrainState, progress: Progress, metrics: MetricsFile
    ) -> int:
        """Write summary.json and curves.png; returns the exit status."""
        session = self.session
        test_loss = None
        if (split := session.dataset.splits.get("test")) is not None:
            best = self._best_state(step, state, progress)
            test_loss = score_split(session, split, variables_of(best), self.signals.poll).loss
        summary = {
            "steps": step,
            "params": parameter_count(state),
            **{f"val_{name}": value for name, value in _fields(progress.val_loss).items()},
            "best_val_loss": progress.best_val_loss,
            "best_step": progress.best_step,
            "test_loss": _fields(test_loss)["loss"],
            "skipped": int(state.counters.skipped),
            "seconds": progress.wall_seconds,
            "compile_seconds": progress.compile_seconds,
            "tokens_per_second": progress.tokens_per_second,
            **_speeds(session.model.fitted, progress),
            "config_digest": session.config.digest(),
            "state_digest": state_digest(state),
            **environment(session.devices, session.mesh),
        }
        title = f"{session.dataset.name}, {session.config.model.kind}"
        draw_curves(metrics.read(), title, self.directory / "curves.png")
        write_json(self.directory / "summary.json", summary)
        self.checkpoints.close()
        shown = [f"steps {step}"]
        if summary["skipped"]:
            shown.append(f"{summary['skipped']:,} of them skipped (loss or gradient not finite)")
        if progress.best_val_loss is not None:
            best_loss = shown_loss(progress.best_val_loss)
            shown.append(f"best val {best_loss} at step {progress.best_step}")
        if test_loss is not None:
            shown.append(f"test {shown_loss(test_loss)}")
        if speeds := _speeds(session.model.fitted, progress):
            named = {name.split("_")[0]: rate for name, rate in speeds.items() if rate}
            shown += [f"{name} {rate:,.0f} tokens/s" for name, rate in named.items()]
        else:
            shown.append(f"{progress.tokens_per_second:,.0f} tokens/s")
        self.display.say("done: " + ", ".join(shown))
        losses = {"validation": progress.val_loss, "test": test_loss}
        size = session.dataset.tokenizer.vocab_size
        warnings = [loss_warning(split, loss, size) for split, loss in losses.items()]
        if warning := next(filter(None, warnings), None):
            self.display.say(f"warning: {warning}")
        return int(any(loss is not None and not math.isfinite(loss) for loss in losses.values()))

    def _best_state(self, step: int, state: TrainState, progress: Progress) -> TrainState:
        if progress.best_step in (None, step):
            return state
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
        )
        return self.checkpoints.restore("best", like, ones=ADAM_SCALES)[0]


def check_begin(directory: Path, session: Session, *, resume: bool) -> None:
    """Raise what a run in a directory would raise before its first step, and write nothing.

    Another process that writes there at this moment is not noticed: only a lock would tell.

    Raises:
      UserError: the directory holds a run and `resume` is false, a checkpoint there is of another
        run, or it cannot be made or written.
    """
    if not resume:
        _refuse_begun(directory)
        check_directory(directory, "--workdir")
    elif has_checkpoints(directory):
        store = Checkpoints(directory / "checkpoints")
        check_resumed(read_notes(store.read_meta("latest")), session)


def _refuse_begun(directory: Path) -> None:
    # A config.toml that was lost makes the checkpoints no less a run's.
    if (directory / "config.toml").exists() or has_checkpoints(directory):
        raise UserError(
            f"--workdir: {str(directory)!r} already holds a run; go on with it by --resume, or "
            "give another directory"
        )


_SAMPLE_HEAD = "--- step "


def _fields(loss: float | None) -> dict[str, float | None]:
    """A loss and its bpc for JSON, which knows no loss that is not finite."""
    return loss_fields(math.nan if loss is None else loss)


def _speeds(fitted: bool, progress: Progress) -> dict[str, float | None]:
    """Return the speeds of the two parts of fitting a family; nothing for one that is trained.

    None: not known, of a run that was fitted before scoring was timed.
    """
    if not fitted:
        return {}
    return {
        "counting_tokens_per_second": progress.tokens_per_second,
        "scoring_tokens_per_second": progress.scoring_tokens_per_second or None,
    }


def parameter_count(state: TrainState) -> int:
    """Numbers in the parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


def _cut_samples(path: Path, step: int) -> None:
    """Drop the samples of later steps, which a resumed run will write again."""
    if not path.exists():
        return
    kept, keep = [], True
    # Bytes: a sample may hold any kind of line end, and a crash may cut a character in two.
    for line in path.read_bytes().split(b"\n")[:-1]:
        if line.startswith(head := _SAMPLE_HEAD.encode()) and line.endswith(b" ---"):
            number = line.removeprefix(head).removesuffix(b" ---")
            keep = not number.isdigit() or int(number) <= step
        if keep:
            kept.append(line + b"\n")
    files.replace(path, b"".join(kept))
