"""Each scheme in each family: the draw of each parameter, against formulas written here.

Nothing of `charjax.init` but the drawing itself is asked: what a parameter is, its fans, gates and
place are read off its path, and the formulas are those of the sources that the schemes name.

Letters of a kernel: n inputs, m outputs of one gate, d the stream's width, L blocks.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charjax import models
from charjax.config import parse_config
from charjax.init import initialise, scheme_for, scheme_names

V, CONTEXT = 40, 32
# The depth passed to the schemes; the model itself has one block, as all are drawn alike.
DEPTH = 6
FAMILIES: dict[str, dict[str, Any]] = {
    "bigram": {},
    "bow": {"d_embed": 64},
    "mlp": {"d_embed": 16, "hidden": (64, 96), "context_length": 4},
    "wavenet": {"d_embed": 32, "d_hidden": 64, "context_length": 4},
    "rnn": {"d_embed": 32, "d_hidden": 64, "n_layer": 2},
    "gru": {"d_embed": 32, "d_hidden": 64},
    "lstm": {"d_embed": 32, "d_hidden": 64},
    "transformer": {"d_model": 64, "n_layer": 1, "n_head": 2, "bias": True},
}
GATES = {"gru": ("reset", "update", "new"), "lstm": ("input", "forget", "cell", "output")}
BLOCKS = ("small_init", "tfixup", "deepnorm", "rezero", "layerscale", "depth_mup", "completep")
BLOCKS += ("fixup", "zero_output", "mup_zero_query", "umup")
# The families that a scheme is for, where not for all.
ONLY = dict.fromkeys(BLOCKS, ("transformer",)) | {
    "irnn": ("rnn",),
    "forget_bias": ("gru", "lstm"),
    "chrono": ("gru", "lstm"),
    "lsuv": ("bow", "mlp", "wavenet", "transformer"),
    "identity": ("mlp", "wavenet", "rnn", "gru", "lstm", "transformer"),
    "idinit": ("mlp", "wavenet", "transformer"),
    "delta_orthogonal": ("wavenet", "mlp"),
    "zeros": ("bigram", "bow", "mlp", "wavenet", "rnn", "gru", "lstm"),
    "unigram_readout": ("bow", "mlp", "wavenet", "rnn", "gru", "lstm"),
    **dict.fromkeys(
        ("small_readout", "zero_readout", "mup", "spectral"),
        ("bow", "mlp", "wavenet", "rnn", "gru", "lstm", "transformer"),
    ),
}
UNTIED = ("spectral", "umup")
NEEDS: dict[str, dict[str, Any]] = {
    "tfixup": {"residual": "plain"},
    "deepnorm": {"residual": "deepnorm"},
    "rezero": {"residual": "rezero"},
    "layerscale": {"residual": "layerscale"},
    "fixup": {"residual": "fixup"},
    "irnn": {"activation": "relu"},
}


class Place(NamedTuple):
    """Role of a parameter by its path; one gate of several."""

    part: str
    gate: str
    n: int
    m: int
    hidden: int | None
    gain: float
    norm: bool
    depth: int
    family: str
    tied: bool


Law = Callable[[np.ndarray], None]
Formula = Callable[[Place], Law]


# Laws: what must hold of an array


def normal(std: float) -> Law:
    def check(x: np.ndarray) -> None:
        close(x.std(), std, x.size)
        assert abs(x.mean()) < 5 * std / math.sqrt(x.size)
        # Not cut at two standard deviations.
        assert x.size < 2000 or np.abs(x).max() > 2.6 * std

    return check


def truncated(std: float) -> Law:
    """flax's: cut at two standard deviations, then made wider so that `std` is right."""

    def check(x: np.ndarray) -> None:
        close(x.std(), std, x.size)
        assert np.abs(x).max() <= 2 * std / 0.87962566 * (1 + 1e-6)

    return check


