"""Runs with subword tokens, from training to comparison with a model of characters."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import charjax
from charjax.config import FAMILIES
from charjax.data.subwords import train_bpe
from tests.commands import Result, run, start, tiny

tokenizers = pytest.importorskip("tokenizers", reason='pip install "charjax[bpe]"')

WORDS = ["the", "cat", "sat", "on", "a", "mat", "café", "naïve", "日本語", "🙂"]
RANDOM = np.random.default_rng(0)
TEXT = " ".join(RANDOM.choice(WORDS, 900)) + "\n"
LINES = "\n".join(" ".join(RANDOM.choice(WORDS[:6], n)) for n in RANDOM.integers(1, 4, 200)) + "\n"
BPE = ["data.tokenizer=bpe", "data.vocab_size=290", "train.steps=4", "train.log_every=2"]


def train(workdir: Path, *words: object) -> Path:
    done = run("train", *words, "--workdir", workdir)
    assert done.status == 0, done.err
    return workdir


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a bigram of subwords, another of characters, and one of lines."""
    folder = tmp_path_factory.mktemp("subwords")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    (folder / "lines.txt").write_text(LINES, encoding="utf-8")
    text = f"data.path={folder / 'text.txt'}"
    train(folder / "bpe", text, *tiny("bigram"), *BPE)
    train(folder / "char", text, *tiny("bigram"), "train.steps=4")
    lines = [f"data.path={folder / 'lines.txt'}", "data.layout=lines"]
    train(folder / "lines", *lines, *tiny("bigram"), *BPE)
    return folder


def evaluate(*words: object) -> dict[str, Any]:
    done = run("evaluate", *words, "--json")
    assert (done.status, done.err) == (0, "")
    result: dict[str, Any] = json.loads(done.out)
    return result


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def mistake(done: Result) -> str:
    assert (done.status, done.err.count("\n")) == (2, 1), done.err
    return done.err


def token_losses(workdir: Path, text: str) -> tuple[list[int], np.ndarray]:
    """Return the tokens of a text and the loss of each but the first, without charjax's own code.

    The tokens are the library's, the losses those of the bigram's table.
    """
    library = tokenizers.Tokenizer.from_file(str(workdir / "tokenizer.json"))
    ids = library.encode(text).ids
    loaded = charjax.load(workdir)
    logits_NV, _ = loaded.model.apply(loaded.variables, jnp.asarray([ids[:-1]]))
    logits = np.asarray(logits_NV[0], np.float64)
    log_sums = np.log(np.exp(logits).sum(axis=1))
    return ids, log_sums - logits[np.arange(len(ids) - 1), ids[1:]]


def test_losses_per_character_and_byte_are_those_computed_by_hand(folder: Path):
    part = TEXT[int(0.9 * len(TEXT)) :]
    ids, losses = token_losses(folder / "bpe", part)
    library = tokenizers.Tokenizer.from_file(str(folder / "bpe" / "tokenizer.json"))
    # The first token is not predicted.
    rest = part[len(library.decode(ids[:1])) :]
    result = evaluate(folder / "bpe")
    assert (result["tokens"], result["characters"]) == (len(ids) - 1, len(rest))
    assert result["bytes"] == len(rest.encode())
    assert result["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert result["bpc"] == pytest.approx(losses.sum() / len(rest) / math.log(2), rel=1e-5)
    assert result["bpb"] == pytest.approx(losses.sum() / len(rest.encode()) / math.log(2), rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(losses.mean()), rel=1e-5)
    line = run("evaluate", folder / "bpe").out
    assert f"{result['bpc']:.4f} bpc, {result['bpb']:.4f} bits per byte" in line
    assert f"{losses.sum() / len(rest):.4f} nats per character" in line
    assert f"({len(rest):,} characters, {len(rest.encode()):,} bytes)" in line


def test_the_interface_reports_the_same(folder: Path):
    loaded = charjax.load(folder / "bpe")
    part = TEXT[int(0.9 * len(TEXT)) :]
    _, losses = token_losses(folder / "bpe", part)
    result = evaluate(folder / "bpe")
    found = loaded.evaluate("val")
    assert (found.loss, found.bpc, found.bpb) == (result["loss"], result["bpc"], result["bpb"])
    assert (found.targets, found.characters, found.bytes) == (
        result["tokens"],
        result["characters"],
        result["bytes"],
    )
    scores = loaded.score(part)
    assert scores.shape == (len(part),)
    assert np.nansum(scores) == pytest.approx(losses.sum(), rel=1e-5)
    counted = scores[~np.isnan(scores)]
    assert loaded.perplexity(part) == pytest.approx(math.exp(counted.mean()))
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(part)) == part
    assert loaded.logits("the cat").shape == (
        len(loaded.tokenizer.encode("the cat")),
        loaded.tokenizer.vocab_size,
    )


