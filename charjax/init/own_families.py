"""Schemes on families of the user's own, of which nothing is known but the roles of parameters.

A scheme that charjax gives to some of its families only (`Scheme.trait`) is given to a family of
the user's own whose roles show the same. What the scheme needs of the model's function it needs as
a setting of the family.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from charjax.config import Config
from charjax.errors import UserError
from charjax.init.draws import EmbeddingNormal, FanInNormal
from charjax.init.lsuv import layers_of
from charjax.init.scheme import Scheme, initialise, rules_for
from charjax.init.site import Site, find_sites
from charjax.models.roles import MATRIX_ROLES, Role, Roles

Sites = list[Site]


def check_suits(config: Config, scheme: Scheme, model: Any, shapes: Any) -> None:
    """Refuse a scheme for which a family of the user's own lacks something.

    Args:
      config: the whole configuration.
      scheme: that of `config.init`.
      model: of the family.
      shapes: its parameters as a nested dictionary of anything with a `.shape`.

    Raises:
      UserError: the message names what the family lacks.
    """
    lacks = find_lack(config, scheme, model.roles, shapes, getattr(model, "n_layer", 0))
    if lacks is None and scheme.trait == "is_linear_layers":
        path = _find_other_kernel(model, shapes)
        lacks = path and f"linear layers alone, and {path!r} is no kernel of one"
    if lacks:
        raise UserError(
            f"init.scheme: {config.init.scheme!r} given with model.kind={config.model.kind}; it "
            f"needs {lacks}: change the family, or choose another scheme"
        )


def find_lack(config: Config, scheme: Scheme, roles: Roles, shapes: Any, depth: int) -> str | None:
    """Describe what a family lacks for a scheme, by its roles and settings; None: nothing."""
    settings = {f"model.{name}" for name in type(config.model).model_fields}
    needed = {name: values[0] for name, values in scheme.needs.items()} | dict(scheme.sets)
    for name, value in needed.items() if scheme.changes_function else ():
        if name.startswith("model.") and name not in settings:
            return f"{name}={str(value).lower()}, and the family has no such setting"
    sites = find_sites(shapes, roles, depth)
    # A table that is read twice has one multiplier here.
    lacks = _readout(sites) if scheme.scaled else None
    if lacks is None and scheme.trait in _LACKS:
        lacks = _LACKS[scheme.trait](sites)
    return lacks


def _find_other_kernel(model: Any, shapes: Any) -> str | None:
    """Return a kernel of which no module's output is the product; None without one.

    Each kernel in turn is doubled, with biases of 0: the output of its module must double.
    """
    matrices = {
        site.path
        for site in find_sites(shapes, model.roles, 0)
        if site.parameter.role in (*MATRIX_ROLES, Role.READOUT)
    }
    inputs_BS = jnp.arange(2 * (model.lookback + 1)).reshape(2, -1) % model.vocab_size
    rules = rules_for(FanInNormal(), embedding=EmbeddingNormal())
    drawn = initialise(Scheme("", rules), shapes, model.roles, jax.random.key(0), 1)
    variables = model.init(jax.random.key(0), inputs_BS) | {"params": drawn.params}
    layers, outputs = layers_of(model, variables, inputs_BS, 1)
    found = {"/".join((*layer, "kernel")) for layer in layers}
    if found != matrices:
        return min(found ^ matrices)
    flat, once = flatten_dict(drawn.params), outputs(drawn.params)
    for index, layer in enumerate(layers):
        doubled = unflatten_dict(flat | {(*layer, "kernel"): 2 * flat[*layer, "kernel"]})
        if not jnp.allclose(outputs(doubled)[index], 2 * once[index], 1e-3, 1e-5):
            return "/".join((*layer, "kernel"))
    return None


def _readout(sites: Sites) -> str | None:
    has = any(site.parameter.role is Role.READOUT for site in sites)
    return None if has else "a readout, and no parameter has the role READOUT"


def _readout_bias(sites: Sites) -> str | None:
    has = any(site.beside is Role.READOUT for site in sites)
    return None if has else "a bias of the readout, as all other gradients would be 0"


def _blocks(sites: Sites) -> str | None:
    outputs = [site.parameter for site in sites if site.parameter.role is Role.RESIDUAL_OUTPUT]
    if not outputs:
        return "residual blocks, and no parameter has the role RESIDUAL_OUTPUT"
    if not all(parameter.in_block for parameter in outputs):
        return "parameters of the role RESIDUAL_OUTPUT with in_block=True"
    return None if sites[0].depth else "the number of residual blocks, as the setting n_layer"


def _forget_gate(sites: Sites) -> str | None:
    biases = [site.parameter for site in sites if site.parameter.role is Role.GATE_BIAS]
    if any({"forget", "update"} & set(parameter.gate_names) for parameter in biases):
        return None
    return "a forget gate: the role GATE_BIAS with 'forget' or 'update' in gate_names"


def _hidden_kernels(sites: Sites) -> str | None:
    has = any(site.parameter.role in MATRIX_ROLES for site in sites)
    return None if has else "kernels between embedding and readout, and no role is of one"


def _places(sites: Sites) -> str | None:
    has = any(site.parameter.places > 1 for site in sites)
    return None if has else "a kernel that reads several positions: a role with places > 1"


def _plain_recurrence(sites: Sites) -> str | None:
    found = [site.parameter for site in sites if site.parameter.role is Role.RECURRENT]
    if found and all((each.gates, each.activation) == (1, "relu") for each in found):
        return None
    return "a recurrence by ReLU: the role RECURRENT with gates=1 and activation='relu'"


_LACKS: dict[str, Callable[[Sites], str | None]] = {
    "has_readout": _readout,
    "learns_from_zeros": _readout_bias,
    "has_residual_blocks": _blocks,
    "has_forget_gate": _forget_gate,
    "is_plain_recurrence": _plain_recurrence,
    "has_hidden_kernels": _hidden_kernels,
    "is_plain_stack": _places,
}
