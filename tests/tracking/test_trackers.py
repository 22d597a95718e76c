"""Trackers: what TensorBoard and W&B hold is what metrics.jsonl and samples.txt hold, once."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from charjax.config import parse_config
from charjax.errors import UserError
from charjax.run.metrics import MetricsFile
from charjax.run.samples import read_samples
from charjax.tracking import trackers, weights_and_biases
from charjax.tracking.background import Tracking
from charjax.tracking.tracker import TrackedRun, numbers, run_id, settings
from charjax.tracking.weights_and_biases import WeightsAndBiases, wandb_mode
from tests.commands import run, start, tiny
from tests.tracking import readers

TEXT = "what is the case is what is. " * 80
WORDS = [*tiny("bigram"), "train.steps=40", "train.sample_every=20"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def expected(workdir: Path) -> list[tuple[str, int, float]]:
    """Return tag, step and value of every number of metrics.jsonl."""
    return [
        (f"{line['split']}/{key}", line["step"], value)
        for line in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        for key, value in line.items()
        if key not in ("step", "split") and value is not None
    ]


def assert_equal_files(workdir: Path, folder: Path) -> None:
    """Check that event files hold every number and sample of a run, once and in order."""
    found, wanted = readers.scalars(folder), expected(workdir)
    assert [entry[:2] for entry in found] == [entry[:2] for entry in wanted]
    assert [e[2] for e in found] == pytest.approx([e[2] for e in wanted], rel=1e-6)
    samples = read_samples(workdir / "samples.txt")
    assert readers.texts(folder, "samples") == dict(samples)


class TestNumbers:
    """Tags, hyperparameters and the id of a run."""

    def test_every_number_of_a_line_has_a_tag(self) -> None:
        line = {"step": 5, "split": "val", "loss": 1.5, "bpc": None, "tokens_per_second": 7}
        assert numbers(line) == {"val/loss": 1.5, "val/tokens_per_second": 7.0}

    def test_settings_are_flat(self) -> None:
        flat = settings(parse_config({"optim": {"boundaries": [3, 4]}}))
        assert flat["optim.boundaries"] == "[3, 4]"
        assert flat["model.kind"] == "transformer"
        assert "data.path" not in flat

    def test_an_id_is_kept_and_a_damaged_one_replaced(self, tmp_path: Path) -> None:
        first = run_id(tmp_path)
        assert run_id(tmp_path) == first
        (tmp_path / "run_id").write_text("../../etc")
        assert run_id(tmp_path) not in (first, "../../etc")

    def test_samples_are_read_as_they_were_written(self, tmp_path: Path) -> None:
        path = tmp_path / "samples.txt"
        assert read_samples(path) == []
        body = (
            "--- step 5 ---\na\r\n\nb\n--- step 5 ---\n\n--- step 12 ---\n\u00e9 --- step 1 ---\n"
        )
        path.write_bytes(body.encode())
        assert read_samples(path) == [(5, ["a\r\n\nb", ""]), (12, ["\u00e9 --- step 1 ---"])]


class Recorded:
    """A tracker that remembers its calls, and may fail or hang in one of them."""

    def __init__(self, fails_at: str = "", seconds: float = 0.0):
        self.calls: list[tuple[Any, ...]] = []
        self._fails_at, self._seconds = fails_at, seconds

    def open(self, lines: Any, samples: Any) -> None:
        self._call("open", lines, samples)

    def write(self, lines: Any) -> None:
        self._call("write", lines)

    def sample(self, step: int, texts: list[str]) -> None:
        self._call("sample", step, texts)

    def close(self, status: int, summary: dict[str, Any]) -> str:
        self._call("close", status, summary)
        return "it is there"

    def _call(self, *call: Any) -> None:
        time.sleep(self._seconds)
        self.calls.append(call)
        if call[0] == self._fails_at:
            raise OSError(28, "No space left on device\nsecond line")


class TestBackground:
    """Trackers in threads."""

    def test_calls_arrive_in_order_and_at_once(self) -> None:
        tracker, said = Recorded(seconds=0.05), []
        tracking = Tracking({"log.wandb": tracker}, said.append)
        began = time.perf_counter()
        tracking.start([], [])
        line = {"step": 1, "split": "train", "loss": 2.0}
        lines = [line]
        tracking.write(lines)
        # The caller may go on using its list.
        lines.append({"step": 2})
        tracking.sample(1, ["a"])
        assert time.perf_counter() - began < 0.05
        tracking.summarize({"steps": 1})
        tracking.close(0)
        assert tracker.calls == [
            ("open", [], []),
            ("write", [line]),
            ("sample", 1, ["a"]),
            ("close", 0, {"steps": 1}),
        ]
        assert said == ["it is there"]

    @pytest.mark.parametrize("method", ["open", "write", "sample", "close"])
    def test_a_failure_is_one_warning(self, method: str) -> None:
        tracker, said = Recorded(fails_at=method), []
        other = Recorded()
        tracking = Tracking({"log.wandb": tracker, "log.tensorboard": other}, said.append)
        tracking.start([], [])
        for step in range(3):
            tracking.write([{"step": step}])
            tracking.sample(step, [])
        tracking.close(0)
        assert tracker.calls[-1][0] == "close"
        assert len(other.calls) == 8
        warning, *rest = [line for line in said if "warning" in line]
        assert not rest
        assert warning == (
            "warning: log.wandb has failed (OSError: [Errno 28] No space left on device); the run "
            "goes on without it, and `charjax log RUN --to wandb` writes it later"
        )

    def test_a_slow_tracker_is_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("charjax.tracking.background._LONGEST_QUEUE", 10)
        tracker, said = Recorded(seconds=0.05), []
        tracking = Tracking({"log.wandb": tracker}, said.append)
        tracking.start([], [])
        for step in range(20):
            tracking.write([{"step": step}] * 2)
        tracking.close(0)
        assert [line for line in said if "10 lines are waiting for it" in line] == said
        assert len(said) == 1

    def test_a_tracker_that_hangs_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        left: list[int] = []
        monkeypatch.setattr("charjax.tracking.background._PATIENCE", 0.2)
        monkeypatch.setattr("charjax.tracking.background.leave_at_exit", left.append)
        said: list[str] = []
        tracking = Tracking({"log.wandb": Recorded(seconds=3.0)}, said.append)
        tracking.start([], [])
        began = time.perf_counter()
        tracking.close(3)
        assert time.perf_counter() - began < 2
        assert left == [3]
        assert "it has not answered for" in said[0]


class TestMissingPackages:
    """A missing extra is refused before anything is written."""

    @pytest.fixture(autouse=True)
    def missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            trackers, "_PACKAGES", {"tensorboard": "no_such_a", "wandb": "no_such_b"}
        )

    @pytest.mark.parametrize("name", ["tensorboard", "wandb"])
    def test_of_a_run(self, name: str, text: Path, tmp_path: Path) -> None:
        for flag in ([], ["--dry-run"]):
            words = [f"data.path={text}", *WORDS, f"log.{name}=true", *flag]
            done = run("train", *words, "--workdir", tmp_path / "run")
            assert (done.status, done.err.count("\n")) == (2, 1)
            assert f"log.{name}: true given, but no_such_" in done.err
            assert f'pip install "charjax[{name}]"' in done.err
            assert not (tmp_path / "run").exists()

    def test_of_a_replay(self, text: Path, tmp_path: Path) -> None:
        words = [f"data.path={text}", *tiny("bigram"), "train.steps=1"]
        assert run("train", *words, "--workdir", tmp_path / "run").status == 0
        done = run("commands.log", tmp_path / "run", "--to", "wandb")
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
        assert "--to: wandb given, but no_such_b is not installed" in done.err

    def test_of_a_broken_package(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "broken_package.py").write_text("raise RuntimeError('two\\nlines')")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(trackers, "_PACKAGES", {"wandb": "broken_package"})
        with pytest.raises(UserError, match=r"cannot be imported \(RuntimeError: two\)"):
            trackers.import_package("wandb", "log.wandb: true")


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorboardX")
    folder = tmp_path_factory.mktemp("tensorboard")
    workdir, text = folder / "a run", folder / "text.txt"
    text.write_text(TEXT)
    words = [f"data.path={text}", *WORDS, "log.tensorboard=true", "--workdir", workdir]
    done = run("train", *words)
    assert done.status == 0, done.err
    # The command can be copied: a path with a blank is quoted.
    assert f"tensorboard --logdir '{workdir}/tensorboard'" in done.out
    return workdir


class TestTensorBoard:
    """Event files, read back record by record."""

    @pytest.fixture(autouse=True)
    def needs_package(self) -> None:
        pytest.importorskip("tensorboardX")

    @pytest.fixture
    def trained(self, one_run: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(one_run, tmp_path / "a run"))

    def test_every_number_and_sample_once(self, trained: Path) -> None:
        folder = trained / "tensorboard"
        assert_equal_files(trained, folder)
        (name,) = (path.name for path in folder.iterdir())
        assert (trained / "run_id").read_text().strip() in name
        events = readers.events(folder)
        assert events[0].file_version == "brain.Event:2"
        (config,) = readers.texts(folder, "config")[0]
        assert config == (trained / "config.toml").read_text()
        tags = [value.tag for event in events for value in event.summary.value]
        assert tags.count("_hparams_/session_start_info") == 1

    def test_a_longer_run_continues_the_file(self, trained: Path) -> None:
        folder = trained / "tensorboard"
        times = {
            (v.tag, e.step): e.wall_time for e in readers.events(folder) for v in e.summary.value
        }
        done = run("train", "--workdir", trained, "--resume", "train.steps=60")
        assert done.status == 0, done.err
        assert_equal_files(trained, folder)
        assert max(step for _, step, _ in readers.scalars(folder)) == 60
        (id_in_name,) = {path.name.split(".")[4] for path in folder.iterdir()}
        assert id_in_name == (trained / "run_id").read_text().strip()
        for event in readers.events(folder):
            for value in event.summary.value:
                # Values that were there keep their time.
                key = (value.tag, event.step)
                if key in times and event.step:
                    assert event.wall_time == times[key]

    def test_a_replay_equals_what_was_written_and_does_not_double(self, trained: Path) -> None:
        out = trained.parent / "logs"
        for _ in range(2):
            done = run("commands.log", trained, "--to", "tensorboard", "--out", out)
            assert (done.status, done.err) == (0, "")
            assert_equal_files(trained, out / trained.name)
        run("commands.log", trained, "--to", "tensorboard")
        assert_equal_files(trained, trained / "tensorboard")
        assert len(list((trained / "tensorboard").iterdir())) == 1

    def test_a_broken_event_file_is_written_anew(self, trained: Path) -> None:
        (path,) = (trained / "tensorboard").iterdir()
        path.write_bytes(path.read_bytes()[:-5] + b"\xff" * 40)
        (trained / "tensorboard" / "writing.abc.charjax").write_bytes(b"\x00" * 9)
        # Of another program: it stays.
        (trained / "tensorboard" / "mine.txt").write_text("mine")
        assert run("commands.log", trained, "--to", "tensorboard").status == 0
        assert_equal_files(trained, trained / "tensorboard")
        names = sorted(path.name for path in (trained / "tensorboard").iterdir())
        assert len(names) == 2
        assert names[1] == "mine.txt"

    def test_a_full_disk_does_not_end_the_run(
        self, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tensorboardX.record_writer import RecordWriter

        write, count = RecordWriter.write, 0

        def full(self: Any, data: bytes) -> None:
            nonlocal count
            count += 1
            if count > 8:
                raise OSError(28, "No space left on device")
            write(self, data)

        monkeypatch.setattr(RecordWriter, "write", full)
        words = [f"data.path={text}", *WORDS, "log.tensorboard=true", "--workdir", tmp_path / "run"]
        done = run("train", *words)
        assert (done.status, done.err) == (0, "")
        assert done.out.count("warning: log.tensorboard has failed (OSError: [Errno 28]") == 1
        monkeypatch.undo()
        assert run("commands.log", tmp_path / "run", "--to", "tensorboard").status == 0
        assert_equal_files(tmp_path / "run", tmp_path / "run" / "tensorboard")

    def test_bits_of_the_run_are_as_without(self, trained: Path, text: Path) -> None:
        words = [f"data.path={text}", *WORDS, "--workdir", trained.parent / "other"]
        assert run("train", *words).status == 0
        digests = [
            json.loads((folder / "summary.json").read_text())["state_digest"]
            for folder in (trained, trained.parent / "other")
        ]
        assert digests[0] == digests[1]

    def test_a_counted_run(self, text: Path, tmp_path: Path) -> None:
        words = [f"data.path={text}", *tiny("ngram"), "log.tensorboard=true"]
        done = run("train", *words, "--workdir", tmp_path / "run")
        assert done.status == 0, done.err
        assert_equal_files(tmp_path / "run", tmp_path / "run" / "tensorboard")

    @pytest.mark.slow
    def test_each_step_once_after_a_kill(self, text: Path, tmp_path: Path) -> None:
        workdir = tmp_path / "run"
        kill_and_resume(text, workdir, "log.tensorboard=true")
        assert_equal_files(workdir, workdir / "tensorboard")


def kill_and_resume(text: Path, workdir: Path, *words: str) -> None:
    """Kill a run some time after its first checkpoint, and resume it to its end."""
    settings = [*tiny("bigram"), "train.steps=4000", "checkpoint.every=500", "eval.every=100"]
    child = start("train", f"data.path={text}", *settings, *words, "--workdir", workdir)
    lines = MetricsFile(workdir / "metrics.jsonl")
    try:
        deadline = time.monotonic() + 120
        while not any(line["step"] > 700 for line in lines.read()):
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    done = run("train", "--workdir", workdir, "--resume")
    assert done.status == 0, done.err


class FakeRun:
    """The part of a W&B run that is used, with a server's rule: steps only grow."""

    def __init__(self, starting_step: int, **arguments: Any):
        self.starting_step, self.arguments = starting_step, arguments
        self.offline, self.disabled = arguments["mode"] == "offline", False
        self.dir, self.url = "/nowhere/files", "https://wandb.example/run"
        self.rows: dict[int, dict[str, Any]] = {}
        self.summary: dict[str, Any] = {}
        self.status: int | None = None

    def log(self, row: dict[str, Any], step: int) -> None:
        assert step >= max(self.rows, default=self.starting_step)
        self.rows.setdefault(step, {}).update(row)

    def finish(self, exit_code: int) -> None:
        self.status = exit_code


