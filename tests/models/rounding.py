"""A reference for compute in bfloat16: products of rounded numbers, all else in float32.

It is made of the float32 program, by evaluating that operation by operation with the operands of
every product rounded first; so it knows nothing of where a model rounds.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Literal

_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat")
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def with_rounded_products(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a float32 function with the operands of its products rounded to bfloat16."""

    def rounded(*args: Any) -> Any:
        program, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        outputs = _evaluate(program.jaxpr, program.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return rounded


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yield every equation of a program and of its inner programs."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            # What combines two updates of a scatter is no operation of the program.
            if hasattr(inner, "eqns") and not equation.primitive.name.startswith("scatter"):
                yield from equations(inner)


def _evaluate(jaxpr: Any, consts: Any, args: list[Any]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for equation in jaxpr.eqns:
        operands = [v.val if isinstance(v, Literal) else values[v] for v in equation.invars]
        outputs = _apply(equation, operands)
        if not equation.primitive.multiple_results and not isinstance(outputs, list):
            outputs = [outputs]
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return [v.val if isinstance(v, Literal) else values[v] for v in jaxpr.outvars]


def _apply(equation: Any, operands: list[Any]) -> Any:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _scan(equation, operands)
    if name in _CALLS:
        inner = next(params[key] for key in _INNER if key in params)
        return _evaluate(getattr(inner, "jaxpr", inner), getattr(inner, "consts", []), operands)
    if name == "dot_general":
        operands = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in operands]
    assert name.startswith("scatter") or not any(
        hasattr(getattr(value, "jaxpr", value), "eqns") for value in params.values()
    ), f"{name} holds a program"
    return equation.primitive.bind(*operands, **params)


def _scan(equation: Any, operands: list[Any]) -> list[Any]:
    """Distinguish the parts of a scan by their axes, which JAX's versions name differently."""
    inner = equation.params["jaxpr"]
    body, consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", [])
    carried = _alike(equation.outvars, body.outvars)
    fixed = _alike(equation.invars, body.invars) - carried

    def step(carry: list[Array], x: list[Array]) -> tuple[list[Array], list[Array]]:
        out = _evaluate(body, consts, [*operands[:fixed], *carry, *x])
        return out[:carried], out[carried:]

    start, xs = operands[fixed : fixed + carried], operands[fixed + carried :]
    carry, ys = jax.lax.scan(
        step, start, xs, length=equation.params["length"], reverse=equation.params["reverse"]
    )
    return [*carry, *ys]


def _alike(outer: list[Any], inner: list[Any]) -> int:
    """Count the variables without a leading axis to scan over."""
    return sum(a.aval.ndim == b.aval.ndim for a, b in zip(outer, inner, strict=True))
