"""Schemes by which a layer hands on its inputs: identities, and deltas over positions."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from charjax.config import InitConfig
from charjax.errors import UserError
from charjax.init.draws import EmbeddingNormal, Identity, LecunNormal, Orthogonal
from charjax.init.scheme import Scheme, rules_for
from charjax.init.site import Site
from charjax.models.roles import Role

# Of the zero-preserving kernels, and of the noise on identities.
_EPSILON = 1e-6


def identity(_: InitConfig) -> Scheme:
    """Set every kernel between embedding and readout to the identity, gate by gate."""
    return Scheme(
        "torch.nn.init.eye_ (github.com/pytorch/pytorch): kernels the identity, as many inputs "
        "preserved as possible; embeddings and readout as flax.linen",
        rules_for(Identity(), embedding=EmbeddingNormal(), readout=LecunNormal()),
        trait="has_hidden_kernels",
    )


def idinit(_: InitConfig) -> Scheme:
    """Set kernels to padded identities, and the last one of a residual branch nearly to 0.

    There is no rule for a kernel that multiplies a state: the paper has no recurrent networks.
    """
    return Scheme(
        "Pan et al. 2025 (arXiv:2503.04626), IDInit: kernels padded identities, the last of a "
        "branch epsilon (x_i - x_j), epsilon 1e-6; embeddings and readout as flax.linen",
        rules_for(
            PaddedIdentity(),
            embedding=EmbeddingNormal(),
            readout=LecunNormal(),
            residual_output=ZeroPreserving(),
            without=(Role.RECURRENT,),
        ),
        trait="has_hidden_kernels",
    )


def delta_orthogonal(_: InitConfig) -> Scheme:
    """Orthogonal for the vectors of one position, 0 for those of the others.

    A convolution whose output is as long as its input has that position in its middle, as in
    jax.nn.initializers.delta_orthogonal. A causal one, and a window of embeddings, gives the last
    position's output; so it is the last here, and vectors keep their length from layer to layer.
    """
    return Scheme(
        "Xiao et al. 2018 (arXiv:1806.05393; jax.nn.initializers, github.com/jax-ml/jax), "
        "delta-orthogonal: orthogonal for the last of the positions that a kernel reads, else 0",
        rules_for(DeltaOrthogonal(), embedding=EmbeddingNormal(), without=(Role.RECURRENT,)),
        trait="is_plain_stack",
    )


@dataclasses.dataclass(frozen=True)
class PaddedIdentity:
    """Output i is input i mod n, plus noise N(0, 1e-6^2); inputs beyond the outputs are not read.

    The paper's text was read in part; padding, noise and signs here and in ZeroPreserving are
    those of a public implementation in PyTorch that calls itself faithful to it.
    """

    def __call__(self, key: Array, site: Site) -> Array:
        """Build a matrix for each gate; the key draws the noise."""
        n, gates = site.shape[0], site.parameter.gates
        one = padded_identity(n, site.shape[1] // gates)
        noise = _EPSILON * jax.random.normal(key, site.shape, jnp.float32)
        return jnp.tile(jnp.asarray(one), (1, gates)) + noise


@dataclasses.dataclass(frozen=True)
class ZeroPreserving:
    """Output i is epsilon (input i - another input): 0 where padding has made them equal.

    The other input is i + 1 mod n where there are as many outputs as inputs or more, else one of
    those beyond the outputs.
    """

    def __call__(self, key: Array, site: Site) -> Array:
        """Build a matrix; the key is not used."""
        n, m = site.shape
        kernel = padded_identity(n, m)
        if m < n:
            kernel[m:] = -padded_identity(n - m, m)
        else:
            outputs = np.arange(m)
            kernel[(outputs + 1) % n, outputs] = -1.0
        return jnp.asarray(np.float32(_EPSILON) * kernel)


@dataclasses.dataclass(frozen=True)
class DeltaOrthogonal:
    """An orthogonal matrix in the rows of the last position, 0 in the others; see Orthogonal."""

    is_factorised: ClassVar[bool] = True

    def __call__(self, key: Array, site: Site) -> Array:
        """Draw for the last position."""
        width = self._width(site)
        one = dataclasses.replace(site, shape=(width, site.shape[1]), fan_in=width)
        last = Orthogonal()(key, one)
        return jnp.zeros(site.shape, jnp.float32).at[-width:].set(last)

    def check_site(self, site: Site) -> None:
        """Raise a UserError where there are fewer outputs than a position has inputs."""
        if site.parameter.places > 1 and site.fan_out < self._width(site):
            raise UserError(
                f"init.scheme: 'delta_orthogonal' given; {site.path!r} has {site.fan_out} outputs "
                f"for a position's {self._width(site)} inputs, and needs as many or more: make "
                "the layer wider"
            )

    def _width(self, site: Site) -> int:
        return site.shape[0] // site.parameter.places


def padded_identity(n: int, m: int) -> np.ndarray:
    """Return the (n, m) matrix by which output i is input i mod n, or 0 where m < n."""
    kernel = np.zeros((n, m), np.float32)
    kernel[np.arange(m) % n, np.arange(m)] = 1.0
    return kernel
