"""Lists that are read as one text: recognised by their first lines."""


def looks_like_list(text: str | bytes) -> bool:
    """Return True if a text starts like a list: short lines of one or two words."""
    start = text[:LIST_START]
    decoded = start if isinstance(start, str) else start.decode("latin-1")
    # The last line may be cut off.
    lines = decoded.split("\n")[:-1]
    if len(lines) < _LIST_LINES:
        return False
    lengths = sorted(map(len, lines))
    blank = sum(not line.strip() for line in lines)
    indented = sum(line[:1].isspace() for line in lines)
    words = sum(len(line.split()) for line in lines)
    typical, long = lengths[len(lengths) // 2], lengths[len(lengths) * 99 // 100]
    return (
        blank + indented <= len(lines) // 100
        and words <= _LIST_WORDS * len(lines)
        and long <= _LIST_LENGTH
        # Long lines of equal length are wrapped text.
        and (typical < _WRAPPED_LENGTH or lengths.count(typical) <= 0.9 * len(lines))
    )


# Characters of a text by which it is judged.
LIST_START = 1 << 18
_LIST_LINES = 100
_LIST_WORDS = 2
_LIST_LENGTH = 50
_WRAPPED_LENGTH = 30
