"""The cases of a test that `make test` and `.ci/run` run, by its marks `quick` and `ci`."""

import types
from pathlib import Path
from typing import Any

import pytest


class Item:
    """A case of a test with the mark `quick`, and perhaps `ci`."""

    def __init__(self, case: str, *listed: str, ci: tuple[str, ...] | None = None):
        self.nodeid, self.marks = f"tests/test_a.py::test_b[{case}]", []  # type: ignore[var-annotated]
        self._marks = {"quick": pytest.mark.quick(*listed).mark}
        if ci is not None:
            self._marks["ci"] = pytest.mark.ci(*ci).mark

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self._marks.get(name)

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


def test_what_is_listed_by_neither_is_among_the_longest(collected: Any) -> None:
    cases = ("gru", "mingru", "mlp-none", "mlp-batch", "rnn")
    items = [Item(case, "gru", ci=("mlp-*", "rnn")) for case in cases]
    assert collected(items) == [[], ["slow", "longest"], ["slow"], ["slow"], ["slow"]]
    with pytest.raises(pytest.UsageError, match=r"test_b ci': {'grru'}"):
        collected([Item(case, "gru", ci=("grru", "mlp")) for case in ("gru", "mlp")])


def test_an_unknown_case_is_refused(collected: Any) -> None:
    with pytest.raises(pytest.UsageError, match=r"test_b quick': {'grru'}"):
        collected([Item(case, "grru", "mlp") for case in ("gru", "mlp")])
    # By its id one is collected alone.
    assert collected([Item("gru", "gru", "mlp")], "tests/test_a.py::test_b[gru]") == [[]]
