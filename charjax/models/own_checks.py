"""The contract of `charjax.models.CharModel`, checked before the first step of a user's own code.

A family is computed on a few random tokens with random parameters: outputs, causality, the cache.
An activation is computed on a grid.

Letters: B batch, T time, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax.errors import UserError
from charjax.models.contract import CharModel
from charjax.models.own import own_activation
from charjax.models.roles import parameter_of

# The activation's arguments: pre-activations are this large only in a network drawn very large.
_LARGEST, _POINTS = 30.0, 2401
_ROWS, _LENGTH = 2, 8
# Causality is checked on longer texts, between which a cut is made at these places: within, before
# and after pieces of a length that is a power of two.
_LONG, _CUTS = 48, (*range(10), 15, 16, 17, 31, 32, 33, 47)
_TOLERANCE = 1e-3


def check_activation(name: str) -> None:
    """Check a user's activation: elementwise, float32, it and its derivative finite on [-30, 30].

    Raises:
      UserError: it is not.
    """
    act = own_activation(name)
    grid = jnp.linspace(-_LARGEST, _LARGEST, _POINTS, dtype=jnp.float32)
    # Exactly: where weights are 0, so are all arguments.
    grid = grid.at[_POINTS // 2].set(0.0)

    def refuse(problem: str) -> UserError:
        return UserError(f"model.activation: {name!r} {problem}")

    with jax.numpy_dtype_promotion("standard"):
        values = act(grid)
        if isinstance(values, np.ndarray):
            raise refuse("returns an array of NumPy's; write it with functions of jax.numpy")
        if not isinstance(values, jax.Array) or values.shape != grid.shape:
            what = getattr(values, "shape", type(values).__name__)
            raise refuse(f"returns {what} for an array of shape {grid.shape}; it must keep it")
        if values.dtype != grid.dtype:
            raise refuse(f"returns {values.dtype} for float32; it must return float32")
        block = act(grid[:_ROWS, None] * jnp.ones((1, 3), jnp.float32))
        half = act(grid[: _POINTS // 2])
        derivatives = jax.jvp(act, (grid,), (jnp.ones_like(grid),))[1]
    if block.shape != (_ROWS, 3) or not np.allclose(
        half, values[: _POINTS // 2], 1e-4, 1e-5, equal_nan=True
    ):
        raise refuse("depends on the other elements of its argument; it must be elementwise")
    for what, array in (("value", values), ("derivative", derivatives)):
        wrong = np.asarray(grid)[~np.isfinite(np.asarray(array))]
        if wrong.size:
            at = min(wrong.tolist(), key=abs)
            raise refuse(
                f"has a {what} that is not finite at x = {at:g}; it must be finite from "
                f"{-_LARGEST:g} to {_LARGEST:g}"
            )

    _check_kinks(getattr(act, "kinks", ()), refuse)


def _check_kinks(kinks: Any, refuse: "Refuse") -> None:
    """Check the arguments at which a function says that it is not smooth."""
    try:
        wrong = not np.isfinite(np.asarray(kinks, np.float64)).all() or np.ndim(kinks) != 1
    except (TypeError, ValueError):
        wrong = True
    if wrong:
        raise refuse(
            f"has kinks = {kinks!r}; they must be a tuple of finite numbers, as in kinks = (0.0,)"
        )


def check_family(kind: str, model: CharModel) -> None:
    """Check that a user's model fulfils the contract.

    Raises:
      UserError: it does not; the message names the point of the contract.
    """

    def refuse(problem: str) -> UserError:
        return UserError(f"model.kind: {kind!r} {problem}")

    if model.memory == "windowed" and not isinstance(model.capacity, int):
        raise refuse("has windowed memory and no capacity; give it the property `capacity`")
    if model.memory == "finite" and model.lookback < 0:
        raise refuse(f"has lookback {model.lookback}; it must be 0 or more")
    variables = _random_variables(model, refuse)
    T = min(_LENGTH, model.capacity or _LENGTH)
    tokens_BT = np.random.default_rng(0).integers(0, model.vocab_size, (_ROWS, T)).astype(np.int32)
    run = jax.jit(model.apply, static_argnames="num_outputs")
    expected, cache = _outputs(run(variables, tokens_BT), refuse)
    if expected.shape != (_ROWS, T, model.vocab_size) or expected.dtype != np.float32:
        raise refuse(
            f"returns logits of shape {expected.shape}, {expected.dtype}, for tokens of shape "
            f"{tokens_BT.shape}; they must be {(_ROWS, T, model.vocab_size)}, float32"
        )
    if not np.isfinite(expected).all():
        raise refuse("returns logits that are not finite")
    if model.memory != "carried" and cache is not None:
        raise refuse("returns a cache although it was given none; only carried memory does")
    _check_causal(model, variables, refuse, train=False)
    if "batch_stats" not in variables:  # of the batch, which is not causal
        _check_causal(model, variables, refuse, train=True)
    last, _ = _outputs(run(variables, tokens_BT, num_outputs=1), refuse)
    if last.shape != expected[:, -1:].shape or not _close(last, expected[:, -1:]):
        raise refuse("with num_outputs=1 does not return the last position's logits alone")
    _check_cache(model, run, variables, tokens_BT, expected, refuse)


Refuse = Callable[[str], UserError]


def _random_variables(model: CharModel, refuse: Refuse) -> Any:
    """Return variables none of which is 0, so that every path through the model is open."""
    tokens_BT = jnp.zeros((1, model.lookback + 1), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)
    if "params" not in shapes:
        raise refuse("has no parameters to train")
    for path, leaf in jax.tree_util.tree_flatten_with_path(shapes["params"])[0]:
        name = "/".join(str(getattr(part, "key", part)) for part in path)
        try:
            parameter_of(model.roles, name)
        except ValueError as error:
            raise refuse(f"has roles that do not fit: {error}; see charjax.models.roles") from None
        if leaf.dtype != jnp.float32:
            raise refuse(f"has the parameter {name!r} of {leaf.dtype}; parameters are float32")
    rng = np.random.default_rng(2)

    def draw(path: Any, leaf: Any) -> Array:
        low = 0.5 if "var" in jax.tree_util.keystr(path) else -1.0
        return jnp.asarray(rng.uniform(low, 1.0, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _outputs(returned: Any, refuse: Refuse) -> tuple[np.ndarray, Any]:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise refuse("must return two things: the logits and the cache (None without one)")
    return np.asarray(returned[0]), returned[1]


def _check_causal(model: CharModel, variables: Any, refuse: Refuse, *, train: bool) -> None:
    """Change the tokens from each cut on, in a row of its own, and compare what is before.

    Sums over so many tokens with random parameters may overflow, in both in the same places.
    """
    longest = model.capacity or getattr(model, "context_length", None) or _LONG
    T = min(_LONG, longest)
    cuts = [cut for cut in _CUTS if cut < T]
    tokens_T = np.random.default_rng(1).integers(0, model.vocab_size, T).astype(np.int32)
    tokens_BT = np.tile(tokens_T, (len(cuts), 1))
    later_BT = np.arange(T) >= np.array(cuts)[:, None]
    changed_BT = np.where(later_BT, (tokens_BT + 1) % model.vocab_size, tokens_BT).astype(np.int32)
    # The same masks of dropout both times.
    rngs = {"dropout": jax.random.key(3)} if train else {}
    run = jax.jit(functools.partial(model.apply, train=train, rngs=rngs))
    (expected, _), (other, _) = (
        _outputs(run(variables, each), refuse) for each in (tokens_BT, changed_BT)
    )
    for row, cut in enumerate(cuts):
        if not _close(other[row, :cut], expected[row, :cut]):
            when = " in training" if train else ""
            raise refuse(
                f"is not causal{when}: its logits before position {cut} change with the tokens "
                "from there on"
            )
    at = np.arange(len(cuts)), np.array(cuts)
    if not train and model.vocab_size > 1 and np.array_equal(other[at], expected[at]):
        raise refuse("does not read its tokens: its logits are the same for others")


def _check_cache(
    model: CharModel, run: Any, variables: Any, tokens_BT: np.ndarray, expected: Any, refuse: Refuse
) -> None:
    cache = model.init_cache(len(tokens_BT))
    for t in range(tokens_BT.shape[1]):
        logits, new = _outputs(run(variables, tokens_BT[:, t : t + 1], cache), refuse)
        if _shapes(new) != _shapes(cache):
            raise refuse(
                "returns a cache of another structure, shape or dtype than init_cache: "
                f"{_shapes(new)[1]} for {_shapes(cache)[1]}"
            )
        if logits.shape != expected[:, t : t + 1].shape or not _close(
            logits, expected[:, t : t + 1]
        ):
            raise refuse(
                f"computes other logits one token at a time, with its cache, than all at once: at "
                f"position {t}"
            )
        cache = new


def _shapes(tree: Any) -> tuple[Any, list[str]]:
    leaves, structure = jax.tree.flatten(tree)
    arrays = [jnp.asarray(leaf) for leaf in leaves]
    return structure, [f"{array.dtype}{list(array.shape)}" for array in arrays]


def _close(actual: np.ndarray, wanted: np.ndarray) -> bool:
    size = float(np.abs(wanted).max(initial=1.0, where=np.isfinite(wanted)))
    return np.allclose(actual, wanted, rtol=0, atol=_TOLERANCE * size, equal_nan=True)
