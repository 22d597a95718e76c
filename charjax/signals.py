"""Ctrl-C and SIGTERM: recorded at once, acted upon where nothing is lost."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

_STOPPING = (signal.SIGINT, signal.SIGTERM)


def before_imports() -> None:
    """Let Ctrl-C end a command that is still importing, without a traceback."""
    # A shell's background job ignores SIGINT, and shall continue to.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def after_imports() -> None:
    """Let Ctrl-C raise a KeyboardInterrupt again, which `interrupted` then reports."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, _interrupt)


@contextlib.contextmanager
def cleaning_up(clean_up: Callable[[], None]) -> Iterator[None]:
    """Run `clean_up` at the end, and before SIGTERM ends the process (status 143)."""

    def leave(number: int, frame: FrameType | None) -> None:
        clean_up()
        os._exit(128 + number)

    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
        clean_up()


def interrupted() -> bool:
    """Return whether a KeyboardInterrupt was raised, even if native code replaced the exception."""
    return _interrupts > 0


_interrupts = 0


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _interrupts
    _interrupts += 1
    raise KeyboardInterrupt


class Interrupted(Exception):  # noqa: N818 - a request, not an error
    """A signal asked the command to stop; `status` is its exit status."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Signals:
    """While entered, the first SIGINT or SIGTERM is recorded, and a second one ends the process.

    Python calls a signal handler only between two bytecode instructions, and one of them may be a
    compilation of a minute. So the second signal is not left to a handler: the interpreter writes
    the number of every signal into a pipe as soon as it arrives, and a thread reads it.

    Outside the main thread, where Python lets nobody handle signals, nothing is recorded.
    """

    def __init__(self, *, ends_at_second: bool = True) -> None:
        """Prepare; with `ends_at_second=False`, as in a notebook, no signal ends the process."""
        self.received: int | None = None
        self._ends_at_second = ends_at_second
        self._is_entered = False
        self._before: dict[int, object] = {}
        self._pipe_before = -1
        self._pipe = (-1, -1)

    def poll(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.received is not None:
            raise Interrupted(self.received)

    def __enter__(self) -> "Signals":
        if threading.current_thread() is not threading.main_thread():
            return self
        self._is_entered = True
        self._pipe = read, write = os.pipe()
        if hasattr(os, "set_blocking"):  # before Python 3.12 not on Windows
            os.set_blocking(write, False)
        watch = _exit_at_second_signal if self._ends_at_second else _drain
        threading.Thread(target=watch, args=(read,), daemon=True).start()
        self._pipe_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in _STOPPING:
            self._before[number] = signal.signal(number, self._record)
        if interrupted():
            # A callback has swallowed the KeyboardInterrupt: it still counts.
            self.received = signal.SIGINT
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if not self._is_entered:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._pipe_before)
        # The thread reads the end of the file, and ends.
        os.close(self._pipe[1])

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number


def _drain(pipe: int) -> None:
    while os.read(pipe, 64):
        pass
    os.close(pipe)


def _exit_at_second_signal(pipe: int) -> None:
    first = True
    while number := os.read(pipe, 1):
        if number[0] in _STOPPING:
            if not first:
                os._exit(128 + number[0])
            first = False
    os.close(pipe)
