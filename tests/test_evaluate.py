"""The evaluate command on other texts, and with losses that are not finite."""

import csv
import hashlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charjax.data import corpora
from charjax.data.reading import LATIN_1
from charjax.data.tokenizers import ByteTokenizer
from charjax.run.loss_rows import by_line, characters
from tests.commands import Result, run, tiny

TEXT = "the cat sat on a mat\nand then ran off\n" * 40
NAMES = [f"{a}{b}{c}" for a in "bdklmnst" for b in "aeiou" for c in ("n", "ra", "lo", "mi")]
SMALL = [*tiny("bigram"), "train.steps=2", "train.sample_every=0"]


def train(workdir: Path, *words: object) -> Path:
    done = run("train", *words, "--workdir", workdir)
    assert done.status == 0, done.err
    return workdir


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    (folder / "text.txt").write_text(TEXT)
    words = [f"data.path={folder / 'text.txt'}", *SMALL]
    return train(folder / "run", *words)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    (folder / "names.txt").write_text("\n".join(NAMES))
    words = [f"data.path={folder / 'names.txt'}", "data.layout=lines", *SMALL]
    return train(folder / "run", *words)


def evaluate(*words: object) -> dict[str, Any]:
    done = run("evaluate", *words, "--json")
    assert (done.status, done.err) == (0, "")
    result: dict[str, Any] = json.loads(done.out)
    return result


def mistake(*words: object) -> str:
    """Return the one-line message of a failed command."""
    done = run("evaluate", *words)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    return done.err


@pytest.mark.slow
def test_a_part_of_a_latin1_corpus_is_read_as_the_corpus_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    raw = b"\xef\xbb\xbf" + "la fête\r\nand the château\r\nof a cat\r\n".encode() * 60
    digest = hashlib.sha256(raw).hexdigest()
    published = corpora._Published("", digest, len(raw), LATIN_1, ("warpeace.txt",))
    monkeypatch.setitem(corpora._PUBLISHED, "warpeace", published)
    monkeypatch.setenv("CHARJAX_DATA", str(tmp_path))
    (tmp_path / "warpeace.txt").write_bytes(raw)
    small = ["data.split=tail", *SMALL]
    workdir = train(tmp_path / "run", "data.name=warpeace", *small)
    # The split itself, as a file of its own.
    (tmp_path / "part.txt").write_bytes(raw[int(0.9 * len(raw)) :])
    whole, part = evaluate(workdir), evaluate(workdir, "--text", tmp_path / "part.txt")
    assert (part["tokens"], part["loss"]) == (whole["tokens"], whole["loss"])
    assert part["notes"] == ["the file was read as latin-1, as the run's text was"]
    assert part["unseen"] == 0
    assert evaluate(workdir, "--text", tmp_path / "warpeace.txt")["tokens"] == len(raw) - 1

    said = "the prompt was read as latin-1, as the run's text was"
    drawn = [workdir, "--max-new-tokens", 3, "--json"]
    result = json.loads(run("sample", *drawn, "--prompt", "fête\r\n").out)
    assert (result["prompt"], result["notes"]) == ("fÃªte\r\n", [said])
    refused = run("sample", *drawn, "--prompt", "fête 漢")
    assert refused.status == 2
    assert "'漢' (U+6F22)" in refused.err or "'ê'" in refused.err


def test_line_ends_and_mark_are_changed_as_for_training_and_said_so(stream: Path, tmp_path: Path):
    (tmp_path / "plain.txt").write_text(TEXT)
    (tmp_path / "crlf.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    plain, crlf = (
        evaluate(stream, "--text", tmp_path / f"{name}.txt") for name in ("plain", "crlf")
    )
    assert crlf["loss"] == plain["loss"]
    assert crlf["tokens"] == plain["tokens"] == len(TEXT) - 1
    assert plain["notes"] == []
    mark, ends = crlf["notes"]
    assert "byte order mark at the start" in mark
    assert "80 line ends were CRLF" in ends
    done = run("evaluate", stream, "--text", tmp_path / "crlf.txt")
    assert done.err.startswith(f"note: {mark}\nnote: {ends}\n")
    assert f"{len(TEXT) - 1:,} targets" in done.out
    assert "notes" not in evaluate(stream)