def uniform(half: float) -> Law:
    def check(x: np.ndarray) -> None:
        close(x.std(), half / math.sqrt(3), x.size)
        assert half * (1 - 20 / x.size) < np.abs(x).max() <= half * (1 + 1e-6)

    return check


def constant(value: float) -> Law:
    return lambda x: np.testing.assert_array_equal(x, np.float32(value))


def orthogonal(x: np.ndarray) -> None:
    short = x if x.shape[0] <= x.shape[1] else x.T
    np.testing.assert_allclose(short @ short.T, np.eye(len(short)), atol=1e-5)


def identity(x: np.ndarray) -> None:
    np.testing.assert_array_equal(x, np.eye(len(x)))


def eye(x: np.ndarray) -> None:
    np.testing.assert_array_equal(x, np.eye(*x.shape))


def padded(x: np.ndarray) -> None:
    """Expect output i to be input i mod n, with noise of 1e-6."""
    n, m = x.shape
    expected = np.array([[float(i == j % n) for j in range(m)] for i in range(n)])
    assert 1e-7 < np.abs(x - expected).max() < 1e-5


def zero_preserving(x: np.ndarray) -> None:
    """Expect 1e-6 (input i - input k) of output i: k = i + 1, or i + m where m < n."""
    n, m = x.shape
    for j in range(m):
        other = m + j % (n - m) if m < n else (j + 1) % n
        assert x[j % n, j] == np.float32(1e-6)
        assert x[other, j] == np.float32(-1e-6)
    assert np.count_nonzero(x) == 2 * m


def delta(x: np.ndarray) -> None:
    """Expect zeros but in the last rows, which are orthogonal."""
    rows = np.count_nonzero(np.any(x, axis=1))
    assert rows in (16, 32, 64)
    assert not x[:-rows].any()
    np.testing.assert_allclose(x[-rows:] @ x[-rows:].T, np.eye(rows), atol=1e-5)


def close(found: float, std: float, size: int) -> None:
    """Return five standard errors of a normal sample's standard deviation."""
    assert abs(found / std - 1) < 5 / math.sqrt(2 * size), (found, std, size)


ZERO, ONE = constant(0.0), constant(1.0)


# Formulas, from a place to a law


def of_table(std: Callable[[Place], float]) -> Formula:
    return lambda place: normal(std(place))


def per_vector(place: Place) -> Law:
    """Return the law of an embedding N(0, 1 / its width)."""
    return normal(1 / math.sqrt(place.m))


def fan_in(gain: float = 1.0) -> Formula:
    return lambda place: normal(gain / math.sqrt(place.n))


def lecun(place: Place) -> Law:
    return truncated(1 / math.sqrt(place.n))


def xavier(place: Place) -> float:
    return math.sqrt(2 / (place.n + place.m))


def always(law: Law) -> Formula:
    return lambda place: law


def kernels(
    kernel: Formula,
    table: Formula | None = None,
    bias: Formula | None = None,
    **special: Formula,
) -> dict[str, Formula]:
    """Return formulas: one for all kernels unless named, one for all biases."""
    parts = dict.fromkeys(("hidden", "recurrent", "output", "readout"), kernel)
    bias = bias or always(ZERO)
    parts |= {"table": table or kernel, "bias": bias, "gate_bias": bias, "readout_bias": bias}
    return parts | {"scale": always(ONE), "residual_gain": always(ONE)} | special


def torch_uniform(place: Place) -> Law:
    return uniform(1 / math.sqrt(place.hidden or place.n))


def unless_norm(formula: Formula) -> Formula:
    return lambda place: ZERO if place.norm else formula(place)


def by_block(base: Callable[[float], Law], std: Callable[[Place], float], small: float) -> Formula:
    """Return a formula: `std` times `small` L^(-1/4), except for queries and keys."""

    def formula(place: Place) -> Law:
        whole = place.gate in ("query", "key")
        return base(std(place) * (1 if whole else small * place.depth**-0.25))

    return formula


