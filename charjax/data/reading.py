"""Decode files and prompts, by rules that a run applies to its text and to every later one."""

import dataclasses
import os
from pathlib import Path
from typing import Any, AnyStr

from charjax.data.tokenizers import CharTokenizer, Tokenizer
from charjax.errors import UserError

# Of a text that is read into memory. Longer ones are streamed (`charjax.data.streaming`).
MOST_BYTES = 2_000_000_000
BYTE_ORDER_MARK = "\ufeff"


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
    check_file(path, field)
    try:
        size = os.stat(path).st_size
        if size > MOST_BYTES:
            raise too_large(path, field, size)
        return path.read_bytes()
    except OSError as error:
        raise cannot_read(path, field, error) from None


def check_file(path: Path, field: str) -> None:
    """Raise a UserError unless a path is that of a regular file; arguments as of `read_bytes`."""
    if not path.exists():
        raise UserError(f"{field}: {str(path)!r} does not exist; give a text file")
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "is not a regular file"
        raise UserError(f"{field}: {str(path)!r} {what}; give a text file")


def too_large(path: Path, field: str, size: int) -> UserError:
    """Return the error of a file that does not fit in memory."""
    return UserError(
        f"{field}: {str(path)!r} has {size:,} bytes, and at most {MOST_BYTES:,} are read into "
        "memory (texts of data.tokenizer=char or byte are not); give a part of it"
    )


def cannot_read(path: Path, field: str, error: OSError) -> UserError:
    """Return the error of a file that cannot be read."""
    reason = error.strerror or type(error).__name__
    return UserError(
        f"{field}: {str(path)!r} cannot be read ({reason}); give a file that you may read"
    )


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
    packed = check_form(raw[:FORM_BYTES], rules, name, field)
    text: str | bytes
    if rules.encoding is None:
        text, notes = _unify_line_ends(raw, rules)
    else:
        text, notes = _decode_characters(raw, rules, named, field, utf8_remedy(field))
    if not text:
        raise empty_file(name, field)
    return text, packed + notes


# The first bytes of a file, which show its form.
FORM_BYTES = 1 << 12


def check_form(start: bytes, rules: ReadingRules, name: str, field: str) -> tuple[str, ...]:
    """Check the first FORM_BYTES of a file; return a note if its bytes are compressed.

    Raises:
      UserError: characters are wanted, and it is compressed, or UTF-16 or UTF-32.
    """
    named, packed = f"{field}: {name!r}", _compression(start)
    if rules.encoding is None:
        if not packed:
            return ()
        return (f"the file is compressed by {packed[0]}, and its bytes are read without unpacking",)
    if packed:
        raise UserError(
            f"{named} is compressed by {packed[0]}; decompress it first ({packed[1]}), and give "
            "the text file"
        )
    _check_wide_encoding(start, named, utf8_remedy(field))
    return ()


def utf8_remedy(field: str) -> str:
    """Return what to do with a file that is not UTF-8."""
    bytes_too = ", or read its bytes with data.tokenizer=byte"
    return "convert it to UTF-8" + (bytes_too if field == "data.path" else "")


def empty_file(name: str, field: str) -> UserError:
    """Return the error of a file without text."""
    return UserError(f"{field}: {name!r} is empty; give a file with text in it")


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
        raise zero_bytes(named, field, nul, raw.count(10, 0, nul) + 1, raw.count(0))
    try:
        text = raw.decode(rules.encoding)
    except UnicodeDecodeError as error:
        start = error.start
        raise not_utf8(named, raw[start], start, raw.count(10, 0, start) + 1, remedy) from None
    text, notes = _normalize(text, rules)
    # A mark that is kept at the start is meant.
    marks = text.removeprefix("" if rules.drop_mark else BYTE_ORDER_MARK).count(BYTE_ORDER_MARK)
    return text, notes + likely_mistakes(marks, text.count("\r"), has_newline="\n" in text)


def zero_bytes(named: str, field: str, offset: int, line: int, count: int) -> UserError:
    """Return the error of a file with zero bytes, the first of them at an offset and line."""
    choice = ", or read its bytes with data.tokenizer=byte" if field == "data.path" else ""
    return UserError(
        f"{named} is not text: it has a zero byte at offset {offset:,} (line {line:,}; {count:,} "
        f"in all); remove these bytes (tr -d '\\000' < OLD > NEW){choice}"
    )


def not_utf8(named: str, byte: int, offset: int, line: int, remedy: str) -> UserError:
    """Return the error of a file with a byte that is not UTF-8."""
    return UserError(
        f"{named} is not UTF-8: byte 0x{byte:02X} at offset {offset:,} (line {line:,}); {remedy}"
    )


def _normalize(text: str, rules: ReadingRules) -> tuple[str, tuple[str, ...]]:
    """Drop the first byte order mark, convert line ends to LF, and note the changes."""
    mark = rules.drop_mark and text.startswith(BYTE_ORDER_MARK)
    text, notes = _unify_line_ends(text[1:] if mark else text, rules)
    return text, mark_note(dropped=mark) + notes


def mark_note(*, dropped: bool) -> tuple[str, ...]:
    """Note that the byte order mark at the start was dropped."""
    return ("the byte order mark at the start of the text was dropped",) if dropped else ()


def _unify_line_ends(text: AnyStr, rules: ReadingRules) -> tuple[AnyStr, tuple[str, ...]]:
    crlf: Any = "\r\n" if isinstance(text, str) else b"\r\n"
    count = text.count(crlf) if rules.to_lf else 0
    if not count:
        return text, ()
    return text.replace(crlf, crlf[1:]), line_ends_note(count)


def line_ends_note(count: int) -> tuple[str, ...]:
    """Note how many line ends were CRLF."""
    return (f"{count:,} line ends were CRLF and were converted to LF",) if count else ()


def likely_mistakes(marks: int, returns: int, *, has_newline: bool) -> tuple[str, ...]:
    """Note what is kept in a text but is probably a mistake.

    Args:
      marks: byte order marks within the text.
      returns: its carriage returns.
      has_newline: it has an LF.
    """
    notes = []
    # They are kept: dropping them would change the alphabet of saved runs.
    if marks:
        notes.append(
            f"byte order marks within the text, as in files joined by cat: {marks:,}, read as the "
            "symbol U+FEFF; remove them from the file unless intended"
        )
    if not has_newline and returns > 1:
        notes.append(
            f"the text has no LF and {returns:,} CR: lines ended by CR alone are read as one line; "
            "convert them (tr '\\r' '\\n' < OLD > NEW) if they are lines"
        )
    return tuple(notes)


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