class TestWandbOnline:
    """Rows that are sent to a server, seen by a stand-in for the package."""

    LINES = (
        {"step": 1, "split": "train", "loss": 3.0},
        {"step": 10, "split": "train", "loss": 2.0},
        {"step": 10, "split": "val", "loss": 2.5},
        {"step": 20, "split": "train", "loss": 1.0},
    )

    @pytest.fixture
    def fake(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        class Module:
            run: FakeRun
            starting_step = 0

            @classmethod
            def init(cls, **arguments: Any) -> FakeRun:
                cls.run = FakeRun(cls.starting_step, **arguments)
                return cls.run

            @staticmethod
            def Table(columns: list[str], data: list[list[str]]) -> Any:
                return (columns, data)

            @staticmethod
            def Settings(**settings: Any) -> Any:
                return settings

            @staticmethod
            def teardown() -> None: ...

        monkeypatch.setitem(sys.modules, "wandb", Module)
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.delenv("WANDB_PROJECT", raising=False)
        return Module

    @pytest.fixture
    def tracked(self, tmp_path: Path) -> TrackedRun:
        return TrackedRun("a", "0123abcd", parse_config({"log": {"wandb": True}}), tmp_path)

    def test_one_row_a_step(self, fake: Any, tracked: TrackedRun) -> None:
        tracker = WeightsAndBiases(tracked)
        tracker.open(list(self.LINES[:3]), [(10, ["x"])])
        tracker.write([self.LINES[3]])
        assert tracker.close(0, {"best_step": 10}) == "Weights & Biases: https://wandb.example/run"
        assert fake.run.rows == {
            1: {"train/loss": 3.0},
            10: {"train/loss": 2.0, "val/loss": 2.5, "samples": (["text"], [["x"]])},
            20: {"train/loss": 1.0},
        }
        assert (fake.run.status, fake.run.summary) == (0, {"summary/best_step": 10})
        arguments = fake.run.arguments
        assert (arguments["id"], arguments["resume"]) == ("0123abcd", "allow")
        assert (arguments["project"], arguments["name"]) == ("charjax", "a")
        assert arguments["config"]["train"]["steps"] == 2000

    def test_steps_that_the_server_has_are_not_sent_again(
        self, fake: Any, tracked: TrackedRun
    ) -> None:
        fake.starting_step = 11
        tracker = WeightsAndBiases(tracked)
        tracker.open(list(self.LINES), [(10, ["x"]), (20, ["y"])])
        assert fake.run.rows == {20: {"train/loss": 1.0, "samples": (["text"], [["y"]])}}

    @pytest.mark.parametrize(
        ("variables", "netrc", "mode"),
        [
            ({}, "", "offline"),
            ({"WANDB_API_KEY": "k"}, "", "online"),
            ({}, "machine api.wandb.ai login user password k", "online"),
            ({}, "machine example.org login user password k", "offline"),
            ({}, "nonsense", "offline"),
            ({"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "", "disabled"),
        ],
    )
    def test_without_a_key_it_is_offline(
        self,
        variables: dict[str, str],
        netrc: str,
        mode: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name in [name for name in os.environ if name.startswith("WANDB")]:
            monkeypatch.delenv(name)
        path = tmp_path / "netrc"
        if netrc:
            path.write_text(netrc)
            path.chmod(0o600)
        monkeypatch.setenv("NETRC", str(path))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert wandb_mode() == mode


class TestWandbOffline:
    """The real package: its offline file, read back."""

    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        wandb = pytest.importorskip("wandb", reason="needs wandb (75 MB): make trackers")
        monkeypatch.setenv("WANDB_MODE", "offline")
        yield
        wandb.teardown()

    def assert_equal_file(self, workdir: Path, folder: Path) -> None:
        path = readers.offline_file(folder)
        # Its process goes on writing after `finish`, until Python exits.
        deadline = time.monotonic() + 30
        while not any(r.WhichOneof("record_type") == "exit" for r in readers.records(path)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        rows = readers.history(path)
        steps = [row["_step"] for row in rows]
        assert steps == sorted(set(steps))
        found = {
            (key, row["_step"], value)
            for row in rows
            for key, value in row.items()
            if key.startswith(("train/", "val/"))
        }
        assert found == set(expected(workdir))
        samples = {
            row["_step"]: [data[0] for data in json.loads(table.read_text())["data"]]
            for row in rows
            if (name := row.get("samples/path"))
            for table in [path.parent / "files" / name]
        }
        assert samples == dict(read_samples(workdir / "samples.txt"))

    @pytest.mark.slow
    def test_a_run_a_longer_one_and_a_replay(self, text: Path, tmp_path: Path) -> None:
        workdir = tmp_path / "run"
        words = [f"data.path={text}", *WORDS, "log.wandb=true", "log.wandb_project=mine"]
        done = run("train", *words, "--workdir", workdir)
        assert (done.status, done.err) == (0, "")
        assert "upload it with: wandb sync" in done.out
        self.assert_equal_file(workdir, workdir)
        done = run("train", "--workdir", workdir, "--resume", "train.steps=60")
        assert (done.status, done.err) == (0, "")
        self.assert_equal_file(workdir, workdir)
        for _ in range(2):
            done = run("commands.log", workdir, "--to", "wandb", "--out", tmp_path / "out")
            assert (done.status, done.err) == (0, "")
            self.assert_equal_file(workdir, tmp_path / "out")
        paths = [readers.offline_file(folder) for folder in (workdir, tmp_path / "out")]
        (record,) = (
            r.run for r in readers.records(paths[0]) if r.WhichOneof("record_type") == "run"
        )
        assert record.run_id == (workdir / "run_id").read_text().strip()
        assert (record.project, record.display_name) == ("mine", "run")
        config = {item.key: json.loads(item.value_json) for item in record.config.update}
        assert config["train"]["steps"] == 60
        assert paths[0].name == paths[1].name

    @pytest.mark.slow
    def test_each_step_once_after_a_kill(self, text: Path, tmp_path: Path) -> None:
        workdir = tmp_path / "run"
        kill_and_resume(text, workdir, "log.wandb=true")
        self.assert_equal_file(workdir, workdir)

    @pytest.mark.slow
    def test_its_process_is_killed(self, text: Path, tmp_path: Path) -> None:
        workdir, printed = tmp_path / "run", tmp_path / "printed.txt"
        settings = [*tiny("bigram"), "train.steps=400", "eval.every=0", "checkpoint.every=0"]
        words = [f"data.path={text}", *settings, "log.wandb=true", "--workdir", str(workdir)]
        # A file: processes of wandb's own would hold a pipe open.
        with printed.open("w") as file:
            child = subprocess.Popen(
                [sys.executable, "-m", "charjax.train", *words], stdout=file, stderr=file
            )
        try:
            deadline = time.monotonic() + 120
            while not (cores := children(child.pid, "wandb-core")):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            for core in cores:
                os.kill(core, signal.SIGKILL)
            assert child.wait(timeout=240) == 0
        finally:
            child.kill()
            child.wait()
        assert printed.read_text().count("warning: log.wandb has failed") == 1
        assert "Traceback" not in printed.read_text()


def children(parent: int, name: str) -> list[int]:
    """Return the processes of a parent whose command line has a name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) == parent and name in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


def test_the_host_of_the_key_is_that_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine wandb.example.org login user password k")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080/x")
    assert weights_and_biases._is_in_netrc()
    monkeypatch.delenv("WANDB_BASE_URL")
    assert not weights_and_biases._is_in_netrc()
