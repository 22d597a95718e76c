"""The probes of several seeds combined into one tree for JSON."""

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from charjax.initlab.activations.layers import Layer, find_layers
from charjax.initlab.probes.jacobian import SpectrumTheory
from charjax.initlab.probes.network import SeedProbe
from charjax.training.session import Session
from charjax.training.state import parameter_count, state_shapes

# Over seeds: {"mean", "std"}, the latter with n - 1; null where a value is not finite.
Number = dict[str, float | None]


def summarise(session: Session, probes: list[SeedProbe]) -> dict[str, Any]:
    """Return the config, the initial loss, one entry per layer, and figures of the whole network.

    Entries that do not apply to a family are null.
    """
    config = session.config
    return {
        "config": config.model_dump(mode="json"),
        "text": config.data.title,
        "family": config.model.kind,
        "scheme": config.init.scheme,
        "vocabulary": session.model.vocab_size,
        "parameters": parameter_count(state_shapes(session.model, config).params),
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


def _layer(layer: Layer, i: int, probes: list[SeedProbe]) -> dict[str, Any]:
    def over(path: str) -> Number:
        return number(operator.attrgetter(path)(probe)[i] for probe in probes)

    def theory(name: str) -> float | None:
        return over(f"prediction.{name}")["mean"]

    is_bounded = layer.activation in ("tanh", "gates")
    return {
        "name": layer.name,
        "kernel": layer.kernel,
        "role": layer.role and str(layer.role),
        "activation": layer.activation,
        "mean": over("layers.stats.mean"),
        "std": over("layers.stats.std"),
        "preactivation_std": over("layers.stats.preactivation_std"),
        "saturated": over("layers.stats.saturated") if is_bounded else None,
        "dead": over("layers.stats.dead") if layer.activation != "linear" else None,
        "theory": {
            "std": theory("std"),
            "preactivation_std": theory("preactivation_std"),
            "saturated": theory("saturated") if layer.activation == "tanh" else None,
            "correlation": over("predicted_correlation_L")["mean"],
        },
        "gradient_mean": over("layers.stats.gradient_mean"),
        "gradient_std": over("layers.stats.gradient_std"),
        "weight_std": over("layers.kernels.weight_std"),
        "kernel_gradient_norm": over("layers.kernels.gradient_norm"),
        "kernel_gradient_std": over("layers.kernels.gradient_std"),
        "gradient_to_data": over("layers.kernels.gradient_to_data"),
        "correlation": over("layers.correlation_L"),
        "token_cosine": over("layers.cosine_L"),
        "effective_rank": over("rank_L"),
    }


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
    theory = {
        name: number(getattr(probe.predicted_spectrum, name) for probe in probes)["mean"]
        for name in SpectrumTheory._fields
    }
    return {
        name: number(np.mean([getattr(s, name) for s in probe.spectra]) for probe in probes)
        for name in names
    } | {"theory": theory}


def _hessian(probes: list[SeedProbe]) -> dict[str, Any]:
    names = ("largest", "smallest", "residual", "steps", "stable_rate")
    return {name: number(getattr(probe.hessian, name) for probe in probes) for name in names}
