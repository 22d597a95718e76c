"""Layer by layer: moments of activations, saturation, and the residual stream.

Letters: D layers (in order), B branches plus the input.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from charjax.theory.activations import Activation
from charjax.theory.checks import (
    LARGEST,
    check_count,
    check_length,
    check_nonnegative,
    check_positive,
    check_result,
)
from charjax.theory.quadrature import Array, gaussian_rule
from charjax.theory.signal import TINY, derivative_moment, length_map, second_moment


@dataclasses.dataclass(frozen=True)
class Layers:
    """Moments in each layer of a wide stack, float64 arrays of shape (depth,).

    Attributes:
      preactivation_D: q, the variance before the activation.
      mean_D: mean after it.
      second_moment_D: its mean square.
      std_D: its standard deviation.
      gradient_factor_D: σ_w² E[φ'(√q z)²]: the variance of the gradient with respect to a
        layer's input over that with respect to its output.
    """

    preactivation_D: Array
    mean_D: Array
    second_moment_D: Array
    std_D: Array
    gradient_factor_D: Array


def propagate(
    depth: int,
    activation: Activation,
    weight_variance: float,
    bias_variance: float = 0.0,
    input_second_moment: float = 1.0,
) -> Layers:
    """Propagate through h = φ(W h + b), from inputs of a mean square (Poole et al. 2016).

    Args:
      depth: layers.
      activation: φ.
      weight_variance: σ_w², fan_in times the variance of a weight; gain² in PyTorch's terms.
      bias_variance: σ_b².
      input_second_moment: mean square of the inputs' entries (1 for unit variance).

    Raises:
      ValueError: an argument is out of range, or the variance grows beyond 1e30.
    """
    check_length(depth=depth)
    check_nonnegative(
        weight_variance=weight_variance,
        bias_variance=bias_variance,
        input_second_moment=input_second_moment,
    )
    rows = []
    square = input_second_moment
    # A stack that has settled repeats its layers.
    known: dict[float, tuple[float, float, float]] = {}
    for layer in range(1, depth + 1):
        q = weight_variance * square + bias_variance
        if q > LARGEST:
            raise ValueError(
                f"the variance is {q:.3g} in layer {layer}; it must be at most {LARGEST:g}: take "
                "fewer layers or a smaller weight variance"
            )
        if q not in known:
            known[q] = _moments(q, activation)
        mean, square, slope = known[q]
        std = math.sqrt(max(square - mean**2, 0.0))
        rows.append((q, mean, square, std, weight_variance * slope))
    return Layers(*np.array(rows).T)


def _moments(variance: float, activation: Activation) -> tuple[float, float, float]:
    """E[φ], E[φ²] and E[φ'²], by one rule."""
    scale = math.sqrt(variance)
    z_N, w_N = gaussian_rule(scale, activation.kinks)
    with np.errstate(all="ignore"):
        value_N = activation.function(scale * z_N)
        slope_N = activation.derivative(scale * z_N)
        moments = float(w_N @ value_N), float(w_N @ value_N**2), float(w_N @ slope_N**2)
    mean, square, slope = (check_result("a moment", moment) for moment in moments)
    if variance < TINY:
        slope = derivative_moment(variance, activation, 1)
    return mean, square, slope


def saturated_fraction(variance: float, activation: Activation, threshold: float = 0.97) -> float:
    """P(|φ(√q z)| > threshold), for z ~ N(0, 1): the share of units that are saturated.

    Args:
      variance: q, of the pre-activations.
      activation: φ.
      threshold: on |φ|, at least 0.

    Raises:
      ValueError: an argument is out of range.
    """
    check_nonnegative(variance=variance, threshold=threshold)
    scale = math.sqrt(variance)

    def is_above(z: Array) -> NDArray[np.bool_]:
        return np.abs(activation.function(scale * z)) > threshold

    z_N, _ = gaussian_rule(scale, activation.kinks)
    turns = np.flatnonzero(np.diff(is_above(z_N)))
    low, high = z_N[turns], z_N[turns + 1]
    at_low = is_above(low)
    for _ in range(60):
        middle = (low + high) / 2
        same = is_above(middle) == at_low
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    # Every other interval between the turns is above. Masses are taken from the nearer tail, so
    # that small ones keep their digits.
    edges = np.concatenate([[-np.inf], low, [np.inf]])
    right = special.ndtr(-edges[:-1]) - special.ndtr(-edges[1:])
    left = special.ndtr(edges[1:]) - special.ndtr(edges[:-1])
    mass = np.where(edges[:-1] > 0, right, left)
    return float(mass[0 if is_above(z_N)[0] else 1 :: 2].sum())


def relu_second_moments(depth: int, weight_variance: float) -> Array:
    """(σ_w²/2)^l for l = 1 … depth: He et al. 2015 (arXiv:1502.01852).

    The mean square after each of `depth` ReLU layers over that of the input: 1 for weights of
    variance 2/fan_in, and halved in each layer for 1/fan_in.

    Returns:
      Array (depth,).

    Raises:
      ValueError: an argument is out of range, or a moment is out of float64's.
    """
    check_length(depth=depth)
    check_nonnegative(weight_variance=weight_variance)
    with np.errstate(all="ignore"):
        moments_D = (weight_variance / 2) ** np.arange(1.0, depth + 1)
    check_result("the last moment", float(moments_D[-1]))
    return moments_D


def residual_variances(
    branches: int,
    branch_variance: float | Sequence[float],
    input_variance: float,
    scaled: bool = False,
) -> Array:
    """Variance of a pre-norm residual stream: every branch adds its own, whatever the stream's.

    A branch reads the stream through a norm, so its output does not depend on the stream's
    size, and at init it is uncorrelated with it. A transformer of L blocks has 2L branches.

    Args:
      branches: 2L in a transformer.
      branch_variance: what a branch adds, one number for all or one for each.
      input_variance: of the embeddings.
      scaled: the branches' outputs are drawn 1/√branches smaller (GPT-2, Radford et al. 2019).

    Returns:
      Array (branches + 1,): before the first branch and after each.

    Raises:
      ValueError: an argument is out of range, or there is not one variance for each branch.
    """
    check_length(branches=branches)
    check_nonnegative(input_variance=input_variance)
    added = np.asarray(branch_variance, float)
    in_range = np.isfinite(added) & (added >= 0) & (added <= LARGEST)
    if added.shape not in ((), (branches,)) or not np.all(in_range):
        raise ValueError(
            f"branch_variance is {branch_variance!r}; give one number from 0 to {LARGEST:g}, or "
            f"{branches}"
        )
    steps = np.broadcast_to(added / (branches if scaled else 1), (branches,))
    return input_variance + np.concatenate([[0.0], np.cumsum(steps)])


def residual_stack_variances(
    depth: int,
    activation: Activation,
    weight_variance: float,
    bias_variance: float = 0.0,
    input_variance: float = 1.0,
    branch_scale: float = 1.0,
) -> Array:
    """Variance of a residual stack without norms, x + a (W φ(x) + b): it compounds.

    q' = q + a² V(q) (Yang & Schoenholz 2017, arXiv:1712.08969): exponential in depth for ReLU.

    Args:
      depth: blocks.
      activation: φ.
      weight_variance: σ_w².
      bias_variance: σ_b².
      input_variance: of x before the first block.
      branch_scale: a.

    Returns:
      Array (depth + 1,): before the first block and after each.

    Raises:
      ValueError: an argument is out of range.
    """
    check_length(depth=depth)
    check_nonnegative(input_variance=input_variance, branch_scale=abs(branch_scale))
    variances = [input_variance]
    for _ in range(depth):
        branch = length_map(variances[-1], activation, weight_variance, bias_variance)
        variances.append(variances[-1] + branch_scale**2 * branch)
    return np.array(variances)


def mlp_branch_variance(
    width: int, hidden: int, activation: Activation, input_std: float, output_std: float
) -> float:
    """Return the variance of an MLP branch: hidden·output_std² E[φ(√q z)²], q = width·input_std².

    Args:
      width: of the stream, normalised to unit mean square.
      hidden: the branch's own width.
      activation: φ.
      input_std: of the first matrix's entries.
      output_std: of the second's.

    Raises:
      ValueError: an argument is out of range.
    """
    check_count(width=width, hidden=hidden)
    check_positive(input_std=input_std, output_std=output_std)
    return hidden * output_std**2 * second_moment(width * input_std**2, activation)


def attention_branch_variance(
    width: int, value_std: float, output_std: float, squared_weights: float
) -> float:
    """Return the variance of an attention branch: (width·value_std²)(width·output_std²) E[Σ p²].

    For tokens whose values are uncorrelated; values that positions share are not averaged away
    and add more.

    Args:
      width: of the stream, normalised to unit mean square.
      value_std: of the entries of the matrix that makes the values.
      output_std: of the output matrix's.
      squared_weights: E[Σ p²] over the keys, as softmax.attention gives it; 1/t when uniform.

    Raises:
      ValueError: an argument is out of range.
    """
    check_count(width=width)
    check_positive(value_std=value_std, output_std=output_std, squared_weights=squared_weights)
    return width**2 * value_std**2 * output_std**2 * squared_weights
