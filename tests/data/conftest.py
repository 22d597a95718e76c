"""Texts for the tests: small generated ones, and the published corpora if available."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from charjax.config import DataConfig
from charjax.data import corpora
from charjax.data.datasets import Dataset, load_dataset
from charjax.data.download import DownloadError
from charjax.data.splits import Split
from charjax.errors import UserError


@pytest.fixture(scope="session")
def published() -> Callable[..., Dataset]:
    """Load a published corpus from $CHARJAX_DATA or the cache, or skip the test."""

    def load(name: str, **settings: Any) -> Dataset:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(corpora, "open_https", no_network)
            try:
                return load_dataset(DataConfig(name=name, **settings))
            except UserError as error:
                if "is not on this machine" in str(error):
                    pytest.skip(f"{name} is neither in $CHARJAX_DATA nor in the cache")
                raise

    return load


def no_network(url: str) -> Any:
    """Fail to open an address, as without a network."""
    raise DownloadError(f"{url} cannot be fetched: the tests have no network")


@pytest.fixture(scope="session")
def names(published: Callable[..., Dataset]) -> Dataset:
    """Load the names, split as in the makemore lectures."""
    return published("names")


@pytest.fixture
def stream() -> Callable[..., Split]:
    """Build one document, or documents of equal length, whose tokens are their positions."""

    def make(targets: int, documents: int = 1) -> Split:
        tokens = np.arange(documents * (targets + 1)).astype(np.uint16)
        starts = np.arange(documents) * (targets + 1)
        return Split(tokens, starts, np.full(documents, targets))

    return make


@pytest.fixture
def lines() -> Callable[[list[str]], Split]:
    """Build lines of letters; the boundary is 0, `a` is 1."""

    def make(items: list[str]) -> Split:
        text = "\n" + "\n".join(items) + "\n"
        tokens = np.array([max(0, ord(letter) - 96) for letter in text], np.uint8)
        bounds = np.flatnonzero(tokens == 0)
        return Split(tokens, bounds[:-1], np.diff(bounds))

    return make
