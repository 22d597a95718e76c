#!/usr/bin/env bash
# Guess: when run.finish() has returned, the offline file of a Weights & Biases run is complete.
# Behaviour: it holds 7 bytes, its header; the process wandb-core writes the rest a moment later, and
#   Python waits for that process only at its own exit (or in wandb.teardown()). A program that reads,
#   moves or syncs the file after finish() finds an empty run, without an error.
# Version: wandb 0.31.0.
# Source: wandb.Run.finish ("Finish a run and upload any remaining data").
# Output seen:
#   after finish: 7 bytes; after teardown: 6393 bytes
# What to do: call wandb.teardown() before the file is used, or wait for its exit record, as
#   tests/tracking/test_trackers.py does. `charjax log` and `charjax train` end with the process.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "wandb==0.31.0"
cd "$folder"
WANDB_MODE=offline WANDB_SILENT=true "$folder/venv/bin/python" - <<'PROGRAM'
import pathlib
import sys

import wandb

early = []
for number in range(5):
    run = wandb.init(dir=".", id=f"abcd000{number}")
    for step in range(20):
        run.log({"a": step}, step=step)
    run.finish()
    (path,) = pathlib.Path("wandb").glob(f"offline-run-*-abcd000{number}/*.wandb")
    early.append(path.stat().st_size)
wandb.teardown()
late = path.stat().st_size
print(f"after finish: {min(early)} bytes; after teardown: {late} bytes")
sys.exit(0 if min(early) < 100 < late else 1)
PROGRAM
