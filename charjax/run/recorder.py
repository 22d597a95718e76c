"""A run as it is recorded: its directory, its checkpoints, its summary."""

import contextlib
import dataclasses
import functools
import sys
import time
from pathlib import Path
from typing import Any

import jax

from charjax import files, parallel, processes
from charjax.data.tokenizers import CharTokenizer
from charjax.extensions import save_sources
from charjax.files import write_json
from charjax.programs.command import open_store
from charjax.run import agreement, fitting
from charjax.run.checkpoint import Checkpoints
from charjax.run.directory import lock_directory
from charjax.run.display import Display
from charjax.run.header import show_header
from charjax.run.instrument import Instrument
from charjax.run.lock import Lock
from charjax.run.loop import DivergedError, Loop
from charjax.run.metrics import MetricsFile, draw_curves
from charjax.run.notes import (
    changed_measure,
    check_resumed,
    checkpoint_meta,
    environment,
    read_notes,
)
from charjax.run.profiling import Profile
from charjax.run.progress import Progress
from charjax.run.samples import cut_samples, read_samples, write_samples
from charjax.run.stopping import Stop
from charjax.run.summary import Summary
from charjax.run.tokenizer_file import write_tokenizer
from charjax.signals import Interrupted, Signals
from charjax.tracking.background import Tracking
from charjax.tracking.trackers import tracking
from charjax.training.program import ChunkProgram, compile_chunks, dropout_key
from charjax.training.session import (
    Session,
    first_state,
    place,
    state_shardings,
)
from charjax.training.state import ADAM_SCALES, TrainState, state_shapes, variables_of
from charjax.training.validation import evaluated_size, evaluator, score_split


