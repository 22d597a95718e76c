#!/usr/bin/env bash
# Guess: the gradient of the tanh form of GELU at a large finite float32 number is 1 (or 0 at a large
#   negative one), as that of the erf form is: the value there is x (or 0), and nothing overflows.
# Behaviour: it is NaN from about |x| = 2e19 on, while the value stays right. The derivative of the
#   cubic inside the tanh holds x squared, which overflows to infinity; the derivative of the tanh is 0
#   there, and 0 times infinity is NaN. The erf form gives 1 and 0.
# Version: jax 0.10.0 and 0.12.0.1, on a CPU.
# Source: jax.nn.gelu(x, approximate=True), the default of that function.
# Output seen (jax 0.12.0.1):
#   1e+10 tanh: value 1e+10, gradient 1.0; erf: gradient 1.0
#   1e+20 tanh: value 1e+20, gradient nan; erf: gradient 1.0
#   -1e+20 tanh: value -0, gradient nan; erf: gradient 0.0
# What to do: one such activation of a diverging network makes every gradient NaN one step before
#   the loss is. Use the erf form, or a custom derivative that is 0 or 1 there, as in
#   charjax.ops.activation (tested in tests/ops/test_ops.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
version=$("$folder/venv/bin/python" -c 'import sys; print("0.12.0.1" if sys.version_info >= (3, 12) else "0.10.0")')
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "jax==$version" "jaxlib==$version"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PROGRAM'
import sys

import jax
import jax.numpy as jnp


def forms(x):
    tanh, erf = (lambda x, a=a: jax.nn.gelu(x, approximate=a) for a in (True, False))
    x = jnp.float32(x)
    return float(tanh(x)), float(jax.grad(tanh)(x)), float(jax.grad(erf)(x))


seen = {x: forms(x) for x in (1e10, 1e20, -1e20)}
for x, (value, gradient, other) in seen.items():
    print(f"{x:g} tanh: value {value:g}, gradient {gradient}; erf: gradient {other}")
is_nan = [gradient != gradient for _, gradient, _ in seen.values()]
sys.exit(0 if is_nan == [False, True, True] else 1)
PROGRAM
