"""From blocks, statistics and ratios to the tables that notebooks draw and the sparsities that pruning uses."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from owl.allocation import ALLOCATIONS, allocate, median_sparsities
from owl.calibration import Statistics
from owl.config import Config
from owl.outliers import outlier_ratio, wanda_score
from owl.pruning import spread
from owl.whisper import Block, Linear


def pooled_scores(block: Block, statistics: Mapping[str, Statistics], clips=slice(None)) -> Tensor:
    """The Wanda scores of all the block's targeted linears in one vector, (weights,), by the inputs of all or some calibration clips."""
    return torch.cat(
        [
            wanda_score(linear.module.weight.detach().float(), statistics[linear.name].rms_of(clips).float()).flatten()
            for linear in block.linears
        ]
    )


def ratios_of_halves(block: Block, statistics: Mapping[str, Statistics], clips: int, multiple: float, seeds: int) -> list[dict]:
    """The block's outlier ratio by random halves of the `clips` calibration clips, one per seed: rows {seed, block, outlier_ratio}."""
    halves = [np.random.default_rng(seed).permutation(clips)[: max(1, clips // 2)] for seed in range(seeds)]
    return [
        {"seed": seed, "block": block.name, "outlier_ratio": outlier_ratio(pooled_scores(block, statistics, half.tolist()), multiple)}
        for seed, half in enumerate(halves)
    ]


def allocations(blocks: Sequence[Block], ratios: Sequence[float], sparsity: float, lam: float, multiple: float) -> pd.DataFrame:
    """Sparsity per block under every allocation and the median variant (columns block, allocation, sparsity)."""
    counts = [block.weight_count for block in blocks]
    columns = {name: usable(allocate(name, ratios, counts, sparsity, lam)) for name in ALLOCATIONS}
    columns["median"] = per_block(blocks, median_of(blocks, sparsity, lam, multiple))
    return pd.DataFrame(
        {"block": block.name, "allocation": name, "sparsity": value}
        for name, values in columns.items()
        for block, value in zip(blocks, values)
    )


def chosen_sparsities(config: Config, blocks: Sequence[Block], ratios: Sequence[float]) -> dict[str, float]:
    """Sparsity by linear name under the config's allocation."""
    pruning = config.pruning
    name, lam = pruning.allocation_name, pruning.outlier_hyper_lambda
    if name == "median":
        return median_of(blocks, pruning.sparsity, lam, pruning.outlier_hyper_m)
    counts = [block.weight_count for block in blocks]
    return spread(blocks, usable(allocate(name, ratios, counts, pruning.sparsity, lam)))


def usable(sparsities: Sequence[float]) -> list[float]:
    """At most 1 each: the published arithmetic of "owl-equal" can ask for more of a block than it has; then all of it goes."""
    return [min(1.0, value) for value in sparsities]


def median_of(blocks: Sequence[Block], sparsity: float, lam: float, boost: float) -> dict[str, float]:
    """Sparsity by linear name under the median variant."""
    linears = [linear for block in blocks for linear in block.linears]
    shares = median_sparsities([linear.module.weight for linear in linears], sparsity, lam, boost)
    return {linear.name: share for linear, share in zip(linears, shares)}


def above_median(blocks: Sequence[Block], lam: float) -> float:
    """Share of all targeted weights with |W| > λ·median(|W|) of their own matrix: what the median variant calls outliers."""
    weights = [linear.module.weight.detach().abs().float() for block in blocks for linear in block.linears]
    return sum((weight > lam * weight.median()).sum().item() for weight in weights) / sum(weight.numel() for weight in weights)


def per_block(blocks: Sequence[Block], by_linear: Mapping[str, float]) -> list[float]:
    """Weight-count-weighted mean of the linears' values, one per block."""
    return [
        sum(by_linear[linear.name] * linear.module.weight.numel() for linear in block.linears) / block.weight_count for block in blocks
    ]


def weight_histogram(linears: Sequence[Linear], edges: np.ndarray) -> np.ndarray:
    """How many nonzero weights of `linears` fall between consecutive `edges`; (len(edges) − 1,) counts."""
    counts = np.zeros(len(edges) - 1)
    for linear in linears:
        weight = linear.module.weight.detach().float().cpu().numpy()
        counts += np.histogram(weight[weight != 0], edges)[0]
    return counts