def forget_of_an_lstm(place: Place) -> Law:
    is_set = place.gate == "forget" and place.part == "gate_bias"
    return ONE if is_set else uniform(0.08)


def keeps(value: Law) -> Formula:
    return lambda place: value if place.gate in ("forget", "update") else ZERO


def chrono(place: Place) -> Law:
    sign = {"forget": 1, "update": 1, "input": -1}.get(place.gate, 0)

    def check(x: np.ndarray) -> None:
        if not sign:
            return ZERO(x)
        delay = np.exp(sign * x)
        close(delay.std(), (CONTEXT - 2) / math.sqrt(12), x.size)
        assert delay.min() >= 1 - 1e-5
        assert delay.max() <= CONTEXT - 1 + 1e-4
        return None

    return check


def spectral(place: Place) -> Law:
    return normal(min(1.0, math.sqrt(place.m / place.n)) / math.sqrt(place.n))


def in_mup(place: Place) -> Law:
    """Return an embedding's law: std 1/sqrt(d), in a stream 1/sqrt(base_width), 0.02 if tied."""
    if place.family not in ("bow", "transformer"):
        return normal(1 / math.sqrt(place.m))
    return normal(0.02 if place.tied else 1 / math.sqrt(128))


XAVIER_NORMAL = lambda place: normal(xavier(place))  # noqa: E731
XAVIER_UNIFORM = lambda place: uniform(math.sqrt(3) * xavier(place))  # noqa: E731
MUP = kernels(fan_in(), in_mup, readout=always(ZERO))
DEFAULT = kernels(lecun, per_vector, recurrent=always(orthogonal))
CRITICAL = unless_norm(always(normal(math.sqrt(0.05))))
T_FIXUP = by_block(uniform, lambda place: math.sqrt(3) * xavier(place), 0.67)
DEEP_NORM = by_block(normal, xavier, 8**-0.25)


def fixup(place: Place) -> Law:
    """Return the law of a branch of 4 layers (attention) or 2, of 2 * depth branches."""
    layers = 4 if place.gate else 2
    return uniform(math.sqrt(3) * xavier(place) * (2 * place.depth) ** (-1 / (2 * layers - 2)))


