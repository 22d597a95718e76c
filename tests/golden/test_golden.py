"""The draws of a seed and the results of runs equal frozen values."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.golden import cases
from tests.golden.__main__ import with_frozen

ROOT = Path(__file__).parent.parent.parent
_FROZEN = """{what}
A seed no longer gives what it gave: runs that were published cannot be had again. This is a mistake
to be found, unless the change was meant. Only if it was, and CHANGELOG.md says what it changes and
for whom, write the values anew (`make golden`) and review their difference line by line: every case
that the change does not concern must have kept its values. Never write them to make a test pass."""

# Versions of JAX that the tolerances are for, measured on the first and the last; others may
# arrange arithmetic anew.
_KNOWN_VERSIONS = ((0, 10), (0, 11), (0, 12))
_OTHER_VERSIONS = 10.0


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.write_text(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", [*cases.BATCHES, "validation"])
@pytest.mark.quick(
    "stream, *",
    "lines, epoch",
    "pairs of one text, random",
    "pairs of lines, epoch",
    "interleaved, contiguous",
    "validation",
)
def test_the_first_two_batches(name: str, text: Path):
    settings = cases.BATCHES.get(name)
    found = cases.first_batches(settings, text) if settings else cases.validation_batches(text)
    for step, (batch, frozen) in enumerate(
        zip(found, cases.read("batches.json")[name], strict=True)
    ):
        for field, values in frozen.items():
            what = f"{name}: {field} of step {step} were {values} and are {batch[field]}."
            assert batch[field] == values, _FROZEN.format(what=what)


# Pairs, a stream and one with a carried state; batch norm, dropout, accumulation; SGD and Adam.
@pytest.mark.quick(
    "bow, sgd with momentum",
    "mlp, batch norm, accumulation",
    "gru, contiguous, dropout",
    "transformer, dropout, accumulation",
)
@pytest.mark.parametrize("name", cases.TRAINING)
def test_a_short_run(name: str, text: Path):
    check(name, cases.train(cases.TRAINING[name], text), "one device")


@pytest.mark.parametrize("name", cases.FITTED)
def test_a_fit(name: str, text: Path):
    frozen = cases.read("training.json")["fitted"][name]
    for figure, value in cases.fit(cases.FITTED[name], text).items():
        compare(name, figure, value, frozen[figure])


_ON_TWO = """
import json, pathlib, sys
from tests.golden import cases
text = cases.write_text(pathlib.Path(sys.argv[1]))
print(json.dumps({name: cases.train(words, text, 2) for name, words in cases.TRAINING.items()}))
"""


@pytest.mark.slow
@pytest.mark.longest
def test_two_cores_that_share_the_batch(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", _ON_TWO, tmp_path],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    for name, found in json.loads(done.stdout).items():
        check(name, found, "two devices")


def test_dropout_alone_depends_on_the_number_of_devices():
    for name, frozen in cases.read("training.json")["trained"].items():
        one, two = (list(frozen[devices].values()) for devices in cases.DEVICES)
        same = np.allclose(one, two, rtol=3e-5, atol=0)
        assert same is ("dropout" not in name), name


def test_every_case_is_frozen_and_nothing_else():
    frozen = cases.read("training.json")
    assert list(frozen["trained"]) == list(cases.TRAINING)
    assert list(frozen["fitted"]) == list(cases.FITTED)
    assert list(cases.read("batches.json")) == [*cases.BATCHES, "validation"]


def test_writing_anew_changes_the_digits_of_real_changes_alone():
    frozen = {"a": {"first_loss": 3.0, "val_loss": 2.0}, "gone": {"first_loss": 1.0}}
    found = {"a": {"first_loss": 3.000001, "val_loss": 2.001}, "new": {"first_loss": 4.0}}
    expected = {"a": {"first_loss": 3.0, "val_loss": 2.001}, "new": {"first_loss": 4.0}}
    assert with_frozen(found, frozen) == expected


def check(name: str, found: dict[str, float], devices: str) -> None:
    frozen = cases.read("training.json")["trained"][name][devices]
    assert found.keys() == frozen.keys()
    for figure, value in found.items():
        compare(f"{name}, {devices}", figure, value, frozen[figure])


def compare(name: str, figure: str, found: float, frozen: float) -> None:
    tolerance = cases.TOLERANCES[figure]
    if jax.__version_info__[:2] not in _KNOWN_VERSIONS:
        tolerance *= _OTHER_VERSIONS
    off = abs(found / frozen - 1)
    what = (
        f"{name}: {figure} was {frozen!r} and is {found!r}, {off:.1e} off (up to {tolerance:.0e})."
    )
    assert off <= tolerance, _FROZEN.format(what=what)
