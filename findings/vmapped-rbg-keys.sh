#!/usr/bin/env bash
# Guess: under jax.vmap over R distinct keys of the rbg generator, run r draws what its key draws
#   alone, as with threefry; if not, all runs draw the same numbers.
# Behaviour: neither. The rows differ from one another, and the first is what the first key draws
#   alone; but all the others are the first key's too, and another key in their place changes
#   nothing. So run r's numbers depend on which run is first and on its place, not on its key.
# Version: jax 0.12.0.1, on a CPU.
# Source: documented in the docstring of jax.random, "Advanced RNG configuration"; for speed:
#   https://github.com/google/jax/issues/19085 (option 2), https://github.com/google/jax/pull/20094
# Output seen:
#   threefry2x32: each as alone [True, True, True, True], distinct 4, other keys behind the first [True, False, False, False]
#   rbg: each as alone [True, False, False, False], distinct 4, other keys behind the first [True, True, True, True]
# What to do: no rbg keys under vmap where a run has to be that of its own seed; charjax refuses
#   runtime.prng=rbg there (charjax.training.ensemble, tested in tests/training/test_prng.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
version=$("$folder/venv/bin/python" -c 'import sys; print("0.12.0.1" if sys.version_info >= (3, 12) else "0.10.0")')
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "jax==$version" "jaxlib==$version"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PROGRAM'
import sys

import jax
import numpy as np


def seen(impl):
    keys = jax.random.split(jax.random.key(0, impl=impl), 4)
    draw = lambda key: jax.random.bits(key, (1000,))
    together = np.asarray(jax.vmap(draw)(keys))
    alone = np.stack([np.asarray(draw(key)) for key in keys])
    # The same first key, the others replaced.
    others = jax.random.split(jax.random.key(1, impl=impl), 4).at[0].set(keys[0])
    replaced = np.asarray(jax.vmap(draw)(others))
    return {
        "each as alone": [bool((a == b).all()) for a, b in zip(together, alone)],
        "distinct": len({row.tobytes() for row in together}),
        "other keys behind the first": [bool((a == b).all()) for a, b in zip(together, replaced)],
    }


found = {impl: seen(impl) for impl in ("threefry2x32", "rbg")}
for impl, facts in found.items():
    print(f"{impl}: " + ", ".join(f"{name} {value}" for name, value in facts.items()))
expected = {
    "threefry2x32": ([True] * 4, 4, [True, False, False, False]),
    "rbg": ([True, False, False, False], 4, [True] * 4),
}
sys.exit(0 if {impl: tuple(facts.values()) for impl, facts in found.items()} == expected else 1)
PROGRAM