def test_a_prompt_is_read_as_a_file_is(stream: Path, names: Path, tmp_path: Path):
    (tmp_path / "prompt.txt").write_bytes(b"the\r\ncat")
    asked = [stream, "--max-new-tokens", 5, "--json"]
    prompts = ["--prompt", "the\r\ncat"], ["--prompt-file", tmp_path / "prompt.txt"]
    for prompt in prompts:
        result = json.loads(run("sample", *asked, *prompt).out)
        assert result["prompt"] == "the\ncat"
        assert result["notes"] == ["1 line ends were CRLF and were converted to LF"]
    done = run("sample", *asked[:-1], *prompts[0])
    assert done.err.startswith("note: 1 line ends were CRLF")
    # In a list a file's last line end is not the end of a document.
    (tmp_path / "name.txt").write_bytes(b"ban\r\n")
    result = json.loads(run("sample", names, "--prompt-file", tmp_path / "name.txt", "--json").out)
    assert result["prompt"] == "ban"
    assert all(text.startswith("ban") for text in result["samples"])


def test_a_run_of_bytes_reads_bytes(tmp_path: Path):
    (tmp_path / "text.txt").write_bytes(TEXT.replace("\n", "\r\n").encode() + b"\xff\x00")
    words = [f"data.path={tmp_path / 'text.txt'}", "data.tokenizer=byte", "data.val_fraction=0"]
    workdir = train(tmp_path / "run", *words, *SMALL)
    trained = evaluate(workdir, "--split", "train")
    again = evaluate(workdir, "--text", tmp_path / "text.txt")
    assert (again["loss"], again["tokens"]) == (trained["loss"], trained["tokens"])
    assert again["notes"] == []
    (tmp_path / "prompt").write_bytes(b"cat\xff\r\n")
    done = run("sample", workdir, "--prompt-file", tmp_path / "prompt", "--json")
    assert json.loads(done.out)["prompt"] == "cat\udcff\r\n"


@pytest.mark.parametrize("layout", ["stream", "lines"])
def test_unseen_characters_are_refused_or_left_out(
    layout: str, stream: Path, names: Path, tmp_path: Path
):
    if layout == "stream":
        workdir, text = stream, "the cat\nsaté on thé xmat\n"
        where, known, alone = "line 2, column 4", "the cat\nsat on th mat\n", "é"
    else:
        workdir, text = names, "bana\nkaloé\nésumi\nxan\n"
        where, known, alone = "line 2, column 5", "bana\nkalo\nsumi\nan\n", "xé"
    (tmp_path / "text.txt").write_text(text)
    (tmp_path / "known.txt").write_text(known)
    for words in ([], ["--unseen", "error"]):
        line = mistake(workdir, "--text", tmp_path / "text.txt", *words)
        assert line.startswith(f"error: --text: the character 'é' (U+00E9) at {where} (found 2")
        assert "3 unknown in all" in line
        assert line.endswith("--unseen skip\n")
    skipped = evaluate(workdir, "--text", tmp_path / "text.txt", "--unseen", "skip")
    plain = evaluate(workdir, "--text", tmp_path / "known.txt", "--unseen", "skip")
    assert (skipped["loss"], skipped["tokens"]) == (plain["loss"], plain["tokens"])
    assert (skipped["unseen"], plain["unseen"]) == (3, 0)
    # Every other target counts once: in a list the ends of the lines do, in a stream not the first.
    assert skipped["tokens"] == len(text) - 3 - (layout == "stream")
    (note,) = skipped["notes"]
    assert note.startswith(f"3 of {len(text)} characters are not among the")
    assert "'x', 'é'" in note
    done = run("evaluate", workdir, "--text", tmp_path / "text.txt", "--unseen", "skip")
    assert "3 unseen characters left out" in done.out
    assert done.err.startswith(f"note: {note}\n")
    (tmp_path / "alone.txt").write_text(alone)
    line = mistake(workdir, "--text", tmp_path / "alone.txt", "--unseen", "skip")
    assert line.startswith("error: --text: ")


