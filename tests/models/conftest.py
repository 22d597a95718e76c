"""Fixtures of the models' tests: every family in turn, and some tokens."""

import numpy as np
import pytest
from families import CONTEXT, FAMILIES, TRAINED, Family, V, make_model, make_variables


@pytest.fixture(scope="session", params=FAMILIES)
def family(request) -> Family:
    model = make_model(request.param)
    return Family(request.param, model, make_variables(model))


@pytest.fixture(scope="session", params=TRAINED)
def trained(request) -> Family:
    model = make_model(request.param)
    return Family(request.param, model, make_variables(model))


@pytest.fixture(scope="session")
def tokens_BT() -> np.ndarray:
    return np.random.default_rng(0).integers(0, V, (3, CONTEXT)).astype(np.int32)
