"""Measurements that cannot be made here: the reason in one line, and the memory checked before."""

from typing import Any

from charjax.errors import printable


class LeftOut(Exception):  # noqa: N818 - no error: something is not available here
    """A row cannot be measured here; the message is one line that says why."""


def first_line(error: BaseException) -> str:
    """Return one line on an error."""
    text = str(error).strip() or type(error).__name__
    line = printable(text.splitlines()[0])[:300]
    exhausted = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory", "Unable to allocate")
    if isinstance(error, MemoryError) or any(word in text for word in exhausted):
        return f"not enough memory ({line})"
    return f"{type(error).__name__}: {line}"


def check_memory(compiled: Any, available: float) -> int:
    """Return the bytes that a compiled program needs.

    Raises:
      LeftOut: they are more than `available`; on a CPU the process would be killed without a word.
    """
    stats = compiled.memory_analysis()
    if stats is None:
        return 0
    needed = int(
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
        - stats.alias_size_in_bytes
    )
    # The arguments are in memory already.
    if needed - stats.argument_size_in_bytes > available:
        raise LeftOut(
            f"not enough memory ({needed / 2**30:.1f} GiB needed, {available / 2**30:.1f} GiB free)"
        )
    return needed
