"""The cases of a test that `make test` runs, by its mark `quick`."""

import types
from pathlib import Path
from typing import Any

import pytest


class Item:
    """A case of a test with the mark `quick`."""

    def __init__(self, case: str, *listed: str):
        self.nodeid, self.marks = f"tests/test_a.py::test_b[{case}]", []  # type: ignore[var-annotated]
        self._quick = pytest.mark.quick(*listed).mark

    def get_closest_marker(self, name: str) -> pytest.Mark:
        assert name == "quick"
        return self._quick

    def add_marker(self, mark: pytest.MarkDecorator) -> None:
        self.marks.append(mark.name)


@pytest.fixture
def collected(request: pytest.FixtureRequest) -> Any:
    """Return the hook of tests/conftest.py."""
    path = str(Path(__file__).with_name("conftest.py"))
    plugins = request.config.pluginmanager.get_plugins()
    (conftest,) = (each for each in plugins if getattr(each, "__file__", None) == path)

    def hook(items: list[Item], *arguments: str) -> list[list[str]]:
        config: Any = types.SimpleNamespace(args=arguments or ["tests"])
        conftest.pytest_collection_modifyitems(config, items)
        return [item.marks for item in items]

    return hook


def test_what_is_not_listed_is_slow(collected: Any) -> None:
    cases = ("gru-(3, 12)", "gru", "mingru", "mlp-none", "mlp-batch")
    items = [Item(case, "gru", "mlp-*") for case in cases]
    assert collected(items) == [["slow"], [], ["slow"], [], []]


def test_an_unknown_case_is_refused(collected: Any) -> None:
    with pytest.raises(pytest.UsageError, match=r"test_b': {'grru'}"):
        collected([Item(case, "grru", "mlp") for case in ("gru", "mlp")])
    # By its id one is collected alone.
    assert collected([Item("gru", "gru", "mlp")], "tests/test_a.py::test_b[gru]") == [[]]
