"""The fault matrix: faults that a run may meet, row by row, and the number of cases of each.

`make test` runs a few cases of every row, `make faults` as many as docs/durability.md states
(`--faults full`); `--faults N` runs at most N. At the end a table reports what passed. `--out FILE`
has it as JSON, rewritten after every part, so that nothing is lost if the rest fails or is stopped;
with `-k`, parts that are run again replace theirs in a FILE of the same hardware.
"""

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.faults.histories import FAMILIES, Lab, write_text
from tests.faults.processes import Forks

T = TypeVar("T")
_PROPERTY = "fault-matrix"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults", default="few", metavar="N|full", help="cases of each row of the fault matrix"
    )
    parser.addoption("--out", metavar="FILE", help="where the fault matrix is written as JSON")


class Row:
    """The cases of one row or a part of it; all are run, even after a failure.

    for case in row:
        with row.case(case):
            assert ...

    Attributes:
      brief: whether this is `make test`, where a case should do no more than it must.
    """

    def __init__(self, number: int, fault: str, asked: str, few: int, full: int):
        self.number, self.fault = number, fault
        self.brief = asked == "few"
        self._asked, self._few, self._full = asked, few, full
        self.cases = self.passed = 0
        self.failed: list[str] = []
        self.began = time.perf_counter()

    def family(self, case: int) -> str:
        """Return the family of a case: each in turn, or one for few cases, to share its runs."""
        return FAMILIES[2 if self.brief else case % len(FAMILIES)]

    def __iter__(self) -> Iterator[int]:
        """Return the numbers of the cases."""
        return self.over(range(self._full))

    def over(self, things: Sequence[T]) -> Iterator[T]:
        """Return the requested number of values, the same on every run; of a range, the first."""
        count = len(things)
        if self._asked != "full":
            count = min(count, self._few if self._asked == "few" else int(self._asked))
        places = range(len(things))
        drawn = random.Random(self.number).sample(places, count)
        chosen = places[:count] if isinstance(things, range) else sorted(drawn)
        for index in chosen:
            yield things[index]
        assert not self.failed, "\n".join(self.failed)

    @contextlib.contextmanager
    def case(self, name: object, count: int = 1) -> Iterator[None]:
        """Count the block as `count` cases, and continue if it fails."""
        self.cases += count
        try:
            yield
        except Exception as error:
            self.passed -= count
            self.failed.append(f"{name}: {type(error).__name__}: {error}")
        self.passed += count

    def result(self) -> dict[str, Any]:
        """Return the row as reported."""
        return {
            "row": self.number,
            "fault": self.fault,
            "cases": self.cases,
            "passed": self.passed,
            "seconds": round(time.perf_counter() - self.began, 1),
        }


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Iterator[Callable[..., Row]]:
    """Return `faults(1, "kill -9 while training", few=4, full=200)`: a row, or a part of one."""
    rows: list[Row] = []
    asked = request.config.getoption("faults", default="few")

    def make(number: int, fault: str, *, few: int, full: int = 0) -> Row:
        rows.append(Row(number, fault, asked, few, full))
        return rows[-1]

    yield make
    # From pytest-xdist's processes, too, this reaches the one that reports.
    request.node.user_properties += [(_PROPERTY, row.result()) for row in rows]


def pytest_configure(config: pytest.Config) -> None:
    # Under pytest-xdist the process that starts the others alone sees all reports.
    if config.getoption("faults", default="few") != "few" and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Matrix(config))


def _place(part: dict[str, Any]) -> tuple[int, str]:
    return part["row"], part["fault"]


class Matrix:
    """Collect the reports of the rows."""

    def __init__(self, config: pytest.Config):
        self._asked = config.getoption("faults")
        self._out = config.getoption("out")
        self._parts: list[dict[str, Any]] = []
        self._failed: set[str] = set()
        self._began = time.perf_counter()
        # A part of the matrix run again takes its place among the others, of the same hardware.
        self._earlier: dict[str, Any] | None = None
        if self._out and config.getoption("keyword") and Path(self._out).exists():
            self._earlier = json.loads(Path(self._out).read_text(encoding="utf-8"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)
        if report.when == "teardown":
            whole = report.nodeid not in self._failed
            found = [part for name, part in report.user_properties if name == _PROPERTY]
            self._parts += [{**part, "whole": whole} for part in found]  # type: ignore[dict-item]
            if found and self._out:
                self._write(Path(self._out))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        write = terminalreporter.write_line
        write(f"{'row':>3}  {'fault':62}  {'passed':>11}  {'seconds':>7}")
        for part in self._sorted():
            passed = f"{part['passed']}/{part['cases']}"
            mark = "" if part["whole"] else "  FAILED"
            write(f"{part['row']:>3}  {part['fault']:62}  {passed:>11}  {part['seconds']:>7}{mark}")

    def _sorted(self) -> list[dict[str, Any]]:
        return sorted(self._parts, key=_place)

    def _write(self, path: Path) -> None:
        from charjax.hardware import machine_facts

        tree = {
            "command": "make faults" if self._asked == "full" else f"--faults {self._asked}",
            "hardware": machine_facts(),
            "seconds": round(time.perf_counter() - self._began, 1),
            "parts": self._sorted(),
        }
        if self._earlier and all(self._earlier[k] == tree[k] for k in ("command", "hardware")):
            again = {(part["row"], part["fault"]) for part in self._parts}
            earlier = [p for p in self._earlier["parts"] if (p["row"], p["fault"]) not in again]
            tree["parts"] = sorted([*self._parts, *earlier], key=_place)
            tree["seconds"] = round(tree["seconds"] + self._earlier["seconds"], 1)
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Create the place where runs are started as processes."""
    folder = tmp_path_factory.mktemp("faults")
    forks = Forks(folder)
    yield Lab(forks, folder, write_text(folder))
    forks.close()
