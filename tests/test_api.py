"""The Python interface does what the commands do, in the same words."""

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import charjax
from charjax.config import load_config
from charjax.data.datasets import load_dataset
from tests import commands

SMALL = ["train.steps=12", "train.batch_size=4", "eval.every=6", "train.sample_every=12"]
GRU = [*commands.TINY["gru"], *SMALL]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    names = ["emma", "olivia", "ava", "isabella", "sophia", "mia", "amelia", "ella"]
    lines = [names[i % 8] + names[i * 5 % 7][: i % 4] for i in range(120)]
    (folder / "names.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "text.txt").write_text("the wörld is all that is the case. " * 60, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def stream(folder: Path) -> charjax.Run:
    words = [f"data.path={folder / 'text.txt'}", "model.kind=gru", *GRU]
    return charjax.fit(*words, workdir=folder / "stream", quiet=True)


@pytest.fixture(scope="module")
def lines(folder: Path) -> charjax.Run:
    words = [f"data.path={folder / 'names.txt'}", "data.layout=lines", "model.kind=gru", *GRU]
    return charjax.fit(*words, workdir=folder / "lines", quiet=True)


class TestFit:
    """Training by a call."""

    def test_it_gives_the_run_of_the_command(self, stream: charjax.Run, folder: Path) -> None:
        words = [f"data.path={folder / 'text.txt'}", "model.kind=gru", *GRU]
        done = commands.run("train", *words, "--workdir", folder / "command")
        assert done.status == 0
        digests = [
            json.loads((directory / "summary.json").read_text())["state_digest"]
            for directory in (stream.directory, folder / "command")
        ]
        assert digests[0] == digests[1]

    @pytest.mark.slow
    def test_a_config_stands_for_its_words(self, folder: Path) -> None:
        words = [f"data.path={folder / 'text.txt'}", "model.kind=bigram", *SMALL]
        run = charjax.fit(load_config(None, words), workdir=folder / "config", quiet=True)
        assert run.config.model.kind == "bigram"
        with pytest.raises(charjax.UserError, match="a Config given with overrides"):
            charjax.fit(run.config, "train.steps=3")

    def test_resume_goes_on_and_then_changes_nothing(self, folder: Path) -> None:
        words = [f"data.path={folder / 'text.txt'}", "model.kind=bigram", *SMALL]
        where = {"workdir": folder / "resumed", "quiet": True}
        assert charjax.fit(*words, **where).metrics.step.max() == 12
        longer = charjax.fit("train.steps=18", resume=True, **where)
        assert longer.metrics.step.max() == 18

    @pytest.mark.slow
    def test_parameters_of_another_run_are_the_first_ones(self, stream, folder: Path) -> None:
        words = [f"data.path={folder / 'text.txt'}", "optim.learning_rate=1e-30", "train.steps=1"]
        run = charjax.fit(*words, init_from=stream.directory, workdir=folder / "tuned", quiet=True)
        np.testing.assert_allclose(run.score("the case"), stream.score("the case"), rtol=1e-5)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["model.kind=grr"], "did you mean gru"),
            (["no-such-config"], "no-such-config"),
            (["train.steps=0"], "train.steps"),
        ],
    )
    def test_mistakes_are_one_line(self, words: list[str], message: str, folder: Path) -> None:
        with pytest.raises(charjax.UserError, match=message):
            charjax.fit(*words, workdir=folder / "mistake")
        assert not (folder / "mistake").exists()

    @pytest.mark.parametrize(
        ("words", "where", "message"),
        [
            (({"train.steps": 3},), "mistake", "config of type dict given; it must be words"),
            ((5,), "mistake", "config of type int given"),
            (("model.kind=bigram", 5), "mistake", "fit: a setting: int given; it must be a str"),
            (("model.kind=bigram",), "", "workdir: '' given"),
            (("model.kind=bigram",), "a\0b", "workdir: 'a.x00b' given"),
            (("model.kind=bigram",), 7, "workdir: 7 given"),
        ],
    )
    def test_values_of_another_type(self, words, where, message, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(charjax.UserError, match=message):
            charjax.fit(*words, workdir=where, quiet=True)
        with pytest.raises(charjax.UserError, match="workdir: '' given"):
            charjax.fit(load_config(None, ["model.kind=bigram"]), workdir="", quiet=True)
        assert not list(tmp_path.iterdir())

    def test_quiet_prints_nothing(self, folder: Path, capfd) -> None:
        words = [str(folder / "text.txt"), "model.kind=bigram", *SMALL]
        charjax.fit(*words, workdir=folder / "quiet", quiet=True)
        assert capfd.readouterr() == ("", "")
        charjax.fit(*words, workdir=folder / "loud")
        assert "is no configuration and is read as the text" in capfd.readouterr().out

    def test_a_run_that_diverges_is_an_error(self, folder: Path) -> None:
        words = [f"data.path={folder / 'text.txt'}", "model.kind=gru", *GRU, "optim.kind=sgd"]
        words += ["optim.learning_rate=1e38", "optim.grad_clip=0", "train.max_skipped=2"]
        with pytest.raises(charjax.UserError, match="diverged"):
            charjax.fit(*words, workdir=folder / "diverged", quiet=True)


class TestRun:
    """A loaded run."""

    def test_it_is_what_was_saved(self, stream: charjax.Run) -> None:
        for checkpoint in ("best", "latest", stream.step):
            assert charjax.load(str(stream.directory), checkpoint).step > 0
        assert "gru" in repr(stream)
        with pytest.raises(charjax.UserError, match="is not a directory"):
            charjax.load("no/such/run")

    def test_samples_are_those_of_the_command(self, stream: charjax.Run) -> None:
        texts = stream.sample("the ", n=3, max_new_tokens=20, temperature=0.8, seed=5)
        words = ["--prompt", "the ", "--num-samples", 3, "--max-new-tokens", 20]
        words += ["--temperature", 0.8, "--seed", 5, "--json"]
        done = commands.run("sample", stream.directory, *words)
        assert json.loads(done.out)["samples"] == texts

    def test_processors_are_those_of_the_command(self, stream: charjax.Run) -> None:
        numbers = {"min_p": 0.1, "typical_p": 0.8, "repetition_penalty": 1.5}
        texts = stream.sample("the ", max_new_tokens=20, **numbers)
        words = ["--min-p", 0.1, "--typical-p", 0.8, "--repetition-penalty", 1.5, "--json"]
        done = commands.run("sample", stream.directory, "--prompt", "the ", *words)
        settings = json.loads(done.out)["settings"]
        assert settings.items() >= numbers.items()
        assert json.loads(done.out)["samples"][0].startswith(texts[0])
        assert texts != stream.sample("the ", max_new_tokens=20)

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_losses_are_those_of_the_command(self, stream: charjax.Run, split: str) -> None:
        got = stream.evaluate(split)
        done = commands.run("evaluate", stream.directory, "--split", split, "--json")
        assert json.loads(done.out)["loss"] == got.loss
        assert got.perplexity == pytest.approx(np.exp(got.loss))
        assert got.bpc == pytest.approx(got.loss / np.log(2))

    def test_some_targets_are_those_of_the_command(self, stream: charjax.Run) -> None:
        got = stream.evaluate("train", max_targets=100)
        words = ["--split", "train", "--max-targets", 100, "--json"]
        found = json.loads(commands.run("evaluate", stream.directory, *words).out)
        assert (found["loss"], found["tokens"]) == (got.loss, got.targets)
        assert 0 < got.targets <= 100

    def test_metrics_are_the_lines_of_the_file(self, stream: charjax.Run) -> None:
        read = (stream.directory / "metrics.jsonl").read_text().splitlines()
        assert len(stream.metrics) == len(read)
        assert stream.metrics.loss.tolist() == [json.loads(line)["loss"] for line in read]

    @pytest.mark.parametrize("name", ["stream", "lines"])
    def test_scores_are_the_losses_that_logits_give(self, name: str, request) -> None:
        run = request.getfixturevalue(name)
        text = "the case" if name == "stream" else "emma"
        scores, logits = run.score(text), run.logits(text)
        assert scores.shape == (len(text),)
        ids = run.tokenizer.encode(text)
        logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        if name == "stream":
            assert np.isnan(scores[0])
            expected = [-logs[i, ids[i + 1]] for i in range(len(text) - 1)]
            np.testing.assert_allclose(scores[1:], expected, rtol=1e-4)
        else:
            assert logits.shape == (len(text) + 1, run.tokenizer.vocab_size)
            expected = [-logs[i, ids[i]] for i in range(len(text))]
            np.testing.assert_allclose(scores, expected, rtol=1e-4)

    @pytest.mark.parametrize("name", ["stream", "lines"])
    def test_the_mean_score_is_the_loss_of_a_file(self, name: str, folder: Path, request) -> None:
        run = request.getfixturevalue(name)
        file = folder / ("text.txt" if name == "stream" else "names.txt")
        text = file.read_text(encoding="utf-8")
        got, expected = run.score(text), run.evaluate(file=file)
        assert np.nanmean(got) == pytest.approx(expected.loss, rel=1e-5)
        assert np.count_nonzero(~np.isnan(got)) == expected.targets
        assert run.perplexity(text) == pytest.approx(expected.perplexity, rel=1e-5)

    def test_bytes_of_a_character_are_added_up(self, folder: Path) -> None:
        words = [f"data.path={folder / 'text.txt'}", "data.tokenizer=byte", "model.kind=bigram"]
        run = charjax.fit(*words, *SMALL, workdir=folder / "bytes", quiet=True)
        text = "a wörld"
        scores = run.score(text)
        assert scores.shape == (len(text),)
        assert np.nansum(scores) == pytest.approx(
            np.log(np.exp(run.logits(text)).sum(-1))[:-1].sum()
            - run.logits(text)[np.arange(len(text.encode()) - 1), list(text.encode()[1:])].sum(),
            rel=1e-4,
        )

    def test_a_cut_first_character_adds_up_and_is_not_counted(self, folder: Path) -> None:
        run = charjax.load(folder / "bytes")
        (folder / "cut.txt").write_text("öwl", encoding="utf-8")
        scores, whole = run.score("öwl"), run.evaluate(file=folder / "cut.txt")
        assert (whole.targets, whole.characters) == (3, 2)
        assert np.nansum(scores) == pytest.approx(whole.loss * whole.targets)
        assert run.perplexity("öwl") == pytest.approx(np.exp(whole.bpc * np.log(2)))

    @pytest.mark.parametrize("text", ["", "t"])
    def test_short_texts(self, stream: charjax.Run, text: str) -> None:
        assert stream.score(text).shape == (len(text),)
        assert stream.logits(text).shape == (1, stream.tokenizer.vocab_size)
        with pytest.raises(charjax.UserError, match="needs a character with another one before"):
            stream.perplexity(text)

    def test_mistakes_are_one_line(self, stream: charjax.Run) -> None:
        with pytest.raises(charjax.UserError, match="is not one of the"):
            stream.score("\u4e2d")
        with pytest.raises(charjax.UserError, match="int given; it must be a str"):
            stream.logits(3)  # type: ignore[arg-type]
        with pytest.raises(charjax.UserError, match="this run's text has: train, val"):
            stream.evaluate("test")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ({"n": 0}, "n: 0 given; it must be a whole number from 1 to"),
            ({"n": -1}, "n: -1 given"),
            ({"n": 1.5}, "n: 1.5 given"),
            ({"max_new_tokens": 2.5}, "max_new_tokens: 2.5 given"),
            ({"temperature": "hot"}, "temperature: 'hot' given"),
            ({"top_k": 2.5}, "top_k: 2.5 given"),
            ({"top_p": "a"}, "top_p: 'a' given"),
            ({"greedy": "no"}, "greedy: 'no' given; it must be True or False"),
            ({"seed": None}, "seed: None given"),
            ({"past_context": "x"}, "past_context: 'x' given; it must be one of 'jump', 'slide'"),
            ({"stop": 5}, "stop: int given; it must be a str"),
            ({"stop": ""}, "stop: '' given; it must have at least one character"),
            ({"stop": "\u4e2d"}, "stop: the character .* is not one of the"),
        ],
    )
    def test_sampling_refuses_values_of_another_type(self, words, message, stream) -> None:
        with pytest.raises(charjax.UserError, match=message):
            stream.sample("the ", **words)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ({"context": 1.5}, "context: 1.5 given; it must be a whole number"),
            ({"stride": "a"}, "stride: 'a' given"),
            ({"max_targets": 0}, "max_targets: 0 given; it must be a whole number from 1 to"),
            ({"streams": 4, "context": 2}, "--streams: given with --context"),
            ({"warmup": 4}, "warmup: 4 given without streams or max_targets"),
            ({"file": 5}, "file: 5 given; it must be a str or a Path"),
            ({"file": ""}, "file: '' given; it must name a file"),
            ({"file": "x.txt", "unseen": "all"}, "unseen: 'all' given; it must be one of"),
            ({"unseen": "skip"}, "unseen: 'skip' given without a file"),
        ],
    )
    def test_evaluation_refuses_values_of_another_type(self, words, message, stream) -> None:
        with pytest.raises(charjax.UserError, match=message):
            stream.evaluate(**words)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda run: charjax.load(None), "workdir: None given; it must be a str or a Path"),
            (lambda run: charjax.load(""), "workdir: '' given; it must name a"),
            (lambda run: charjax.load(run.directory, 20.0), "checkpoint: 20.0 given"),
            (lambda run: charjax.load(run.directory, None), "checkpoint: None given"),
            (lambda run: charjax.compare("runs/a"), "compare: str given; it must be a list"),
            (lambda run: charjax.compare(None), "compare: NoneType given"),
            (lambda run: charjax.compare([run, 3]), "compare: 3 given; it must be a str or a Path"),
            (lambda run: run.report(5), "out: 5 given; it must be a str or a Path"),
        ],
    )
    def test_runs_are_named_by_paths(self, call, message, stream) -> None:
        with pytest.raises(charjax.UserError, match=message):
            call(stream)

    def test_a_windowed_model_reads_long_texts_in_windows(self, folder: Path) -> None:
        words = [*commands.TINY["transformer"], "model.kind=transformer", *SMALL]
        path = f"data.path={folder / 'text.txt'}"
        run = charjax.fit(path, *words, workdir=folder / "windows", quiet=True)
        length = run.config.model.context_length
        text = "the wörld is all that is the case. "
        assert np.isnan(run.score(text)).tolist() == [True] + [False] * (len(text) - 1)
        with pytest.raises(charjax.UserError, match=f"at most {length}"):
            run.logits("t" * (length + 1))