def test_some_targets_are_converted_by_their_own_characters(folder: Path, tmp_path: Path):
    text = f"data.path={folder / 'text.txt'}"
    some = ["eval.max_targets=9", "train.steps=2"]
    workdir = train(tmp_path / "run", text, *tiny("bigram"), *BPE, *some)
    result = evaluate(workdir, "--checkpoint", "latest", "--max-targets", 9)
    whole = evaluate(workdir, "--checkpoint", "latest")
    assert result["tokens"] == 9 < whole["tokens"]
    assert result["tokens"] <= result["characters"] <= result["bytes"] < whole["bytes"] / 2
    for unit, name in (("bpc", "characters"), ("bpb", "bytes")):
        bits = result["loss"] * result["tokens"] / result[name] / math.log(2)
        assert result[unit] == pytest.approx(bits)
    val = [line for line in read_metrics(workdir) if line["split"] == "val"][-1]
    summary = json.loads((workdir / "summary.json").read_text())
    found = charjax.load(workdir, "latest").evaluate("val", max_targets=9)
    assert (found.characters, found.bytes) == (result["characters"], result["bytes"])
    for name in ("loss", "bpc", "bpb"):
        assert val[name] == summary[f"val_{name}"] == pytest.approx(result[name])
        assert getattr(found, name) == pytest.approx(result[name])
    counts = ["model.kind=ngram", "model.order=2", "eval.max_targets=9"]
    subwords = [word for word in BPE if not word.startswith("train.")]
    counted = train(tmp_path / "counts", text, *counts, *subwords)
    (val,) = (line for line in read_metrics(counted) if line["split"] == "val")
    assert val["bpb"] == pytest.approx(evaluate(counted, "--max-targets", 9)["bpb"])


def test_every_report_has_the_three_units(folder: Path):
    lines = read_metrics(folder / "bpe")
    summary = json.loads((folder / "bpe" / "summary.json").read_text())
    val = [line for line in lines if line["split"] == "val"][-1]
    result = evaluate(folder / "bpe", "--checkpoint", "latest")
    for name in ("loss", "bpc", "bpb"):
        assert val[name] == summary[f"val_{name}"] == pytest.approx(result[name])
    for line in lines:
        ratio = line["bpc"] * math.log(2) / line["loss"]
        assert 0.2 < ratio < 0.8
        assert line["bpb"] < line["bpc"]
    plain = read_metrics(folder / "char")
    assert all(line["bpc"] * math.log(2) == pytest.approx(line["loss"]) for line in plain)
    assert all(line["bpb"] < line["bpc"] for line in plain)


@pytest.mark.parametrize("workdir", ["bpe", "lines"])
@pytest.mark.quick("bpe")
def test_rows_of_lines_and_characters_add_up(folder: Path, workdir: str):
    result = evaluate(folder / workdir)
    total = result["loss"] * result["tokens"]
    for rows in ("--per-line", "--per-character"):
        done = run("evaluate", folder / workdir, rows)
        assert done.status == 0
        found = [json.loads(row) for row in done.out.splitlines()]
        losses = [row["total"] if rows == "--per-line" else row["loss"] for row in found]
        assert sum(loss for loss in losses if loss is not None) == pytest.approx(total, rel=1e-5)
    if workdir == "lines":
        out = run("evaluate", folder / workdir, "--per-line").out
        by_line = [json.loads(row) for row in out.splitlines()]
        assert sum(row["characters"] for row in by_line) == result["characters"]
        assert sum(row["bytes"] for row in by_line) == result["bytes"]


