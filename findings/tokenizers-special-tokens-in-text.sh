#!/usr/bin/env bash
# Guess: encode(text, add_special_tokens=False) gives no special token: a text that holds the characters
#   `<|endoftext|>` is encoded as those characters.
# Behaviour: it gives the special token. The flag only leaves out what a post-processor adds; added tokens
#   are searched in every text, unless encode_special_tokens is true.
# Version: tokenizers 0.23.3 and 0.21.0.
# Source: tokenizers.Tokenizer.encode, tokenizers.Tokenizer.encode_special_tokens.
# Output seen (0.23.3):
#   add_special_tokens=False: [65, 256, 66]
#   encode_special_tokens=True: [65, 27, 91, 68, 77, 67, 78, 69, 83, 68, 87, 83, 91, 29, 66]
# What to do: set encode_special_tokens=True before texts of other people are encoded
#   (charjax.data.subwords.BpeTokenizer).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "tokenizers==${VERSION:-0.23.3}"
"$folder/venv/bin/python" - <<'PROGRAM'
import sys

from tokenizers import Tokenizer, models, pre_tokenizers

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.add_special_tokens(["<|endoftext|>"])
found = tokenizer.encode("b<|endoftext|>c", add_special_tokens=False).ids
print("add_special_tokens=False:", found)
tokenizer.encode_special_tokens = True
plain = tokenizer.encode("b<|endoftext|>c", add_special_tokens=False).ids
print("encode_special_tokens=True:", plain)
sys.exit(0 if 256 in found and 256 not in plain else 1)
PROGRAM
