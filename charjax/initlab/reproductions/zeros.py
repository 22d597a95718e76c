"""Number 7: the names MLP from all zeros learns the frequencies of the letters, and no more.

With every weight 0 no gradient reaches a weight: the hidden units are 0, so the readout's weights
get none, and they are 0, so nothing behind them does (Building makemore Part 3).
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from charjax import parallel
from charjax.config import load_config
from charjax.data.splits import Split, target_counts
from charjax.random_streams import purpose_key
from charjax.reproduction.checks import Check, Mean, Poll, Progress, Tier, at_least, near
from charjax.training.program import compile_chunks
from charjax.training.session import (
    Session,
    first_state,
    open_session,
)
from charjax.training.state import TrainState, variables_of
from charjax.training.validation import score_split

_CHUNK = 4_000
_BIAS = "readout/bias"


def run(tier: Tier, progress: Progress, poll: Poll, steps: int = 40_000) -> list[Check]:
    """Train, and count what moved; both tiers alike.

    The learning rate falls tenfold after half of the steps.
    """
    words = ["init.scheme=zeros", f"train.steps={steps}", f"optim.boundaries=[{steps // 2}]"]
    session = open_session(load_config("names-mlp-naive", words))
    # The steps are too small to be worth splitting.
    alone = parallel.make_mesh(session.devices[:1], 1)
    source = parallel.place(session.source, parallel.replicated(alone))
    session = dataclasses.replace(session, mesh=alone, source=source)
    state = _trained(session, steps, progress, poll)
    train = session.dataset.splits["train"]
    moved = _moved(state.params)
    bias = moved.pop(_BIAS)
    of = f"one run of {steps:,} steps, names-mlp-naive with init.scheme=zeros"
    return [
        near(
            "entries moved, by a bit or more, in any parameter but the readout's bias",
            Mean(float(sum(moved.values()))),
            0.0,
            within=0.0,
            of=of,
        ),
        at_least("entries of the readout's bias that moved", Mean(float(bias)), 27, of=of),
        near(
            "training loss, against the entropy of the symbols",
            Mean(score_split(session, train, variables_of(state), poll).loss),
            entropy(train, session.dataset.tokenizer.vocab_size),
            within=0.01,
            of=of,
            unit="nats",
        ),
    ]


def entropy(split: Split, vocab_size: int) -> float:
    """Return the entropy of the targets' frequencies in a split, in nats."""
    counts_V = target_counts(split, vocab_size)
    share_V = counts_V[counts_V > 0] / counts_V.sum()
    return float(-np.sum(share_V * np.log(share_V)))


def _trained(session: Session, steps: int, progress: Progress, poll: Poll) -> TrainState:
    state, key = first_state(session), purpose_key(session.config.train.seed, "dropout")
    assert session.source is not None
    assert not any(_moved(state.params).values())
    program = compile_chunks(
        session.model, session.config, session.source, state, session.mesh, key
    )
    for first in range(0, steps, _CHUNK):
        count = min(_CHUNK, steps - first)
        state, _, _ = program.run(state, count)
        jax.block_until_ready(state)
        progress(first + count, steps)
        poll()
    return state


def _moved(params: Any) -> dict[str, int]:
    """Return by parameter the number of entries whose bits are not those of 0."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {
        "/".join(part.key for part in path): int(np.count_nonzero(np.asarray(leaf).view(np.uint32)))
        for path, leaf in leaves
    }