def test_unseen_is_of_another_text(stream: Path):
    assert "--unseen: skip given without --text" in mistake(stream, "--unseen", "skip")


MISTAKES = {
    "nosuch.txt": (None, "'nosuch.txt' does not exist"),
    "empty.txt": (b"", "'empty.txt' is empty"),
    "binary.txt": (b"ab\xff", "'binary.txt' is not UTF-8: byte 0xFF at offset 2"),
    "zeros.txt": (b"a\0b", "'zeros.txt' is not text: it has a zero byte at offset 1"),
    "wide.txt": (TEXT.encode("utf-16"), "'wide.txt' is UTF-16: convert it to UTF-8"),
    "packed.txt": (b"\x1f\x8b\x08\0" + b"abc" * 9, "'packed.txt' is compressed by gzip; decom"),
    "broken.gz": (b"\x1f\x8b\x08\0" + b"abc" * 9, "'broken.gz' is compressed by gzip, and is cut"),
    "short.txt": (b"a", "the text is too short: it has 1 characters"),
    ".": (None, "'.' is a directory"),
    "": (None, "'.' is a directory"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_text_that_cannot_be_read_is_blamed_on_its_flag(
    name: str, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    content, message = MISTAKES[name]
    if content is not None:
        Path(name).write_bytes(content)
    line = mistake(stream, "--text", name)
    assert line.startswith(f"error: --text: {message}")
    assert "data." not in line


def test_a_loss_that_is_not_finite_is_status_1(tmp_path: Path):
    (tmp_path / "text.txt").write_text(TEXT)
    # Logits so large that the sum of the losses overflows float32, though no step does.
    rate = ["optim.kind=sgd", "optim.learning_rate=1e38", "optim.grad_clip=0", "train.steps=10"]
    workdir = tmp_path / "run"
    run("train", f"data.path={tmp_path / 'text.txt'}", *SMALL, *rate, "--workdir", workdir)

    def check(done: Result) -> None:
        assert done.status == 1
        message = (
            "error: the loss of the val split is not finite (inf) over 151 targets (checkpoint"
        )
        assert done.err.startswith(message)
        assert done.err.count("\n") == 1

    plain = run("evaluate", workdir, "--checkpoint", "latest")
    check(plain)
    assert plain.out == ""
    as_json = run("evaluate", workdir, "--checkpoint", "latest", "--json")
    check(as_json)
    result = json.loads(as_json.out, parse_constant=pytest.fail)
    assert (result["loss"], result["bpc"], result["tokens"]) == (None, None, 151)


def test_bpc_is_the_loss_in_bits(stream: Path):
    result = evaluate(stream)
    assert result["bpc"] == pytest.approx(result["loss"] / math.log(2))
    out = run("evaluate", stream).out
    loss, bits = (float(word) for word in (out.split()[4], out.split()[8]))
    assert bits == pytest.approx(loss / math.log(2), abs=1e-4)


class TestRows:
    """The loss of each line and of each character."""

    @staticmethod
    def rows(*words: object) -> list[dict[str, Any]]:
        done = run("evaluate", *words)
        assert (done.status, done.err) == (0, "")
        return [json.loads(line) for line in done.out.splitlines()]

    @pytest.mark.parametrize("name", ["stream", "names"])
    def test_characters_make_up_the_text_and_its_loss(self, name: str, request) -> None:
        workdir = request.getfixturevalue(name)
        rows = self.rows(workdir, "--split", "train", "--per-character")
        whole = evaluate(workdir, "--split", "train")
        losses = [row["loss"] for row in rows if row["loss"] is not None]
        assert len(losses) == whole["tokens"]
        assert sum(losses) / len(losses) == pytest.approx(whole["loss"], rel=1e-5)
        assert [row["index"] for row in rows] == list(range(len(rows)))
        if name == "stream":
            text = "".join(row["character"] for row in rows)
            assert TEXT.startswith(text)
            assert [row["line"] for row in rows][:23] == [1] * 21 + [2] * 2
            assert rows[0]["loss"] is None

    @pytest.mark.parametrize("name", ["stream", "names"])
    def test_lines_add_up_to_the_loss(self, name: str, request) -> None:
        workdir = request.getfixturevalue(name)
        rows = self.rows(workdir, "--per-line")
        whole = evaluate(workdir)
        assert sum(row["characters"] for row in rows) == whole["tokens"]
        total = sum(row["total"] for row in rows)
        assert total / whole["tokens"] == pytest.approx(whole["loss"], rel=1e-5)
        first = rows[0]
        assert first["loss"] == pytest.approx(first["total"] / first["characters"])
        assert first["perplexity"] == pytest.approx(math.exp(first["loss"]))
        if name == "names":
            assert {row["text"] for row in rows} <= set(NAMES)

    def test_csv_has_the_same_rows(self, stream: Path) -> None:
        done = run("evaluate", stream, "--per-character", "--format", "csv")
        read = list(csv.DictReader(io.StringIO(done.out)))
        rows = self.rows(stream, "--per-character")
        assert [row["character"] for row in read] == [row["character"] for row in rows]
        assert [row["loss"] for row in read[1:]] == [str(row["loss"]) for row in rows[1:]]
        assert read[0]["loss"] == ""

    def test_another_text(self, stream: Path, tmp_path: Path) -> None:
        (tmp_path / "other.txt").write_text("the mat\n\nsat on a cat")
        rows = self.rows(stream, "--text", tmp_path / "other.txt", "--per-line")
        assert [row["text"] for row in rows] == ["the mat", "", "sat on a cat"]
        assert [row["characters"] for row in rows] == [7, 1, 12]

    def test_characters_of_several_bytes(self) -> None:
        raw = "aé\u4e2d\n".encode() + b"\xff" + b"b"
        losses = np.arange(len(raw), dtype=np.float32)
        tokens = np.frombuffer(raw, np.uint8)
        found = characters(ByteTokenizer(), tokens, losses)
        assert found.text == "aé\u4e2d\n\ufffdb"
        assert found.losses_C.tolist() == [0, 1 + 2, 3 + 4 + 5, 6, 7, 8]

    def test_a_text_within_one_character_has_no_loss_per_character(self, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text("all é is well. " * 50, encoding="utf-8")
        words = [f"data.path={tmp_path / 'text.txt'}", *tiny("bigram"), "data.tokenizer=byte"]
        assert run("train", *words, "train.steps=2", "--workdir", tmp_path / "run").status == 0
        (tmp_path / "one.txt").write_text("é", encoding="utf-8")
        done = run("evaluate", tmp_path / "run", "--text", tmp_path / "one.txt")
        assert done.status == 0
        assert "bits per byte" in done.out
        assert "(0 characters, 1 bytes)" in done.out
        assert "not finite" not in done.out
        assert "bpc" not in done.out

    def test_a_first_character_of_several_bytes_adds_those_that_are_predicted(self) -> None:
        raw = "\u4e2dé\n".encode()
        losses = np.array([np.nan, 1, 2, 3, 4, 5])
        found = characters(ByteTokenizer(), np.frombuffer(raw, np.uint8), losses)
        assert found.losses_C.tolist() == [1 + 2, 3 + 4, 5]
        (line,) = by_line(found)
        assert (line["total"], line["characters"], line["bytes"]) == (15, 2, 5)
        assert line["loss"] == 15 / 2
        (only,) = by_line(characters(ByteTokenizer(), np.array([97]), np.array([np.nan])))
        assert (only["total"], only["loss"], only["bpb"]) == (0, None, None)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--format", "csv"], "given without --per-line or --per-character"),
            (["--per-line", "--json"], "--json: given with --per-line"),
            (["--per-line", "--per-character"], "not allowed with"),
            (["--per-line", "--format", "xml"], "invalid choice"),
        ],
    )
    def test_mistakes(self, stream: Path, words: list[str], message: str) -> None:
        assert message in mistake(stream, *words)


def test_perplexity_is_reported_beside_the_loss(stream: Path) -> None:
    result = evaluate(stream)
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]))
    assert f"perplexity {result['perplexity']:.4f}" in run("evaluate", stream).out


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recurrent")
    (folder / "text.txt").write_text(TEXT)
    parts = ["eval.streams=3", "eval.max_targets=100", "eval.warmup=5", "data.val_fraction=0.4"]
    words = [f"data.path={folder / 'text.txt'}", *tiny("gru"), *parts, "train.sample_every=0"]
    return train(folder / "run", *words, "train.steps=2")


