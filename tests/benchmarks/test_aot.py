"""The checks of `make aot`, and its command, without the extra."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import io_callback
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import aot, aot_row, aot_workloads
from charjax import parallel
from charjax.errors import UserError
from charjax.performance import programs
from charjax.training import program
from tests.models.families import FAMILIES, TRAINED

ALL_REDUCE = {"kind": "all-reduce", "bytes": 4, "dtypes": ["f32"], "loops": 1, "source": ""}
GOOD = {
    "collectives": [ALL_REDUCE],
    "batch_statistics": False,
    "argument": 108,
    "padded": 108,
    "state": 108,
    "key": 8,
    "custom_calls": [],
    "host_calls": [],
    "host_waits": ["While: the host reads whether there is another turn"],
    "has_thunks": True,
}


def test_a_good_program_has_no_fault() -> None:
    assert aot_row.faults(GOOD, "gpu", 4) == []
    alone = {**GOOD, "collectives": [], "host_waits": [], "argument": 100, "padded": 100}
    assert aot_row.faults(alone, "gpu", 1) == []
    padded = {**GOOD, "argument": 2048, "padded": 2048, "has_thunks": False, "host_waits": []}
    assert aot_row.faults(padded, "tpu", 4) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"collectives": [ALL_REDUCE, ALL_REDUCE]}, "collectives per step"),
        ({"collectives": []}, "collectives per step"),
        ({"collectives": [{**ALL_REDUCE, "kind": "all-gather"}]}, "collectives per step"),
        ({"collectives": [{**ALL_REDUCE, "loops": 2}]}, "in a loop of the step"),
        ({"argument": 104, "padded": 104}, "arguments"),
        ({"argument": 104}, "arguments"),
        ({"custom_calls": ["__onednn$matmul"]}, "custom calls"),
        ({"host_calls": ["send: "]}, "the host takes part"),
        ({"host_waits": ["HostExecuteStart: "]}, "the host takes part"),
        ({"host_waits": GOOD["host_waits"] * 2}, "waits for the host"),
        ({"has_thunks": False}, "no thunks"),
    ],
)
def test_each_fault_is_found(change: dict[str, Any], word: str) -> None:
    (found,) = aot_row.faults({**GOOD, **change}, "gpu", 4)
    assert word in found


def test_one_gpu_never_waits() -> None:
    (found,) = aot_row.faults({**GOOD, "collectives": []}, "gpu", 1)
    assert "waits for the host" in found


def test_statistics_of_the_batch_are_added_up_where_they_are_needed() -> None:
    several = {**GOOD, "collectives": [ALL_REDUCE] * 5, "batch_statistics": True}
    assert aot_row.faults(several, "gpu", 4) == []


def test_bytes_of_arguments_in_tiles() -> None:
    layout = (
        "entry_computation_layout={(f32[27,27]{1,0:T(8,128)}, s32[]{:T(128)}, /*index=2*/u8[10]"
    )
    turned = ", f32[128,20]{0,1:T(8,128)}"
    text = layout + "{0:T(1024)(128)(4,1)}, pred[3]{0}" + turned + ")->(f32[27,27]{1,0:T(8,128)})}"
    assert aot_row.padded_bytes(text) == 32 * 128 * 4 + 128 * 4 + 1024 + 3 + 24 * 128 * 4


def test_bytes_of_arguments_on_each_device() -> None:
    mesh = parallel.make_mesh(jax.local_devices()[:1], 1)
    rows = NamedSharding(mesh, PartitionSpec())
    key = jax.eval_shape(lambda: jax.random.key(0))
    arguments = (jax.ShapeDtypeStruct((4, 3), jnp.bfloat16, sharding=rows), key)
    assert aot_row.argument_bytes(arguments) == 24 + 8


def test_every_family_and_config_that_trains_is_compiled() -> None:
    names = aot_workloads.workloads()
    trained = {FAMILIES[name]["kind"] for name in TRAINED}
    assert {name[5:].partition("-")[0] for name in names if name.startswith("tiny-")} == trained
    assert {"nanogpt-char", "shakespeare-gru", "warpeace-lstm", "gpt2-124m"} <= names.keys()
    assert not [name for name in names if name.endswith("kneser-ney")]


@pytest.mark.parametrize("kind", ["print", "io_callback", "pure_callback"])
def test_a_planted_callback_is_found_before_lowering(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {
        "print": lambda x: jax.debug.print("{}", x),
        "io_callback": lambda x: io_callback(lambda _: None, None, x),
        "pure_callback": lambda x: jax.pure_callback(lambda y: y, x, x),
    }
    session = aot_workloads.workloads()["tiny-bigram"].open(tmp_path, 1)
    assert aot_row.callbacks(programs.training(session, session.mesh)) == []
    plain = program.make_train_step

    def planted(*settings: Any) -> Any:
        step = plain(*settings)

        def with_call(*arguments: Any) -> Any:
            state, metrics = step(*arguments)
            calls[kind](metrics[0])
            return state, metrics

        return with_call

    monkeypatch.setattr(program, "make_train_step", planted)
    assert len(aot_row.callbacks(programs.training(session, session.mesh))) == 1


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the rows that are compiled, each by a function that compiles nothing."""
    compiled: list[str] = []

    def row(workload: aot_workloads.Workload, target: aot_row.Target, seconds: float) -> Any:
        compiled.append(f"{workload.name} {target}")
        faults = ["not done in 150 s"] if target.device == "a100" else []
        rest = {"seconds": 1.0, "total": 1000, "collectives": [ALL_REDUCE]}
        return {**aot_workloads.words_of(workload), "target": str(target), **rest, "faults": faults}

    monkeypatch.setattr(aot, "_row_in_process", row)
    monkeypatch.setattr(aot, "_check_installed", lambda: None)
    return compiled


def test_a_second_call_compiles_what_is_missing(rows: list[str], tmp_path: Path) -> None:
    out = tmp_path / "aot.json"
    words = ["--only", "tiny-r*", "--devices", "v5e:1,a100:1", "--out", str(out)]
    assert aot.main(words) == 1
    assert rows == ["tiny-rnn v5e:1", "tiny-rnn a100:1"]
    assert aot.main(words) == 1
    assert rows[2:] == ["tiny-rnn a100:1"]
    tree = json.loads(out.read_text(encoding="utf-8"))
    assert [row["target"] for row in tree["rows"]] == ["v5e:1", "a100:1"]
    assert tree["command"] == "make aot"


def test_a_result_of_other_versions_is_compiled_anew(rows: list[str], tmp_path: Path) -> None:
    out = tmp_path / "aot.json"
    words = ["--only", "tiny-rnn", "--devices", "v5e:1", "--out", str(out)]
    assert aot.main(words) == 0
    tree = json.loads(out.read_text(encoding="utf-8"))
    tree["hardware"]["versions"]["jax"] = "0.1"
    out.write_text(json.dumps(tree), encoding="utf-8")
    assert aot.main(words) == 0
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "gpt3"], "--only: 'gpt3' given; the rows are: tiny-bigram"),
        (["--devices", "v5e"], "--devices: 'v5e' given; must be like v5e:4"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        aot.main(words)
    assert str(error.value).startswith(message)


def test_a_missing_extra_is_named_before_the_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "charjax\[aot\]"'):
        aot.main(["--only", "tiny-bigram"])
