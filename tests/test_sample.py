"""The sample command, on small runs trained through the train command."""

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from charjax.data.reading import UTF_8, read_prompt
from charjax.data.tokenizers import ByteTokenizer, CharTokenizer
from charjax.errors import UserError
from charjax.generation.stop_text import StopText
from charjax.run import load
from charjax.run.load import load_run
from charjax.sample import _Terminal
from charjax.signals import Interrupted, Signals
from tests.commands import run, tiny

NAMES = [f"{a}{b}{c}" for a in "bdklmnst" for b in "aeiou" for c in ("n", "ra", "lo", "mi")]


@pytest.fixture(scope="module")
def stream_run(tmp_path_factory) -> Path:
    """Train a bigram on a text whose every second character is an escape character."""
    folder = tmp_path_factory.mktemp("stream")
    (folder / "text.txt").write_text("a\x1bb\x1bc\x1bd\x1b\n\x1b" * 300)
    options = [f"data.path={folder / 'text.txt'}", *tiny("bigram"), "train.steps=20"]
    done = run("train", *options, "--workdir", folder / "run")
    assert done.status == 0, done.err
    return folder / "run"


@pytest.fixture(scope="module")
def names_run(tmp_path_factory) -> Path:
    """Count n-grams of a list of names."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "names.txt").write_text("\n".join(NAMES))
    options = [f"data.path={folder / 'names.txt'}", "data.layout=lines", "model.kind=ngram"]
    done = run("train", *options, "model.order=3", "--workdir", folder / "run")
    assert done.status == 0, done.err
    return folder / "run"


def sample(*arguments):
    done = run("sample", *arguments)
    assert done.status == 0, done.err
    return done


def test_texts_begin_with_the_prompt_and_are_parted(stream_run):
    done = sample(stream_run, "--prompt", "a\x1bb", "--num-samples", 2, "--max-new-tokens", 30)
    first, second = done.out.removesuffix("\n").split("\n---------------\n")
    assert len(first) == len(second) == 33
    assert first != second
    assert first.startswith("a\x1bb")
    assert second.startswith("a\x1bb")
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("60 characters in ")


def test_json_says_what_was_asked_and_how_fast(stream_run):
    asked = ["--seed", 5, "--temperature", 0.5, "--top-k", 3, "--top-p", 0.9, "--json"]
    done = sample(stream_run, "--prompt", "ab", "--max-new-tokens", 40, *asked)
    result = json.loads(done.out)
    assert [len(text) for text in result["samples"]] == [42]
    assert {"prompt": "ab", "seed": 5, "step": 20, "characters": 40}.items() <= result.items()
    assert result["settings"] == {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "greedy": False,
        "min_p": None,
        "typical_p": None,
        "repetition_penalty": 1.0,
        "num_samples": 1,
        "max_new_tokens": 40,
    }
    assert result["past_context"] == "jump"
    assert result["characters_per_second"] == pytest.approx(40 / result["seconds"])
    assert result["compile_seconds"] > 0
    assert "origin" not in result
    plain = sample(stream_run, "--prompt", "ab", "--max-new-tokens", 40, *asked[:-1])
    assert plain.out == result["samples"][0] + "\n"


def test_a_prompt_from_a_file(stream_run, tmp_path):
    (tmp_path / "prompt.txt").write_bytes("\ufeffa\x1bb\n".encode())
    done = sample(stream_run, "--prompt-file", tmp_path / "prompt.txt", "--max-new-tokens", 5)
    same = sample(stream_run, "--prompt", "a\x1bb\n", "--max-new-tokens", 5)
    assert done.out == same.out
    assert done.out.startswith("a\x1bb\n")


def test_a_checkpoint_by_its_step(stream_run):
    for which in ("latest", "20"):
        result = json.loads(sample(stream_run, "--checkpoint", which, "--json").out)
        assert result["step"] == 20


@pytest.mark.slow
def test_names_are_told_apart_by_origin(names_run):
    asked = [names_run, "--num-samples", 150]
    result = json.loads(sample(*asked, "--json").out)
    assert {"train", "val", "test", "new"} == set(result["origin"])
    for text, origin in zip(result["samples"], result["origin"], strict=True):
        assert "\n" not in text
        assert (origin == "new") == (text not in NAMES)
    done = sample(*asked)
    lines = [f"{t}\t{o}" for t, o in zip(result["samples"], result["origin"], strict=True)]
    assert done.out.splitlines() == lines
    counts = [f"{result['origin'].count(name)} {name}" for name in ("train", "val", "test", "new")]
    assert done.err.endswith("; " + ", ".join(counts) + "\n")


def test_a_sample_that_did_not_end_is_unfinished(names_run):
    """Report no origin, although the partial text may be a name."""
    asked = [names_run, "--num-samples", 60, "--max-new-tokens", 4]
    result = json.loads(sample(*asked, "--json").out)
    whole = json.loads(sample(names_run, "--num-samples", 60, "--json").out)
    assert all(whole["finished"])
    assert "unfinished" not in whole["origin"]
    expected = [
        "unfinished" if len(text) >= 4 else origin
        for text, origin in zip(whole["samples"], whole["origin"], strict=True)
    ]
    assert result["origin"] == expected
    assert {"unfinished", "train"} <= set(expected)
    assert result["finished"] == [origin != "unfinished" for origin in expected]
    done = sample(*asked)
    lines = [f"{text}\t{origin}" for text, origin in zip(result["samples"], expected, strict=True)]
    assert done.out.splitlines() == lines
    assert done.err.endswith(f" new, {expected.count('unfinished')} unfinished\n")


def test_a_text_that_is_no_list_of_documents_never_ends(stream_run):
    result = json.loads(sample(stream_run, "--max-new-tokens", 5, "--json").out)
    assert "finished" not in result
    assert "unfinished" not in sample(stream_run, "--max-new-tokens", 5).err


@pytest.mark.slow
def test_past_the_context_a_window_may_slide(tmp_path):
    (tmp_path / "text.txt").write_text("to be or not to be: that is the question\n" * 30)
    options = [f"data.path={tmp_path / 'text.txt'}", *tiny("bow"), "train.steps=2"]
    assert run("train", *options, "--workdir", tmp_path / "run").status == 0
    texts = {}
    for way in ("jump", "slide"):
        asked = [tmp_path / "run", "--past-context", way, "--max-new-tokens", 40, "--json"]
        result = json.loads(sample(*asked).out)
        assert result["past_context"] == way
        texts[way] = result["samples"][0]
    assert texts["jump"] != texts["slide"]
    assert texts["jump"][:8] == texts["slide"][:8]
    plain = sample(tmp_path / "run", "--max-new-tokens", 40)
    assert plain.out == texts["jump"] + "\n"


@pytest.mark.parametrize("text", [None, "other\nnames\nthan\nbefore\n" * 20])
def test_without_its_text_a_run_still_writes(names_run, tmp_path, text):
    workdir, names = tmp_path / "run", names_run.parent / "names.txt"
    shutil.copytree(names_run, workdir)
    before = names.read_text()
    try:
        names.unlink()
        if text is not None:
            names.write_text(text)
        done = sample(workdir, "--num-samples", 3)
        short = sample(workdir, "--max-new-tokens", 1)
    finally:
        names.write_text(before)
    assert short.out.endswith("\tunfinished\n")
    assert short.err.endswith("; 1 unfinished\n")
    assert len(done.out.splitlines()) == 3
    assert "\t" not in done.out
    assert "not looked up" in done.err


MISTAKES = [
    (["--temperature", 0], "temperature"),
    (["--temperature", "inf"], "temperature"),
    (["--top-p", 0], "top-p"),
    (["--top-p", 1.5], "top-p"),
    (["--top-k", 0], "top-k"),
    (["--num-samples", 0], "num-samples"),
    (["--max-new-tokens", 0], "max-new-tokens"),
    (["--seed", -1], "seed"),
    (["--seed", 2**32], "seed"),
    (["--prompt", "aXb"], "'X'"),
    (["--prompt", "a", "--prompt-file", "b"], "--prompt-file"),
    (["--prompt-file", "nowhere.txt"], "nowhere.txt"),
    (["--prompt-file", "binary.bin"], "UTF-8"),
    (["--min-p", 1.5], "min-p"),
    (["--typical-p", 0], "typical-p"),
    (["--repetition-penalty", 0], "1 leaves repetitions as likely as they are"),
    (["--greedy", "--min-p", 0.1, "--typical-p", 0.5], "--min-p, --typical-p"),
    (["--greedy", "--temperature", 0.5], "--temperature"),
    (["--temperature", 0], "use --greedy"),
    (["--past-context", "slide"], "transformer and bow read it"),
    (["--past-context", "skip"], "jump"),
    (["--greedy", "--top-k", 3, "--top-p", 0.5], "--top-k, --top-p"),
    (["--checkpoint", 7], "7"),
    (["--checkpoint", "newest"], "newest"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_one_line(arguments, message, stream_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("binary.bin").write_bytes(b"ab\xff")
    done = run("sample", stream_run, *arguments)
    assert (done.status, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert message in done.err


def test_a_directory_without_a_run_is_a_mistake(tmp_path):
    for workdir in (tmp_path, tmp_path / "nowhere"):
        done = run("sample", workdir)
        assert (done.status, done.out) == (2, "")
        assert len(done.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.quick("15-143")
def test_a_terminal_sees_the_text_come_and_no_control_characters(stream_run, number, status):
    """Stop at a signal in the middle of a long text."""
    here, there = pty.openpty()
    command = [sys.executable, "-m", "charjax.sample", stream_run, "--max-new-tokens", "1000000000"]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, stdout=there, stderr=subprocess.PIPE, cwd=root) as process:
        os.close(there)
        seen = b""
        while len(seen) < 2000:
            seen += os.read(here, 1024)
        process.send_signal(number)
        with contextlib.suppress(OSError):  # Raised when the other end is closed.
            while chunk := os.read(here, 1024):
                seen += chunk
        assert process.wait(timeout=60) == status
        assert process.stderr is not None
        assert b" characters in " in process.stderr.read()
    os.close(here)
    assert b"\\x1b" in seen
    assert b"\x1b" not in seen


def test_a_signal_ends_it_with_what_came(stream_run, monkeypatch):
    polls = []

    def poll(signals):
        polls.append(signals)
        if len(polls) == 3:
            raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(Signals, "poll", poll)
    done = run("sample", stream_run, "--max-new-tokens", 1000000000, "--json")
    assert done.status == 143
    result = json.loads(done.out)
    assert result["interrupted"]
    assert len(result["samples"][0]) == result["characters"] > 0


def test_characters_of_several_bytes_are_shown_whole(capsys):
    text = "aé€😀z"
    terminal = _Terminal(ByteTokenizer())
    raw = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    for token in raw:
        terminal.add(np.array([token], np.int32))
    assert capsys.readouterr().out == text
    terminal.add(raw[3:4])
    assert capsys.readouterr().out == ""
    terminal.end()
    assert capsys.readouterr().out == "\ufffd"


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_a_stop_asked_for_while_the_run_is_read_is_not_kept_waiting(
    command, stream_run, monkeypatch
):
    def read(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return load_run(*arguments, **options)

    monkeypatch.setattr(load, "load_run", read)
    done = run(command, stream_run)
    assert (done.status, done.out, done.err) == (143, "", "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b\x08\x00abc", "compressed by gzip"),
        ("abc".encode("utf-16"), "iconv -f UTF-16"),
        (b"ab\0c", "zero byte at offset 2"),
        (b"ab\xff", "not UTF-8: byte 0xFF"),
    ],
)
def test_advice_about_a_prompt_file_is_that_about_a_text(content, said):
    with pytest.raises(UserError, match=said) as refused:
        read_prompt(content, UTF_8, CharTokenizer("abc"), "--prompt-file: 'prompt'")
    assert str(refused.value).startswith("--prompt-file: 'prompt' is ")


class TestStop:
    """Texts end before the one that --stop names."""

    WORDS = ("--num-samples", 4, "--max-new-tokens", 400, "--seed", 3, "--json")

    def test_texts_are_the_same_up_to_the_stop(self, stream_run):
        whole = json.loads(sample(stream_run, *self.WORDS).out)["samples"]
        result = json.loads(sample(stream_run, *self.WORDS, "--stop", "d\x1b\n").out)
        assert result["samples"] == [text.partition("d\x1b\n")[0] for text in whole]
        assert result["finished"] == ["d\x1b\n" in text for text in whole]
        assert result["stop"] == "d\x1b\n"
        run = load_run(load.find_run(stream_run))
        assert "".join(result["samples"])
        assert run.step == 20

    def test_generation_ends_when_all_texts_have(self, stream_run):
        words = ["--max-new-tokens", 100_000, "--json", "--stop", "\n"]
        result = json.loads(sample(stream_run, "--prompt", "a", *words).out)
        assert result["finished"] == [True]
        assert result["characters"] < 5000

    def test_a_stop_in_the_prompt_does_not_count(self, stream_run):
        words = ["--prompt", "b\x1bc", "--max-new-tokens", 6, "--stop", "b\x1bc", "--json"]
        assert len(json.loads(sample(stream_run, *words).out)["samples"][0]) >= 3

    def test_lines_end_at_either(self, names_run):
        result = json.loads(sample(names_run, "--num-samples", 30, "--stop", "n", "--json").out)
        assert all(result["finished"])
        assert not any("n" in name for name in result["samples"])

    @pytest.mark.parametrize(("stop", "message"), [("", "at least one"), ("\u4e2d", "is not one")])
    def test_mistakes(self, stream_run, stop, message):
        done = run("sample", stream_run, "--stop", stop)
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
        assert done.err.startswith("error: --stop: ")
        assert message in done.err

    @pytest.mark.parametrize("calls", [[3, 1, 4], [1] * 8, [8]])
    def test_a_stop_may_lie_across_calls(self, calls):
        tokenizer = CharTokenizer("ab\n")
        tokens = tokenizer.encode("baabbaab").astype(np.int32)
        ending, reached, begin = StopText(tokenizer, "abb", 1), [], 0
        for length in calls:
            reached.append(ending.reached(tokens[None, begin : begin + length]))
            begin += length
        # "abb" stands at 2 and is complete with the fifth token.
        ends = np.cumsum(calls)
        assert reached == [bool(end >= 5) for end in ends]
        assert tokenizer.decode(ending.cut(tokens)) == "ba"
