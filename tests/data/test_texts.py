"""Several files and folders as one text, and a validation text of one's own."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from charjax.config import DataConfig, load_config, parse_config
from charjax.data.corpora import load_corpus
from charjax.data.datasets import Dataset, load_dataset
from charjax.errors import UserError
from tests.commands import run, tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder of texts, with hidden files, a folder inside and an empty file."""
    corpus = tmp_path / "corpus"
    for name, text in {
        "b.txt": "bravo\r\n",
        "a.md": "alpha",
        "sub/c.txt": "\ufeffcharlie\n",
        "empty.txt": "",
        ".hidden": "no",
        ".git/config": "no",
    }.items():
        (corpus / name).parent.mkdir(parents=True, exist_ok=True)
        (corpus / name).write_bytes(text.encode())
    return corpus


def refusal(**settings: object) -> str:
    with pytest.raises(UserError) as error:
        load_dataset(DataConfig.model_validate(settings))
    return str(error.value)


def test_a_folder_is_read_in_sorted_order(folder: Path):
    corpus = load_corpus(DataConfig(path=str(folder)))
    assert corpus.text == "alpha\nbravo\ncharlie\n"
    assert corpus.name == "corpus"
    assert [Path(file.name).name for file in corpus.files] == [
        "a.md",
        "b.txt",
        "empty.txt",
        "c.txt",
    ]
    assert [file.size for file in corpus.files] == [5, 7, 0, 11]
    assert corpus.files[0].digest == hashlib.sha256(b"alpha").hexdigest()
    assert corpus.digest == hashlib.sha256("alpha\nbravo\r\n\ufeffcharlie\n".encode()).hexdigest()
    notes = "; ".join(corpus.notes)
    assert "data.path is 4 files joined, 23 bytes" in notes
    assert "1 of these files are empty" in notes
    assert "1 of these files did not end with a newline" in notes
    assert "b.txt: 1 line ends were CRLF" in notes
    assert "c.txt: the byte order mark" in notes


def test_a_list_keeps_its_order(folder: Path):
    paths = (str(folder / "b.txt"), str(folder / "a.md"))
    assert load_corpus(DataConfig(path=paths)).text == "bravo\nalpha\n"
    of_bytes = load_corpus(DataConfig(path=paths, tokenizer="byte"))
    assert of_bytes.text == b"bravo\r\nalpha\n"


def test_a_list_on_the_command_line_and_in_toml(tmp_path: Path):
    config = load_config(None, ['data.path=["a.txt", "b c.txt"]'])
    assert config.data.path == ("a.txt", "b c.txt")
    (tmp_path / "config.toml").write_text(config.to_toml())
    assert load_config(tmp_path / "config.toml", saved=True) == config
    assert parse_config(config.model_dump(mode="json", exclude_none=True)) == config
    assert config.data.title == "a.txt"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.path=[a.txt, b.txt]", '\'data.path=["a.txt", "b.txt"]\''),
        ("data.path=[]", "data.path: [] given; must be a text file, a folder of them, or a list"),
        ("data.path=[1]", "data.path: [1] given; must be a text file"),
        ("data.val_path=", 'data.val_path: "" given; must be text that is not empty'),
    ],
)
def test_lists_that_are_none(word: str, message: str):
    with pytest.raises(UserError) as error:
        load_config(None, [word])
    assert message in str(error.value)


