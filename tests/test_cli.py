"""The command line: parsing, one-line errors, and exit statuses."""

import contextlib
import errno
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from charjax import cli, evaluate, interop, sample, signals, train
from charjax.__main__ import COMMANDS
from charjax.commands.completion import _parser_of as parser_of
from charjax.errors import UserError, printable

PARSERS = {
    "train": train.train_arguments,
    "sample": sample.sample_arguments,
    "evaluate": evaluate.evaluate_arguments,
    "interop": interop.interop_arguments,
}


def status(main: Callable[[list[str]], int | None], *argv: str) -> object:
    with pytest.raises(SystemExit) as end:
        cli.run(main, list(argv))
    return end.value.code


@pytest.mark.parametrize(
    ("argv", "config", "overrides"),
    [
        ([], None, []),
        (["a.toml"], "a.toml", []),
        (["names-bigram", "train.steps=3"], "names-bigram", ["train.steps=3"]),
        (["train.steps=3", "a.toml", "optim.l2=1"], "a.toml", ["train.steps=3", "optim.l2=1"]),
        (["x=1", "--resume", "a.toml", "--workdir=w", "y=2"], "a.toml", ["x=1", "y=2"]),
        (["data.path=a b = c.txt"], None, ["data.path=a b = c.txt"]),
    ],
)
def test_train_takes_a_config_and_overrides_in_any_order(argv, config, overrides):
    args = train.train_arguments(argv)
    assert (args.config, args.overrides) == (config, overrides)


def test_a_config_may_have_an_equals_sign_in_its_path(tmp_path: Path):
    path = tmp_path / "lr=3.toml"
    path.touch()
    args = train.train_arguments([str(path), "train.steps=3"])
    assert (args.config, args.overrides) == (str(path), ["train.steps=3"])


def test_a_text_file_is_the_text(tmp_path: Path):
    """A file that is no TOML stands where a configuration is expected."""
    text = tmp_path / "my.txt"
    text.write_text("To be = or not to be\n" * 20)
    notes: list[str] = []
    args = train.train_arguments(["nanogpt-cpu", str(text), "train.steps=3"], notes.append)
    assert args.config == "nanogpt-cpu"
    assert args.overrides == [f"data.path={text}", "train.steps=3"]
    assert notes == [f"{text} is no configuration and is read as the text: data.path={text}"]


def test_a_configuration_of_any_name_is_one(tmp_path: Path):
    path = tmp_path / "settings.conf"
    path.write_text("[train]\nsteps = 3\n")
    assert train.train_arguments([str(path)]).config == str(path)


