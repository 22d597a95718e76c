"""Softmax of Gaussian logits: the loss at initialisation, and the entropy of attention.

A softmax is sampled by adding independent Gumbel noise G to the logits and taking the largest,
and log Σ exp(x_i) is the mean of that largest less Euler's γ. So for x_i = σ z_i, with
F(m) = P(σ z + G ≤ m) = E[exp(-exp(σ z - m))],

    A(σ) = E[log Σ exp(σ z_i)] = E[max_i (σ z_i + G_i)] - γ = ∫ (Φ(m/s) - F(m)^V) dm - γ

for any s > 0: one-dimensional integrals of smooth functions, for any number V of logits, which
the trapezoidal rule takes to rounding error. Integrating by parts, E[Σ p_i z_i] = A'(σ) and
E[Σ p_i²] = 1 - A'(σ)/σ, and the entropy's mean is A - σ A'.

Letters: T sizes (numbers of logits), M values of m, N nodes under F's integral.
"""

import dataclasses
import math

import numpy as np
from scipy import special

from charjax.theory.checks import check_count, check_length, check_nonnegative
from charjax.theory.quadrature import REACH, Array

# Sizes whose powers of F are held at once.
_ROWS = 4096


def expected_logsumexp(std: float, size: int) -> float:
    """E[log Σ exp(σ z_i)] over independent z_i ~ N(0, 1).

    Between log(size) and log(size) + σ²/2, and σ E[max z] for large σ.

    Args:
      std: σ, of a logit.
      size: how many logits.

    Returns:
      Nats.

    Raises:
      ValueError: an argument is out of range.
    """
    check_nonnegative(std=std)
    check_count(size=size)
    return float(_logsumexp(std, np.array([size], float))[0][0])


def initial_loss(
    logit_std: float, vocabulary: int, shift: float = 0.0, share: float = 0.0
) -> float:
    """Mean cross-entropy, in nats, of Gaussian logits that know nothing of the target.

    E[logsumexp] - E[the target's logit], and the latter is 0: log V at σ = 0, 3.766 at σ = 1 and
    V = 27. Where the readout is the embedding, the symbol just read has a logit shifted by its
    own vector's product with itself.

    Args:
      logit_std: σ of the logits over the vocabulary. A part that all logits share changes nothing
        and is not counted.
      vocabulary: V.
      shift: μ, added to the logit of one symbol.
      share: how often that symbol is the target, in [0, 1].

    Raises:
      ValueError: an argument is out of range.
    """
    if not (math.isfinite(shift) and 0 <= share <= 1):
        raise ValueError(f"shift is {shift!r}, share {share!r}; a number, and a part of 1")
    if not shift:
        return expected_logsumexp(logit_std, vocabulary)
    check_nonnegative(std=logit_std)
    check_count(vocabulary=vocabulary)
    return _shifted_logsumexp(logit_std, vocabulary, shift) - share * shift


def _shifted_logsumexp(std: float, size: int, shift: float) -> float:
    """E[log Σ exp] where one of the logits is N(μ, σ²): its F is that of m - μ.

    Where that logit is above or below all others to the last digit, it or the others are the sum.
    """
    if size == 1:
        return shift
    margin = 2 * REACH * std + 40
    if shift > margin + math.log(size):
        return shift
    if shift < -margin:
        return expected_logsumexp(std, size - 1)
    width = max(1.0, std)
    step = 0.05 * width
    low = -REACH * width - 5 + min(shift, 0.0)
    top = REACH * std + 45 + math.log(size) + max(shift, 0.0)
    m_M = np.arange(low, top, step)
    log_M = (size - 1) * _log_cumulative(m_M, std)[0] + _log_cumulative(m_M - shift, std)[0]
    return step * float(np.sum(special.ndtr(m_M / width) - np.exp(log_M))) - np.euler_gamma


def expected_maximum(size: int) -> float:
    """E[max of `size` standard normals]: the slope of expected_logsumexp for large σ.

    Raises:
      ValueError: the size is not a whole number of at least 1.
    """
    check_count(size=size)
    m_M = np.arange(-REACH, REACH, 0.05)
    upper_M = special.ndtr(m_M)
    return 0.05 * float(np.sum(upper_M - np.exp(size * special.log_ndtr(m_M))))


