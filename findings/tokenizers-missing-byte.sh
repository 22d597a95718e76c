#!/usr/bin/env bash
# Guess: a byte-level BPE tokenizer cannot lose a part of a text; where its vocabulary lacks a byte, encode
#   raises an error.
# Behaviour: encode leaves the byte out, without an error, a warning or an unknown token. A trainer makes
#   such a vocabulary unless it is given initial_alphabet: it has the bytes of its own text alone.
# Version: tokenizers 0.23.3 and 0.21.0.
# Source: tokenizers.trainers.BpeTrainer (initial_alphabet), tokenizers.models.BPE (unk_token).
# Output seen (0.23.3):
#   a tokenizer trained on 'the cat' gives 'the dog!' back as 'the '
# What to do: train with initial_alphabet=ByteLevel.alphabet(); of a tokenizer.json from elsewhere, check
#   that the tokens of a text give it back (charjax.data.subwords.BpeTokenizer.encode).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "tokenizers==${VERSION:-0.23.3}"
"$folder/venv/bin/python" - <<'PROGRAM'
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.train_from_iterator(["the cat"], trainers.BpeTrainer(show_progress=False))
back = tokenizer.decode(tokenizer.encode("the dog!").ids)
print(f"a tokenizer trained on 'the cat' gives 'the dog!' back as {back!r}")
sys.exit(0 if back != "the dog!" else 1)
PROGRAM