def test_another_text_of_characters_that_the_run_never_saw(folder: Path):
    (folder / "other.txt").write_text("Ünseen Zeichen, ünd Ελληνικά", encoding="utf-8")
    result = evaluate(folder / "bpe", "--text", folder / "other.txt")
    assert result["unseen"] == 0
    # The first byte of Ü is a token, which is not predicted; the second is, and begins nothing.
    text = "Ünseen Zeichen, ünd Ελληνικά"
    assert (result["characters"], result["bytes"]) == (len(text) - 1, len(text.encode()) - 1)


def test_characters_and_subwords_in_one_table(folder: Path):
    found = charjax.compare([folder / "char", folder / "bpe"]).scores
    results = [evaluate(folder / name) for name in ("char", "bpe")]
    for row, result in zip(found.to_dict("records"), results, strict=True):
        assert row["best_val_loss"] == pytest.approx(result["bpc"] * math.log(2))
        assert row["best_val_bpc"] == pytest.approx(result["bpc"])
        assert row["best_val_bpb"] == pytest.approx(result["bpb"])
    assert list(found["data.tokenizer"]) == ["char", "bpe"]
    out = run("__main__", "compare", folder / "char", folder / "bpe").out
    assert "losses: nats per character" in out
    # Of another text they say nothing of each other.
    message = mistake(run("__main__", "compare", folder / "char", folder / "lines"))
    assert (
        "of another text; losses are comparable within one vocabulary, or per character" in message
    )


def test_samples_are_whole_characters(folder: Path):
    result = json.loads(run("sample", folder / "bpe", "--prompt", "café 日", "--json").out)
    assert result["samples"][0].startswith("café 日")
    assert result["tokens"] == 500
    assert result["characters"] == len(result["samples"][0]) - len("café 日")
    words = ["--stop", "a", "--num-samples", 3, "--json"]
    result = json.loads(run("sample", folder / "bpe", *words).out)
    assert all(result["finished"])
    assert not any("a" in text for text in result["samples"])


def test_a_stop_text_may_begin_within_a_token():
    from charjax.generation.stop_text import StopText

    tokenizer = train_bpe("the cat the cat the cat", 262, boundary=False)
    tokens = tokenizer.encode("the cat").astype(np.int32)
    assert len(tokens) < len("the cat")
    for calls in ([len(tokens)], [1] * len(tokens)):
        ending, reached, begin = StopText(tokenizer, "e ca", 1), [], 0
        for length in calls:
            reached.append(ending.reached(tokens[None, begin : begin + length]))
            begin += length
        assert reached[-1]
    assert ending.decode(tokens) == "th"
    assert tokenizer.decode(ending.cut(tokens)) in ("", "t", "th")


def test_a_terminal_shows_whole_characters(capsys: pytest.CaptureFixture[str]):
    from charjax.sample import _Terminal

    tokenizer = train_bpe("", 256, boundary=False)
    terminal = _Terminal(tokenizer)
    shown = []
    for token in tokenizer.encode("é🙂a"):
        terminal.add(np.array([token]))
        shown.append(capsys.readouterr().out)
    assert shown == ["", "é", "", "", "", "🙂", "a"]
    terminal.add(tokenizer.encode("é")[:1])
    terminal.end()
    assert capsys.readouterr().out == "\ufffd"


def test_lines_end_and_are_looked_up_in_the_text(folder: Path):
    words = ["--num-samples", 40, "--greedy", "--prompt", LINES.split("\n")[0], "--json"]
    result = json.loads(run("sample", folder / "lines", *words).out)
    assert set(result["origin"]) <= {"train", "val", "test", "new", "unfinished"}
    from charjax.data.datasets import load_dataset
    from charjax.data.origins import find_origins

    loaded = charjax.load(folder / "lines")
    dataset = load_dataset(loaded.config.data, loaded.tokenizer)
    line = loaded.tokenizer.decode(dataset.splits["val"].tokens).split("\n")[1]
    assert find_origins(dataset.splits, [loaded.tokenizer.encode(line)]) != ["new"]


