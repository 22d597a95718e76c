"""A grid in parts, merged, extended, or over processes: the bytes of one go."""

import json
import math
import shutil
from pathlib import Path

import pytest

from charjax.config import load_config
from charjax.errors import UserError
from charjax.initlab.__main__ import main
from charjax.initlab.sweeps.axes import Axes
from charjax.initlab.sweeps.grid import make_groups
from charjax.initlab.sweeps.results import TIMED
from charjax.initlab.sweeps.shares import Span, divide, listed, missing, whole, without
from tests.commands import tiny

FILES = ("runs.csv", "curves.csv", "layers.csv", "histograms.npz", "plan.json")
GRID = ("--scheme", "pytorch,normal", "--lr", "0.01,0.1", "--seeds", "3", "--steps", "20")


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Skip drawing, which takes longer than a small sweep."""
    monkeypatch.setattr("charjax.initlab.report.write_page", lambda sweep: None)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the cat sat on the mat and ran off\n" * 40)
    return path


def sweep(text: Path, out: Path, *words: str) -> Path:
    assert main(["sweep", *tiny("mlp"), f"data.path={text}", *words, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def directories(text, tmp_path_factory):
    """Make the whole sweep, and its three parts."""
    root = tmp_path_factory.mktemp("sweeps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charjax.initlab.report.write_page", lambda sweep: None)
        sweep(text, root / "whole", *GRID)
        for number in (1, 2, 3):
            sweep(text, root / f"part{number}", *GRID, "--part", f"{number}/3")
    return root


def assert_equal(one: Path, other: Path) -> None:
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    facts = [json.loads((each / "sweep.json").read_text()) for each in (one, other)]
    for each in facts:
        for name in TIMED:
            del each[name]
    assert facts[0] == facts[1]


def test_merged_parts_are_the_whole(directories, tmp_path):
    out = tmp_path / "merged"
    parts = [str(directories / f"part{number}") for number in (3, 1, 2)]
    assert main(["merge", str(out), *parts]) == 0
    assert_equal(out, directories / "whole")
    facts = json.loads((out / "sweep.json").read_text())
    seconds = [json.loads((Path(part) / "part.json").read_text())["seconds"] for part in parts]
    assert facts["seconds"] == pytest.approx(sum(seconds), abs=0.1)


@pytest.mark.slow
def test_an_extended_sweep_is_the_whole(text, directories, tmp_path):
    """The smaller grid's runs stand between those of the larger one, and are not trained again."""
    small = ("--scheme", "normal", "--lr", "0.1", "--seeds", "2", "--steps", "20")
    out = sweep(text, tmp_path / "out", *small)
    sweep(text, out, *GRID, "--extend")
    assert_equal(out, directories / "whole")
    assert not (out / "earlier").exists()
    before = (out / "sweep.json").read_bytes()
    sweep(text, out, *GRID, "--extend")
    sweep(text, out, *GRID, "--resume")
    assert (out / "sweep.json").read_bytes() == before


