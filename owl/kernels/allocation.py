"""Sparsity per block from outlier ratios: more outliers → higher density → less pruning.

Source: OWL, arXiv 2310.05175 (luuyin/OWL `lib/prune_all.py:943-966`). Difference from it: the
published code takes an unweighted mean over equally large LLM blocks; Whisper's decoder blocks are
a third larger than its encoder blocks, so "owl" uses the mean weighted by weight counts and reaches
the target exactly. "owl-equal" keeps the published arithmetic for comparison and misses the target.
"""

from collections.abc import Iterable, Sequence
from math import ceil, floor, gcd, inf, isfinite
from pkgutil import resolve_name

import torch
from jaxtyping import Float
from torch import Tensor

from owl.kernels.records import ALLOCATIONS

# sparsity that the published code gives a block whose sparsity would be <= 0
PUBLISHED_FLOOR = 0.01
# `by_saliency`: how far a linear's sparsity may be from the target, and bins of log saliency
REACH = 0.2
LOG_LEAST, LOG_BIN, BINS = -100.0, 0.02, 7500


def allocate(
    name: str,
    outlier_ratios: Sequence[float],
    weight_counts: Sequence[int],
    sparsity: float,
    lam: float = 0.08,
) -> list[float]:
    """Sparsity of each block (a fraction), in the order of `outlier_ratios`, or of what else the
    allocation's record names as its guide; encoder and decoder blocks are one pool.

    The functions below say what each name does. All guides equal, or one block: uniform. Raises
    ValueError for a name that decides no sparsities of blocks, different lengths, no blocks, values
    that are not finite, sparsity outside [0, 1), λ < 0 or not finite.
    """
    known = [one.name for one in ALLOCATIONS.values() if one.level == "block"]
    if name not in known:
        raise ValueError(f"unknown allocation '{name}'; choose one of {', '.join(known)}")
    if not (lam >= 0 and isfinite(lam)):
        raise ValueError(f"lambda must be finite and not negative, not {lam}")
    record = ALLOCATIONS[name]
    width = lam if record.width is None else record.width
    return resolve_name(record.decide)(outlier_ratios, weight_counts, sparsity, width)


def uniform(
    ratios: Sequence[float], counts: Sequence[int], sparsity: float, width: float
) -> list[float]:
    """The target everywhere."""
    check_allocation(ratios, counts, sparsity)
    return [sparsity] * len(ratios)


def owl(
    ratios: Sequence[float], counts: Sequence[int], sparsity: float, width: float
) -> list[float]:
    """s_i = S − (r_i − r̄) with r = 2·`width`·(D − min D)/(max D − min D) of the outlier ratios D
    and r̄ weighted by `counts`; where that leaves [0, 1], all blocks move by the one shift that
    keeps Σ w·clip(s, 0, 1) = S·Σ w.
    """
    check_allocation(ratios, counts, sparsity)
    # at sparsity 0 no shift by rounding may prune a weight
    if min(ratios) == max(ratios) or sparsity == 0:
        return [sparsity] * len(ratios)
    kept = _stretched(ratios, width)
    mean = _mean(kept, counts)
    return fit([sparsity - (value - mean) for value in kept], counts, sparsity)


def widest_lambda(ratios: Sequence[float], counts: Sequence[int], sparsity: float) -> float:
    """The widest λ for which `owl` clips no block, inf where it is uniform whatever λ: with u the
    ratios min–max stretched to [0, 1] and ū their mean weighted by `counts`, S − 2λ(u − ū) stays in
    [0, 1] as long as λ ≤ min((1 − S)/2ū, S/2(1 − ū)).
    """
    check_allocation(ratios, counts, sparsity)
    if min(ratios) == max(ratios) or sparsity == 0:
        return inf
    mean = _mean(_stretched(ratios, 0.5), counts)
    return min((1 - sparsity) / (2 * mean), sparsity / (2 * (1 - mean)))


def owl_equal(
    ratios: Sequence[float], counts: Sequence[int], sparsity: float, width: float
) -> list[float]:
    """`owl` as published: r̄ is not weighted, s ≤ 0 → PUBLISHED_FLOOR, nothing redistributed."""
    check_allocation(ratios, counts, sparsity)
    if min(ratios) == max(ratios):
        return [sparsity] * len(ratios)
    kept = _stretched(ratios, width)
    mean = sum(kept) / len(kept)
    wanted = [sparsity - (value - mean) for value in kept]
    return [value if value > 0 else PUBLISHED_FLOOR for value in wanted]