@pytest.mark.slow
def test_a_run_says_which_targets_its_losses_are_of(recurrent: Path):
    # One window of 1,024 targets would be too many: the first 100 of the middle one are scored.
    log = (recurrent / "metrics.jsonl").read_text().splitlines()
    (line,) = (line for line in map(json.loads, log) if line["split"] == "val")
    assert (line["targets"], line["of"]) == (100, 607)
    summary = json.loads((recurrent / "summary.json").read_text())
    assert (summary["max_targets"], summary["val_loss"]) == (100, line["loss"])
    same = ["--max-targets", 100, "--streams", 3, "--warmup", 5]
    assert evaluate(recurrent, *same)["loss"] == line["loss"]
    whole = evaluate(recurrent)
    assert (whole["tokens"], "of" in whole) == (607, False)


def test_some_targets_and_streams_are_said_in_the_output(recurrent: Path):
    found = evaluate(recurrent, "--streams", 4)
    assert (found["tokens"], found["streams"], "of" in found) == (607, 4, False)
    assert found["loss"] == pytest.approx(evaluate(recurrent)["loss"], abs=1e-2)
    part = evaluate(recurrent, "--max-targets", 50)
    assert (part["tokens"], part["of"]) == (50, 607)
    said = run("evaluate", recurrent, "--max-targets", 50).out
    assert "over 50 of 607 targets, in windows spread evenly (checkpoint" in said
    said = run("evaluate", recurrent, "--streams", 4).out
    assert "over 607 targets, in 4 streams (checkpoint" in said


