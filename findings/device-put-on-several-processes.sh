#!/usr/bin/env bash
# Guess: jax.device_put of one value to a sharding over several processes places it if every process
#   gives the same value, whatever its dtype.
# Behaviour: the processes' values are compared after a way through float32 and int32. The Python float
#   0.1, float64 arrays, 2**40 as int64 and every array that holds a NaN are refused as "not the same on
#   each process"; 0.5 and float32(0.1) are placed.
# Version: jax and jaxlib 0.12.0.1, CPU, gloo, two processes on loopback.
# Source: https://docs.jax.dev/en/latest/_autosummary/jax.device_put.html; the comparison is
#   jax.experimental.multihost_utils.assert_equal.
# Output seen:
#   placed: 0.5 float32(0.1)
#   refused: 0.1 float64(0.1) int64(2**40) float32(nan) [1, nan]
# What to do: place by jax.make_array_from_callback, which compares nothing (charjax.parallel.place), and
#   compare what has to be equal by a digest.
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

jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[1]))
whole = NamedSharding(Mesh(np.array(jax.devices()), ("device",)), PartitionSpec())
values = {
    "0.5": 0.5,
    "float32(0.1)": np.float32(0.1),
    "0.1": 0.1,
    "float64(0.1)": np.float64(0.1),
    "int64(2**40)": np.int64(2**40),
    "float32(nan)": np.float32("nan"),
    "[1, nan]": np.array([1, np.nan], np.float32),
}
refused = []
for name, value in values.items():
    try:
        jax.device_put(value, whole)
    except AssertionError as error:
        assert "not the same on each process" in str(error)
        refused.append(name)
if jax.process_index() == 0:
    print("placed:", *[name for name in values if name not in refused], sep=" ")
    print("refused:", *refused, sep=" ")
jax.distributed.shutdown()
sys.exit(refused != list(values)[2:])
PROGRAM
export JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/venv/bin/python" "$folder/process.py" 1 "$port" &
other=$!
"$folder/venv/bin/python" "$folder/process.py" 0 "$port"
wait "$other"
