"""What XLA is told before it starts."""

import os

import jax
import pytest

from charjax import parallel

FUSED = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true"


@pytest.fixture(autouse=True)
def version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 1))


def flags_after(monkeypatch: pytest.MonkeyPatch, before: str, **options: bool) -> str:
    monkeypatch.setenv("XLA_FLAGS", before)
    parallel.set_flags(**options)
    return os.environ["XLA_FLAGS"]


def test_flags_are_added_once(monkeypatch: pytest.MonkeyPatch) -> None:
    once = flags_after(monkeypatch, "--xla_a=1", deterministic=True)
    assert once == f"--xla_a=1 {FUSED} --xla_gpu_deterministic_ops=true"
    assert flags_after(monkeypatch, once, deterministic=True) == once


def test_what_the_user_says_of_the_same_flag_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    own = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=false"
    assert flags_after(monkeypatch, own) == own


@pytest.mark.parametrize("version", [(0, 9, 2), (0, 13, 0)])
def test_a_version_that_was_not_tried_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]
) -> None:
    monkeypatch.setattr(jax, "__version_info__", version)
    assert flags_after(monkeypatch, "") == ""