@pytest.mark.slow
def test_a_run_keeps_its_tokens(folder: Path, tmp_path: Path):
    path = tmp_path / "given.json"
    tokenizer = train_bpe(TEXT, 300, boundary=False)
    path.write_bytes(tokenizer.json.encode())
    words = [f"data.path={folder / 'text.txt'}", f"data.tokenizer={path}", *tiny("bigram")]
    workdir = train(tmp_path / "run", *words, "train.steps=2")
    assert (workdir / "tokenizer.json").read_bytes() == path.read_bytes()
    path.unlink()
    resume = ["--resume", "--workdir", workdir]
    assert run("train", "train.steps=3", *resume).status == 0
    meta = json.loads(next((workdir / "checkpoints").glob("3*/meta.json")).read_text())
    assert meta["meta"]["tokenizer_digest"] == tokenizer.digest()
    (workdir / "tokenizer.json").write_text(tokenizer.json + " ")
    message = mistake(run("train", "train.steps=4", *resume))
    assert "tokenizer.json' was changed; the run goes on with the tokens it began with" in message
    assert "was changed" in mistake(run("train", "train.steps=4", *resume, "--dry-run"))
    (workdir / "tokenizer.json").unlink()
    assert run("train", "train.steps=4", *resume).status == 0
    assert (workdir / "tokenizer.json").read_bytes() == tokenizer.json.encode()
    other = mistake(run("train", "data.tokenizer=other.json", *resume))
    assert "--resume: the configuration has changed: data.tokenizer was" in other
    assert "cannot be read" in mistake(run("train", "data.tokenizer=none.json"))


@pytest.mark.slow
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(folder: Path, tmp_path: Path):
    text = f"data.path={folder / 'text.txt'}"
    workdir = train(tmp_path / "run", text, *tiny("bigram"), *BPE, "train.steps=2")
    assert run("train", "train.steps=4", "--resume", "--workdir", workdir).status == 0
    digests = [
        json.loads((path / "summary.json").read_text())["state_digest"]
        for path in (workdir, folder / "bpe")
    ]
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_fine_tuning_has_the_tokens_of_its_source(folder: Path, tmp_path: Path):
    (tmp_path / "more.txt").write_text("the cat sat on anderem Käse, " * 20, encoding="utf-8")
    words = [f"data.path={tmp_path / 'more.txt'}", *tiny("bigram"), "train.steps=2"]
    workdir = train(tmp_path / "run", *words, "--init-from", folder / "bpe")
    source, tuned = charjax.load(folder / "bpe"), charjax.load(workdir)
    assert tuned.tokenizer == source.tokenizer
    assert (workdir / "tokenizer.json").exists()
    assert run("train", "train.steps=3", "--resume", "--workdir", workdir).status == 0
    assert evaluate(workdir)["characters"] > evaluate(workdir)["tokens"] > 0


@pytest.mark.parametrize("name", ["lines", "bpe"])
@pytest.mark.quick("bpe")
def test_an_exported_run_carries_its_tokens(folder: Path, tmp_path: Path, name: str):
    file = tmp_path / "model.safetensors"
    assert run("interop", "export", folder / name, file).status == 0
    done = run("interop", "import", file, "--workdir", tmp_path / "run")
    assert done.status == 0, done.err
    assert charjax.load(tmp_path / "run").tokenizer == charjax.load(folder / name).tokenizer
    assert (tmp_path / "run" / "tokenizer.json").read_bytes() == (
        folder / name / "tokenizer.json"
    ).read_bytes()
    assert evaluate(tmp_path / "run")["loss"] == evaluate(folder / name)["loss"]


@pytest.mark.slow
def test_tensors_without_a_header_take_the_tokens_that_are_named(folder: Path, tmp_path: Path):
    import safetensors.numpy

    file = tmp_path / "model.safetensors"
    run("interop", "export", folder / "bpe", file)
    bare = tmp_path / "bare.safetensors"
    safetensors.numpy.save_file(safetensors.numpy.load_file(file), bare, {"format": "pt"})
    words = [bare, f"data.path={folder / 'text.txt'}", "--workdir", tmp_path / "run"]
    named = f"data.tokenizer={folder / 'bpe' / 'tokenizer.json'}"
    done = run("interop", "import", *words, named)
    assert done.status == 0, done.err
    assert "symbols are numbered as in tokenizer.json" in done.out
    assert "data.tokenizer=FILE.json" in mistake(
        run("interop", "import", *words[:-1], tmp_path / "other")
    )