@dataclasses.dataclass
class Recorder:
    """One run, trained or fitted, and written to its directory.

    Each process of a run has a recorder and does the same. The first one writes the files; of a
    checkpoint all write their parts.

    Attributes:
      directory: the run's.
      session: text, model, devices.
      display: the output of the run.
      signals: polled wherever a stop loses nothing.
      checkpoints: the store, shared by all processes of the run.
      lock: held while the process lives, by the first process of the run.
      resumed: whether the run continues from a checkpoint.
      tracking: the trackers that the configuration asks for.
    """

    directory: Path
    session: Session
    display: Display
    signals: Stop
    checkpoints: Checkpoints
    lock: Lock
    resumed: bool
    tracking: Tracking

    @staticmethod
    def open(
        directory: Path, session: Session, display: Display, signals: Signals, *, resume: bool
    ) -> "Recorder":
        """Lock a directory for a run, and make it if need be.

        Raises:
          UserError: it holds a run and `resume` is false, it holds none and `resume` is true,
            another process writes there, or it cannot be made.
        """
        lock = Lock(directory)

        def prepare() -> None:
            if processes.is_first():
                lock_directory(directory, lock, session, resume=resume)

        processes.together(prepare)
        keep = session.config.checkpoint.keep
        store = Checkpoints(directory / "checkpoints", keep, shared=True)
        trackers = (
            tracking(session.config, directory, display.say)
            if processes.is_first()
            else Tracking({}, display.say)
        )
        return Recorder(directory, session, display, Stop(signals), store, lock, resume, trackers)

    def close(self, status: int) -> None:
        """Close the trackers, and let others write the directory.

        Args:
          status: the exit status of the run.
        """
        try:
            self.tracking.close(status)
        finally:
            self.lock.release()

    @property
    def metrics(self) -> MetricsFile:
        """The run's metrics.jsonl."""
        path = self.directory / "metrics.jsonl"
        return MetricsFile(path, self.tracking.write, writes=processes.is_first())

    def train(
        self,
        params: Any = None,
        profile: int | None = None,
        instrument: Instrument | None = None,
    ) -> int:
        """Train to the last step; return the exit status.

        Args:
          params: the parameters to start from; None: drawn by the scheme.
          profile: steps of which a trace is written to profile/.
          instrument: reads the states at steps of its own.
        """
        began = time.perf_counter()
        state, progress = self._initial_state(params)
        step = int(state.counters.step)
        agreement.check_state(state, step)
        show_header(self.display, self.session, state)
        if progress.is_over(step, self.session.config):
            return self._already_done(step, state, progress)
        if params is not None:
            # Saved before config.toml exists: a run that can be resumed has its parameters.
            self._save(step, state, progress, False)
            self.checkpoints.wait()
        self._prepare_directory(step, progress)
        program = self._compile(state)
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
            metrics=self.metrics,
            display=self.display,
            signals=self.signals,
            evaluate=evaluator(self.session, self.signals.poll_together),
            evaluate_trained=evaluator(self.session, self.signals.poll_together, "trained")
            if self.session.config.optim.keeps_ema
            else None,
            agree=self.signals.agree,
            sample=self._sample,
            save=save,
            check=self.checkpoints.check,
            steps_per_epoch=self.session.steps_per_epoch,
            profile=self._profile(profile),
            instrument=instrument,
            sizes={
                name: split.size if name == "train" else evaluated_size(self.session, name)
                for name, split in self.session.dataset.splits.items()
            },
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
                f"stopped by {stop} at step {loop.step}; the state is saved: resume with "
                f"--workdir {self.directory} --resume"
            )
            return stop.status
        except DivergedError as error:
            save(loop.step, loop.state, loop.progress, False)
            self.checkpoints.close()
            self.display.stop()
            print(f"error: {error}", file=sys.stderr)
            return 1
        except processes.PeerError:
            # Nothing can be saved without the other process.
            raise
        except OSError:
            # A save in progress may still succeed, whatever else could not be written.
            with contextlib.suppress(OSError):
                self.checkpoints.wait()
            raise
        finally:
            self.display.stop()
        self.checkpoints.wait()
        progress.wall_seconds = earlier + time.perf_counter() - began
        return self._finish(loop.step, loop.state, progress)

    def _profile(self, steps: int | None) -> Profile | None:
        if steps is None or not processes.is_first():
            return None
        return Profile(self.directory / "profile", steps, self.display)

    def fit(self) -> int:
        """Fit a family that counts, in one step; return the exit status."""
        began = time.perf_counter()
        if self.resumed and self._has_steps():
            state, progress = self._initial_state(None)
            return self._already_done(1, state, progress)
        self._prepare_directory(0, Progress())
        self.display.start(0, 1)
        poll = self.signals.poll_together
        state, progress = fitting.count(self.session, self.display, poll)
        agreement.check_state(state, 0)
        show_header(self.display, self.session, state)
        poll()
        fitting.score(self.session, state, progress, self.metrics, self.display, poll)
        self._sample(1, state)
        progress.wall_seconds = time.perf_counter() - began
        self._save(1, state, progress, True)
        self.checkpoints.wait()
        self.display.stop()
        return self._finish(1, state, progress)

    def _already_done(self, step: int, state: TrainState, progress: Progress) -> int:
        """Change nothing, unless a crash at the very end has left the summary unwritten."""
        if _first_says((self.directory / "summary.json").exists()):
            early = step < self.session.config.train.steps and not self.session.model.fitted
            further = "; it ended early: train.patience=N with a greater N continues" * early
            self.display.say(f"nothing to do: the run is at step {step}, its last{further}")
            return 0
        return self._finish(step, state, progress)

    def _has_steps(self) -> bool:
        return _first_says(bool(self.checkpoints.steps()))

    def _initial_state(self, params: Any) -> tuple[TrainState, Progress]:
        """Return the state of the latest checkpoint, or a fresh one, with `params` if given."""
        if self.resumed and self._has_steps():
            return self._restore()
        if self.resumed:
            self.display.say("no checkpoint was saved yet: beginning at step 0")
        return first_state(self.session, params), Progress()

    def _restore(self) -> tuple[TrainState, Progress]:
        notes = read_notes(self.checkpoints.read_meta("latest"))
        check_resumed(notes, self.session, self.checkpoints.steps()[-1])
        Progress.from_json(notes.progress)
        shapes = state_shapes(self.session.model, self.session.config, notes.tables)
        like = jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            shapes,
            state_shardings(self.session, shapes),
        )
        # Damaged arrays are found only now; the notes are then those of the step before, too.
        state, meta, step = self.checkpoints.restore("latest", like, ones=ADAM_SCALES)
        notes = read_notes(meta)
        progress = Progress.from_json(notes.progress)
        self.display.say(f"going on from step {step}")
        if note := changed_measure(notes.config, self.session.config):
            self.display.say(f"note: {note}")
        now = environment(self.session)
        for name, value in now.items():
            if (then := notes.environment.get(name)) != value:
                self.display.say(
                    f"note: {name} was {then}, is {value}: the bits may "
                    "differ from those of an uninterrupted run"
                )
        return place(self.session, state), progress

    def _prepare_directory(self, step: int, progress: Progress) -> None:
        """Write config.toml, and cut from the other files what will be written again."""

        def prepare() -> None:
            if not processes.is_first():
                return
            config = self.session.config
            save_sources(self.directory, config.model_dump())
            files.replace(self.directory / "config.toml", config.to_toml())
            write_tokenizer(self.directory, self.session.dataset.tokenizer)
            (self.directory / "summary.json").unlink(missing_ok=True)
            self.metrics.cut(step, progress.events_done)
            cut_samples(self.directory / "samples.txt", progress.events_done)
            if self.tracking.has_trackers:
                samples = read_samples(self.directory / "samples.txt")
                self.tracking.start(self.metrics.read(), samples)

        processes.together(prepare)

    def _compile(self, state: TrainState) -> ChunkProgram:
        session = self.session
        assert session.source is not None
        key = dropout_key(session.config, session.mesh)
        with self.display.doing("compiling"):
            program = compile_chunks(
                session.model, session.config, session.source, state, session.mesh, key
            )
        self.display.say(f"compiled in {program.compile_seconds:.1f} s")
        if (store := open_store()) is not None:
            store.write_hint()
        return program

    def _save(self, step: int, state: TrainState, progress: Progress, best: bool) -> None:
        meta = {**self._notes, "progress": progress.to_json()}
        tables = state.params if self.session.model.fitted else dict(state.tables)
        if tables:
            meta["tables"] = {
                name: [list(table.shape), str(table.dtype)] for name, table in tables.items()
            }
        self.checkpoints.save(step, state, meta, best=best)

    @functools.cached_property
    def _notes(self) -> dict[str, Any]:
        """The notes of every checkpoint, but for the progress: making them takes a millisecond."""
        session = self.session
        return checkpoint_meta(
            session.config,
            session.dataset.tokenizer,
            session.dataset.digest,
            environment(session),
            {},
            session.dataset.files,
        )

    def _sample(self, step: int, state: TrainState) -> None:
        """Append to samples.txt, and show the first sample; the first process does it."""
        # All take part: a state may be divided over their devices.
        variables = parallel.local_copy(variables_of(state, "averaged"), self.session.mesh)

        def sample() -> None:
            if processes.is_first():
                path = self.directory / "samples.txt"
                texts = write_samples(path, self.session, step, variables, self.signals.poll)
                self.tracking.sample(step, texts)
                self.display.say(f"--- sample at step {step} ---\n{texts[0]}\n---")

        # The others would wait for it in the next sum over devices, which has an end.
        processes.together(sample)

    def _finish(self, step: int, state: TrainState, progress: Progress) -> int:
        """Write curves.png and summary.json; return the exit status."""
        test_loss = self._test_loss(step, state, progress)
        summary = Summary(self.session, step, state, progress, test_loss)
        fields = summary.to_json()
        processes.together(lambda: self._write_end(fields) if processes.is_first() else None)
        self.checkpoints.close()
        self.display.say(summary.describe())
        if warning := summary.warning():
            self.display.say(f"warning: {warning}")
        return summary.exit_status()

    def _write_end(self, fields: dict[str, Any]) -> None:
        title = f"{self.session.dataset.name}, {self.session.config.model.kind}"
        tokenizer = self.session.dataset.tokenizer
        size = tokenizer.vocab_size if isinstance(tokenizer, CharTokenizer) else None
        draw_curves(self.metrics.read_thinned(), title, self.directory / "curves.png", size)
        write_json(self.directory / "summary.json", fields)
        self.tracking.summarize(fields)

    def _test_loss(self, step: int, state: TrainState, progress: Progress) -> float | None:
        """Measure the loss of the best checkpoint on the test split, if there is one."""
        if (split := self.session.dataset.splits.get("test")) is None:
            return None
        if progress.best_step not in (None, step):
            like = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
                state,
            )
            state, _, _ = self.checkpoints.restore("best", like, ones=ADAM_SCALES)
        return score_split(
            self.session, split, variables_of(state, "averaged"), self.signals.poll_together
        ).loss


def _first_says(fact: bool) -> bool:
    """Return a fact as the first process sees it, whose view of the files is the newest."""
    return processes.from_first("yes" if fact else "") == "yes"
