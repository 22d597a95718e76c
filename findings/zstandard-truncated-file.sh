#!/usr/bin/env bash
# Guess: reading a compressed file that is cut short raises an error, as gzip's EOFError.
# Behaviour: zstandard.open, stream_reader, read_to_iter, copy_stream and decompressobj return the first
#   part of the text, without an error or a warning; zstandard.decompress alone raises ZstdError.
# Version: zstandard 0.25.0.
# Source: https://github.com/indygreg/python-zstandard, zstandard.open and ZstdDecompressor.
# Output seen (0.25.0):
#   a file cut to half gives 499995 of 1000000 bytes; gzip raises EOFError
# What to do: decompress with decompressobj(), whose `eof` is false after the last byte of a file that is
#   cut short; a new one begins with `unused_data`, for files of several frames (charjax.data.compressed).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "zstandard==${VERSION:-0.25.0}"
"$folder/venv/bin/python" - <<'PROGRAM'
import gzip
import io
import random
import sys

import zstandard

raw = random.Random(0).randbytes(1_000_000)
packed = zstandard.compress(raw)
found = len(zstandard.open(io.BytesIO(packed[: len(packed) // 2])).read())
try:
    gzip.open(io.BytesIO(gzip.compress(raw)[:500_000])).read()
    sys.exit("gzip raises nothing either")
except EOFError:
    print(f"a file cut to half gives {found} of {len(raw)} bytes; gzip raises EOFError")
sys.exit(0 if 0 < found < len(raw) else 1)
PROGRAM
