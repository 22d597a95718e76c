#!/usr/bin/env bash
# Guess: optax.contrib.muon trains the parameters that are not its matrices by AdamW, as its docstring
#   says; the argument `nesterov`, described as Nesterov momentum of Muon, is True by default and
#   concerns the matrices.
# Behaviour: `nesterov` is passed to AdamW too, so that embeddings, biases and gains are trained by
#   NAdamW: steps are those of optax.nadamw, and differ from optax.adamw's. With
#   nesterov=False they are AdamW's, but then Muon has no Nesterov momentum either.
# Version: optax 0.2.8 with jax 0.10.0 and 0.12.0.1, on a CPU.
# Source: optax/contrib/_muon.py, the `adam` entry of combine.partition.
# Output seen (jax 0.12.0.1):
#   default: equal to nadamw True, largest difference from adamw 0.0096
#   nesterov=False: equal to adamw True
# What to do: combine optax.contrib.scale_by_muon and optax.scale_by_adam by optax.partition, as
#   charjax.training.optimizers.muon does (tested in tests/training/optimizers/test_muon.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
version=$("$folder/venv/bin/python" -c 'import sys; print("0.12.0.1" if sys.version_info >= (3, 12) else "0.10.0")')
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "jax==$version" "jaxlib==$version" "optax==0.2.8"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PROGRAM'
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

rng = np.random.default_rng(0)
gradients = [jnp.asarray(rng.normal(size=5), jnp.float32) for _ in range(3)]


def bias_after(optimizer):
    params = {"kernel": jnp.ones((4, 5)), "bias": jnp.ones(5)}
    state = optimizer.init(params)
    for gradient in gradients:
        grads = {"kernel": jnp.ones((4, 5)), "bias": gradient}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params["bias"])


adamw, nadamw = (bias_after(make(0.01, weight_decay=0.0)) for make in (optax.adamw, optax.nadamw))
default = bias_after(optax.contrib.muon(0.01))
plain = bias_after(optax.contrib.muon(0.01, nesterov=False))
is_nadamw = np.allclose(default, nadamw, rtol=1e-6)
gap = float(np.abs(default - adamw).max())
print(f"default: equal to nadamw {is_nadamw}, largest difference from adamw {gap:.2g}")
print(f"nesterov=False: equal to adamw {np.array_equal(plain, adamw)}")
sys.exit(0 if is_nadamw and gap > 1e-4 and np.array_equal(plain, adamw) else 1)
PROGRAM