@pytest.mark.parametrize("kind", ["ngram", "mlp"])
@pytest.mark.quick("mlp")
@pytest.mark.slow
def test_other_layouts_and_counts(folder: Path, tmp_path: Path, kind: str):
    text = f"data.path={folder / 'text.txt'}"
    words = [*tiny(kind), *BPE[:2], *([] if kind == "ngram" else ["train.steps=2"])]
    workdir = train(tmp_path / "run", text, *words)
    result = evaluate(workdir)
    assert result["characters"] > result["tokens"]
    assert run("sample", workdir, "--max-new-tokens", 5).status == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.ci("gru", "ngram", "transformer")
def test_every_family(folder: Path, tmp_path: Path, kind: str):
    text = f"data.path={folder / 'text.txt'}"
    words = [*tiny(kind), *BPE[:2], *([] if kind == "ngram" else ["train.steps=2"])]
    workdir = train(tmp_path / "run", text, *words)
    assert evaluate(workdir)["bpc"] < 10


@pytest.mark.slow
def test_a_sweep_and_a_plan_of_subwords(folder: Path, tmp_path: Path):
    small = [f"data.path={folder / 'text.txt'}", "model.kind=mlp", "data.layout=pairs", *BPE[:2]]
    small += ["model.context_length=4", "model.d_embed=4", "model.hidden=[8]", "train.batch_size=4"]
    axes = ["--scheme", "pytorch,default", "--seeds", 2, "--steps", 2]
    done = run("initlab.__main__", "sweep", *small, *axes, "--out", tmp_path / "sweep")
    assert done.status == 0, done.err
    facts = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert (facts["unit"], facts["vocabulary"]) == ("token", 290)
    assert "nats per token" in next((tmp_path / "sweep").glob("*.html")).read_text()
    assert run("__main__", "plan", *small, "--device", "cpu").status == 0


def test_without_the_library_a_run_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for command in (
        ("train", f"data.path={folder / 'text.txt'}", "data.tokenizer=bpe", "--dry-run"),
        ("evaluate", folder / "bpe"),
        ("sample", folder / "bpe"),
    ):
        assert 'pip install "charjax[bpe]"' in mistake(run(*command))
    with pytest.raises(charjax.UserError, match="pip install"):
        charjax.load(folder / "bpe")


@pytest.mark.slow
def test_a_process_of_its_own_ends_without_noise(folder: Path):
    done = start("sample", folder / "bpe", "--max-new-tokens", "5")
    _, err = done.communicate()
    assert done.returncode == 0
    assert "parallelism" not in err


def test_a_page_shows_subwords_and_characters_by_the_character(folder: Path, tmp_path: Path):
    out = tmp_path / "both.html"
    done = run("commands.report", folder / "bpe", folder / "char", "--out", out)
    assert done.status == 0, done.err
    found = re.search(r'<script[^>]*id="data">(.*?)</script>', out.read_text("utf-8"), re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    # One text: counts and ln V are of its characters, for both.
    assert [line["runs"] for line in data["references"]] == [[0, 1]] * 3
    assert data["references"][0]["loss"] == pytest.approx(math.log(len(set(TEXT))), rel=1e-3)
    for place, name in enumerate(("bpe", "char")):
        val = [line for line in read_metrics(folder / name) if line["split"] == "val"]
        assert data["runs"][place]["best"]["loss"] == pytest.approx(
            min(line["bpc"] for line in val) * math.log(2)
        )
    subwords, characters = data["passages"]
    assert max(subwords["size"]) > 1 == max(characters["size"])
    length = min(len("".join(passage["text"])) for passage in (subwords, characters))
    assert length > 50
    assert "".join(subwords["text"])[:length] == "".join(characters["text"])[:length]
