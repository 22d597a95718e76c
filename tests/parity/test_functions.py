"""Equality with PyTorch's functions: logits, gradients, training and running statistics.

Each claim is held against PyTorch where it is installed ("live"), and always against the numbers
that it gave once ("golden", made by make_golden.py).
"""

import functools
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.parity.cases import CASES, LARGE, SMALL, Ours, draw_tokens, make_config

GOLDEN = Path(__file__).parent / "golden"
Arrays = dict[str, np.ndarray]


@functools.cache
def numbers_of(source: str, name: str) -> Arrays:
    if source == "golden":
        return load_file(GOLDEN / f"{name}.safetensors")
    pytest.importorskip("torch", reason="the extra torch is not installed: make parity has it")
    from tests.parity.torch_side import compute

    return compute(name, LARGE)


@pytest.fixture(params=CASES)
def name(request) -> str:
    return request.param


@pytest.fixture(params=["golden", "live"])
def source(request) -> str:
    return request.param


def part(numbers: Arrays, prefix: str) -> Arrays:
    return {
        key.removeprefix(f"{prefix}/"): array
        for key, array in numbers.items()
        if key.startswith(f"{prefix}/")
    }


def ours(source: str, name: str, optimizer: str = "adamw") -> tuple[Ours, Arrays]:
    numbers = numbers_of(source, name)
    config = make_config(name, SMALL if source == "golden" else LARGE, optimizer)
    return Ours(config, part(numbers, "state")), numbers


@functools.cache
def logits_and_gradient(source: str, name: str) -> tuple[np.ndarray, Arrays]:
    model, _ = ours(source, name)
    return model.logits_and_gradient(draw_tokens()[0])


def assert_near(actual: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    """Check that arrays differ nowhere by more than `tolerance` times the largest number."""
    assert actual.shape == expected.shape, what
    off = np.abs(actual - expected).max() / np.abs(expected).max()
    assert off <= tolerance, f"{what}: {off:.1e} apart, and at most {tolerance:.0e} is allowed"


@pytest.mark.quick(
    "live-*", "golden-*-2", "golden-*-bias", "golden-*-relu", "*-batch_norm", "*-bigram"
)
def test_logits(source, name):
    logits, _ = logits_and_gradient(source, name)
    assert_near(logits, numbers_of(source, name)["logits"], 1e-5, "logits")


@pytest.mark.quick(
    "live-*", "golden-*-2", "golden-*-bias", "golden-*-relu", "*-batch_norm", "*-bigram"
)
def test_the_gradient_of_every_parameter(source, name):
    numbers = numbers_of(source, name)
    expected, (_, actual) = part(numbers, "grad"), logits_and_gradient(source, name)
    assert expected.keys() <= actual.keys()
    assert len(expected) == len(part(numbers, "state")) - len(not_parameters(numbers))
    for key, slope in expected.items():
        assert_near(actual[key], slope, 1e-4, key)


def not_parameters(numbers: Arrays) -> set[str]:
    """Tensors without a gradient: aliases, statistics and masks."""
    state = part(numbers, "state")
    statistics = {key for key in state if "running" in key or is_mask(key)}
    tied = np.array_equal(
        state.get("lm_head.weight", 0), state.get("transformer.wte.weight", np.zeros(1))
    )
    return statistics | ({"lm_head.weight"} if tied else set())


def is_mask(key: str) -> bool:
    """Return the causal mask that minGPT and makemore hold as a buffer."""
    return key.endswith(".attn.bias")


# Others hold the same code to AdamW's steps: deeper ones of the family, or with more parameters.
_LIVE_ONLY = ("gpt-bias", "gpt-untied", "gpt-tanh", "rnn", "rnn-relu", "gru", "lstm")


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "sgd"])
@pytest.mark.quick("live-*", "*-gru-2-*", "*-gpt-untied-bias-*", "*-batch_norm-*", "*-bigram-*")
def test_ten_steps(source, name, optimizer):
    if source == "golden" and (optimizer != "adamw" or name in _LIVE_ONLY):
        pytest.skip("with PyTorch at hand alone, to be quick elsewhere")
    model, numbers = ours(source, name, optimizer)
    actual, losses = model.after(draw_tokens())
    before = part(numbers, "state")
    expected = {k: a for k, a in part(numbers, optimizer).items() if not is_mask(k)}
    assert_near(np.array(losses), numbers[f"losses/{optimizer}"], 1e-5, "losses")
    assert actual.keys() == expected.keys()
    for key, array in expected.items():
        assert np.abs(array - before[key]).max() > 1e-3, f"{key} has not moved"
        if key.endswith("attn.c_attn.bias"):
            array, actual[key] = without_keys(array), without_keys(actual[key])
        assert_near(actual[key], array, 1e-4, key)


def without_keys(bias_G: np.ndarray) -> np.ndarray:
    """Return the parts of the bias for queries and values, without the keys'.

    The bias of the keys changes no attention weight: its gradient is a rounding error, different on
    every processor, which an optimiser that divides by the gradient's size amplifies.
    """
    return np.delete(bias_G.reshape(3, -1), 1, 0)


def test_running_statistics(source):
    """Compute the running statistics after one batch: 0.99 of the old, 0.01 of the batch's."""
    model, numbers = ours(source, "mlp-batch_norm")
    actual, _ = model.after(draw_tokens()[:1])
    expected = part(numbers, "statistics")
    assert len(expected) == 4
    for key, array in expected.items():
        assert_near(actual[key], array, 1e-6, key)


def test_the_files_are_what_the_script_makes(name):
    pytest.importorskip("torch", reason="the extra torch is not installed: make parity has it")
    from tests.parity.torch_side import compute

    golden, fresh = numbers_of("golden", name), compute(name, SMALL)
    assert golden.keys() <= fresh.keys()
    for key, array in golden.items():
        again = fresh[key]
        if key.startswith("adamw/") and key.endswith("attn.c_attn.bias"):
            array, again = without_keys(array), without_keys(again)
        np.testing.assert_allclose(array, again, atol=1e-5, rtol=1e-4, err_msg=key)
