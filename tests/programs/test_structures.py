"""Structures of pytrees as JSON: equal when read back, and harmless whatever is written."""

import json

import jax
import jax.numpy as jnp
import pytest

from charjax.config import parse_config
from charjax.data.tokenizers import tokenizer_from_json
from charjax.models import build_model
from charjax.programs.structures import UnknownError, decode, encode
from charjax.training.state import create_state

KINDS = ["adamw", "muon", "schedule_free_adamw", "sgd", "lion"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_of_a_run_has_its_structure_again(kind):
    model = {"kind": "gru", "d_embed": 4, "d_hidden": 8, "context_length": 4}
    config = parse_config({"model": model, "optim": {"kind": kind}})
    symbols = tokenizer_from_json({"kind": "char", "symbols": "abc", "boundary": False})
    network = build_model(config, symbols)
    state = jax.eval_shape(lambda key: create_state(network, config, key), jax.random.key(0))
    structure = jax.tree.structure((state, [None, {"b": jnp.zeros(()), "a": ()}]))
    assert decode(json.loads(json.dumps(encode(structure)))) == structure


@pytest.mark.parametrize(
    "tree",
    [
        ["named", "os", "system", ["leaf"]],
        ["named", "subprocess", "Popen", ["leaf"]],
        ["named", "charjax.files", "replace", ["leaf", "leaf"]],
        ["named", "charjax.files", "os.mkdir", ["leaf"]],
        ["named", "charjax.training.state", "Counters", ["leaf"]],
        ["named", "charjax.training.state", "Gone", ["leaf"]],
    ],
)
def test_nothing_but_named_tuples_of_known_packages_is_made(tree):
    with pytest.raises(UnknownError):
        decode(tree)


def test_a_structure_of_other_nodes_is_not_stored():
    with pytest.raises(UnknownError):
        encode(jax.tree.structure({1: 2}))