class TestCompare:
    """Several runs beside each other."""

    def test_scores_and_settings(self, stream: charjax.Run, folder: Path) -> None:
        words = [f"data.path={folder / 'text.txt'}", "model.kind=gru", *GRU, "train.seed=3"]
        other = charjax.fit(*words, workdir=folder / "other", quiet=True)
        both = charjax.compare([stream, str(other.directory)])
        assert both.settings.index.tolist() == ["train.seed"]
        assert both.settings.loc["train.seed"].tolist() == [0, 3]
        best = stream.metrics.query("split == 'val'").loss.min()
        assert both.scores.best_val_loss.iloc[0] == best
        assert len(both.figure.axes[0].lines) == 4
        assert "train.seed" in repr(both)
        assert "<table" in both._repr_html_()
        assert both.figure._repr_png_().startswith(b"\x89PNG")
        assert "train.seed" not in stream._repr_html_()
        assert f"{best:.4f} nats per character" in stream._repr_html_()

    def test_a_run_without_an_end_has_no_summary(self, stream, folder: Path) -> None:
        unfinished = folder / "unfinished"
        unfinished.mkdir()
        for name in ("config.toml", "metrics.jsonl"):
            (unfinished / name).write_bytes((stream.directory / name).read_bytes())
        both = charjax.compare([stream, unfinished])
        assert np.isnan(both.scores.seconds.iloc[1])
        assert both.scores.best_val_loss.iloc[1] == both.scores.best_val_loss.iloc[0]

    def test_mistakes_are_one_line(self, stream, lines, folder: Path) -> None:
        with pytest.raises(charjax.UserError, match="at least two"):
            charjax.compare([stream])
        with pytest.raises(charjax.UserError, match="given twice"):
            charjax.compare([stream, stream.directory])
        with pytest.raises(charjax.UserError, match="vocabulary"):
            charjax.compare([stream, lines])
        with pytest.raises(charjax.UserError, match="is not a directory"):
            charjax.compare([stream, folder / "nothing"])


