#!/usr/bin/env bash
# Guess: jax.make_array_from_process_local_data adds up the rows of the processes, or fails where they
#   are uneven.
# Behaviour: without global_shape each process multiplies its own number of rows by the number of
#   processes: with 4 and 8 rows one holds an array of shape (8,), the other "the same" one of (16,), and
#   nothing is raised. With global_shape=(12,) both raise a ValueError.
# Version: jax and jaxlib 0.12.0.1, CPU, gloo, two processes on loopback.
# Source: https://docs.jax.dev/en/latest/_autosummary/jax.make_array_from_process_local_data.html
# Output seen:
#   process 0: (8,), then ValueError
#   process 1: (16,), then ValueError
# What to do: always give global_shape, or build the array by jax.make_array_from_callback, whose shape
#   is given (charjax.parallel.place).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet jax==0.12.0.1 jaxlib==0.12.0.1
cat > "$folder/process.py" <<'PROGRAM'
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

index = int(sys.argv[1])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, index)
rows = NamedSharding(Mesh(np.array(jax.devices()), ("row",)), PartitionSpec("row"))
mine = np.arange((4, 8)[index], dtype=np.float32)
found = jax.make_array_from_process_local_data(rows, mine)
try:
    jax.make_array_from_process_local_data(rows, mine, (12,))
    then = "an array"
except ValueError:
    then = "ValueError"
print(f"process {index}: {found.shape}, then {then}", flush=True)
jax.distributed.shutdown()
sys.exit((found.shape, then) != (((8,), (16,))[index], "ValueError"))
PROGRAM
export JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/venv/bin/python" "$folder/process.py" 1 "$port" &
other=$!
"$folder/venv/bin/python" "$folder/process.py" 0 "$port"
wait "$other"
