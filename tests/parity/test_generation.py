"""Generation past the context equals that of nanoGPT's loop, token for token."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from charjax.generation.generate import PastContext, stream, window_start
from charjax.generation.sampling import Sampling
from tests.parity.cases import LARGE, PAST_CONTEXT, SMALL, Ours, T, make_config

GOLDEN = Path(__file__).parent / "golden" / "past-context.safetensors"
Arrays = dict[str, np.ndarray]


@pytest.fixture(params=["golden", "live"])
def written(request: pytest.FixtureRequest) -> tuple[Ours, Arrays]:
    """Return a model, and PyTorch's text and logits."""
    if request.param == "golden":
        width, numbers = SMALL, load_file(GOLDEN)
    else:
        pytest.importorskip("torch", reason="the extra torch is not installed: make parity has it")
        from tests.parity.torch_side import generate_past_the_context

        width, numbers = LARGE, generate_past_the_context(LARGE)
    state = {k.removeprefix("state/"): a for k, a in numbers.items() if k.startswith("state/")}
    return Ours(make_config(PAST_CONTEXT, width), state), numbers


def text_of(ours: Ours, numbers: Arrays, past_context: PastContext) -> np.ndarray:
    """Generate three greedy texts (3, K), without the prompt."""
    chunks = stream(
        ours.model,
        {"params": ours.params},
        numbers["prompt"].astype(np.int32),
        num_samples=3,
        max_new_tokens=len(numbers["text"]) - len(numbers["prompt"]),
        settings=Sampling(greedy=True),
        seed=0,
        past_context=past_context,
    )
    return np.concatenate([chunk.tokens_BK for chunk in chunks], axis=1)


def test_the_greedy_text_is_nanogpts(written: tuple[Ours, Arrays]):
    ours, numbers = written
    first = len(numbers["prompt"])
    expected = numbers["text"][first:]
    np.testing.assert_array_equal(text_of(ours, numbers, "slide"), np.tile(expected, (3, 1)))
    # To jump is to write another text, from where the context is full.
    (jumped, *_), full = text_of(ours, numbers, "jump"), T - first + 1
    np.testing.assert_array_equal(jumped[:full], expected[:full])
    assert (jumped != expected).any()


def test_the_logits_of_each_token_are_nanogpts(written: tuple[Ours, Arrays]):
    ours, numbers = written
    text, first = numbers["text"].astype(np.int32), len(numbers["prompt"])
    ends = range(first, len(text))
    windows = [text[window_start(end, T, "slide") : end] for end in ends]
    padded_NT = np.stack([np.pad(window, (0, T - len(window))) for window in windows])
    last_N = np.array([len(window) - 1 for window in windows])
    logits_NV = ours.logits(padded_NT)[np.arange(len(windows)), last_N]
    expected_NV = numbers["logits"]
    assert np.abs(logits_NV - expected_NV).max() <= 1e-5 * np.abs(expected_NV).max()


def test_the_file_is_what_the_script_makes():
    pytest.importorskip("torch", reason="the extra torch is not installed: make parity has it")
    from tests.parity.torch_side import generate_past_the_context

    golden, fresh = load_file(GOLDEN), generate_past_the_context(SMALL)
    assert golden.keys() == fresh.keys()
    for key, array in golden.items():
        np.testing.assert_allclose(array, fresh[key], atol=1e-5, rtol=1e-4, err_msg=key)
