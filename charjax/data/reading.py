"""Decode files and prompts, by rules that a run applies to its text and to every later one."""

import dataclasses
import os
from pathlib import Path
from typing import Any, AnyStr

from charjax.data.tokenizers import CharTokenizer, Tokenizer
from charjax.errors import UserError

# Positions in a text are int32 on the device and may exceed its length by a window. A text has at
# most as many characters as its file has bytes.
MOST_BYTES = 2_000_000_000
_BYTE_ORDER_MARK = "\ufeff"


@dataclasses.dataclass(frozen=True)
class ReadingRules:
    """Rules to decode bytes.

    Attributes:
      encoding: utf-8 or latin-1; None if the text is the bytes themselves.
      drop_mark: drop a byte order mark at the start.
      to_lf: convert CRLF to LF.
    """

    encoding: str | None = "utf-8"
    drop_mark: bool = True
    to_lf: bool = True


UTF_8 = ReadingRules()
LATIN_1 = ReadingRules("latin-1", drop_mark=False, to_lf=False)
BYTES = ReadingRules(None, drop_mark=False, to_lf=False)
BYTES_TO_LF = ReadingRules(None, drop_mark=False)


def read_bytes(path: Path, field: str) -> bytes:
    """Read all bytes of a regular file.

    Args:
      path: the file.
      field: the setting or flag that names it.

    Raises:
      UserError: there is no such file, it is too large, or it cannot be read.
    """
    if not path.exists():
        raise UserError(f"{field}: {str(path)!r} does not exist; give a text file")
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "is not a regular file"
        raise UserError(f"{field}: {str(path)!r} {what}; give a text file")
    try:
        size = os.stat(path).st_size
        if size > MOST_BYTES:
            raise UserError(
                f"{field}: {str(path)!r} has {size:,} bytes, and at most {MOST_BYTES:,} are "
                "allowed; give a part of it"
            )
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"{field}: {str(path)!r} cannot be read ({reason}); give a file that you may read"
        ) from None


def decode_file(
    raw: bytes, rules: ReadingRules, name: str, field: str
) -> tuple[str | bytes, tuple[str, ...]]:
    """Decode a file; return its text, and notes on changes and likely mistakes.

    Args:
      raw: the file's bytes.
      rules: how they are decoded.
      name: the file, as messages name it.
      field: the setting or flag that names it.

    Raises:
      UserError: the file is empty, compressed, or not text in this encoding.
    """
    named = f"{field}: {name!r}"
    packed = _compression(raw)
    text: str | bytes
    if rules.encoding is None:
        text, notes = _unify_line_ends(raw, rules)
        if packed:
            note = (
                f"the file is compressed by {packed[0]}, and its bytes are read without unpacking"
            )
            notes = (note, *notes)
    else:
        if packed:
            raise UserError(
                f"{named} is compressed by {packed[0]}; decompress it first ({packed[1]}), and "
                "give the text file"
            )
        remedy = "convert it to UTF-8"
        if field == "data.path":
            remedy += ", or read its bytes with data.tokenizer=byte"
        _check_wide_encoding(raw, named, remedy)
        text, notes = _decode_characters(raw, rules, named, field, remedy)
    if not text:
        raise UserError(f"{named} is empty; give a file with text in it")
    return text, notes


