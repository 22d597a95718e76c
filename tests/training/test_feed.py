"""Runs whose text stays on the host have the bits of those whose text is on the device."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from charjax import parallel
from charjax.config import load_config
from charjax.data.host_batches import HostSource, make_host_source
from charjax.data.splits import Split
from charjax.errors import UserError
from charjax.performance.memory import predict
from charjax.training import feed
from charjax.training.feed import Feed, device_source
from charjax.training.session import open_session
from tests.commands import run, start
from tests.several import Several, last_step
from tests.training.fed_runs import pair, write_text

ROOT = Path(__file__).resolve().parent.parent.parent
_CELL = ["model.context_length=8", "model.d_embed=4", "model.d_hidden=8"]
_GPT = [
    "model.kind=transformer", "model.context_length=8", "model.n_layer=1", "model.n_head=2",
    "model.d_model=8",
]  # fmt: skip
_MLP = ["model.kind=mlp", "model.context_length=4", "model.d_embed=4", "model.hidden=[8]"]
_PAIRS = [*_MLP, "data.layout=pairs"]
_ACCUMULATE, _EPOCH = "optim.accumulate_steps=2", "data.sampling=epoch"
_CONTIGUOUS, _RANDOM = "data.sampling=contiguous", "eval.protocol=random"
RUNS = {
    "transformer": [*_GPT, "model.dropout=0.1"],
    "transformer, epoch, random protocol": [*_GPT, _EPOCH, _RANDOM, "eval.batches=3"],
    "transformer, lines": [*_GPT, "data.layout=lines", _EPOCH, _ACCUMULATE],
    "gru, contiguous": ["model.kind=gru", *_CELL, _CONTIGUOUS, _ACCUMULATE],
    "lstm, lines": ["model.kind=lstm", *_CELL, "data.layout=lines"],
    "rnn": ["model.kind=rnn", *_CELL],
    "bigram": ["model.kind=bigram", "model.context_length=8", _EPOCH],
    "bow": ["model.kind=bow", "model.context_length=8", "model.d_embed=8"],
    "mlp": _MLP,
    "mlp, pairs": [*_PAIRS, "model.norm=batch", _EPOCH],
    "mlp, pairs of lines": [*_PAIRS, "data.split=shuffled_lines", _ACCUMULATE],
    "wavenet, pairs": [
        "model.kind=wavenet", "model.context_length=4", "model.d_embed=4", "model.d_hidden=8",
        "data.layout=pairs",
    ],
    "rows": [*_GPT, "data.split=interleaved", "data.rows=4", "data.chunk=10", _CONTIGUOUS],
    "mingru": ["model.kind=mingru", *_CELL, _CONTIGUOUS],
    "lsuv": [*_PAIRS, "init.scheme=lsuv"],
}  # fmt: skip


def words(name: str, text: Path) -> list[str]:
    return [f"data.path={text}", "train.batch_size=4", "train.steps=30", *RUNS[name]]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.quick("bigram")
# Batches of every layout and sampling are compared in tests/data/test_host_batches.py.
@pytest.mark.ci("transformer*", "gru*", "mlp, pairs of lines", "rows", "lsuv")
def test_bits_are_those_of_a_text_on_the_device(name: str, tmp_path: Path):
    device, host = pair(words(name, write_text(tmp_path)), 1)
    assert host == device


@pytest.mark.slow
@pytest.mark.longest
def test_bits_are_those_of_a_text_on_two_devices(tmp_path: Path):
    text = write_text(tmp_path)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    names = ["transformer", "transformer, lines", "gru, contiguous", "mlp, pairs", "lsuv"]
    names += ["transformer, epoch, random protocol"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.fed_runs"],
        env={**os.environ, "XLA_FLAGS": flags},
        input=json.dumps([(words(name, text), 2) for name in names]),
        capture_output=True, text=True, cwd=ROOT, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, (device, host) in zip(names, json.loads(done.stdout), strict=True):
        assert host == device, name


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_with_the_text_elsewhere(tmp_path: Path):
    text = write_text(tmp_path)
    base = [f"data.path={text}", *_GPT, "train.steps=6000", "train.log_every=50"]
    base += ["train.batch_size=4", "eval.every=2500", "checkpoint.every=1000"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run("train", *base, "--workdir", whole).status == 0
    with start("train", *base, "data.device_bytes=0", "--workdir", cut) as started:
        while last_step(cut) < 1100 and started.poll() is None:
            time.sleep(0.1)
        started.send_signal(signal.SIGTERM)
        started.communicate(timeout=60)
        assert started.returncode == 143
    assert run("train", "--workdir", cut, "--resume").status == 0
    assert _summary(cut) == _summary(whole)
    assert _metrics(cut) == _metrics(whole)


@pytest.mark.slow
@pytest.mark.longest
def test_two_processes_train_as_with_the_text_on_their_devices(tmp_path: Path):
    text = write_text(tmp_path)
    base = [f"data.path={text}", *RUNS["gru, contiguous"], "train.steps=40", "train.log_every=1"]
    base += ["train.batch_size=4", "eval.every=20"]
    workdirs = {size: tmp_path / str(size) for size in (10**6, 0)}
    for size, workdir in workdirs.items():
        options: list[object] = [*base, f"data.device_bytes={size}", "--workdir", workdir]
        with Several(tmp_path, 2, options) as several:
            assert several.wait(120) == [0, 0], several.report()
    assert _summary(workdirs[0]) == _summary(workdirs[10**6])
    assert _metrics(workdirs[0]) == _metrics(workdirs[10**6])


def _summary(workdir: Path) -> Any:
    found = json.loads((workdir / "summary.json").read_text())
    return {key: found[key] for key in ("state_digest", "val_loss", "best_val_loss", "best_step")}


def _metrics(workdir: Path) -> list[Any]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) | {"tokens_per_second": None} for line in lines]


def mesh() -> Any:
    return parallel.make_mesh(jax.local_devices()[:1], 1)


def source_of(batch_size: int = 2, **others: Any) -> HostSource:
    tokens = np.arange(1, 200, dtype=np.uint8)
    split = Split(tokens, np.zeros(1, np.int64), np.array([len(tokens) - 1]))
    sizes = {"window": 4, "lookback": 0, "batch_size": batch_size, "seed": 0}
    return make_host_source(split, layout="stream", sampling="random", **(sizes | others))


def test_blocks_grow_and_end_with_the_run(monkeypatch: pytest.MonkeyPatch):
    read: list[tuple[int, int]] = []

    def make(source: HostSource, first: int, count: int, length: int, mesh: Any) -> Any:
        read.append((first, count))
        return SimpleNamespace(first=first)

    monkeypatch.setattr(feed, "make_block", make)
    batches = Feed(source_of(), mesh(), 3, 700)
    assert [batches.at(step)[1] for step in (3, 4, 10, 11)] == [8, 7, 1, 64]
    assert batches.at(75)[0].first == 75  # type: ignore[comparison-overlap]
    assert batches.at(75)[1] == 512
    assert batches.at(587)[1] == 113
    assert read == [(3, 8), (11, 64), (75, 512), (587, 113)]
    # Another step than the next one, as of another state; and steps after the last.
    assert batches.at(20)[1] == 8
    assert batches.at(900)[1] == 8
    assert (20, 8) in read
    assert read[-2:] == [(900, 8), (908, 64)]


def test_an_error_of_the_thread_is_raised_by_the_loop(tmp_path: Path):
    path = tmp_path / "tokens"
    np.arange(200, dtype=np.uint8).tofile(path)
    tokens = np.memmap(path, np.uint8, "r")
    split = Split(tokens, np.zeros(1, np.int64), np.array([199]))
    sizes = {"window": 4, "lookback": 0, "batch_size": 2, "seed": 0}
    source = make_host_source(split, layout="stream", sampling="random", **sizes)
    batches = Feed(source, mesh(), 0, 10**6)
    batches.at(8)
    os.truncate(path, 100)
    with pytest.raises(UserError, match="data: the file of the text's tokens was 200 bytes long"):
        batches.at(10**5)


def test_what_needs_the_text_on_the_device_names_the_setting():
    with pytest.raises(UserError, match=r"^data.device_bytes: .* use data.device_bytes=199$"):
        device_source(source_of())


def test_the_plan_counts_blocks_instead_of_the_text(tmp_path: Path):
    def planned(lines: int, device_bytes: int) -> int:
        text = tmp_path / "text.txt"
        text.write_text("the cat sat on a mat.\n" * lines)
        settings = [f"data.path={text}", *RUNS["bigram"], f"data.device_bytes={device_bytes}"]
        return predict(open_session(load_config(None, settings)), devices=1, platform="cuda").text

    assert planned(200, 0) == planned(2000, 0)
    # Rows of 9 tokens in 8,192 steps of 16 rows, two numbers for each row, and one for each step.
    assert planned(200, 0) == 3 * (8192 * 16 * (9 + 2 * 4) + 8192 + 4)
    assert planned(2000, 10**6) - planned(200, 10**6) == 22 * 1800 * 9 // 10


def test_a_sweep_of_a_text_on_the_host_is_refused_before_it_begins(tmp_path: Path):
    main = importlib.import_module("charjax.initlab.commands.sweep").main
    out = tmp_path / "sweep"
    settings = [*words("mlp, pairs", write_text(tmp_path)), "data.device_bytes=100"]
    with pytest.raises(UserError, match=r"^data.device_bytes: .* use data.device_bytes=\d+$"):
        main([*settings, "--seeds", "2", "--out", str(out)])
    assert not out.exists()
