"""Compare two recordings."""

import math
from collections.abc import Iterator
from typing import Any

# What any other rounding changes altogether.
_OF_BITS = ("state_digest", "sha256", "sample", "samples")


def differences(before: Any, after: Any, tolerance: float = 0.0, path: str = "") -> Iterator[str]:
    """Yield one line for each place where two trees differ.

    Args:
      before: one tree of dicts, lists, numbers, texts and None.
      after: the other.
      tolerance: relative, of numbers that are not whole; above 0, digests of arrays and texts that
        were sampled are not compared.
      path: where the trees are, for the lines.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys() if before.keys() != after.keys() else before:
            if key not in after or key not in before:
                yield f"{path}/{key}: only {'before' if key in before else 'after'}"
            elif not (tolerance and key in _OF_BITS):
                yield from differences(before[key], after[key], tolerance, f"{path}/{key}")
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"{path}: {len(before)} entries -> {len(after)}: {_ends(before, after)}"
            return
        for place, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, tolerance, f"{path}/{place}")
    elif type(before) is not type(after) or not _same(before, after, tolerance):
        yield f"{path}: {before!r} -> {after!r}"


def _same(before: Any, after: Any, tolerance: float) -> bool:
    if isinstance(before, float) and tolerance:
        return math.isclose(before, after, rel_tol=tolerance, abs_tol=1e-12)
    return repr(before) == repr(after)  # NaN is as good as itself


def _ends(before: list[Any], after: list[Any]) -> str:
    """Return the first entries that only one of two lists has."""
    lost = [entry for entry in before if entry not in after][:3]
    new = [entry for entry in after if entry not in before][:3]
    return f"lost {str(lost)[:200]}, new {str(new)[:200]}"
