"""From blocks, statistics and ratios to the tables that notebooks draw and the sparsities that
pruning uses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import floor

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from owl.config.load import Config
from owl.kernels.allocation import (
    allocate,
    mean_exponent,
    median_sparsities,
    mixed_groups,
    widest_lambda,
)
from owl.kernels.outliers import outlier_ratio, wanda_score
from owl.kernels.records import ALLOCATIONS
from owl.model.whisper import Block, Linear
from owl.prune.calibration import Batch, Statistics, walk
from owl.prune.weights import spread


def pooled_scores(block: Block, statistics: Mapping[str, Statistics], clips=slice(None)) -> Tensor:
    """The Wanda scores of all the block's targeted linears in one vector, (weights,), by the inputs
    of all or some calibration clips.
    """
    return torch.cat(
        [
            wanda_score(
                linear.module.weight.detach().float(), statistics[linear.name].rms_of(clips).float()
            ).flatten()
            for linear in block.linears
        ]
    )


def ratios_and_medians(
    model, every: Sequence[Block], batches: Sequence[Batch], multiple: float
) -> tuple[list[float], list[float]]:
    """(outlier ratio, median score) of every block with linears to prune, in order, on the dense
    model's own inputs.
    """
    ratios, medians = [], []
    for block, statistics in walk(
        model, every, batches, gram=False, modified=False, description="outliers"
    ):
        if block.linears:
            scores = pooled_scores(block, statistics)
            ratios.append(outlier_ratio(scores, multiple))
            medians.append(scores.median().item())
    return ratios, medians


def ratios_of_halves(
    block: Block, statistics: Mapping[str, Statistics], clips: int, multiple: float, seeds: int
) -> list[dict]:
    """The block's outlier ratio by random halves of the `clips` calibration clips, one per seed:
    rows {seed, block, outlier_ratio}.
    """
    halves = [
        np.random.default_rng(seed).permutation(clips)[: max(1, clips // 2)]
        for seed in range(seeds)
    ]
    return [
        {
            "seed": seed,
            "block": block.name,
            "outlier_ratio": outlier_ratio(
                pooled_scores(block, statistics, half.tolist()), multiple
            ),
        }
        for seed, half in enumerate(halves)
    ]


@dataclass(frozen=True)
class Guides:
    """What the allocations go by, one value per block with linears to prune, in order."""

    blocks: Sequence[Block]
    outlier_ratios: Sequence[float]
    medians: Sequence[float]  # of the pooled Wanda scores
    lam: float
    multiple: float

    @cached_property
    def exponents(self) -> list[float]:
        """Of the spectra's tails."""
        return [
            mean_exponent([linear.module.weight for linear in block.linears])
            for block in self.blocks
        ]

    def sparsities(self, name: str, sparsity: float) -> list[float]:
        """Sparsity per block under a named allocation, "measured" excepted: that one is a search
        (`owl.prune.measured`).
        """
        record = ALLOCATIONS[name]
        if record.level == "linear":
            return per_block(self.blocks, median_of(self.blocks, sparsity, self.lam, self.multiple))
        counts = [block.weight_count for block in self.blocks]
        return allocate(name, getattr(self, record.guide), counts, sparsity, self.lam)

    def all(self, sparsity: float) -> pd.DataFrame:
        """Every one of them side by side (columns block, allocation, sparsity)."""
        return pd.DataFrame(
            {"block": block.name, "allocation": name, "sparsity": value}
            for name, record in ALLOCATIONS.items()
            if not record.listens
            for block, value in zip(self.blocks, usable(self.sparsities(name, sparsity)))
        )


def chosen_sparsities(config: Config, guides: Guides) -> dict[str, float]:
    """Sparsity by linear name under the config's allocation; whole numbers of nonzeros per block
    where the pattern is mixed N:M.
    """
    pruning, blocks = config.pruning, guides.blocks
    if ALLOCATIONS[pruning.allocation].level == "linear":
        return median_of(blocks, pruning.sparsity, guides.lam, guides.multiple)
    wanted = usable(guides.sparsities(pruning.allocation, pruning.sparsity))
    if pruning.group_size:
        kept = mixed_groups(
            wanted, [block.weight_count for block in blocks], pruning.group_size, pruning.sparsity
        )
        wanted = [1 - count / pruning.group_size for count in kept]
    return spread(blocks, wanted)


def chosen_patterns(config: Config, sparsities: Mapping[str, float]) -> str | dict[str, str]:
    """The config's pattern, or the N:M of each linear where it is mixed."""
    size = config.pruning.group_size
    return (
        {name: f"{round((1 - value) * size)}:{size}" for name, value in sparsities.items()}
        if size
        else config.pruning.pattern
    )


def chosen_notes(config: Config, guides: Guides) -> list[str]:
    """What to know of the config's allocation: that λ is so wide that "owl" has to be clipped, with
    the widest that is not (rounded down).
    """
    pruning = config.pruning
    if pruning.allocation != "owl":
        return []
    counts = [block.weight_count for block in guides.blocks]
    widest = widest_lambda(guides.outlier_ratios, counts, pruning.sparsity)
    if guides.lam <= widest:
        return []
    return [
        f"outlier_hyper_lambda (λ) {guides.lam:g} asks some blocks for less than 0 or more than "
        "100 % sparsity: these are clipped and the others shifted, so that the target is met; the "
        f"widest λ without clipping is {floor(1e4 * widest) / 1e4:g} here"
    ]


def usable(sparsities: Sequence[float]) -> list[float]:
    """At most 1 each: the published arithmetic of "owl-equal" can ask for more of a block than it
    has; then all of it goes.
    """
    return [min(1.0, value) for value in sparsities]


def median_of(
    blocks: Sequence[Block], sparsity: float, lam: float, boost: float
) -> dict[str, float]:
    """Sparsity by linear name under the median variant."""
    linears = [linear for block in blocks for linear in block.linears]
    shares = median_sparsities([linear.module.weight for linear in linears], sparsity, lam, boost)
    return {linear.name: share for linear, share in zip(linears, shares)}


def above_median(blocks: Sequence[Block], lam: float) -> float:
    """Share of all targeted weights with |W| > λ·median(|W|) of their own matrix: what the median
    variant calls outliers.
    """
    weights = [
        linear.module.weight.detach().abs().float() for block in blocks for linear in block.linears
    ]
    return sum((weight > lam * weight.median()).sum().item() for weight in weights) / sum(
        weight.numel() for weight in weights
    )


def per_block(blocks: Sequence[Block], by_linear: Mapping[str, float]) -> list[float]:
    """Weight-count-weighted mean of the linears' values, one per block."""
    return [
        sum(by_linear[linear.name] * linear.module.weight.numel() for linear in block.linears)
        / block.weight_count
        for block in blocks
    ]


def weight_histogram(linears: Sequence[Linear], edges: np.ndarray) -> np.ndarray:
    """How many nonzero weights of `linears` fall between consecutive `edges`; (len(edges) − 1,)
    counts.
    """
    counts = np.zeros(len(edges) - 1)
    for linear in linears:
        weight = linear.module.weight.detach().float().cpu().numpy()
        counts += np.histogram(weight[weight != 0], edges)[0]
    return counts