SCHEMES: dict[str, dict[str, Formula]] = {
    "default": DEFAULT,
    "pytorch": kernels(torch_uniform, always(normal(1.0)), unless_norm(torch_uniform)),
    "zeros": kernels(always(ZERO)),
    "normal": kernels(always(normal(1.0))),
    "uniform": kernels(
        always(uniform(0.08)), bias=always(uniform(0.08)), gate_bias=forget_of_an_lstm
    ),
    "lecun_normal": kernels(fan_in(), per_vector),
    "lecun_uniform": kernels(lambda place: uniform(math.sqrt(3 / place.n)), per_vector),
    "glorot_normal": kernels(XAVIER_NORMAL, per_vector),
    "glorot_uniform": kernels(XAVIER_UNIFORM, per_vector),
    "he_normal": kernels(
        lambda place: normal(place.gain / math.sqrt(place.n)), per_vector, readout=fan_in()
    ),
    "he_uniform": kernels(
        lambda place: uniform(place.gain * math.sqrt(3 / place.n)),
        per_vector,
        readout=lambda place: uniform(math.sqrt(3 / place.n)),
    ),
    "orthogonal": kernels(always(orthogonal), per_vector),
    "critical": kernels(
        lambda place: normal(math.sqrt(1.76095 / place.n)),
        always(normal(1.0)),
        CRITICAL,
        readout=fan_in(),
        readout_bias=always(ZERO),
    ),
    # What it draws first; a batch scales it then.
    "lsuv": kernels(always(orthogonal), per_vector),
    "small_readout": DEFAULT | {"readout": lambda place: truncated(0.01 / math.sqrt(place.n))},
    "zero_readout": DEFAULT | {"readout": always(ZERO)},
    "unigram_readout": DEFAULT
    | {
        "readout": always(ZERO),
        "readout_bias": always(lambda x: np.testing.assert_allclose(x, LOG_V, rtol=1e-6)),
    },
    "naive": kernels(always(normal(1.0)), bias=always(normal(1.0))),
    "naive_readout": kernels(
        always(normal(1.0)),
        bias=always(normal(1.0)),
        readout=always(normal(0.01)),
        readout_bias=always(ZERO),
    ),
    "naive_hidden": kernels(
        always(normal(1.0)),
        bias=always(normal(0.01)),
        hidden=always(normal(0.2)),
        readout=always(normal(0.01)),
        readout_bias=always(ZERO),
    ),
    "kaiming_tanh": kernels(
        always(normal(1.0)),
        bias=always(normal(0.01)),
        hidden=fan_in(5 / 3),
        readout=always(normal(0.01)),
        readout_bias=always(ZERO),
    ),
    "lecun_readout": kernels(fan_in(), always(normal(1.0)), readout=fan_in(0.1)),
    "gpt2": kernels(
        always(normal(0.02)), output=lambda place: normal(0.02 / math.sqrt(2 * place.depth))
    ),
    "small_init": kernels(always(normal(math.sqrt(2 / (5 * 64))))),
    "tfixup": kernels(
        XAVIER_UNIFORM,
        lambda place: normal((9 * place.depth) ** -0.25 / math.sqrt(place.m)),
        hidden=T_FIXUP,
        output=T_FIXUP,
    ),
    "deepnorm": kernels(XAVIER_NORMAL, per_vector, hidden=DEEP_NORM, output=DEEP_NORM),
    "rezero": kernels(XAVIER_UNIFORM, per_vector, residual_gain=always(ZERO)),
    "layerscale": kernels(always(normal(0.02)), residual_gain=always(constant(0.1))),
    "irnn": kernels(always(normal(0.001)), recurrent=always(identity)),
    "forget_bias": DEFAULT | {"gate_bias": keeps(ONE)},
    "chrono": DEFAULT | {"gate_bias": chrono},
    "mup": MUP,
    "depth_mup": MUP,
    "completep": MUP,
    "spectral": kernels(spectral, always(normal(1.0))),
    "fixup": kernels(
        always(ZERO), per_vector, hidden=fixup, output=always(ZERO), readout=always(ZERO)
    ),
    "zero_output": kernels(
        torch_uniform,
        lambda place: uniform(1 / math.sqrt(place.m)) if place.tied else normal(1.0),
        output=always(ZERO),
        readout=always(ZERO),
    ),
    "mup_zero_query": MUP
    | {"hidden": lambda place: ZERO if place.gate == "query" else fan_in()(place)},
    "umup": kernels(always(normal(1.0))),
    "identity": kernels(always(eye), per_vector, readout=lecun),
    "idinit": kernels(always(padded), per_vector, output=always(zero_preserving), readout=lecun),
    "delta_orthogonal": kernels(always(delta), per_vector, readout=always(orthogonal)),
    # What it draws first; a descent scales it then.
    "metainit": DEFAULT,
}
LOG_V = np.log(np.arange(1, V + 1) / np.arange(1, V + 1).sum()).astype(np.float32)
PARTS = (
    (r"(token_embedding|position_embedding)/embedding|logits", "table"),
    (r"readout/kernel", "readout"),
    (r"readout/bias", "readout_bias"),
    (r".*/hidden_kernel", "recurrent"),
    (r".*/(attention/out|mlp/down)/kernel", "output"),
    (r".*/(kernel|input_kernel)", "hidden"),
    (r".*/input_bias", "gate_bias"),
    # The second bias of a cell: as any other.
    (r".*/hidden_bias", "bias"),
    (r".*/residual_gain_\d", "residual_gain"),
    (r".*/scale", "scale"),
    (r".*/bias", "bias"),
)


def gain_of(path: str, family: str) -> float:
    if family in ("mlp", "wavenet") or (family == "rnn" and "kernel" in path):
        return 5 / 3
    return math.sqrt(2) if path.endswith("mlp/up/kernel") else 1.0


