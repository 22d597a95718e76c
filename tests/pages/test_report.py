"""`charjax report`: what is on the page of any runs, and that it is safe to open."""

import base64
import hashlib
import html.parser
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import charjax
from charjax.pages import baselines
from charjax.run.lock import Lock
from tests.commands import Result, run, tiny
from tests.pages.synthetic import write_run

EVIL = "</script><script>alert(1)</script>&amp;\u202e$"
VOID = ("meta", "input")


class Page(html.parser.HTMLParser):
    """Tags, attributes and text; every element must be closed in order."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[str]:
        return [data for open_tag, data in self.texts if open_tag == tag]

    @property
    def text(self) -> str:
        """The text that a reader sees."""
        return "".join(data for tag, data in self.texts if tag not in ("script", "style"))

    @property
    def data(self) -> dict[str, Any]:
        """The tree that the script reads."""
        return json.loads(self.all("script")[0])

    def rows(self) -> dict[str, list[str]]:
        """Return the cells of each row of the page's tables by its head."""
        plain = re.sub(r"<span[^>]*></span>", "", self.source)
        found = re.findall(r"<tr[^>]*><th[^>]*>([^<]*)</th>((?:<td>[^<]*</td>)+)</tr>", plain)
        return {key: re.findall(r"<td>([^<]*)</td>", cells) for key, cells in found}