# The first bytes of a compressed file, its program, and the command that unpacks it.
_COMPRESSIONS = {
    b"\x1f\x8b": ("gzip", "gunzip -k"),
    b"\xfd7zXZ\0": ("xz", "xz -dk"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -d"),
    b"PK\x03\x04": ("zip", "unzip"),
}


def _compression(raw: bytes) -> tuple[str, str] | None:
    if raw.startswith(b"BZh") and raw[4:10] == b"1AY&SY":
        return "bzip2", "bunzip2 -k"
    return next((how for start, how in _COMPRESSIONS.items() if raw.startswith(start)), None)


def _check_wide_encoding(raw: bytes, named: str, remedy: str) -> None:
    """Raise a UserError for UTF-16 and UTF-32, with a byte order mark or without one."""
    kind = None
    if raw.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        kind = "UTF-32"
    elif raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        kind = "UTF-16"
    else:
        # In UTF-16 of ASCII every second byte is zero.
        start = raw[: 1 << 12]
        halves = start[0::2].count(0), start[1::2].count(0)
        enough = len(start) // 2 * 0.4
        if min(halves) <= enough / 8 and max(halves) > max(enough, 4):
            kind = "UTF-16LE" if halves[1] > halves[0] else "UTF-16BE"
    if kind:
        raise UserError(f"{named} is {kind}: {remedy} (iconv -f {kind} -t UTF-8 OLD > NEW)")


def _decode_characters(
    raw: bytes, rules: ReadingRules, named: str, field: str, remedy: str
) -> tuple[str, tuple[str, ...]]:
    assert rules.encoding is not None
    if rules.encoding == "latin-1":
        return raw.decode("latin-1"), ()
    nul = raw.find(b"\0")
    if nul >= 0:
        choice = ", or read its bytes with data.tokenizer=byte" if field == "data.path" else ""
        raise UserError(
            f"{named} is not text: it has a zero byte at offset {nul:,} (line "
            f"{raw.count(10, 0, nul) + 1:,}; {raw.count(0):,} in all); remove these bytes "
            f"(tr -d '\\000' < OLD > NEW){choice}"
        )
    try:
        text = raw.decode(rules.encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{named} is not UTF-8: byte 0x{raw[error.start]:02X} at offset {error.start:,} (line "
            f"{raw.count(10, 0, error.start) + 1:,}); {remedy}"
        ) from None
    text, notes = _normalize(text, rules)
    # A mark that is kept at the start is meant.
    return text, notes + _likely_mistakes(
        text.removeprefix("" if rules.drop_mark else _BYTE_ORDER_MARK)
    )


def _normalize(text: str, rules: ReadingRules) -> tuple[str, tuple[str, ...]]:
    """Drop the first byte order mark, convert line ends to LF, and note the changes."""
    mark = rules.drop_mark and text.startswith(_BYTE_ORDER_MARK)
    text, notes = _unify_line_ends(text[1:] if mark else text, rules)
    dropped = ("the byte order mark at the start of the text was dropped",) if mark else ()
    return text, dropped + notes


def _unify_line_ends(text: AnyStr, rules: ReadingRules) -> tuple[AnyStr, tuple[str, ...]]:
    crlf: Any = "\r\n" if isinstance(text, str) else b"\r\n"
    count = text.count(crlf) if rules.to_lf else 0
    if not count:
        return text, ()
    note = f"{count:,} line ends were CRLF and were converted to LF"
    return text.replace(crlf, crlf[1:]), (note,)


def _likely_mistakes(text: str) -> tuple[str, ...]:
    """Note what is kept in a text but is probably a mistake."""
    notes = []
    # They are kept: dropping them would change the alphabet of saved runs.
    if count := text.count(_BYTE_ORDER_MARK):
        notes.append(
            f"byte order marks within the text, as in files joined by cat: {count:,}, read as the "
            "symbol U+FEFF; remove them from the file unless intended"
        )
    if "\n" not in text and (count := text.count("\r")) > 1:
        notes.append(
            f"the text has no LF and {count:,} CR: lines ended by CR alone are read as one line; "
            "convert them (tr '\\r' '\\n' < OLD > NEW) if they are lines"
        )
    return tuple(notes)


def looks_like_list(text: str | bytes) -> bool:
    """Return True if a text starts like a list: short lines of one or two words."""
    start = text[: 1 << 18]
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


_LIST_LINES = 100
_LIST_WORDS = 2
_LIST_LENGTH = 50
_WRAPPED_LENGTH = 30


def read_prompt(
    source: str | bytes, rules: ReadingRules, tokenizer: Tokenizer, field: str
) -> tuple[str, tuple[str, ...]]:
    """Decode a prompt as the run's text was; return it, and notes on changes.

    Args:
      source: words of the command line (bytes that are not UTF-8 as surrogate escapes), or the
        bytes of a file.
      rules: the run's rules.
      tokenizer: the run's tokenizer.
      field: the flag of the prompt, as messages name it.

    Raises:
      UserError: a file that is not UTF-8, while the run's text was.
    """
    if rules.encoding == "utf-8":
        if isinstance(source, bytes):
            if packed := _compression(source):
                raise UserError(
                    f"{field} is compressed by {packed[0]}; decompress it first ({packed[1]})"
                )
            _check_wide_encoding(source, field, "convert it to UTF-8")
            return _decode_characters(source, rules, field, field, "give a text file in UTF-8")
        return _normalize(source, rules)
    raw = source if isinstance(source, bytes) else source.encode("utf-8", "surrogateescape")
    raw, notes = _unify_line_ends(raw, rules)
    if rules.encoding is None:
        return raw.decode("utf-8", "surrogateescape"), notes
    text = raw.decode(rules.encoding)
    if isinstance(source, str):
        # A pasted sample of the run already consists of its symbols; so does ASCII.
        unknown = isinstance(tokenizer, CharTokenizer) and tokenizer.find_unknown(text).size > 0
        if text == source or unknown:
            return source, notes
        notes += (f"the prompt was read as {rules.encoding}, as the run's text was",)
    return text, notes