def test_files_that_cannot_be_read_are_named(folder: Path):
    missing = str(folder / "none.txt")
    assert "none.txt' does not exist" in refusal(path=(str(folder), missing))
    (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    message = refusal(path=str(folder))
    assert "image.png' is not text" in message
    assert message.endswith("of which every file that is not hidden is read")
    assert "\n" not in message
    assert load_dataset(DataConfig(path=str(folder), tokenizer="byte")).splits


def test_folders_without_a_text(tmp_path: Path):
    (tmp_path / ".hidden").write_text("no")
    assert "holds no files (hidden ones are left out)" in refusal(path=str(tmp_path))
    (tmp_path / "empty.txt").touch()
    assert "all 1 files of" in refusal(path=str(tmp_path))


@pytest.mark.skipif(os.getuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read(folder: Path):
    (folder / "sub").chmod(0)
    assert "cannot be read (Permission denied)" in refusal(path=str(folder))
    (folder / "sub").chmod(0o700)


def text_of(dataset: Dataset, split: str) -> str:
    return dataset.tokenizer.decode(dataset.splits[split].tokens)


def test_a_validation_text_of_its_own(tmp_path: Path):
    (tmp_path / "train.txt").write_text("abba\nbaab")
    (tmp_path / "val.txt").write_text("caba\n")
    paths = {"path": str(tmp_path / "train.txt"), "val_path": str(tmp_path / "val.txt")}
    dataset = load_dataset(DataConfig.model_validate(paths))
    assert list(dataset.splits) == ["train", "val"]
    assert text_of(dataset, "train") == "abba\nbaab"
    assert text_of(dataset, "val") == "caba\n"
    assert dataset.splits["val"].name == "val"
    assert "1 symbols occur in data.val_path alone" in dataset.notes[-1]
    lines = load_dataset(DataConfig.model_validate({**paths, "layout": "lines"}))
    assert sorted(text_of(lines, "train").split()) == ["abba", "baab"]
    assert list(lines.splits) == ["train", "val"]
    pairs = {**paths, "tokenizer": "byte", "layout": "pairs"}
    assert list(load_dataset(DataConfig.model_validate(pairs)).splits) == ["train", "val"]


def test_a_changed_validation_text_is_found(tmp_path: Path):
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).write_text("abc")
    config = DataConfig(path=str(tmp_path / "train.txt"), val_path=str(tmp_path / "val.txt"))
    digest = load_dataset(config).digest
    assert load_dataset(config, None, digest).digest == digest
    (tmp_path / "val.txt").write_text("abd")
    with pytest.raises(UserError, match="the text has changed since the run began"):
        load_dataset(config, None, digest)


def test_settings_that_exclude_a_validation_text():
    with pytest.raises(UserError, match=r"data.val_fraction: 0.2 given; data.val_path=v.txt is"):
        load_config(None, ["data.val_path=v.txt", "data.val_fraction=0.2"])
    with pytest.raises(UserError, match=r'data.split: "interleaved" given with data.val_path'):
        load_config(None, ["data.val_path=v.txt", "data.split=interleaved"])
    assert load_config(None, ["data.name=warpeace", "data.val_path=v.txt"]).data.split == "tail"


def test_a_run_of_a_folder_is_recorded_moved_and_resumed(folder: Path, tmp_path: Path):
    (tmp_path / "val.txt").write_text("a bravo charlie\n")
    workdir, words = tmp_path / "run", [f"data.path={folder}", f"data.val_path={tmp_path}/val.txt"]
    trained = run("train", *words, *tiny("bigram"), "train.steps=3", "--workdir", workdir)
    assert trained.status == 0, trained.err
    summary = json.loads((workdir / "summary.json").read_text())
    assert [Path(file["name"]).name for file in summary["files"]] == [
        "a.md",
        "b.txt",
        "empty.txt",
        "c.txt",
        "val.txt",
    ]
    before = run("evaluate", workdir, "--json")
    folder.rename(tmp_path / "moved")
    (tmp_path / "val.txt").rename(tmp_path / "moved.txt")
    assert "does not exist; if the run's text was moved" in run("evaluate", workdir).err
    words = [f"data.path={tmp_path / 'moved'}", f"data.val_path={tmp_path / 'moved.txt'}"]
    assert run("evaluate", workdir, "--json", *words) == before
    rest = ["train.steps=5", "--resume", "--workdir", workdir]
    assert run("train", *words, *rest).status == 0
    (tmp_path / "moved" / "b.txt").write_text("other\n")
    assert "the text has changed" in run("train", *words, *rest[1:]).err


@pytest.mark.slow
def test_a_moved_validation_text_of_a_run_without_one(tmp_path: Path):
    (tmp_path / "text.txt").write_text("abc" * 50)
    words = [f"data.path={tmp_path}/text.txt", *tiny("bigram"), "train.steps=1"]
    run("train", *words, "--workdir", tmp_path / "run")
    done = run("evaluate", tmp_path / "run", "data.val_path=other.txt")
    assert done.status == 2
    assert "the run's validation split is a part of its own text" in done.err