def report(*words: object) -> Result:
    return run("commands.report", *words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three trained runs: two of one text, one of another in other letters."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text("what is the case, is what is.\n" * 80, encoding="utf-8")
    (folder / "other.txt").write_text("EVERYTHING ELSE. " * 80, encoding="utf-8")
    for name, file, *words in (
        ("gru", "text.txt", *tiny("gru"), "data.sampling=random", "train.sample_every=15"),
        ("bigram", "text.txt", *tiny("bigram"), "optim.learning_rate=0.1", "optim.ema=0.9"),
        ("other", "other.txt", *tiny("bigram")),
    ):
        settings = [f"data.path={folder / file}", *words, "train.steps=30"]
        done = run("train", *settings, "--workdir", folder / name)
        assert done.status == 0, done.err
    return folder


@pytest.fixture
def runs(folder: Path, tmp_path: Path) -> Path:
    """Copy the runs for a test to change; the texts are found where they were."""
    leftovers = shutil.ignore_patterns("report.html", baselines.FILE)
    return Path(shutil.copytree(folder, tmp_path / "runs", ignore=leftovers))


@pytest.fixture(scope="module")
def both(folder: Path) -> Page:
    out = folder / "both.html"
    done = report(folder / "gru", folder / "bigram", "--out", out)
    assert done.status == 0, done.err
    assert done.out == f"report: {out}\n"
    return Page(out)


class TestContent:
    """All that belongs on the page."""

    def test_sections(self, both: Page) -> None:
        assert both.all("h2") == [
            "Runs", "Curves", "Held-out text", "Samples", "Settings", "Machine", "To run it again",
        ]  # fmt: skip

    def test_scores_are_those_of_compare(self, both: Page, folder: Path) -> None:
        scores = charjax.compare([folder / "gru", folder / "bigram"]).scores
        for name, (_, row) in zip(("gru", "bigram"), scores.iterrows(), strict=True):
            cells = both.rows()[name]
            assert cells[:4] == ["finished", name, f"{row.params:,.0f}", "30 of 30"]
            assert cells[4:6] == [f"{row.best_val_loss:.4f}", f"{row.best_val_bpc:.4f}"]

    def test_curves_are_the_metrics(self, both: Page, folder: Path) -> None:
        metrics = charjax.load(folder / "gru").metrics
        train, val = (metrics[metrics.split == split] for split in ("train", "val"))
        found = both.data["runs"][0]["curves"]
        assert found["train"]["step"] == train.step.tolist()
        assert found["train"]["loss"]["mean"] == pytest.approx(train.loss.tolist(), rel=1e-5)
        for name in ("learning_rate", "grad_norm", "tokens_per_second"):
            assert found["train"][name]["mean"] == pytest.approx(train[name].tolist(), rel=1e-5)
        assert found["val"]["loss"]["mean"] == pytest.approx(val.loss.tolist(), rel=1e-5)
        assert found["val_trained"]["step"] == []
        best = val.loc[val.loss.idxmin()]
        assert both.data["runs"][0]["best"] == {"step": best.step, "loss": best.loss}

    def test_both_losses_of_averaged_parameters(self, both: Page, folder: Path) -> None:
        metrics = charjax.load(folder / "bigram").metrics
        trained = metrics[metrics.split == "val_trained"]
        found = both.data["runs"][1]["curves"]["val_trained"]
        assert found["step"] == trained.step.tolist() != []
        assert found["loss"]["mean"] == pytest.approx(trained.loss.tolist(), rel=1e-5)
        assert found["loss"]["mean"] != both.data["runs"][1]["curves"]["val"]["loss"]["mean"]
        assert "val, as trained" in both.all("th")
        text = " ".join(both.text.split())
        assert "the dotted line is that of the parameters as they were trained" in text

    def test_the_lines_are_what_counting_gets(self, both: Page, folder: Path) -> None:
        lines = {line["label"]: line for line in both.data["references"]}
        symbols = charjax.load(folder / "gru").tokenizer.vocab_size
        assert lines["ln V"]["loss"] == pytest.approx(math.log(symbols), rel=1e-3)
        words = ["model.kind=ngram", "model.smoothing=kneser_ney", "model.order=6"]
        run("train", f"data.path={folder / 'text.txt'}", *words, "--workdir", folder / "counts")
        counts = json.loads((folder / "counts" / "summary.json").read_text())["val_loss"]
        assert lines["6-gram Kneser-Ney"]["loss"] == pytest.approx(counts, rel=1e-3)
        text = (folder / "text.txt").read_text()
        train, val = text[: int(0.9 * len(text))], text[int(0.9 * len(text)) + 1 :]
        shares = {char: (train.count(char) + 1) / (len(train) - 1 + symbols) for char in set(text)}
        unigram = -sum(math.log(shares[char]) for char in val) / len(val)
        assert lines["unigram"]["loss"] == pytest.approx(unigram, rel=1e-2)
        assert lines["unigram"]["runs"] == [0, 1]

    def test_the_passage_is_the_validation_split(self, both: Page, folder: Path) -> None:
        text = (folder / "text.txt").read_text()
        held_out = text[int(0.9 * len(text)) :]
        for place, name in enumerate(("gru", "bigram")):
            found = both.data["passages"][place]
            shown = "".join(char.replace("⏎\\n", "\n") for char in found["text"])
            assert shown == held_out
            scores = charjax.load(folder / name).score(held_out)
            assert found["loss"][0] is None
            assert found["loss"][1:] == pytest.approx(scores[1:].tolist(), rel=1e-2, abs=1e-3)
            for char, loss, top in zip(shown[1:], found["loss"][1:], found["top"][1:], strict=True):
                names, shares = zip(*top, strict=True)
                assert len(set(names)) == 5
                assert list(shares) == sorted(shares, reverse=True)
                label = {" ": "space", "\n": "⏎"}.get(char, char)
                if label in names:
                    assert -math.log(shares[names.index(label)]) == pytest.approx(loss, abs=2e-3)

    def test_settings_that_differ_are_marked(self, both: Page) -> None:
        marked = re.findall(r'<tr class="marked"><th>([a-z_.]+)</th>', both.source)
        assert {"model.kind", "model.d_hidden", "optim.learning_rate"} <= set(marked)
        assert not {"train.steps", "data.path", "model.context_length"} & set(marked)
        assert both.rows()["optim.learning_rate"][1] == "0.1"
        assert both.rows()["train.steps"] == ["30", "30"]

    def test_settings_of_one_run_are_marked_where_they_are_not_the_default(
        self, folder: Path, tmp_path: Path
    ) -> None:
        assert report(folder / "gru", "--quick", "--out", tmp_path / "x.html").status == 0
        source = (tmp_path / "x.html").read_text(encoding="utf-8")
        marked = re.findall(r'<tr class="marked"><th>([a-z_.]+)</th>', source)
        assert {"train.steps", "model.d_hidden", "train.batch_size"} <= set(marked)
        assert "train.seed" not in marked

    def test_samples_the_last_step_first(self, both: Page, folder: Path) -> None:
        assert both.source.index("step 30, 4 texts") < both.source.index("step 15, 4 texts")
        written = (folder / "gru" / "samples.txt").read_text(encoding="utf-8")
        first = written.split("--- step 30 ---\n")[1].rstrip("\n")
        assert first in both.text

    def test_the_machine(self, both: Page, folder: Path) -> None:
        summary = json.loads((folder / "gru" / "summary.json").read_text())
        rows = both.rows()
        assert rows["device"][0] == summary["device"]
        assert rows["jax"][0] == summary["versions"]["jax"]
        assert rows["tokens per second"][0] == f"{summary['tokens_per_second']:,.0f}"
        assert rows["SHA-256 of the final state"][0] == summary["state_digest"]

    def test_its_command_makes_the_same_run(self, both: Page, folder: Path) -> None:
        command = next(text for text in both.all("pre") if text.startswith("charjax train"))
        words = command.split()[2:]
        assert words[-1] == f"{folder / 'gru'}-again"
        assert run("train", *words).status == 0
        digests = [
            json.loads((folder / name / "summary.json").read_text())["state_digest"]
            for name in ("gru", "gru-again")
        ]
        assert digests[0] == digests[1]

    def test_the_best_run_is_named_first(self, both: Page, folder: Path) -> None:
        scores = charjax.compare([folder / "gru", folder / "bigram"]).scores.best_val_loss
        best = Path(scores.idxmin()).name
        (line,) = [line for line in both.all("p") if "lowest validation loss" in line]
        assert line.startswith(f"{best}: lowest validation loss {scores.min():.4f} nats")
        assert f"+{scores.max() - scores.min():.4f}" in line

    def test_long_curves_say_that_they_are_thinned(self, both: Page, tmp_path: Path) -> None:
        assert "no extreme is lost" not in both.text
        write_run(tmp_path / "long", lines=5000)
        assert report(tmp_path / "long", "--quick").status == 0
        text = Page(tmp_path / "long" / "report.html").text
        assert "Curves of more than 2,000 lines (here up to 5,000)" in text


class TestSafety:
    """Nothing on the page is run or fetched but what charjax put there."""

    def test_nothing_is_fetched(self, both: Page) -> None:
        assert {tag for tag, _ in both.tags}.isdisjoint({"link", "iframe", "object", "base", "img"})
        assert not [a for _, a in both.tags if {"src", "href", "style"} & set(a)]
        assert not [name for _, a in both.tags for name in a if name.startswith("on")]
        policy = next(a["content"] for _, a in both.tags if "http-equiv" in a)
        assert policy is not None
        assert policy.startswith("default-src 'none';")
        for tag, place in (("style", 0), ("script", 1)):
            digest = hashlib.sha256(both.all(tag)[place].encode()).digest()
            assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy

    def test_all_text_is_escaped(self, tmp_path: Path) -> None:
        text = tmp_path / "text.txt"
        text.write_text((EVIL.replace("\u202e", "") + " is what is the case.\n") * 60)
        directory = tmp_path / f"run {EVIL.replace('/', '')}"
        words = [f"data.path={text}", *tiny("bigram"), "train.steps=20"]
        assert run("train", *words, "--workdir", directory).status == 0
        samples = f"--- step 10 ---\n{EVIL}\r\x07\n--- step 10 ---\nmore\n"
        (directory / "samples.txt").write_text(samples, encoding="utf-8", newline="")
        summary = json.loads((directory / "summary.json").read_text())
        summary |= {"device": EVIL, "versions": {EVIL: EVIL}, "seconds": EVIL}
        (directory / "summary.json").write_text(json.dumps(summary))
        done = report(directory)
        assert (done.status, done.out.count("\n")) == (0, 1), done.err
        page = Page(directory / "report.html")
        assert [tag for tag, _ in page.tags].count("script") == 2
        assert all(char.isprintable() or char in "\n\t" for char in page.source)
        assert page.text.count("</script><script>alert(1)</script>&amp;") > 5
        assert "\\u202e" in page.text
        assert "\\r\\x07" in page.text
        # In the script's data every < is an escape, and none is lost.
        assert "<" not in page.all("script")[0]
        assert "</script>" in "".join(page.data["passages"][0]["text"])

    def test_uplot_is_what_was_published(self) -> None:
        folder = Path(baselines.__file__).parent / "vendor"
        record = json.loads((folder / "vendor.json").read_text(encoding="utf-8"))
        assert record["license"] == "MIT"
        names = {path.name for path in folder.iterdir()} - {"vendor.json"}
        assert set(record["sha256"]) == names
        for name, digest in record["sha256"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert "MIT License" in (folder / "LICENSE.txt").read_text(encoding="utf-8")


class TestUnfinished:
    """A page of whatever is there."""

    def test_a_run_that_is_training(self, runs: Path) -> None:
        directory = runs / "gru"
        (directory / "summary.json").unlink()
        lock = Lock(directory)
        lock.acquire()
        try:
            before = (directory / ".lock").read_bytes()
            done = report(directory)
            assert (directory / ".lock").read_bytes() == before
        finally:
            lock.release()
        assert done.status == 0, done.err
        page = Page(directory / "report.html")
        assert page.rows()["gru"][0] == "training"
        assert page.rows()["device"]
        assert float(page.rows()["seconds in all"][0]) > 0

    def test_nothing_but_a_configuration(self, runs: Path) -> None:
        directory = runs / "gru"
        for path in directory.iterdir():
            if path.name != "config.toml":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert report(directory).status == 0
        page = Page(directory / "report.html")
        assert page.rows()["gru"][0] == "not saved"
        assert "nothing has been logged yet" in page.text
        assert "no checkpoint is saved" in page.text
        assert "No samples yet." in page.text
        assert page.data["references"][0]["label"] == "ln V"

    def test_a_checkpoint_that_cannot_be_read(self, runs: Path) -> None:
        for record in (runs / "gru" / "checkpoints").glob("*/meta.json"):
            record.write_text("{")
        done = report(runs / "gru")
        assert done.status == 0
        page = Page(runs / "gru" / "report.html")
        assert "is damaged" in page.text
        assert page.data["passages"][0]["text"] == []
        assert page.data["runs"][0]["curves"]["train"]["step"]

    def test_arrays_that_are_gone(self, runs: Path) -> None:
        for arrays in (runs / "gru" / "checkpoints").glob("*/state"):
            shutil.rmtree(arrays)
        done = report(runs / "gru")
        assert done.status == 0
        page = Page(runs / "gru" / "report.html")
        assert "No passage: " in page.text
        assert "is damaged" in page.text

    def test_a_text_that_is_gone(self, runs: Path) -> None:
        config = runs / "gru" / "config.toml"
        config.write_text(config.read_text().replace("text.txt", "gone.txt"))
        assert report(runs / "gru").status == 0
        page = Page(runs / "gru" / "report.html")
        assert "the losses of counts and a passage: the text is not at hand" in page.text
        assert [line["label"] for line in page.data["references"]] == ["ln V"]

    def test_counts_of_an_earlier_page_outlive_the_text(self, runs: Path) -> None:
        assert report(runs / "gru").status == 0
        lines = Page(runs / "gru" / "report.html").data["references"]
        config = runs / "gru" / "config.toml"
        config.write_text(config.read_text().replace("text.txt", "gone.txt"))
        assert report(runs / "gru").status == 0
        assert Page(runs / "gru" / "report.html").data["references"] == lines
        for damage in ("{", "[]", '{"format": 1}'):
            (runs / "gru" / baselines.FILE).write_text(damage)
            assert report(runs / "gru").status == 0
            again = Page(runs / "gru" / "report.html").data["references"]
            assert [line["label"] for line in again] == ["ln V"]

    def test_a_published_text_is_not_downloaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CHARJAX_DATA", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        write_run(tmp_path / "run", "data.name=shakespeare")
        done = report(tmp_path / "run")
        assert done.status == 0
        text = Page(tmp_path / "run" / "report.html").text
        assert "shakespeare is not on this machine" in text

    def test_nothing_held_out(self, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text("what is the case. " * 40)
        words = [f"data.path={tmp_path / 'text.txt'}", "data.val_fraction=0", *tiny("bigram")]
        done = run("train", *words, "train.steps=10", "--workdir", tmp_path / "run")
        assert done.status == 0, done.err
        assert report(tmp_path / "run").status == 0
        text = Page(tmp_path / "run" / "report.html").text
        assert "no validation loss yet" in text
        assert "no text is held out" in text

    def test_metrics_that_are_damaged(self, tmp_path: Path) -> None:
        directory = write_run(tmp_path / "run")
        line = {"step": 3, "split": "train", "loss": 1.0, "grad_norm": {"<b>": 1}}
        with (directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + '\nnull\n{"step": 1e400}\n{"step": 2')
        assert report(directory, "--quick").status == 0
        assert Page(directory / "report.html").data["runs"][0]["curves"]["train"]["lines"] == 40


@pytest.mark.parametrize(
    "kind",
    [
        "transformer",
        pytest.param("mlp", marks=pytest.mark.slow),
        pytest.param("ngram", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_families_and_layouts(kind: str, tmp_path: Path) -> None:
    """Lines as documents, bytes as symbols, more text than a context."""
    names = ["emma", "olivia", "öykü", "isabella", "sophia"]
    (tmp_path / "names.txt").write_text("\n".join(names * 30) + "\n", encoding="utf-8")
    layout = {
        "ngram": ["data.layout=lines"],
        "mlp": ["data.tokenizer=byte"],
        "transformer": ["data.layout=lines", "data.tokenizer=byte", "model.dropout=0"],
    }[kind]
    words = [f"data.path={tmp_path / 'names.txt'}", *tiny(kind), *layout]
    if kind != "ngram":
        words += ["train.steps=10", "model.context_length=4"]
    done = run("train", *words, "--workdir", tmp_path / "run")
    assert done.status == 0, done.err
    assert report(tmp_path / "run").status == 0
    found = Page(tmp_path / "run" / "report.html").data["passages"][0]
    text = "".join(found["text"]).replace("⏎\\n", "\n")
    assert "öykü" in text
    assert set(text.split("\n")) - {""} <= {*names, "a", "ma", "ella"}
    numbers = [loss for loss in found["loss"] if loss is not None]
    # Before the first line stands a boundary.
    assert len(found["loss"]) - len(numbers) == (0 if "data.layout=lines" in layout else 1)
    assert 0 < sum(numbers) / len(numbers) < 8


def test_runs_of_several_texts(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.html"
    done = report(*(folder / name for name in ("gru", "bigram", "other")), "--out", out)
    assert done.status == 0, done.err
    page = Page(out)
    assert "comparable only between runs of the same split" in page.text
    assert [line["runs"] for line in page.data["references"]] == [[0, 1]] * 3 + [[2]] * 3
    assert [line["whose"] for line in page.data["references"]][::3] == ["gru, bigram", "other"]
    sentences = [line for line in page.all("p") if "validation loss" in line and "nats per" in line]
    assert len([line for line in sentences if "at step" in line]) == 2


def test_many_runs_have_names_and_lines_of_their_own(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{place}" / "run") for place in range(10)]
    out = tmp_path / "all.html"
    assert report(*runs, "--quick", "--out", out).status == 0
    found = Page(out).data["runs"]
    assert [one["name"] for one in found] == [f"{place}/run" for place in range(10)]
    assert len({(one["hue"], one["dashed"]) for one in found}) == 10


def test_where_the_page_goes(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    done = report(folder / "gru", folder / "bigram", "--quick")
    assert (done.out, (tmp_path / "report.html").exists()) == ("report: report.html\n", True)
    done = report(folder / "gru", "--quick")
    assert done.out == f"report: {folder / 'gru' / 'report.html'}\n"
    assert charjax.load(folder / "gru").report(tmp_path / "own.html") == tmp_path / "own.html"
    assert "ln V" in (tmp_path / "own.html").read_text(encoding="utf-8")


def test_counts_that_cannot_be_kept(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, tree: dict[str, Any]) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(baselines.files, "write_json", refuse)
    assert report(runs / "gru").status == 0
    assert len(Page(runs / "gru" / "report.html").data["references"]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "is not a directory; give the directory that"),
        (["."], "holds no run"),
        (["gru", "nothing"], "is not a directory"),
        (["gru", "gru"], "a run is given twice"),
        (["gru", "--out", "."], "is a directory; give a file"),
        (["gru", "--out", "no/x.html"], "there is no directory"),
        (["gru", "--out", "gru/config.toml"], "its name must end with .html"),
        (["gru", "--chrome"], "unrecognized arguments: --chrome"),
        ([], "the following arguments are required: RUN"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, folder: Path) -> None:
    paths = [word if word.startswith("--") else folder / word for word in words]
    before = sorted(path.name for path in (folder / "gru").iterdir())
    done = report(*paths)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
    assert sorted(path.name for path in (folder / "gru").iterdir()) == before


def test_a_configuration_that_cannot_be_read(runs: Path) -> None:
    (runs / "gru" / "config.toml").write_text("[model")
    done = report(runs / "gru")
    assert (done.status, done.err.count("\n")) == (2, 1)