def dlp(
    medians: Sequence[float],
    counts: Sequence[int],
    sparsity: float,
    width: float = ALLOCATIONS["dlp"].width,
) -> list[float]:
    """`owl` by the median of a block's pooled Wanda scores: its relative importance is
    1 − median/Σ medians, as a low median says that few of its weights carry it.
    """
    return owl([-median for median in medians], counts, sparsity, width)


def alpha(
    exponents: Sequence[float],
    counts: Sequence[int],
    sparsity: float,
    width: float = ALLOCATIONS["alpha"].width,
) -> list[float]:
    """By a block's spectral tail exponent (the mean of its linears' `tail_exponent`).

    A heavier tail (a smaller exponent) marks a better trained block, which is pruned less:
    sparsities are proportional to 1 − `width` … 1 + `width` in the order of the exponents, scaled
    to the target. All equal, one block, or sparsity 0: uniform.
    """
    check_allocation(exponents, counts, sparsity)
    if min(exponents) == max(exponents) or sparsity == 0:
        return [sparsity] * len(exponents)
    wanted = [1 - width + value for value in _stretched(exponents, width)]
    mean = _mean(wanted, counts)
    return fit([sparsity * value / mean for value in wanted], counts, sparsity)


def median_sparsities(
    weights: Sequence[Tensor], sparsity: float, lam: float, boost: float
) -> list[float]:
    """Sparsity per linear when boosted magnitudes compete globally: the `median` outlier detection
    that scripts copy from each other.

    In each matrix, weights with |W| > λ·median(|W|) of that matrix count as outliers and their |W|
    is multiplied by `boost`; the `sparsity` share of all weights with the smallest boosted
    magnitude is pruned, and each matrix's share of them is returned. Inside one matrix the boost
    keeps the order of |W| (for boost ≥ 1), so it can only move sparsity between matrices. Ties are
    not split.
    """
    if not weights:
        raise ValueError("median_sparsities needs at least one weight matrix")
    boosted = []
    for weight in weights:
        magnitude = weight.detach().abs().float().flatten()
        boosted.append(
            torch.where(magnitude > lam * magnitude.median(), magnitude * boost, magnitude)
        )
    wanted = sparsity * sum(values.numel() for values in boosted)
    low, high = 0.0, max(values.max().item() for values in boosted)
    for _ in range(60):  # bisection on the global threshold: no copy of all weights, no sort
        middle = (low + high) / 2
        pruned = sum((values < middle).sum().item() for values in boosted)
        low, high = (middle, high) if pruned < wanted else (low, middle)
    return [(values < low).sum().item() / values.numel() for values in boosted]


def by_saliency(saliencies: Iterable[Tensor], sparsity: float) -> list[float]:
    """Sparsity per linear when all weights of all linears compete: its share of the least salient,
    kept within REACH of the target, all together meeting it.

    `saliencies` (out, in) each, not negative. They are sorted into bins of 2 %, so they are needed
    one at a time. ValueError where one is not finite.
    """
    below, counts = [], []
    for saliency in saliencies:
        if not torch.isfinite(saliency).all():
            raise ValueError(
                "a gradient or an input overflowed, so weights cannot be ranked; set "
                'hardware.precision to "float32" or "bfloat16", or take another allocation'
            )
        # on the CPU: not every device has float64
        logs = saliency.cpu().double().clamp(min=torch.finfo(torch.float64).tiny).log()
        bins = ((logs - LOG_LEAST) / LOG_BIN).long().clamp(0, BINS - 1)
        below.append(torch.bincount(bins.flatten(), minlength=BINS).cumsum(0))
        counts.append(saliency.numel())
    check_allocation([0.0] * len(counts), counts, sparsity)
    pooled = torch.stack(below)
    threshold = int((pooled.sum(0) < sparsity * sum(counts)).sum())
    low, high = max(0.0, sparsity - REACH), min(1.0, sparsity + REACH)
    shares = [row[threshold].item() / count - low for row, count in zip(pooled, counts)]
    if sparsity == 0:
        return [0.0] * len(counts)
    # the shift that meets the target also makes up for the width of a bin
    middle = sum(share * count for share, count in zip(shares, counts)) / sum(counts)
    wanted = [share + sparsity - low - middle for share in shares]
    return [low + value for value in fit(wanted, counts, sparsity - low, high - low)]


