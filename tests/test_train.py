"""The train command, end to end on a small text."""

import json
import math
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from charjax.config import load_config, shipped_configs
from tests.commands import TINY, run, tiny


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """Write a learnable text of about 6,000 characters."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "ran", "off"]
    lines = [" ".join(words[(i * j + i) % 10] for j in range(1, 9)) for i in range(200)]
    path.write_text("\n".join(lines) + "\n")
    return path


def train(workdir: Path, text: Path, kind: str, *words: str):
    return run("train", f"data.path={text}", *tiny(kind), *words, "--workdir", workdir)


def summary(workdir: Path) -> dict:
    return json.loads((workdir / "summary.json").read_text())


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.quick("ngram", "mlp")
@pytest.mark.parametrize("kind", TINY)
# tests/golden trains each family, too.
@pytest.mark.ci("gru", "transformer")
def test_every_family_trains_samples_and_is_evaluated(kind, text, tmp_path):
    workdir = tmp_path / "run"
    done = train(workdir, text, kind, *["train.steps=20"] * (kind != "ngram"))
    assert done.status == 0, done.err
    assert done.out.startswith(f"run: {workdir}")
    assert done.out.rstrip().splitlines()[-2] == f"look at it: charjax report {workdir}"
    assert done.out.rstrip().splitlines()[-1].startswith(f"run: {workdir}")
    names = {path.name for path in workdir.iterdir()}
    files = {"config.toml", "metrics.jsonl", "checkpoints", "samples.txt", "curves.png"}
    assert files | {"summary.json"} <= names
    result = summary(workdir)
    assert result["steps"] == (1 if kind == "ngram" else 20)
    assert result["best_val_loss"] <= math.log(20)
    assert re.fullmatch("[0-9a-f]{64}", result["state_digest"])
    for line in metrics(workdir):
        assert {"step", "split", "loss", "bpc", "learning_rate", "grad_norm"} < set(line)
        assert line["bpc"] == pytest.approx(line["loss"] / LN2)
    assert result["val_bpc"] == pytest.approx(result["val_loss"] / LN2)
    check_printed_bpc(done.out, least=1 if kind == "ngram" else 2)
    assert load_config(workdir / "config.toml").model.kind == kind

    evaluated = run("evaluate", workdir, "--json")
    assert evaluated.status == 0, evaluated.err
    score = json.loads(evaluated.out)
    assert score["loss"] == pytest.approx(result["best_val_loss"], rel=1e-5)
    assert score["tokens"] > 500
    assert score["bpc"] == pytest.approx(score["loss"] / LN2)
    printed = run("evaluate", workdir).out
    assert f"{score['loss']:.4f}" in printed
    check_printed_bpc(printed, least=1)

    sampled = run("sample", workdir, "--num-samples", 2, "--max-new-tokens", 20, "--json")
    assert sampled.status == 0, sampled.err
    assert [len(s) >= 20 for s in json.loads(sampled.out)["samples"]] == [True, True]


LN2 = 0.6931471805599453
# As commands print them: a loss, and its bits per character behind it.
_LOSS_AND_BPC = re.compile(r"(\d+\.\d+)[^\d\n]{1,30}(\d+\.\d+) bpc")


def check_printed_bpc(text: str, least: int) -> None:
    pairs = [(float(loss), float(bpc)) for loss, bpc in _LOSS_AND_BPC.findall(text)]
    assert least <= len(pairs) == text.count(" bpc")
    for loss, bpc in pairs:
        # Both are rounded to four decimals.
        assert bpc == pytest.approx(loss / LN2, abs=0.00013)


# A carried state, and dropout; test_old_runs.py has statistics of batches.
@pytest.mark.quick("gru", "transformer")
@pytest.mark.parametrize("kind", [kind for kind in TINY if kind != "ngram"])
@pytest.mark.ci("mlp", "mingru")
def test_stopped_and_resumed_equals_uninterrupted(kind, text, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(whole, text, kind, "train.steps=23").status == 0
    assert train(cut, text, kind, "train.steps=7").status == 0
    done = run("train", "--workdir", cut, "--resume", "train.steps=23")
    assert done.status == 0, done.err
    assert summary(cut)["state_digest"] == summary(whole)["state_digest"]
    steps = [line["step"] for line in metrics(cut) if line["split"] == "train"]
    assert steps == [line["step"] for line in metrics(whole) if line["split"] == "train"]


def test_resuming_a_finished_run_changes_nothing(text, tmp_path):
    workdir = tmp_path / "run"
    train(workdir, text, "bigram", "train.steps=10")
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    done = run("train", "--workdir", workdir, "--resume")
    assert done.status == 0
    assert "nothing to do" in done.out
    after = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file() and p.name != ".lock"}
    assert after == {p: b for p, b in before.items() if p.name != ".lock"}


@pytest.mark.parametrize("kind", ["ngram", "bigram"])
def test_a_summary_lost_at_the_very_end_is_written_on_resume(kind, text, tmp_path):
    workdir = tmp_path / "run"
    train(workdir, text, kind, *["train.steps=10"] * (kind != "ngram"))
    before = summary(workdir)
    (workdir / "summary.json").unlink()
    assert run("train", "--workdir", workdir, "--resume").status == 0
    timing = {"seconds": None}
    assert summary(workdir) | timing == before | timing


def test_a_directory_with_a_run_is_refused(text, tmp_path):
    workdir = tmp_path / "run"
    train(workdir, text, "bigram", "train.steps=10")
    before = summary(workdir)
    again = train(workdir, text, "bigram", "train.steps=10")
    assert again.status == 2
    assert "already holds a run" in again.err
    timing = {"seconds": None}
    assert summary(workdir) | timing == before | timing


def test_checkpoints_without_a_config_are_not_begun_over(text, tmp_path):
    workdir = tmp_path / "run"
    train(workdir, text, "bigram", "train.steps=10")
    (workdir / "config.toml").unlink()
    files = sorted(workdir.rglob("*"))
    done = train(workdir, text, "bigram", "train.steps=5")
    assert done.status == 2
    assert "already holds a run" in done.err
    done = run("train", "--workdir", workdir, "--resume")
    assert done.status == 2
    assert "holds checkpoints, but no config.toml; put a copy of that file back" in done.err
    assert sorted(workdir.rglob("*")) == files


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.txt", "curves.png", "summary.json"])
def test_files_of_others_are_not_replaced(name, text, tmp_path):
    (tmp_path / "notes.txt").write_text("theirs")
    (tmp_path / name).write_text("theirs")
    for words in ([], ["--dry-run"]):
        done = train(tmp_path, text, "bigram", "train.steps=10", *words)
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert f"holds no run, but {name}, which a run writes: give another directory" in done.err
    assert {p.name for p in tmp_path.iterdir()} <= {"notes.txt", name, ".lock", text.name}
    assert (tmp_path / name).read_text() == "theirs"


# What a crash may leave at the end of samples.txt: half a header, half a character, half a text.
ENDS = [b"--- ste", b"--- step 20 ---\nab\xe2\x82", b"--- step 20 ---\nab\n--- step 20 ---"]


@pytest.mark.parametrize("end", ENDS)
def test_samples_come_to_the_same_bytes(end, tmp_path):
    odd = tmp_path / "odd.txt"
    odd.write_bytes("a\r\u2028\x0bé \x85b".encode() * 300)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(whole, odd, "bigram", "train.steps=20", "train.sample_every=10").status == 0
    assert train(cut, odd, "bigram", "train.steps=10").status == 0
    with (cut / "samples.txt").open("ab") as file:
        file.write(end)
    done = run("train", "--workdir", cut, "--resume", "train.steps=20", "train.sample_every=10")
    assert done.status == 0, done.err
    assert (cut / "samples.txt").read_bytes() == (whole / "samples.txt").read_bytes()


def test_resuming_with_another_config_names_the_fields(text, tmp_path):
    workdir = tmp_path / "run"
    train(workdir, text, "bigram", "train.steps=10")
    changed = ["optim.learning_rate=0.5", "train.batch_size=8"]
    done = run("train", "--workdir", workdir, "--resume", *changed)
    assert done.status == 2
    assert "optim.learning_rate" in done.err
    assert "train.batch_size" in done.err
    free = ["train.steps=12", "train.log_every=3", "eval.every=4", "checkpoint.every=6"]
    assert run("train", "--workdir", workdir, "--resume", *free).status == 0
    assert summary(workdir)["steps"] == 12


def test_a_changed_text_is_noticed(tmp_path, text):
    copy, workdir = tmp_path / "copy.txt", tmp_path / "run"
    copy.write_text(text.read_text())
    train(workdir, copy, "bigram", "train.steps=10")
    copy.write_text(text.read_text().replace("cat", "act"))
    done = run("train", "--workdir", workdir, "--resume", "train.steps=20")
    assert done.status == 2
    assert "the text has changed" in done.err


def test_fine_tuning_starts_from_the_other_runs_parameters(text, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    train(first, text, "mlp", "train.steps=400", "optim.learning_rate=1e-2", "eval.every=100")
    options = [f"data.path={text}", "data.layout=pairs", "train.steps=1"]
    done = run("train", *options, "--init-from", first, "--workdir", second)
    assert done.status == 0, done.err
    assert metrics(second)[0]["loss"] < summary(first)["best_val_loss"] + 0.5
    assert load_config(second / "config.toml").model == load_config(first / "config.toml").model
    other = run("train", *options, "model.kind=gru", "--init-from", first, "--workdir", second)
    assert other.status == 2


@pytest.mark.slow
def test_fine_tuning_that_was_stopped_at_once_still_has_the_other_runs_parameters(text, tmp_path):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    train(first, text, "bigram", "train.steps=400", "optim.learning_rate=1e-2", "eval.every=100")
    options = [f"data.path={text}", "train.steps=7", "checkpoint.every=0", "eval.every=0"]
    done = run("train", *options, "--init-from", first, "--workdir", second)
    assert done.status == 0, done.err
    # As it is after a kill before the first save at a step of its own.
    shutil.copytree(second, third)
    shutil.rmtree(third / "checkpoints" / "7")
    assert run("train", "--workdir", third, "--resume").status == 0
    assert summary(third)["state_digest"] == summary(second)["state_digest"]


def test_steps_that_are_not_finite_end_the_run(text, tmp_path):
    workdir = tmp_path / "run"
    wild = ["optim.kind=sgd", "optim.learning_rate=1e38", "optim.grad_clip=0", "train.steps=500"]
    done = train(workdir, text, "gru", *wild, "train.max_skipped=20")
    assert done.status == 1
    assert "20 steps in a row" in done.err
    assert all(line["loss"] is None or line["loss"] >= 0 for line in metrics(workdir))
    # After as many as are allowed, and not one more; all those after the last line were skipped.
    stopped = int(re.search(r"stopped at step (\d+)", done.err)[1])
    lines = [line for line in metrics(workdir) if line["split"] == "train"]
    assert sum(line.get("skipped", 0) for line in lines) + stopped - lines[-1]["step"] == 20


@pytest.mark.slow
@pytest.mark.longest
def test_eight_virtual_devices_give_the_losses_of_one(text, tmp_path, run_command):
    options = [f"data.path={text}", *tiny("transformer"), "train.steps=20", "train.log_every=1"]
    options += ["train.batch_size=16", "eval.every=0", "model.dropout=0"]
    one, eight = tmp_path / "one", tmp_path / "eight"
    assert run("train", *options, "--workdir", one).status == 0
    env = {"JAX_NUM_CPU_DEVICES": "8"}
    done = run_command("train", *options, "--workdir", eight, env=env)
    assert done.code == 0, done.stderr
    assert summary(eight)["devices"] == 8
    pairs = zip(metrics(one), metrics(eight), strict=True)
    assert max(abs(a["loss"] - b["loss"]) for a, b in pairs) < 1e-4
    six = tmp_path / "six"
    few = run_command(
        "train", *options, "train.batch_size=6", "train.steps=2", "--workdir", six, env=env
    )
    assert "6 devices is the largest number that divides" in few.stdout
    assert summary(six)["devices"] == 6


def test_print_config_is_toml_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("train", "model.kind=gru", "--print-config")
    assert done.status == 0
    assert tomllib.loads(done.out)["model"]["kind"] == "gru"
    assert list(tmp_path.iterdir()) == []


def bad_inputs(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Return user errors: arguments of train, and a part of the message."""
    (folder / "empty.txt").write_text("")
    (folder / "short.txt").write_text("abcdefgh" * 4)
    (folder / "long.txt").write_text("abcdefgh\n" * 90)
    (folder / "binary.bin").write_bytes(bytes(range(256)) * 20)
    return {
        "empty file": (["data.path=empty.txt"], "data.path"),
        "short file": (["data.path=short.txt"], "context_length"),
        "binary file": (["data.path=binary.bin"], "data.tokenizer"),
        "missing file": (["data.path=nowhere.txt"], "nowhere.txt"),
        "unknown corpus": (["data.name=moby"], "stdlib"),
        "unknown key": (["optim.learning_rat=1"], "optim.learning_rate"),
        "unknown scheme": (["init.scheme=gtp2"], "gpt2"),
        "unknown section": (["optimiser.learning_rate=1"], "optim"),
        "out of bounds": (["train.steps=0"], "train.steps"),
        "no such config": (["nanogtp-cpu"], "nanogpt-cpu"),
        "no such run": (["--init-from", "nowhere"], "nowhere"),
        "resume nothing": (["--resume", "--workdir", "nowhere"], "nowhere"),
        "resume nowhere": (["--resume"], "--workdir"),
        "no name": (["--workdir", ""], "--workdir: '' given"),
        "no such flag": (["--epochs", "3"], "--epochs"),
        "no gpu": (["runtime.device=gpu"], "runtime.device"),
        "nothing reads it": (["optim.momentum=0.9"], "optim.kind=sgd or rmsprop"),
        "no room": (["--workdir", "short.txt", "data.path=long.txt"], "--workdir"),
        "no scheme": (["init.scheme=chrono", "data.path=long.txt"], "model.kind"),
        "short rows": (["data.path=long.txt", "data.split=interleaved"], "data.rows"),
        "unknown name": (["block_size=64"], "model.context_length=64"),
    }