class TestImport:
    """`import charjax` is light, and its names are its own."""

    def test_it_imports_nothing_heavy(self) -> None:
        code = "import sys, charjax; print([m for m in ('jax', 'numpy', 'pydantic', 'pandas', "
        code += "'matplotlib', 'rich') if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "[]\n"

    def test_no_public_function_has_the_name_of_a_module(self) -> None:
        folder = Path(charjax.__file__).parent
        modules = {path.stem for path in folder.glob("*.py")} | {
            path.parent.name for path in folder.glob("*/__init__.py")
        }
        assert not modules & set(charjax.__all__)

    @pytest.mark.parametrize("first", ["charjax.train", "charjax.api", "charjax.commands"])
    @pytest.mark.quick("charjax.api")
    def test_names_are_the_same_in_any_order(self, first: str) -> None:
        code = f"import {first}, charjax; import charjax.train; "
        code += "print(callable(charjax.fit), type(charjax.train).__name__)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "True module\n", done.stderr

    def test_unknown_names(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'fitt'"):
            charjax.fitt  # noqa: B018

    @pytest.mark.parametrize("name", [name for name in charjax.__all__ if name != "Config"])
    def test_every_public_name_is_documented(self, name: str) -> None:
        public = getattr(charjax, name)
        assert inspect.getdoc(public)
        if inspect.isclass(public) and public.__module__ == "charjax.api":
            for attribute, value in vars(public).items():
                if not attribute.startswith("_") and (
                    callable(value) or isinstance(value, property)
                ):
                    assert inspect.getdoc(value), attribute
        if inspect.isfunction(public):
            assert "Raises:" in (inspect.getdoc(public) or "")

    def test_the_text_is_read_by_the_rules_of_the_run(self, folder: Path) -> None:
        dataset = load_dataset(charjax.load(folder / "stream").config.data)
        assert dataset.tokenizer == charjax.load(folder / "stream").tokenizer
        assert importlib.import_module("charjax").Config is not None