@pytest.mark.parametrize("other", ["data.path=b.txt", "b.txt"])
def test_a_run_has_one_text(tmp_path: Path, other: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        Path(name).write_text("no settings here\n")
    with pytest.raises(UserError, match="a run has one text: leave one out"):
        train.train_arguments(["a.txt", other])


def test_flags_of_train():
    args = train.train_arguments(
        ["--workdir", "w", "--resume", "--init-from", "r", "--print-config"]
    )
    assert (args.workdir, args.resume, args.init_from, args.print_config) == ("w", True, "r", True)
    args = train.train_arguments([])
    assert (args.workdir, args.resume, args.init_from, args.print_config) == (
        None,
        False,
        None,
        False,
    )


def test_flags_of_sample():
    args = sample.sample_arguments(["run"])
    assert vars(args) == {
        "workdir": "run",
        "checkpoint": "best",
        "json": False,
        "prompt": "",
        "prompt_file": None,
        "num_samples": 1,
        "max_new_tokens": 500,
        "temperature": 1.0,
        "top_k": None,
        "top_p": None,
        "stop": None,
        "min_p": None,
        "typical_p": None,
        "repetition_penalty": 1.0,
        "greedy": False,
        "weights": None,
        "past_context": "jump",
        "seed": 0,
    }
    argv = "--temperature 0.5 --top-k 4 --top-p 1 --num-samples 3 --seed 7 --checkpoint 200"
    args = sample.sample_arguments(["--prompt=-x", "run", "--json", *argv.split()])
    assert (args.temperature, args.top_k, args.top_p) == (0.5, 4, 1.0)
    assert (args.prompt, args.num_samples, args.seed) == ("-x", 3, 7)
    assert (args.checkpoint, args.json) == ("200", True)


def test_flags_of_evaluate():
    args = evaluate.evaluate_arguments(["run"])
    assert vars(args) == {
        "workdir": "run",
        "checkpoint": "best",
        "json": False,
        "weights": None,
        "split": "val",
        "text": None,
        "unseen": "error",
        "context": None,
        "stride": None,
        "max_targets": None,
        "streams": None,
        "warmup": None,
        "per_line": False,
        "per_character": False,
        "format": "jsonl",
        "moved": {},
    }
    args = evaluate.evaluate_arguments(
        ["run", "--split", "test", "--context", "8", "--stride", "4"]
    )
    assert (args.split, args.context, args.stride) == ("test", 8, 4)
    words = ["run", "--max-targets", "1000", "--streams", "64", "--warmup", "0"]
    args = evaluate.evaluate_arguments(words)
    assert (args.max_targets, args.streams, args.warmup) == (1000, 64, 0)


@pytest.mark.parametrize(
    ("command", "argv", "message"),
    [
        ("train", "--workdri=x", "unrecognized arguments: --workdri=x; did you mean --workdir?"),
        ("train", "--train.steps=4", "settings have no dashes: section.key=value"),
        ("train", "a.toml b.toml", "'a.toml' and 'b.toml' given; one configuration at most"),
        ("train", "--workdir", "--workdir: expected one argument"),
        ("sample", "", "the following arguments are required: WORKDIR"),
        ("sample", "r --temperature 0", "--temperature: '0' given; must be a number greater than"),
        ("sample", "r --temperature nan", "--temperature: 'nan' given"),
        ("sample", "r --temperature inf", "--temperature: 'inf' given"),
        ("sample", "r --top-p 0", "--top-p: '0' given; must be a number greater than 0 and"),
        ("sample", "r --top-p 1.01", "--top-p: '1.01' given"),
        ("sample", "r --top-k 0", "--top-k: '0' given; must be a whole number from 1 to"),
        ("sample", "r --top-k 1.5", "--top-k: '1.5' given"),
        ("sample", "r --num-samples -1", "--num-samples: '-1' given"),
        ("sample", "r --seed 4294967296", "--seed: '4294967296' given"),
        ("sample", "r --max-new-tokens 99999999999", "--max-new-tokens: '99999999999' given"),
        ("sample", "r --checkpoint newest", "must be best, latest or a step's number"),
        ("sample", "r --prompt a --prompt-file b", "not allowed with argument --prompt"),
        ("evaluate", "r --split dev", "--split: invalid choice: 'dev'"),
        ("evaluate", "r --split Val", "(choose from 'train', 'val', 'test'); did you mean val?"),
        ("interop", "", "the following arguments are required: import|export"),
        ("evaluate", "r --unseen drop", "--unseen: invalid choice: 'drop'"),
        ("evaluate", "r --max-targets 0", "--max-targets: '0' given; must be a whole number"),
        ("evaluate", "r --streams 99999", "must be a whole number from 1 to 65536"),
        ("evaluate", "r --warmup 9", "--warmup: 9 given without --streams or --max-targets"),
        ("evaluate", "r --max-targets 9 --per-line", "--max-targets: given with --per-line"),
        ("evaluate", "r --greedy", "unrecognized arguments: --greedy"),
        ("evaluate", "r --js", "unrecognized arguments: --js"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_status_2(
    command: str, argv: str, message: str, capsys: pytest.CaptureFixture[str]
):
    assert status(lambda words: PARSERS[command](words) and 0, *argv.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("command", PARSERS)
def test_help_fits_the_page(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        PARSERS[command](["--help"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: charjax {command}")
    assert max(map(len, lines)) <= 100


def test_help_of_train_shows_every_setting(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        train.train_arguments(["--help"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "optim.learning_rate float 0.001 the highest learning rate" in lines
    assert "model.hidden [int] [200] widths of the hidden layers" in lines
    assert any(line.startswith("data.path text unset your own text: a file") for line in lines)


# How commands end.


def test_statuses(capsys: pytest.CaptureFixture[str]):
    def fail(error: BaseException) -> Callable[[list[str]], int]:
        def main(argv: list[str]) -> int:
            raise error

        return main

    assert status(lambda argv: None) == 0
    assert status(lambda argv: int(argv[0]), "143") == 143
    assert capsys.readouterr().err == ""
    assert status(fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""
    assert status(fail(UserError("seed: 'x\x1b[2J\n' given"))) == 2
    assert capsys.readouterr().err == "error: seed: 'x\\x1b[2J\\n' given\n"
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a\nb")
    assert status(fail(full)) == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: 'a\\nb'\n"
    with pytest.raises(ZeroDivisionError):
        cli.run(fail(ZeroDivisionError()), [])


def test_a_closed_pipe_ends_the_command_quietly():
    code = (
        "from charjax import cli\n"
        "cli.run(lambda argv: [print('line', i, flush=i % 9 == 0) for i in range(10**6)] and 0, [])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain, größer, 日本", "plain, größer, 日本"),
        ("a\nb\tc\x1b[0m\x07", "a\\nb\\tc\\x1b[0m\\x07"),
        ("\u202e\u2028\udcff\x85", "\\u202e\\u2028\\udcff\\x85"),
    ],
)
def test_printable(text: str, escaped: str):
    assert printable(text) == escaped
    assert str(UserError(text)) == escaped


@pytest.mark.parametrize("last", ["argparse", "pydantic_core", "annotated_types"])
@pytest.mark.quick("pydantic_core")
def test_an_interrupt_during_the_imports_leaves_no_traceback(last: str):
    """Interrupt a process right after it has imported a module, as `-X importtime` reports."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "charjax.train", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.endswith(f" {last}\n"):
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGINT, errors
    assert "KeyboardInterrupt" not in errors


@pytest.mark.parametrize("seen", [False, True])
def test_an_interrupted_import_of_native_code_is_an_interrupt(
    seen: bool, monkeypatch: pytest.MonkeyPatch
):
    def load(argv: list[str]) -> int:
        with contextlib.suppress(KeyboardInterrupt):
            if seen:
                os.kill(os.getpid(), signal.SIGINT)
        raise ImportError("numpy._core.umath failed to import")

    monkeypatch.setattr(signals, "_interrupts", 0)
    before = signal.getsignal(signal.SIGINT)
    signals.before_imports()
    try:
        if seen:
            assert status(load) == 130
        else:
            with pytest.raises(ImportError):
                cli.run(load, [])
    finally:
        signal.signal(signal.SIGINT, before)


def every_parser() -> Iterator[tuple[str, cli.Parser]]:
    """Yield (command, its parser), those of nested commands too."""
    for name, (module, _) in COMMANDS.items():
        run = importlib.import_module(module).main
        parser = parser_of(run, [])
        nested = [choice for action in parser._actions for choice in action.choices or ()]
        if not (parser.usage or "").endswith("..."):
            nested = []
        for choice in nested or [None]:
            yield f"{name} {choice}", parser_of(run, [choice]) if choice else parser


def test_no_option_of_any_command_is_given_twice_unless_it_is_repeatable():
    refused, repeatable = set(), set()
    for command, parser in every_parser():
        for action in parser._actions:
            flag = (action.option_strings or [""])[-1]
            if not flag or flag in ("--help", "--version", "--accept-changed-code"):
                continue
            action.type = action.choices = None
            words = [flag] if action.nargs == 0 else [flag, "1"]
            if isinstance(action.default, list) or "append" in type(action).__name__.lower():
                repeatable.add(flag)
                continue
            with pytest.raises(UserError, match=f"^{flag}: given twice; give it once; see") as e:
                parser.parse_intermixed_args([*words, *words])
            assert "\n" not in str(e.value)
            refused.add((command.split()[0], flag))
    assert repeatable == {"--code", "--axis", "--only"}
    assert {("initlab", "--lr"), ("initlab", "--scheme"), ("train", "--workdir")} <= refused
    assert {("evaluate", "--json"), ("plan", "--no-compile"), ("interop", "--format")} <= refused


def test_an_option_may_be_given_again_to_another_call():
    for _ in range(2):
        assert train.train_arguments(["--workdir", "a", "x=1"]).workdir == "a"
    assert status(train.main, "--workdir", "a", "--workdir=b") == 2
