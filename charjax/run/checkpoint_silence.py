"""Silence for what saves and restores print themselves; charjax reports a failure in one line.

orbax 0.12 logs every failed write with its traceback. Where one write of a save fails, it abandons
the others and closes its event loop. tensorstore, which still works on them, then raises in threads
of its own, where Python can only print a traceback ("Event loop is closed"); and asyncio logs the
errors that nobody awaited when they are garbage-collected.
"""

import contextlib
import dataclasses
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

_LOGGERS = ("absl", "asyncio")

Hook = Callable[["sys.UnraisableHookArgs"], Any]


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Silence orbax's loggers and abandoned writes while the block lasts.

    Blocks may overlap, in several threads. After one that raises, the silence stays until the next
    that does not: its abandoned writes may end at any later time.
    """
    with _state.lock:
        if not _state.blocks:
            _state.begin()
        _state.blocks += 1
    try:
        yield
    except BaseException:
        _state.has_failed = True
        raise
    finally:
        with _state.lock:
            _state.blocks -= 1
            if not _state.blocks:
                _state.end()


@dataclasses.dataclass
class _State:
    """The settings of the process that overlapping blocks share.

    Attributes:
      lock: held while they are changed.
      blocks: how many blocks are entered.
      has_failed: whether any of them has raised.
      levels: the loggers' levels outside of the blocks.
      hook: the installed hook, if any, and the one it stands in for.
    """

    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    blocks: int = 0
    has_failed: bool = False
    levels: dict[str, int] = dataclasses.field(default_factory=dict)
    hook: tuple[Hook, Hook] | None = None

    def begin(self) -> None:
        self.has_failed = False
        for name in _LOGGERS:
            self.levels.setdefault(name, logging.getLogger(name).level)
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if self.hook is None or sys.unraisablehook is not self.hook[0]:
            self.hook = (_without_abandoned_writes(sys.unraisablehook), sys.unraisablehook)
            sys.unraisablehook = self.hook[0]

    def end(self) -> None:
        if self.has_failed:
            return
        while self.levels:
            name, level = self.levels.popitem()
            logging.getLogger(name).setLevel(level)
        # Another hook may have been installed meanwhile, on top of this one.
        if self.hook and sys.unraisablehook is self.hook[0]:
            sys.unraisablehook, self.hook = self.hook[1], None


_state = _State()


def _without_abandoned_writes(hook: Hook) -> Hook:
    def pass_on(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            hook(unraisable)

    return pass_on
