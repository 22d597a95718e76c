"""The probes of several seeds combined into one tree for JSON."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from charjax.initlab.activations.layers import Layer, find_layers
from charjax.initlab.probes.network import SeedProbe
from charjax.training.session import Session

# Over seeds: {"mean", "std"}, the latter with n - 1; null where a value is not finite.
Number = dict[str, float | None]


def summarise(session: Session, probes: list[SeedProbe]) -> dict[str, Any]:
    """Return the config, the initial loss, one entry per layer, and figures of the whole network.

    Entries that do not apply to a family are null.
    """
    params = sum(math.prod(shape) for shape in _shapes(session))
    config = session.config
    return {
        "config": config.model_dump(mode="json"),
        "text": config.data.path or config.data.name,
        "family": config.model.kind,
        "scheme": config.init.scheme,
        "vocabulary": session.model.vocab_size,
        "parameters": params,
        "seeds": [probe.seed for probe in probes],
        "initial_loss": {
            **number(probe.loss for probe in probes),
            "values": [probe.loss for probe in probes],
            "uniform": math.log(session.model.vocab_size),
            "theory": number(probe.predicted_loss for probe in probes)["mean"],
        },
        "layers": [_layer(layer, i, probes) for i, layer in enumerate(find_layers(session.model))],
        "attention": _attention(probes),
        "jacobian": _jacobian(probes),
        "hessian": _hessian(probes),
    }


def number(values: Iterable[float]) -> Number:
    """Return the mean and standard deviation over seeds."""
    array = np.array([float(value) for value in values])
    if not np.isfinite(array).all():
        return {"mean": None, "std": None}
    return {"mean": float(array.mean()), "std": float(array.std(ddof=1))}


def _shapes(session: Session) -> list[tuple[int, ...]]:
    model = session.model
    tokens_BT = jax.ShapeDtypeStruct((1, model.lookback + 1), np.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
    return [leaf.shape for leaf in jax.tree.leaves(shapes)]


def _layer(layer: Layer, i: int, probes: list[SeedProbe]) -> dict[str, Any]:
    def over(*path: str) -> Number:
        return number(_follow(probe.layers, path)[i] for probe in probes)

    def theory(name: str) -> float | None:
        return number(getattr(probe.prediction, name)[i] for probe in probes)["mean"]

    bounded = layer.activation in ("tanh", "gates")
    return {
        "name": layer.name,
        "kernel": layer.kernel,
        "role": layer.role and str(layer.role),
        "activation": layer.activation,
        "mean": over("stats", "mean"),
        "std": over("stats", "std"),
        "preactivation_std": over("stats", "preactivation_std"),
        "saturated": over("stats", "saturated") if bounded else None,
        "dead": over("stats", "dead") if layer.activation != "linear" else None,
        "theory": {
            "std": theory("std"),
            "preactivation_std": theory("preactivation_std"),
            "saturated": theory("saturated") if layer.activation == "tanh" else None,
            "correlation": number(probe.predicted_correlation_L[i] for probe in probes)["mean"],
        },
        "gradient_mean": over("stats", "gradient_mean"),
        "gradient_std": over("stats", "gradient_std"),
        "weight_std": over("kernels", "weight_std"),
        "kernel_gradient_norm": over("kernels", "gradient_norm"),
        "kernel_gradient_std": over("kernels", "gradient_std"),
        "gradient_to_data": over("kernels", "gradient_to_data"),
        "correlation": over("correlation_L"),
        "token_cosine": over("cosine_L"),
        "effective_rank": number(probe.rank_L[i] for probe in probes),
    }


def _follow(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = getattr(tree, name)
    return tree


def _attention(probes: list[SeedProbe]) -> dict[str, Any] | None:
    entropies = [probe.layers.entropy_LH for probe in probes]
    theories = [probe.entropy for probe in probes if probe.entropy is not None]
    if not theories:
        return None
    entropy_SLH = np.array(entropies, np.float64)
    return {
        "uniform": theories[0].uniform,
        "blocks": [
            {
                "entropy": number(entropy_SLH[:, block].mean(axis=1)),
                "heads": [number(column) for column in entropy_SLH[:, block].T],
                "theory": number(theory.predicted_L[block] for theory in theories)["mean"],
            }
            for block in range(entropy_SLH.shape[1])
        ],
    }


def _jacobian(probes: list[SeedProbe]) -> dict[str, Any] | None:
    """Average over each seed's contexts, then over seeds."""
    if not probes[0].spectra:
        return None
    names = list(vars(probes[0].spectra[0]))
    return {
        name: number(np.mean([getattr(s, name) for s in probe.spectra]) for probe in probes)
        for name in names
    }


def _hessian(probes: list[SeedProbe]) -> dict[str, Any]:
    found = [probe.hessian for probe in probes]
    return {
        "largest": number(h.largest for h in found),
        "smallest": number(h.smallest for h in found),
        "residual": number(h.residual for h in found),
        "steps": number(h.steps for h in found),
        "stable_rate": number(h.stable_rate for h in found),
    }