def check(scheme: str, path: str, x: np.ndarray, place: Place, shapes: dict[str, Any]) -> None:
    part = next(name for pattern, name in PARTS if re.fullmatch(pattern, path))
    names = GATES.get(place.family, ("",)) if "cell_" in path else ("",)
    names = ("query", "key", "value") if "attention/qkv/kernel" in path else names
    kernel = re.sub("bias$", "kernel", path)
    place = place._replace(
        part=part,
        n=next(iter(shapes.get(kernel, ())), 1),
        m=x.shape[-1] // len(names) if x.ndim else 1,
        hidden=64 if "cell_" in path else None,
        gain=gain_of(path, place.family),
        norm="norm" in path,
    )
    for name, gate in zip(names, np.split(x, len(names), axis=-1) if x.ndim else [x], strict=True):
        SCHEMES[scheme][part](place._replace(gate=name))(np.asarray(gate))


@functools.cache
def drawn(scheme: str, family: str, tied: bool) -> dict[str, np.ndarray]:
    settings = {"kind": family, "context_length": CONTEXT, **FAMILIES[family]}
    settings |= NEEDS.get(scheme, {}) if family in ("transformer", "rnn") else {}
    if family == "transformer":
        settings["tie_embeddings"] = tied
    config = parse_config(
        {"model": settings, "init": {"scheme": scheme}, "data": {"layout": "pairs"}}
    )
    model = models.build(config.model, V, jnp.float32)
    tokens_BT = jnp.zeros((1, model.lookback + 1), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
    tree = initialise(
        scheme_for(config), shapes, model.roles, jax.random.key(5), DEPTH, jnp.asarray(LOG_V)
    ).params
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(part.key for part in path): np.asarray(x) for path, x in leaves}


def hold(scheme: str, family: str, tied: bool) -> None:
    leaves = drawn(scheme, family, tied)
    shapes = {path: x.shape for path, x in leaves.items()}
    place = Place("", "", 0, 0, None, 1.0, False, DEPTH, family, tied)
    for path, x in leaves.items():
        try:
            check(scheme, path, x, place, shapes)
        except AssertionError as error:
            raise AssertionError(f"{scheme}, {family}, {path}: {error}") from error


def cases() -> list[Any]:
    """Yield every scheme with every family it supports; by default the family with most parts."""
    found = []
    for scheme in scheme_names():
        families = ONLY.get(scheme, tuple(FAMILIES))
        for family in families:
            both = family == "transformer" and scheme not in ("small_readout", "zero_readout")
            for tied in (False, True) if both and scheme not in UNTIED else (False,):
                first = family == families[-1] and not tied
                marks = [] if first else [pytest.mark.slow]
                found.append(pytest.param(scheme, family, tied, marks=marks))
    return found


def test_every_scheme_is_in_the_table():
    assert set(SCHEMES) == set(scheme_names())


@pytest.mark.parametrize(("scheme", "family", "tied"), cases())
def test_what_is_drawn(scheme, family, tied):
    hold(scheme, family, tied)


@pytest.mark.parametrize("scheme", ["uniform", "default", "pytorch"])
def test_what_is_drawn_for_gates(scheme):
    hold(scheme, "lstm", False)


@pytest.mark.parametrize(
    ("law", "x"),
    [
        (normal(1.0), np.full(5000, 1.0)),
        (normal(1.0), np.random.default_rng(0).normal(size=5000) * 1.1),
        (uniform(1.0), np.random.default_rng(0).normal(size=5000) / math.sqrt(3)),
        (truncated(1.0), np.random.default_rng(0).normal(size=5000)),
        (orthogonal, np.random.default_rng(0).normal(size=(8, 8)) / math.sqrt(8)),
        (identity, np.eye(8)[::-1]),
    ],
)
def test_a_law_refuses_what_is_not_of_it(law, x):
    with pytest.raises(AssertionError):
        law(x)