def mixed_groups(
    wanted: Sequence[float], weight_counts: Sequence[int], size: int, sparsity: float
) -> list[int]:
    """Nonzeros of every `size` consecutive inputs for each block, from the sparsities `wanted` per
    block: mixed N:M.

    Each block keeps the whole number just below or above (1 − wanted)·size, at least 1. Among all
    such choices the parameter-weighted mean density comes as close to 1 − `sparsity` as whole
    numbers allow, and among those the blocks stay as close to what they wanted. The published
    rounding (luuyin/OWL, each block for itself) misses the mean. Exact, by dynamic programming over
    the kept weights.
    """
    check_allocation(wanted, weight_counts, sparsity)
    unit = gcd(*weight_counts)
    # kept weights · size / unit → (squared deviation, nonzeros so far)
    reached: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for value, count in zip(wanted, weight_counts):
        ideal = (1 - value) * size
        options = {min(size, max(1, floor(ideal + 1e-9))), min(size, max(1, ceil(ideal - 1e-9)))}
        ways: dict[int, tuple[float, list[int]]] = {}
        for kept, (cost, chosen) in reached.items():
            for option in options:
                key, way = (
                    kept + option * count // unit,
                    (cost + count * (option - ideal) ** 2, [*chosen, option]),
                )
                ways[key] = min(ways.get(key, way), way)
        reached = ways
    target = (1 - sparsity) * size * sum(weight_counts) / unit
    return min(reached.items(), key=lambda item: (round(abs(item[0] - target), 9), item[1]))[1][1]


def fit(
    wanted: list[float], counts: Sequence[int], sparsity: float, most: float = 1.0
) -> list[float]:
    """Clip to [0, most] after the one shift c that makes the weighted mean of clip(s + c, 0, most)
    the target (bisection to rounding).
    """
    if all(0 <= value <= most for value in wanted):
        return wanted
    target = sparsity * sum(counts)
    low, high = -1.0 - max(wanted), 1.0 - min(wanted)
    for _ in range(200):
        shift = (low + high) / 2
        reached = sum(
            count * min(most, max(0.0, value + shift)) for value, count in zip(wanted, counts)
        )
        low, high = (shift, high) if reached < target else (low, shift)
    return [min(most, max(0.0, value + high)) for value in wanted]


def check_allocation(ratios: Sequence[float], counts: Sequence[int], sparsity: float) -> None:
    """ValueError for guides (outlier ratios, medians, exponents) and weight counts that no
    allocation can be made from.
    """
    if len(ratios) == 0:
        raise ValueError("no blocks to allocate sparsity to")
    if len(ratios) != len(counts):
        raise ValueError(
            f"{len(ratios)} values but {len(counts)} weight counts; one of each per block"
        )
    if not all(isfinite(ratio) for ratio in ratios):
        raise ValueError(f"outlier ratios, medians and exponents must be finite: {list(ratios)}")
    if not all(count > 0 for count in counts):
        raise ValueError(f"every block needs at least one weight: {list(counts)}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), not {sparsity}")


def tail_exponent(weight: Float[Tensor, "out in"]) -> float:
    """Hill estimate of the power-law exponent of the weight's squared singular values, over their
    upper half.

    1 + k / Σ ln(λ_i / λ_min of the half), at most k + 1: a flat half, all nearly equal, is not
    infinitely steep.
    """
    values = torch.linalg.svdvals(weight.detach().double().cpu()).square().sort().values
    half = values[len(values) // 2 :].clamp(min=torch.finfo(torch.float64).tiny)
    logs = (half / half[0]).log().sum().item()
    return 1 + len(half) / max(logs, 1.0)


def mean_exponent(weights: Sequence[Tensor]) -> float:
    """`tail_exponent` averaged over a block's linears."""
    return sum(tail_exponent(weight) for weight in weights) / len(weights)


def _stretched(values: Sequence[float], width: float) -> list[float]:
    """Min–max to [0, 2·`width`]."""
    low, high = min(values), max(values)
    return [2 * width * (value - low) / (high - low) for value in values]


def _mean(values: Sequence[float], counts: Sequence[int]) -> float:
    """Weighted by `counts`."""
    return sum(value * count for value, count in zip(values, counts)) / sum(counts)