def test_dry_run_shows_the_plan_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.txt").write_text("abcdefg hij\n" * 60)
    done = run("train", "my.txt", *tiny("bigram"), "train.steps=9", "--dry-run")
    assert (done.status, done.err) == (0, "")
    assert "text: my.txt, 12 symbols" in done.out
    # 9 steps of 4 windows of 8 of the 647 targets that are trained on.
    assert "run: 9 steps of 4 windows, at most 288 targets (0.45 epochs)" in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["my.txt"]
    done = run("train", "my.txt", "model.kind=ngram", "--dry-run", "--workdir", "run")
    assert "counted in one pass" in done.out
    assert not Path("run").exists()


def test_list_configs_names_every_shipped_one():
    done = run("train", "--list-configs")
    assert done.status == 0
    listed = [line.split()[0] for line in done.out.splitlines() if not line.startswith(" ")]
    assert listed == list(shipped_configs())


def test_print_config_is_what_the_run_saves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("ada\nbeatrice\ncleo\n" * 20)
    words = ["data.path=list.txt", "data.layout=lines", "train.steps=2", *tiny("gru")[:-3]]
    words = [word for word in words if "context" not in word and "contiguous" not in word]
    printed = run("train", *words, "optim.warmup_steps=5", "--print-config", "--workdir", "run")
    assert printed.status == 0, printed.err
    assert printed.err.startswith("note: the warm-up")
    assert printed.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.txt"]
    # The longest line, with its end.
    assert tomllib.loads(printed.out)["model"]["context_length"] == 9
    done = run("train", *words, "optim.warmup_steps=5", "--workdir", "run")
    assert done.status == 0, done.err
    assert printed.err in done.out
    assert tomllib.loads(printed.out) == tomllib.loads((tmp_path / "run/config.toml").read_text())
    # A run begins once; it goes on with the text that it began with.
    again = ["train", *words, "optim.warmup_steps=5", "--workdir", "run"]
    assert run(*again, "--print-config")[::2] == run(*again)[::2]
    assert run(*again, "--print-config").status == 2
    resumed = ["train", "--workdir", "run", "--resume"]
    assert tomllib.loads(run(*resumed, "--print-config").out) == tomllib.loads(printed.out)
    (tmp_path / "list.txt").write_text("ada\nbeatrice\ncleo\n" * 21)
    refused = run(*resumed, "--print-config")
    assert refused.status == 2
    assert refused.err == run(*resumed).err


@pytest.mark.parametrize("case", range(21))
def test_a_mistake_is_one_line_and_leaves_nothing(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = list(bad_inputs(tmp_path).values())[case]
    before = sorted(tmp_path.iterdir())
    done = run("train", *arguments)
    assert done.status == 2, done.out
    assert len(done.err.strip().splitlines()) == 1
    assert done.err.startswith("error: ")
    assert message in done.err
    assert "Traceback" not in done.err
    assert sorted(tmp_path.iterdir()) == before
    # Which is all that --print-config would have said.
    printed = run("train", *arguments, "--print-config")
    assert (printed.status, printed.out, printed.err) == (2, "", done.err)
    assert sorted(tmp_path.iterdir()) == before