@pytest.mark.slow
def test_an_extension_that_was_stopped_goes_on(text, directories, tmp_path, monkeypatch):
    from charjax.signals import Interrupted

    small = ("--scheme", "normal", "--lr", "0.1", "--seeds", "2", "--steps", "20")
    out, calls = sweep(text, tmp_path / "out", *small), 0

    def poll(self):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise Interrupted(15)

    words = ["sweep", *tiny("mlp"), f"data.path={text}", *GRID, "--out", str(out)]
    monkeypatch.setattr("charjax.signals.Signals.poll", poll)
    assert main([*words, "--extend"]) == 143
    assert (out / "earlier" / "sweep.json").is_file()
    assert json.loads((out / "sweep.json").read_text())["schemes"] == ["normal"]
    assert main([*words, "--resume"]) == 0
    assert_equal(out, directories / "whole")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--part", "9/8"], "'9/8' given; must be K/N"),
        (["--part", "0/8"], "'0/8' given; must be K/N"),
        (["--part", "two"], "must be K/N"),
        (["--part", "2/40"], "not every part would have a run, as the grid has 12"),
        (["--part", "1/2", "--extend"], "--extend: given with --part 1/2"),
        (["--extend"], "holds no sweep to continue; leave --extend out"),
        (["--processes", "2"], "--process: not given"),
    ],
)
def test_mistakes_leave_nothing_behind(words, message, text, tmp_path):
    out = tmp_path / "out"
    base = ["sweep", *tiny("mlp"), f"data.path={text}", *GRID, "--out", str(out)]
    with pytest.raises(UserError) as caught:
        main([*base, *words])
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--seeds 2", "the sweep has a run of pytorch, depth 1, width 8, learning rate 0.01"),
        (
            "--seeds 3 train.batch_size=5",
            "train.batch_size was 4 when the sweep was trained and is 5 now",
        ),
    ],
)
def test_what_cannot_be_extended(change, message, text, directories):
    before = sorted(path.name for path in (directories / "whole").iterdir())
    words = " ".join(GRID).replace("--seeds 3", change).split()
    with pytest.raises(UserError, match=message):
        sweep(text, directories / "whole", *words, "--extend")
    assert sorted(path.name for path in (directories / "whole").iterdir()) == before


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["part1", "part3"], "2/3 missing; give all 3 parts"),
        (["part1", "part2", "part2", "part3"], "are both part 2/3"),
        (["part1", "other", "part3"], r"seeds is \[0, 1, 2\] in .* and \[0, 1\] in"),
        (["part1", "half"], "is part 1/3 and .*half' is part 2/2"),
        (["part1", "text", "part3"], "text is "),
        (["part1", "versions", "part3"], "versions.jax is "),
        (["part1", "sizes", "part3"], "runs were trained at once on a device"),
        (["part1", "damaged", "part3"], "holds 3 runs, and not 4"),
        (["part1", "whole"], "has no part.json"),
        (["part1", "nothing"], "has no part.json"),
    ],
)
def test_what_cannot_be_merged(parts, message, text, directories, tmp_path):
    for name in ("part1", "part2", "part3", "whole"):
        shutil.copytree(directories / name, tmp_path / name)
    _spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        main(["merge", str(tmp_path / "out"), *[str(tmp_path / part) for part in parts]])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out*"))


def _spoil(folder: Path) -> None:
    """Make directories that differ from part 2 in one thing each."""

    def change(name, edit):
        shutil.copytree(folder / "part2", folder / name)
        path = folder / name / "part.json"
        facts = json.loads(path.read_text())
        edit(facts)
        path.write_text(json.dumps(facts))

    change("other", lambda facts: facts["plan"]["axes"].update(seeds=[0, 1]))
    change("half", lambda facts: facts.update(part="2/2"))
    change("text", lambda facts: facts["plan"].update(text="0" * 64))
    change("versions", lambda facts: facts["plan"]["versions"].update(jax="0.1"))
    change("sizes", lambda facts: facts.update(at_once=[[0, 99]]))
    change("damaged", lambda facts: None)
    lines = (folder / "damaged" / "runs.csv").read_text().splitlines(keepends=True)
    (folder / "damaged" / "runs.csv").write_text("".join(lines[:-1]))


def test_a_page_of_a_part(directories):
    with pytest.raises(UserError, match="holds a part of a sweep; put all parts together"):
        main(["report", str(directories / "part1")])


def groups(text: Path):
    base = load_config(None, [*tiny("mlp"), f"data.path={text}"])
    axes = Axes(("pytorch", "normal"), (None,), (1, 2), (8, 512), (0.1, 0.2), (0, 1, 2))
    return make_groups(base, axes)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_a_partition_of_equal_costs(count, text):
    grid = groups(text)
    shares = [divide(whole(grid), grid, count, index) for index in range(count)]
    runs = [(span.group, run) for share in shares for span in share for run in _runs(span)]
    assert runs == [(index, run) for index, group in enumerate(grid) for run in range(12)]
    costs = [sum(len(span) * grid[span.group].run_cost for span in share) for share in shares]
    most = max(group.run_cost for group in grid)
    assert max(costs) - min(costs) <= 2 * most
    assert math.fsum(costs) == sum(12 * group.run_cost for group in grid)


def _runs(span: Span) -> range:
    return range(span.start, span.stop)


def test_what_is_still_to_be_trained(text, tmp_path):
    grid = groups(text)
    done = [Span(0, 3, 6), Span(1, 0, 12)]
    rest = without(whole(grid), done)
    assert rest == [Span(0, 0, 3), Span(0, 6, 12), Span(2, 0, 12), Span(3, 0, 12)]
    present = [point for span in done for point in span.points(grid)]
    assert missing(grid, present) == rest
    # Of two records of the same runs one is read.
    for name in ("0-3-6", "0-4-6", "1-0-12", "0-0", "x"):
        (tmp_path / f"{name}.npz").touch()
    assert listed(tmp_path, ".npz") == done
