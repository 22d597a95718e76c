#!/usr/bin/env bash
# Guess: what a flax layer sows, and what capture_intermediates catches in it, is there whether layers
#   stand in a Python loop or under nn.scan.
# Behaviour: under nn.scan a collection that variable_axes does not name is dropped without a word: three
#   scanned layers that each sow a norm leave {}, and only the outer module's output is captured.
#   With variable_axes={"params": 0, "seen": 0} the sown values come back stacked; captured
#   intermediates of the layers still need "intermediates" to be named.
# Version: flax 0.12.12, jax and jaxlib 0.12.0.1.
# Source: https://flax-linen.readthedocs.io/en/latest/api_reference/flax.linen/_autosummary/flax.linen.scan.html
# Output seen:
#   loop: 3 sown, 7 captured
#   scan: 0 sown, 1 captured
#   scan that names both: 3 sown, 7 captured
# What to do: name every collection that a probe reads in variable_axes, or probe a model whose layers
#   are not scanned.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet flax==0.12.12 jax==0.12.0.1 jaxlib==0.12.0.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PROGRAM'
import sys

import jax
import jax.numpy as jnp
from flax import linen as nn

DEPTH = 3


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        self.sow("seen", "norm", jnp.linalg.norm(x))
        return nn.Dense(4)(x), None


class Loop(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(DEPTH):
            x, _ = Layer()(x, None)
        return x


class Scan(nn.Module):
    named: tuple = ()

    @nn.compact
    def __call__(self, x):
        axes = {"params": 0, **dict.fromkeys(self.named, 0)}
        layers = nn.scan(Layer, variable_axes=axes, split_rngs={"params": True}, length=DEPTH)
        return layers()(x, None)[0]


def count(tree):
    """Count arrays, a stacked one as the layers in it."""
    return sum(DEPTH if leaf.shape[:1] == (DEPTH,) else 1 for leaf in jax.tree.leaves(tree))


x, found = jnp.ones((2, 4)), []
both = Scan(("seen", "intermediates"))
for name, model in {"loop": Loop(), "scan": Scan(), "scan that names both": both}.items():
    params = {"params": model.init(jax.random.key(0), x)["params"]}
    _, sown = model.apply(params, x, mutable=["seen"])
    _, captured = model.apply(
        params, x, mutable=["intermediates"], capture_intermediates=True
    )
    found.append((count(sown), count(captured)))
    print(f"{name}: {found[-1][0]} sown, {found[-1][1]} captured")
sys.exit(found[:2] != [(3, 7), (0, 1)] or found[2][0] != 3)
PROGRAM
