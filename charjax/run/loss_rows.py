"""The loss of each character and of each line of a text, as rows for JSON lines and CSV.

Letters: N tokens, C characters.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TextIO

import numpy as np

from charjax.data.tokenizers import CharTokenizer, Tokenizer
from charjax.units import bits_per_character, perplexity

Format = Literal["jsonl", "csv"]


def characters(
    tokenizer: Tokenizer, tokens_N: np.ndarray, losses_N: np.ndarray
) -> tuple[str, np.ndarray]:
    """Return the characters of a text and the loss of each, (C,) float64 in nats.

    The loss of a token is divided equally among its bytes, and that of a character is the sum over
    its bytes: so the losses of any part of a text add up to those of its tokens. Bytes that are not
    UTF-8 are joined with the character they seem to continue, and shown as U+FFFD.
    """
    losses_N = losses_N.astype(np.float64)
    if isinstance(tokenizer, CharTokenizer):
        return tokenizer.decode(tokens_N), losses_N
    raw = np.frombuffer(tokenizer.to_bytes(tokens_N), np.uint8)
    if not raw.size:
        return "", losses_N[:0]
    lengths_N = tokenizer.byte_counts()[tokens_N]
    losses_B = np.repeat(losses_N / np.maximum(lengths_N, 1), lengths_N)
    # Continuation bytes are 10xxxxxx.
    starts = np.flatnonzero((raw & 0xC0) != 0x80)
    starts = starts if starts.size and starts[0] == 0 else np.concatenate([[0], starts])
    ends = np.append(starts[1:], raw.size)
    texts = [
        bytes(raw[start:end]).decode("utf-8", "replace")
        for start, end in zip(starts, ends, strict=True)
    ]
    whole = "".join(text if len(text) == 1 else "\ufffd" for text in texts)
    return whole, np.add.reduceat(losses_B, starts)


def by_character(text: str, losses_C: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield index, line (from 1), character and loss; None where nothing stands before it."""
    line = 1
    for index, (character, loss) in enumerate(zip(text, losses_C.tolist(), strict=True)):
        yield {
            "index": index,
            "line": line,
            "character": character,
            "loss": None if math.isnan(loss) else loss,
        }
        line += character == "\n"


def by_line(text: str, losses_C: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield line (from 1), characters, bytes, loss (mean), bpc, bpb, perplexity, total and text.

    Loss and perplexity are per character. A newline belongs to the line that it ends; characters
    without a loss are not counted.
    """
    begin = 0
    # Not splitlines: only LF ends a line here.
    for number, line in enumerate(re.findall(r"[^\n]*\n|[^\n]+", text), start=1):
        part = losses_C[begin : begin + len(line)]
        begin += len(line)
        counted = part[~np.isnan(part)]
        total = float(counted.sum())
        mean = total / counted.size if counted.size else None
        known = [char for char, loss in zip(line, part.tolist(), strict=True) if loss == loss]
        size = len("".join(known).encode("utf-8", "surrogatepass"))
        yield {
            "line": number,
            "characters": int(counted.size),
            "bytes": size,
            "loss": mean,
            "bpc": None if mean is None else bits_per_character(mean),
            "bpb": bits_per_character(total / size) if size else None,
            "perplexity": None if mean is None else perplexity(mean),
            "total": total,
            "text": line.removesuffix("\n"),
        }


def write(rows: Iterable[dict[str, Any]], file: TextIO, form: Format) -> None:
    """Write rows as JSON lines, or as CSV with a header; a loss that is not finite is null."""
    if form == "jsonl":
        for row in rows:
            file.write(json.dumps(_finite(row), allow_nan=False, ensure_ascii=False) + "\n")
        return
    writer = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(_finite(row))


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
