"""A scheme, an optimiser, an activation and a family from one file: trained, resumed, refused."""

import json
import re
import shutil
from pathlib import Path

import pytest

import charjax
from charjax.extensions import separate_names
from tests import own
from tests.commands import Result, run

SHORT = ["train.steps=12", "train.batch_size=4", "eval.every=6", "checkpoint.every=6"]
# Parts of the file that are replaced by mistakes.
LION = "optax.scale_by_lion(b1=optim.beta1, b2=optim.beta2)"
READ = "self.read(tokens_BT, cache,"
SINE, DRAW, RULES = "jnp.sin(x) + 0.3 * x", "FanInNormal(init.std or 0.7)", "rules_for("
SHORT += ["train.sample_every=12", "model.context_length=8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "text.txt").write_text("the world is all that is the case. " * 60)
    own.write(folder)
    return folder


def words(folder: Path, *names: str, **others: str) -> list[str]:
    """Return settings: `scheme`, `make`, `act`, `Pair` from the file, and others."""
    fields = {"scheme": "init.scheme", "make": "optim.kind", "act": "model.activation"}
    fields |= {"Pair": "model.kind"}
    file = others.pop("file", "mine.py")
    own_words = [f"{fields[name]}={folder / file}:{name}" for name in names]
    kind = [] if "Pair" in names else ["model.kind=mlp", "model.hidden=[16]"]
    return [f"data.path={folder / 'text.txt'}", *kind, *own_words, *SHORT]


def train(folder: Path, workdir: Path, *names: str) -> Result:
    return run("train", *words(folder, *names), "--workdir", workdir)


def summary(directory: Path) -> dict[str, object]:
    return json.loads((directory / "summary.json").read_text())


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """Train a family with a scheme and an optimiser, all of the file."""
    done = train(folder, folder / "trained", "Pair", "scheme", "make")
    assert done.status == 0, done.err
    return folder / "trained"


@pytest.fixture
def a_run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def assert_refused(done: Result, message: str) -> None:
    assert (done.status, done.out.count("\n") <= 1, done.err.count("\n")) == (2, True, 1), done
    assert message in done.err


class TestRuns:
    """The code that a run keeps, and the commands that need it."""

    def test_the_source_and_its_digest_are_saved(self, trained: Path, folder: Path) -> None:
        (copy,) = (trained / "code").glob("*/*.py")
        assert copy.read_bytes() == (folder / "mine.py").read_bytes()
        digest = summary(trained)["code mine.py"]
        assert str(digest).startswith(copy.parent.name)
        assert f'kind = "mine.py:Pair@{copy.parent.name}"' in (trained / "config.toml").read_text()

    def test_resumed_equals_uninterrupted(self, a_run: Path, trained: Path, folder: Path) -> None:
        expected = summary(trained)["state_digest"]
        shutil.rmtree(a_run / "checkpoints" / "12")
        (a_run / "summary.json").unlink()
        resume = ["--workdir", a_run, "--resume", "--code", folder / "mine.py"]
        done = run("train", *resume)
        assert "going on from step 6" in done.out, done.err
        assert summary(a_run)["state_digest"] == expected

    @pytest.mark.slow
    def test_an_activation_resumes_to_the_same_bits(self, folder: Path, tmp_path: Path) -> None:
        assert train(folder, tmp_path / "whole", "act").status == 0
        part = ["train.steps=6", "--workdir", tmp_path / "part"]
        assert run("train", *words(folder, "act"), *part).status == 0
        longer = ["--resume", "train.steps=12", f"model.activation={folder / 'mine.py'}:act"]
        done = run("train", *longer, "--workdir", tmp_path / "part")
        assert done.status == 0, done.err
        digests = [summary(tmp_path / name)["state_digest"] for name in ("whole", "part")]
        assert digests[0] == digests[1]

    def test_sampling_and_evaluation_name_the_file_again(self, trained: Path, folder: Path) -> None:
        code = ["--code", folder / "mine.py"]
        done = run("sample", trained, "--max-new-tokens", 5, "--json", *code)
        assert len(json.loads(done.out)["samples"][0]) == 5
        done = run("evaluate", trained, "--json", *code)
        loaded = charjax.load(trained, code=folder / "mine.py")
        assert json.loads(done.out)["loss"] == loaded.evaluate().loss

    def test_runs_and_compare_execute_nothing(self, trained: Path, folder: Path) -> None:
        listed = json.loads(run("commands.runs", trained, "--json").out)["runs"][0]
        assert listed["state"] == "finished"
        assert listed["kind"].startswith("mine.py:Pair@")


class TestSecurity:
    """No file is executed that the user did not name."""

    @pytest.fixture
    def marked(self, folder: Path, a_run: Path) -> Path:
        """Plant a file in the run's directory that would leave a marker."""
        marker = a_run / "marker"
        for place in (a_run, *(a_run / "code").iterdir()):
            own.write(place, extra=f"\nimport pathlib\npathlib.Path({str(marker)!r}).touch()\n")
        return marker

    @pytest.mark.parametrize(
        "command",
        [
            ("sample", []),
            ("evaluate", []),
            ("train", ["--resume"]),
            ("train", ["--init-from"]),
            ("interop", ["export", "x.safetensors"]),
        ],
        ids=lambda command: " ".join([command[0], *command[1]]),
    )
    @pytest.mark.parametrize("version", [True, False])
    def test_a_run_names_none(
        self,
        command: tuple,
        version: bool,
        a_run: Path,
        marked: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Nor one whose config.toml was edited to name a file without its version."""
        monkeypatch.chdir(a_run)
        if not version:
            config = a_run / "config.toml"
            config.write_text(re.sub("@[0-9a-f]{12}", "", config.read_text()))
        name, rest = command
        arguments = ["--workdir", a_run, *rest] if name == "train" else [a_run, *rest]
        arguments = [*rest, a_run] if rest == ["--init-from"] else arguments
        arguments = ["export", a_run, "x.safetensors"] if name == "interop" else arguments
        done = run(name, *arguments)
        assert_refused(
            done, "such files are not executed: if you trust it, add --code PATH/mine.py"
        )
        with separate_names(), pytest.raises(charjax.UserError, match="are not executed"):
            charjax.load(a_run)
        assert not marked.exists()

    def test_a_configuration_names_none(self, folder: Path, tmp_path: Path) -> None:
        marker = tmp_path / "marker"
        own.write(tmp_path, extra=f"\nimport pathlib\npathlib.Path({str(marker)!r}).touch()\n")
        config = tmp_path / "config.toml"
        config.write_text(f'[init]\nscheme = "{tmp_path}/mine.py:scheme"\n')
        others = [f"data.path={folder / 'text.txt'}", "model.kind=bigram", *SHORT]
        done = run("train", config, *others, "--workdir", tmp_path / "run")
        assert_refused(done, "only a configuration or a run names")
        assert not marker.exists()
        assert not (tmp_path / "run").exists()
        code = ["--code", tmp_path / "mine.py"]
        done = run("train", config, *others, "--workdir", tmp_path / "run", *code)
        assert done.status == 0, done.err
        assert marker.exists()


class TestChangedFiles:
    """A run goes on with the file it was begun with, unless a change is accepted."""

    def test_a_changed_file_is_refused_and_can_be_accepted(
        self, a_run: Path, folder: Path, tmp_path: Path
    ) -> None:
        path = own.write(tmp_path, extra="\n# another line\n")
        for naming in (["--code", path], [f"optim.kind={path}:make"]):
            done = run("train", "--workdir", a_run, "--resume", "train.steps=13", *naming)
            assert_refused(done, "has changed since: its SHA-256 began with")
        assert_refused(run("sample", a_run, "--code", path), "--accept-changed-code")
        with separate_names(), pytest.raises(charjax.UserError, match="has changed since"):
            charjax.load(a_run, code=path)
        accept = ["--code", path, "--accept-changed-code"]
        done = run("train", "--workdir", a_run, "--resume", "train.steps=13", *accept)
        assert done.status == 0, done.err
        assert "code mine.py was" in done.out
        copies = sorted(copy.read_bytes() for copy in (a_run / "code").glob("*/mine.py"))
        assert copies == sorted(file.read_bytes() for file in (path, folder / "mine.py"))

    def test_the_copy_in_the_run_is_the_file(self, a_run: Path) -> None:
        (copy,) = (a_run / "code").glob("*/mine.py")
        assert run("evaluate", a_run, "--code", copy).status == 0


class TestMistakes:
    """Every mistake is one line, and leaves nothing behind."""

    @pytest.mark.parametrize(
        ("names", "change", "message"),
        [
            (("scheme",), ("rules_for(", "dict("), "mine.py:"),
            (("scheme",), ("return Scheme(", "return 'x' or Scheme("), "gives a str; it must"),
            (("scheme",), ("def scheme(init)", "def scheme()"), "cannot be called as scheme(init)"),
            (
                ("scheme",),
                (RULES, "rules_for(without=(Role.BIAS,), kernels="),
                "it has no rule for 'hidden_0/bias' (role: bias)",
            ),
            (
                ("scheme",),
                (DRAW, "lambda key, site: jnp.zeros(3)"),
                "draws float32[3] for 'hidden_0/kernel', which is float32[80, 16]",
            ),
            (
                ("scheme",),
                (DRAW, "lambda k, site: jnp.log(-jnp.ones(site.shape))"),
                "draws numbers that are not finite",
            ),
            (
                ("make",),
                (LION, "optax.adam(0.1)"),
                "it comes with a sign of its own",
            ),
            (
                ("make",),
                (
                    LION,
                    "optax.chain(optax.scale_by_adam(), optax.scale(1e-3))",
                ),
                "it comes with a learning rate of its own",
            ),
            (
                ("make",),
                ("return optax.scale_by_lion(", "return dict("),
                "returns a dict; it must return a transformation",
            ),
            (
                ("make",),
                (
                    f"return {LION}",
                    "return optax.stateless(lambda g, p: list(g.values()))",
                ),
                "returns updates unlike the gradient: another structure",
            ),
            (
                ("make",),
                (
                    f"return {LION}",
                    "return optax.stateless(lambda g, p: {k: v['x'] for k, v in g.items()})",
                ),
                "mine.py:18: KeyError: 'x'",
            ),
            (("act",), (SINE, "jnp.sqrt(x)"), "has a value that is not finite"),
            (("act",), (SINE, "jnp.sqrt(jnp.abs(x))"), "a derivative that is not"),
            (("act",), (SINE, "jnp.sum(x)"), "it must keep it"),
            (("act",), (SINE, "x > 0"), "returns bool for float32"),
            (("act",), (SINE, "x - jnp.mean(x)"), "it must be elementwise"),
            (("act",), (SINE, "x + jnp.ones(7)"), "mine.py:22: TypeError"),
        ],
    )  # fmt: skip
    def test_a_part_that_is_not_what_it_should_be(
        self, names: tuple, change: tuple, message: str, folder: Path, tmp_path: Path
    ) -> None:
        own.write(tmp_path, change)
        shutil.copy(folder / "text.txt", tmp_path)
        done = run("train", *words(tmp_path, *names), "--workdir", tmp_path / "run")
        assert_refused(done, message)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (("d_embed: int = 8", "d_embed: int"), "the setting 'd_embed' of"),
            (("class Pair(FiniteModel)", "class Pair(nn.Module)"), "must be a subclass of charjax"),
            (("    def __call__(", "    def call("), "has no __call__; the contract"),
            (
                ("x_BSE[:, :-1], x_BSE[:, 1:]", "x_BSE[:, :-1], jnp.roll(x_BSE[:, 1:], -1, 1)"),
                "is not causal: its logits before position",
            ),
            ((READ, f"{READ} 0 and "), "with num_outputs=1 does not return the last position"),
            (("(h_BNH), cache", "(h_BNH)"), "must return two things"),
            (
                ("(h_BNH), cache", "(h_BNH), cache if cache is None else cache + 1"),
                "computes other logits one token at a time",
            ),
            (("(h_BNH), cache", "(h_BNH).astype(jnp.bfloat16), cache"), "returns logits of shape"),
            (("(\"hidden/bias\", Parameter(Role.BIAS)),", ""), "is covered by 0 roles"),
            (("        return 1\n", "        return 1 / 0\n"), "mine.py:38: ZeroDivisionError"),
        ],
    )  # fmt: skip
    def test_a_family_that_breaks_the_contract(
        self, change: tuple, message: str, folder: Path, tmp_path: Path
    ) -> None:
        own.write(tmp_path, change)
        shutil.copy(folder / "text.txt", tmp_path)
        done = run("train", *words(tmp_path, "Pair"), "--workdir", tmp_path / "run")
        assert_refused(done, message)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            (["model.n_head=2"], "model.n_head: unknown key; model.kind = mine.py:Pair@"),
            (["model.d_hidden=wide"], 'model.d_hidden: "wide" given; must be a whole number'),
        ],
    )
    def test_its_settings_are_checked(self, extra: list[str], message: str, folder: Path) -> None:
        done = run("train", *words(folder, "Pair"), *extra, "--workdir", folder / "no")
        assert_refused(done, message)

    @pytest.mark.parametrize(
        ("names", "extra", "message"),
        [
            (("scheme",), ["init.sigma_w=1.5"], "init.sigma_w: 1.5 given; 'mine.py:scheme@"),
            (("make",), ["optim.momentum=0.5"], "optim.momentum: 0.5 given; 'mine.py:make@"),
        ],
    )
    def test_a_number_that_it_does_not_read(
        self, names: tuple, extra: list[str], message: str, folder: Path
    ) -> None:
        done = run("train", *words(folder, *names), *extra, "--workdir", folder / "no")
        assert_refused(done, message)

    def test_from_python_the_cause_is_kept(self, folder: Path, tmp_path: Path) -> None:
        path = own.write(tmp_path, (SINE, "x.no_such_attribute"))
        with pytest.raises(charjax.UserError, match=r"mine\.py:22: AttributeError") as caught:
            charjax.fit(*words(folder), f"model.activation={path}:act", workdir=tmp_path / "run")
        assert isinstance(caught.value.__cause__, AttributeError)


class TestPrediction:
    """The costs of a run, predicted and measured."""

    def test_plan(self, folder: Path) -> None:
        named = words(folder, "Pair", "scheme", "make")
        done = run("commands.plan", *named, "--device", "h100", "--no-compile")
        assert (done.status, done.err) == (0, "")
        assert "not in the time below: the family gives no forward_flops" in done.out

    @pytest.mark.slow
    def test_benchmark(self, folder: Path, tmp_path: Path) -> None:
        config = tmp_path / "act.toml"
        config.write_text('[model]\nkind = "mlp"\nhidden = [16]\nactivation = "mine.py:act"\n')
        asked = [config, f"data.path={folder / 'text.txt'}", "--devices", "cpu"]
        asked += ["--sweep", "batch=4", "--json"]
        refused = run("commands.benchmark", *asked)
        assert (refused.status, refused.out, "--code" in refused.err) == (2, "", True)
        done = run("commands.benchmark", *asked, "--code", folder / "mine.py")
        assert done.status == 0, done.err
        (row,) = json.loads(done.out)["rows"]
        assert row["seconds_per_step"]["median"] > 0


# A part of the file, a mistake in it, and what is said of it.
MISTAKES: dict[str, tuple[str, tuple[str, str], str]] = {
    "role": (
        "scheme",
        ("embedding=EmbeddingNormal()", "without=(Role.HIDDEN,)"),
        "init.scheme: {file}:13: 'scheme' given; it has no rule for 'hidden",
    ),
    "structure": (
        "make",
        (f"return {LION}", "return optax.stateless(lambda g, p: list(g.values()))"),
        "optim.kind: {file}:17: 'make' returns updates unlike the gradient: another structure",
    ),
    "sign": (
        "make",
        (LION, "optax.adam(0.1)"),
        "optim.kind: {file}:17: 'make' gives a direction against the gradient",
    ),
    "activation": (
        "act",
        (SINE, "jnp.sqrt(jnp.abs(x))"),
        "model.activation: {file}:21: 'act' has a derivative that is not finite at x = 0;",
    ),
    # flax replaces an AttributeError within a property.
    "property": ("Pair", ("return 1\n", "return self.nothing\n"), "{file}:38: AttributeError: "),
    "syntax": ("act", ("import optax", "import ="), "model.activation: {file}:2: SyntaxError: "),
}


class TestPlaces:
    """A mistake in a file is one line with its place, whatever the command."""

    @pytest.mark.parametrize("command", ["train", "probe", "sweep"])
    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_of_a_mistake(self, mistake: str, command: str, tmp_path: Path) -> None:
        name, change, message = MISTAKES[mistake]
        file, out = own.write(tmp_path, change), tmp_path / "out"
        (tmp_path / "text.txt").write_text("the world is all that is the case. " * 60)
        asked = words(tmp_path, name)
        if command == "train":
            done = run("train", *asked, "--workdir", out)
        elif command == "probe":
            done = run("initlab.__main__", "probe", *asked, "--seeds", "2", "--out", out)
        else:
            if name == "scheme":
                asked = [word for word in asked if not word.startswith("init.")]
                asked += ["--scheme", f"{file}:scheme"]
            asked += ["--seeds", "2", "--steps", "2", "--width", "16", "--out", str(out)]
            unread = ("train.s", "eval.every", "checkpoint.every")
            asked = [word for word in asked if not word.startswith(unread)]
            done = run("initlab.__main__", "sweep", *asked)
        assert_refused(done, message.format(file=file))
        assert not out.exists()

    def test_in_python(self, folder: Path, tmp_path: Path) -> None:
        path = own.write(tmp_path, (SINE, "jnp.sqrt(x)"))
        with pytest.raises(charjax.UserError, match=r"mine\.py:21: 'act' has a value that is not"):
            charjax.fit(*words(folder), f"model.activation={path}:act", workdir=tmp_path / "run")

    def test_a_page_without_the_code_lacks_the_passage_alone(self, a_run: Path) -> None:
        done = run("commands.report", a_run)
        assert done.status == 0, done.err
        assert "a passage: " in (a_run / "report.html").read_text()