@pytest.mark.parametrize(
    ("kind", "settings", "line"),
    [
        (
            "gru",
            ["eval.streams=2", "train.steps=1", "train.sample_every=0"],
            "in 2 parallel streams, each after 256 characters that are not scored",
        ),
        (
            "ngram",
            ["eval.max_targets=9"],
            "at most 9 targets in windows spread evenly (train 1,367, val 151)",
        ),
    ],
)
@pytest.mark.quick("ngram-*")
def test_the_header_says_how_losses_are_measured(
    kind: str, settings: list[str], line: str, tmp_path: Path
):
    (tmp_path / "text.txt").write_text(TEXT)
    words = [f"data.path={tmp_path / 'text.txt'}", *tiny(kind), *settings]
    done = run("train", *words, "--workdir", tmp_path / "run")
    assert done.status == 0, done.err
    assert f"\nevaluation: {line}\n" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--streams", 2], "--streams: given for a run of bigram; only families that carry a "),
        (["--max-targets", 9, "--warmup", 2], "--warmup: given for a run of bigram"),
    ],
)
def test_parts_are_for_families_that_carry_a_state(words: list[Any], message: str, stream: Path):
    assert message in mistake(stream, *words)


def test_windows_carry_no_state(recurrent: Path):
    said = mistake(recurrent, "--streams", 2, "--context", 4)
    assert "--streams: given with --context, whose windows do not carry a state" in said
