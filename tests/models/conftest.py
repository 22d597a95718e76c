"""Fixtures of the models' tests: every family in turn, and some tokens."""

import numpy as np
import pytest

from tests.models.families import CONTEXT, FAMILIES, TRAINED, Family, V, make_model, make_variables

# Further forms of a family: among the slow tests.
FORMS = ("mlp-blank", "wavenet-batch_norm", "transformer-window", "gru-layernorm")


def quick(names):
    return [pytest.param(name, marks=[pytest.mark.slow] if name in FORMS else []) for name in names]


@pytest.fixture(scope="session", params=quick(FAMILIES))
def family(request) -> Family:
    return _make(request.param)


@pytest.fixture(scope="session", params=quick(TRAINED))
def trained(request) -> Family:
    return _make(request.param)


@pytest.fixture(scope="session")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, V, (3, CONTEXT)).astype(np.int32)


def _make(name: str) -> Family:
    model = make_model(name)
    return Family(name, model, make_variables(model))
