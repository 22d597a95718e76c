"""`charjax plan`: what fits and what does not, on devices that are not here."""

import json
from pathlib import Path
from typing import Any

import pytest

from charjax.commands import plan
from charjax.config import load_config
from charjax.errors import UserError
from charjax.performance.devices import DEVICES
from charjax.performance.memory import size_of
from charjax.training.session import first_state, open_session
from tests import commands

GPT = ("model.n_layer=2", "model.n_head=2", "model.d_model=64", "model.context_length=32")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 40, encoding="ascii")
    return f"data.path={path}"


def run(*words: str) -> int:
    """Run the command without any compiler."""
    return plan.main([*words, "--no-compile"])


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run(*words, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_table_names_parameters_moments_and_activations(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (text, *GPT, "--device", "h100", "--count", "4", "--price-per-hour", "2.5")
    assert run(*words) == 0
    printed = capsys.readouterr().out
    for word in ("parameters", "gradients", "moments", "activations", "all-reduce", "a guess"):
        assert word in printed
    assert "4 x h100" in printed
    assert "at 2.5 per device and hour" in printed
    assert "compilation and evaluation are left out" in printed


def test_json_has_the_same_figures(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = (text, *GPT, "train.steps=3600", "--device", "v5e", "--count", "4")
    found = planned(capsys, *words, "--price-per-hour", "2")
    sizes = found["bytes"]
    names = ("parameters", "moments", "other", "gradients", "activations", "text", "metrics")
    names += ("tables", "predictions")
    assert sizes["total"] == sum(sizes[name] for name in names)
    assert sizes["parameters"] == 4 * found["parameters"]
    assert (found["fits"], found["would_fit"]) == (True, [])
    low, high = found["seconds"]["low"], found["seconds"]["high"]
    assert found["hours"] == pytest.approx([low, high])
    assert found["cost"] == pytest.approx([2 * 4 * low, 2 * 4 * high])
    assert found["seconds"]["guess"]


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_that_is_too_large_is_refused_with_what_would_fit(
    device: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (text, *GPT, "--device", device)
    with pytest.raises(UserError, match=rf"\d x {device} given.*would fit with") as refused:
        run(*words, f"train.batch_size={2**26}", "--json")
    found = json.loads(capsys.readouterr().out)
    assert not found["fits"]
    assert found["bytes"]["total"] > found["bytes"]["usable"]
    assert all(way in str(refused.value) for way in found["would_fit"])
    # The first is a smaller batch with as many targets per step.
    settings = [word for word in found["would_fit"][0].split() if "=" in word]
    smaller = planned(capsys, *words, *settings)
    assert smaller["fits"]
    assert smaller["targets_per_step"] == found["targets_per_step"]
    largest = found["largest_batch_size"]
    assert planned(capsys, *words, f"train.batch_size={largest}")["fits"]
    with pytest.raises(UserError):
        run(*words, f"train.batch_size={largest + found['devices_used']}")


def test_a_model_that_no_device_holds_is_refused_as_a_model(text: str) -> None:
    words = (text, "model.d_model=65536", "model.n_head=16", "model.n_layer=2")
    for device in (*DEVICES, "cpu"):
        with pytest.raises(UserError, match="would fit with a smaller model"):
            run(*words, "--device", device)


def test_other_ways_to_fit_are_devices_in_greater_number_or_of_another_kind(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = f"train.batch_size={2**16}"
    with pytest.raises(UserError):
        run(text, *GPT, batch, "--device", "v5e", "--json")
    ways = json.loads(capsys.readouterr().out)["would_fit"]
    count = next(way for way in ways if way.startswith("--count"))
    assert planned(capsys, text, *GPT, batch, "--device", "v5e", *count.split())["fits"]
    other = next(way for way in ways if way.startswith("--device"))
    assert planned(capsys, text, *GPT, batch, *other.split())["fits"]


def test_parameters_divided_over_devices_are_counted_by_their_parts(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (text, *GPT, "--device", "h100", "--count", "4")
    whole, half = planned(capsys, *words), planned(capsys, *words, "runtime.mesh.fsdp=2")
    assert (whole["fsdp"], half["fsdp"], half["devices_used"]) == (1, 2, 4)
    assert half["parameters"] == whole["parameters"]
    for part in ("parameters", "moments"):
        assert half["bytes"][part] <= 0.55 * whole["bytes"][part]
    # A gather and a scatter within each pair, and the sum of the parts over both pairs.
    size = 4 * whole["parameters"]
    assert whole["step"]["collectives"] == pytest.approx(2 * 3 / 4 * size)
    assert half["step"]["collectives"] == pytest.approx(size + size / 2, rel=0.05)
    run(*words, "runtime.mesh.fsdp=2")
    printed = capsys.readouterr().out
    assert "float32, divided over 2" in printed
    assert "x those without runtime.mesh.fsdp" in printed


def test_a_state_that_no_device_holds_is_divided(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    large = (text, "model.d_model=4096", "model.n_head=32", "model.n_layer=6")
    small = ("model.context_length=64", "--device", "v5e")
    with pytest.raises(UserError, match=r"runtime\.mesh\.fsdp="):
        run(*large, *small, "--json")
    ways = json.loads(capsys.readouterr().out)["would_fit"]
    way = next(way for way in ways if way.startswith("runtime.mesh.fsdp="))
    assert planned(capsys, *large, *small, *way.split())["fits"]


def test_devices_that_do_not_divide_the_batch_idle(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (text, *GPT, "train.batch_size=9", "--device", "h100", "--count", "4")
    found = planned(capsys, *words)
    assert (found["count"], found["devices_used"]) == (4, 3)
    assert any("3 devices is the largest number up to 4" in note for note in found["notes"])


def test_a_text_that_is_not_here_is_not_downloaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CHARJAX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = planned(capsys, "data.name=shakespeare", *GPT, "--device", "l4")
    assert any("was not downloaded" in note for note in found["notes"])
    # One byte per character, and the key.
    assert found["bytes"]["text"] >= 1_003_854


def test_a_file_describes_a_device(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[device]\nname = "mine"\nmemory = 24e9\nfloat32 = 30e12\nbandwidth = 1e12\n')
    found = planned(capsys, text, *GPT, "--device", str(path), "--count", "2")
    assert found["device"]["name"] == "mine"
    assert any("interconnect of mine is not known" in note for note in found["notes"])


def test_a_compiler_that_is_not_installed_is_named(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from charjax.performance import topology

    def missing(device: str, count: int) -> None:
        raise UserError('it is not installed; pip install "charjax[aot]"')

    monkeypatch.setattr(topology, "compile_mesh", missing)
    assert plan.main([text, *GPT, "--device", "v5e"]) == 0
    printed = capsys.readouterr()
    assert 'by formula: it is not installed; pip install "charjax[aot]"' in printed.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "h10"], "'h10' given; must be cpu, h100.*did you mean h100"),
        ([], "required: --device"),
        (["--device", "h100", "--count", "0"], "'0' given; must be a whole number from 1"),
        (["--device", "v5e", "--count", "3"], "3 given; v5e comes in slices of 1, 4, 8"),
        (["--device", "h100", "--price-per-hour", "-1"], "'-1' given; must be a number greater"),
        (["--device", "none.toml"], "none.toml' cannot be read"),
        (["--device", "h100", "model.kind=ngram"], "ngram counts its text once"),
        (["--device", "h100", "model.kindd=gru"], "model.kindd"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, text: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        run(text, *words)
    assert "\n" not in str(error.value)


def test_help_names_the_devices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        plan.main(["--help"])
    assert "h100, h200, a100, v5e, v6e, cpu" in capsys.readouterr().out


def test_tables_of_counts_are_counted_with_all_else(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (text, "model.kind=gru", "model.d_hidden=8", "model.context_length=16")
    words += ("train.batch_size=4", "--device", "h100")
    without, beside = planned(capsys, *words), planned(capsys, *words, "model.counts=[2,4]")
    session = open_session(load_config(None, [*words[:-2], "model.counts=[2,4]"]))
    tables = size_of(first_state(session).tables)
    split = session.dataset.splits["train"]
    sizes = beside["bytes"]
    assert sizes["tables"] == tables
    assert sizes["predictions"] == split.tokens.size * 2 * session.model.vocab_size * 2
    assert (without["bytes"]["tables"], without["bytes"]["predictions"]) == (0, 0)
    assert sizes["text"] == without["bytes"]["text"]
    added = sizes["arguments"] - without["bytes"]["arguments"]
    added -= 3 * (sizes["parameters"] - without["bytes"]["parameters"])
    assert added == tables + sizes["predictions"]
    # Weights and moments, the tables, and the counters.
    assert 0 <= sizes["checkpoint"] - tables - 3 * sizes["parameters"] < 100
    assert run(*words, "model.counts=[2,4]") == 0
    printed = capsys.readouterr().out
    assert "model.counts=[2, 4]" in printed
    assert "tables of counts; up to 3 are kept" in printed
    assert "by a rough formula: none was fitted to a model with such options" in printed
    assert "within" not in printed


def test_a_run_does_not_fit_where_its_tables_do_not(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = (text, "model.kind=bigram", "train.batch_size=2", "model.context_length=2")
    small = tmp_path / "small.toml"
    need = planned(capsys, *words, "--device", "h100")["bytes"]["total"]
    size = f"memory = {need + 5e4}\nusable = {need + 5e4}"
    small.write_text(f'[device]\nname = "small"\n{size}\nfloat32 = 1e12\nbandwidth = 1e12\n')
    assert planned(capsys, *words, "--device", str(small))["fits"]
    with pytest.raises(UserError, match=r"small given; each would hold .* it would fit with"):
        run(*words, "model.counts=[2,4]", "--device", str(small), "--json")


def test_the_saved_files_are_at_most_what_is_planned(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = (text, "model.kind=gru", "model.d_hidden=64", "model.counts=[2,4]")
    words += ("train.batch_size=4", "model.context_length=8")
    planned_bytes = planned(capsys, *words, "--device", "h100")["bytes"]["checkpoint"]
    done = commands.run("train", *words, "train.steps=1", "--workdir", tmp_path / "run")
    assert done.status == 0, done.err
    capsys.readouterr()
    (saved,) = (tmp_path / "run" / "checkpoints").glob("*1")
    files = [path for path in saved.rglob("*") if path.is_file() and path.suffix != ".json"]
    size = sum(path.stat().st_size for path in files)
    assert 0.2 * planned_bytes < size < 1.1 * planned_bytes + 20_000
