"""The sentences of the page."""

from types import SimpleNamespace
from typing import Any

import pytest

from charjax.pages.words import headline


@pytest.mark.parametrize(
    ("coverage", "said"),
    [
        ({}, "at step 5."),
        ({"targets": 1000, "of": 9000}, "at step 5 (over 1,000 of 9,000 targets)."),
    ],
)
def test_a_loss_of_some_targets_is_called_that(coverage: dict[str, int], said: str):
    run: Any = SimpleNamespace(name="a", best={"loss": 2.0, "step": 5, **coverage})
    studied: Any = SimpleNamespace(key="text", lines=dict, counted=None)
    (sentence,) = headline([run], [studied])
    assert sentence.endswith(said)
