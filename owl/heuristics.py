"""Sparsity per block from other guides than outlier ratios: the median score (DLP) and the tail of the weights' spectrum (AlphaPruning).

Sources: dlp, arXiv 2505.23807 (ICML 2025); alpha, arXiv 2410.10912 (NeurIPS 2024; haiquanlu/AlphaPruning `lib/esd_utils.py`, "alpha_mid").
Difference from both: their means are unweighted; ours are weighted by weight counts, so that the target is met exactly.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from owl.allocation import check_allocation, fit

DLP_WIDTH = 0.15  # α of the paper: half the spread of the block sparsities
ALPHA_SPREAD = 0.3  # τ of the paper: block sparsities before scaling lie in [1 − τ, 1 + τ]


def dlp(medians: Sequence[float], weight_counts: Sequence[int], sparsity: float, width: float = DLP_WIDTH) -> list[float]:
    """Sparsity of each block (a fraction) from the median of its pooled Wanda scores.

    A block's relative importance is 1 − median/Σ medians: a low median says that few of its weights carry it, so it keeps more. The
    importances are stretched to [0, 2·`width`] and centred on the target. All medians equal, one block, or sparsity 0: uniform.
    ValueError as in `owl.allocation.allocate`.
    """
    check_allocation(medians, weight_counts, sparsity)
    low, high = min(medians), max(medians)
    if low == high or sparsity == 0:
        return [sparsity] * len(medians)
    kept = [2 * width * (high - median) / (high - low) for median in medians]
    mean = sum(value * count for value, count in zip(kept, weight_counts)) / sum(weight_counts)
    return fit([sparsity - (value - mean) for value in kept], weight_counts, sparsity)


def alpha(exponents: Sequence[float], weight_counts: Sequence[int], sparsity: float, spread: float = ALPHA_SPREAD) -> list[float]:
    """Sparsity of each block (a fraction) from its spectral tail exponent (the mean of its linears' `tail_exponent`).

    A heavier tail (a smaller exponent) marks a better trained block, which is pruned less: sparsities are proportional to
    1 − `spread` … 1 + `spread` in the order of the exponents, scaled to the target. All equal, one block, or sparsity 0: uniform.
    """
    check_allocation(exponents, weight_counts, sparsity)
    low, high = min(exponents), max(exponents)
    if low == high or sparsity == 0:
        return [sparsity] * len(exponents)
    wanted = [1 - spread + 2 * spread * (exponent - low) / (high - low) for exponent in exponents]
    mean = sum(value * count for value, count in zip(wanted, weight_counts)) / sum(weight_counts)
    return fit([sparsity * value / mean for value in wanted], weight_counts, sparsity)


def tail_exponent(weight: Float[Tensor, "out in"]) -> float:
    """Hill estimate of the power-law exponent of the weight's squared singular values, over their upper half.

    1 + k / Σ ln(λ_i / λ_min of the half), at most k + 1: a flat half, all nearly equal, is not infinitely steep.
    """
    values = torch.linalg.svdvals(weight.detach().double().cpu()).square().sort().values
    half = values[len(values) // 2 :].clamp(min=torch.finfo(torch.float64).tiny)
    logs = (half / half[0]).log().sum().item()
    return 1 + len(half) / max(logs, 1.0)


def mean_exponent(weights: Sequence[Tensor]) -> float:
    """`tail_exponent` averaged over a block's linears."""
    return sum(tail_exponent(weight) for weight in weights) / len(weights)