@dataclasses.dataclass(frozen=True)
class Attention:
    """Means over draws of softmax attention, float64 arrays with one entry for each query.

    Attributes:
      entropy_T: of the weights over the keys, in nats.
      squared_weights_T: E[Σ p²]; its inverse is an effective number of keys.
    """

    entropy_T: Array
    squared_weights_T: Array


def attention(score_std: float, keys: int) -> Attention:
    """Attention over `keys` keys at initialisation, its scores independent N(0, σ²).

    Scores q·k/√d_head are so for many dimensions, and keys that are not alike.

    Args:
      score_std: σ. With queries and keys of variance v each, σ = v.
      keys: t.

    Returns:
      Arrays (1,).

    Raises:
      ValueError: an argument is out of range.
    """
    check_count(keys=keys)
    return _attention(score_std, np.array([keys], float))


def causal_attention(score_std: float, context: int) -> Attention:
    """Causal attention at initialisation: position t (from 1) sees t keys.

    The mean over positions is entropy_T.mean().

    Args:
      score_std: σ of the scores.
      context: positions.

    Returns:
      Arrays (context,).

    Raises:
      ValueError: an argument is out of range.
    """
    check_length(context=context)
    return _attention(score_std, np.arange(1.0, context + 1))


def _attention(score_std: float, sizes_T: Array) -> Attention:
    check_nonnegative(score_std=score_std)
    if score_std < 1e-4:  # the next terms are of order σ⁴; below, A'(σ)/σ loses digits
        spread_T = score_std**2 * (1 - 1 / sizes_T)
        return Attention(np.log(sizes_T) - spread_T / 2, (1 + spread_T) / sizes_T)
    value_T, slope_T = _logsumexp(score_std, sizes_T)
    return Attention(value_T - score_std * slope_T, 1 - slope_T / score_std)


def _logsumexp(std: float, sizes_T: Array) -> tuple[Array, Array]:
    """A(σ) and A'(σ) for each size."""
    width = max(1.0, std)
    # The narrowest thing here is the largest of a million normals: a fifth of `width`.
    step = 0.05 * width
    top = REACH * std + 45 + math.log(float(np.max(sizes_T)))
    m_M = np.arange(-REACH * width - 5, top, step)
    log_M, slope_M = _log_cumulative(m_M, std)
    upper_M, ratio_M = special.ndtr(m_M / width), slope_M * np.exp(-log_M)
    values, derivatives = [], []
    for sizes_C in np.array_split(sizes_T, -(-len(sizes_T) // _ROWS)):
        power_CM = np.exp(sizes_C[:, None] * log_M)
        values.append(step * np.sum(upper_M - power_CM, axis=1) - np.euler_gamma)
        derivatives.append(-step * sizes_C * (power_CM @ ratio_M))
    return np.concatenate(values), np.concatenate(derivatives)


def _log_cumulative(m_M: Array, std: float) -> tuple[Array, Array]:
    """log F(m) and dF/dσ at each m.

    The sum over whichever of z and G has the wider distribution is done in closed form, and the
    trapezoidal rule taken over the other.
    """
    if std <= 1:
        z_N = np.arange(-REACH, REACH, 0.2)
        w_N = 0.2 * np.exp(-(z_N**2) / 2) / math.sqrt(2 * math.pi)
        rate_MN = np.exp(std * z_N - m_M[:, None])
        below_MN, above_MN = np.exp(-rate_MN), -np.expm1(-rate_MN)
        slope_MN = -z_N * rate_MN * below_MN
    else:
        g_N = np.arange(-5.0, 45.0, 0.2)
        w_N = 0.2 * np.exp(-g_N - np.exp(-g_N))
        z_MN = (m_M[:, None] - g_N) / std
        below_MN, above_MN = special.ndtr(z_MN), special.ndtr(-z_MN)
        slope_MN = -z_MN * np.exp(-(z_MN**2) / 2) / math.sqrt(2 * math.pi) / std
    below_M, above_M = below_MN @ w_N, above_MN @ w_N
    # Each tail from the side that keeps its digits.
    log_M = np.where(
        below_M < 0.5, np.log(np.maximum(below_M, 1e-300)), np.log1p(-np.minimum(above_M, 0.9))
    )
    return log_M, slope_MN @ w_N
