#!/usr/bin/env bash
# Guess: rich.console.Console(file=FILE) prints to FILE, in a notebook as anywhere else: a program that
#   gives it an io.StringIO() prints nothing.
# Behaviour: in a Jupyter notebook the file is ignored. Every print becomes a display of HTML in the cell's
#   output, and nothing is written to the file. Console(file=FILE, force_jupyter=False) writes to it.
# Version: rich 15.0.0, ipykernel 7.4.0 (nbclient 0.11.0).
# Source: rich.console.Console._write_buffer, which asks is_jupyter first.
# Output seen:
#   file: ''; outputs of the cell: ['display_data']
#   force_jupyter=False: file: 'hello\n'; outputs of the cell: []
# What to do: pass force_jupyter=False wherever the output is not meant for the notebook, also to a Console
#   that only formats text; as in charjax/progress.py (tested in tests/test_progress.py and, in a real
#   notebook, in tests/test_notebooks.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet \
    rich==15.0.0 ipykernel==7.4.0 nbclient==0.11.0 2>/dev/null
"$folder/venv/bin/python" - <<'PROGRAM'
import sys

import nbclient
import nbformat

CODE = """
import io
from rich.console import Console
file = io.StringIO()
Console(file=file{}).print("hello")
written = file.getvalue()
"""
seen = []
for argument in ("", ", force_jupyter=False"):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(CODE.format(argument))]
    notebook.cells += [nbformat.v4.new_code_cell("written")]
    nbclient.NotebookClient(notebook, kernel_name="python3").execute()
    printing, value = notebook.cells
    written = value.outputs[0].data["text/plain"]
    kinds = [out.output_type for out in printing.outputs]
    print(f"{argument.strip(', ')}{': ' if argument else ''}file: {written}; outputs of the cell: {kinds}")
    seen.append((written, kinds))
sys.exit(0 if seen == [("''", ["display_data"]), (r"'hello\n'", [])] else 1)
PROGRAM
