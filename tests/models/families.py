"""Every family, small, with random parameters, for tests of properties common to all."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from charjax.config import FAMILIES as KINDS
from charjax.config import parse_config
from charjax.data.splits import Split
from charjax.models import CharModel, build
from charjax.models.mixture import COUNTS, Mixture
from charjax.models.word_contexts import fold_symbols

V, CONTEXT = 29, 12
# Eighteen letters of thirteen kinds, for families that know words.
SYMBOLS = "\n !',-.:;?3&AaBbCcDdEeFghijkl"

# Settings of families that are not listed below, where they have them.
SMALL = {"d_embed": 6, "d_hidden": 8, "d_model": 8, "n_layer": 2, "n_head": 2, "dropout": 0.5}
LISTED: dict[str, dict[str, Any]] = {
    "ngram": {"kind": "ngram", "order": 4},
    "bigram": {"kind": "bigram"},
    "bow": {"kind": "bow", "d_embed": 8},
    "mlp": {"kind": "mlp", "d_embed": 4, "hidden": (16, 8), "context_length": 4},
    "mlp-blank": {"kind": "mlp", "d_embed": 4, "blank": True, "context_length": 4},
    "mlp-batch_norm": {"kind": "mlp", "d_embed": 4, "norm": "batch", "context_length": 3},
    "wavenet": {"kind": "wavenet", "d_embed": 4, "d_hidden": 8, "context_length": 8},
    "wavenet-batch_norm": {
        "kind": "wavenet",
        "d_embed": 4,
        "d_hidden": 8,
        "context_length": 4,
        "norm": "batch",
    },
    "rnn": {"kind": "rnn", "d_embed": 6, "d_hidden": 8},
    "gru": {"kind": "gru", "n_layer": 2, "d_embed": 6, "d_hidden": 8, "dropout": 0.5},
    "lstm": {"kind": "lstm", "d_embed": 6, "d_hidden": 8},
    "transformer": {"kind": "transformer", "n_layer": 2, "n_head": 2, "d_model": 8},
    "transformer-other": {
        "kind": "transformer",
        "n_layer": 1,
        "n_head": 2,
        "d_model": 8,
        "dropout": 0.5,
        "bias": True,
        "tie_embeddings": False,
        "positions": "rotary",
        "activation": "gelu_tanh",
    },
    # The options of today's transformers, in two sets.
    "transformer-gated": {
        "kind": "transformer",
        "n_layer": 2,
        "n_head": 4,
        "n_kv_head": 2,
        "d_model": 16,
        "tie_embeddings": False,
        "positions": "rotary",
        "norm": "rmsnorm",
        "qk_norm": True,
        "window": 5,
        "activation": "swiglu",
        "attn_softcap": 2.0,
        "final_softcap": 3.0,
        "d_ff": 40,
        "rotary_base": 100.0,
        "norm_epsilon": 1e-3,
    },
    "transformer-window": {
        "kind": "transformer",
        "n_layer": 2,
        "n_head": 2,
        "d_model": 8,
        "bias": True,
        "activation": "relu2",
        "qk_norm": True,
        "window": 5,
    },
    # What schemes of initialisation need.
    "transformer-fixup": {
        "kind": "transformer",
        "n_layer": 2,
        "n_head": 2,
        "d_model": 8,
        "residual": "fixup",
        "attention_scale": "inverse",
    },
    "gru-counts": {"kind": "gru", "d_embed": 6, "d_hidden": 8, "counts": [2, 4]},
    "gru-words": {
        "kind": "gru",
        "d_embed": 6,
        "d_hidden": 8,
        "counts": [3],
        "count_words": 2,
        "count_temperature": 1.25,
    },
    "mlp-counts": {"kind": "mlp", "d_embed": 4, "context_length": 3, "counts": [5]},
    "transformer-counts": {
        "kind": "transformer",
        "n_layer": 2,
        "n_head": 2,
        "d_model": 8,
        "counts": 3,
    },
    "gru-layernorm": {"kind": "gru", "d_embed": 6, "d_hidden": 8, "norm": "layernorm"},
    "lstm-layernorm": {
        "kind": "lstm",
        "n_layer": 2,
        "d_embed": 6,
        "d_hidden": 8,
        "norm": "layernorm",
    },
}
FAMILIES = LISTED | {
    kind: {"kind": kind} | {key: SMALL[key] for key in SMALL if key in family.model_fields}
    for kind, family in KINDS.items()
    if all(settings["kind"] != kind for settings in LISTED.values())
}
TRAINED = [name for name, settings in FAMILIES.items() if not KINDS[settings["kind"]].fitted]


@dataclasses.dataclass(frozen=True)
class Family:
    """A model with random variables: no bias is zero and no gain one."""

    name: str
    model: CharModel
    variables: Any

    def __call__(self, tokens_BT, cache=None, num_outputs=None):
        return evaluate(self.model, self.variables, tokens_BT, cache, num_outputs)


@functools.partial(jax.jit, static_argnames=("model", "num_outputs"))
def evaluate(model, variables, tokens_BT, cache, num_outputs):
    """Compile once per family and shapes, for all tests."""
    return model.apply(variables, tokens_BT, cache, num_outputs=num_outputs)


def make_model(name: str, dtype=jnp.float32, **settings) -> CharModel:
    tree = {"context_length": CONTEXT} | FAMILIES[name] | settings
    data = {"layout": "pairs", "split": "shuffled_lines"}
    return build(parse_config({"model": tree, "data": data}).model, V, dtype)


def make_variables(model: CharModel) -> Any:
    if model.fitted:
        return model.fit(random_split(V, 600, seed=1))
    shape = (1, model.lookback + 1)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape, jnp.int32))
    rng = np.random.default_rng(2)

    def draw(path, leaf):
        low = 0.5 if "var" in jax.tree_util.keystr(path) else -1.0
        return jnp.asarray(rng.uniform(low, 1.0, leaf.shape), jnp.float32)

    drawn = jax.tree_util.tree_map_with_path(draw, variables)
    if isinstance(model, Mixture):
        return drawn | {COUNTS: model.count(random_split(V, 600, seed=1), fold_symbols(SYMBOLS))}
    return drawn


def random_split(vocab_size: int, length: int, seed: int) -> Split:
    """Return one document in which characters depend on the two before them."""
    rng = np.random.default_rng(seed)
    tokens = list(rng.integers(0, vocab_size, 3))
    while len(tokens) < length:
        sure = rng.random() < 0.7
        tokens.append(
            (2 * tokens[-1] + tokens[-2]) % vocab_size if sure else rng.integers(vocab_size)
        )
    return Split(np.array(tokens, np.uint8), np.array([0]), np.array([length - 1]))
