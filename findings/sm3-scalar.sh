#!/usr/bin/env bash
# Guess: optax.sm3 trains parameters of any number of axes, as every other optimizer of optax.
# Behaviour: a scalar, such as a gain or a temperature, fails at the first update with "IndexError: list
#   index out of range", from within optax; `init` accepts it. An array of one number works.
# Version: optax 0.2.8 with jax 0.10.0 and 0.12.0.1, on a CPU.
# Source: optax/_src/transform.py, scale_by_sm3: one accumulator for each axis, and the first one is read.
# Output seen (jax 0.12.0.1):
#   scalar: IndexError: list index out of range
#   array of one number: moved
#   the other optimizers that move a scalar: adam, adagrad, lion, yogi
# What to do: reshape scalars to (1,) before, and back, as charjax.training.optimizers.directions does
#   (tested in tests/training/optimizers/test_directions.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
version=$("$folder/venv/bin/python" -c 'import sys; print("0.12.0.1" if sys.version_info >= (3, 12) else "0.10.0")')
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "jax==$version" "jaxlib==$version" "optax==0.2.8"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PROGRAM'
import sys

import jax.numpy as jnp
import optax


def moved(optimizer, parameter):
    updates, _ = optimizer.update(jnp.ones_like(parameter), optimizer.init(parameter), parameter)
    return bool((updates != 0).all())


failure = ""
try:
    moved(optax.sm3(0.1), jnp.float32(1.0))
except IndexError as error:
    failure = f"{type(error).__name__}: {error}"
print(f"scalar: {failure}")
works = moved(optax.sm3(0.1), jnp.ones(1))
print(f"array of one number: {'moved' if works else 'not moved'}")
others = [
    name
    for name in ("adam", "adagrad", "lion", "yogi")
    if moved(getattr(optax, name)(0.1), jnp.float32(1.0))
]
print(f"the other optimizers that move a scalar: {', '.join(others)}")
sys.exit(0 if failure and works and len(others) == 4 else 1)
PROGRAM
