"""Linears of low rank in a whole Whisper, in place: one block after the other, each on the inputs
that the thinner blocks before it produce.

How much a linear loses is decided before (`owl.kernels.allocation`), what its factors are by
`owl.kernels.lowrank`, and where they are kept by `owl.model.lowrank`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from owl.kernels.lowrank import principal_factors, rank_for
from owl.model.lowrank import factorise, remember
from owl.model.whisper import Block, Linear
from owl.prune.calibration import Batch, Statistics, walk
from owl.prune.weights import PrunedLinear, output_error


@dataclass(frozen=True)
class ThinnedLinear(PrunedLinear):
    """What happened to one linear; its errors are without what its bias makes up for, or, of keys,
    which have none, what a softmax does not see."""

    rank: int


def thin(
    model,
    every: Sequence[Block],
    batches: Sequence[Batch],
    sparsities: Mapping[str, float],
    held_out: Sequence[Batch] = (),
) -> list[ThinnedLinear]:
    """Replace the linears of `every` by two of so low a rank that they lose their share of weights:
    `sparsities` by linear name; a share of 0 leaves a linear as it is.

    `held_out`: batches that errors are measured on again and nothing else. The model's config then
    tells the ranks. ValueError for a share that not even rank 1 leaves.
    """
    ranks = {
        linear.name: rank_for(*linear.module.weight.shape, sparsities[linear.name])
        for block in every
        for linear in block.linears
        if sparsities[linear.name] > 0
    }
    rows = []
    learning = walk(model, every, batches, gram=True, modified=True, description="low rank")
    judging = walk(model, every, held_out, gram=bool(held_out), modified=True, description=None)
    for (block, statistics), (_, kept_back) in zip(learning, judging):
        rows += [
            _thin(
                model,
                block,
                linear,
                ranks.get(linear.name),
                sparsities[linear.name],
                statistics[linear.name],
                kept_back[linear.name],
            )
            for linear in block.linears
        ]
    remember(model)
    return rows


def _thin(
    model,
    block: Block,
    linear: Linear,
    rank: int | None,
    target: float,
    seen: Statistics,
    kept_back: Statistics,
) -> ThinnedLinear:
    started, dense = time.perf_counter(), linear.module
    weight, gram = (one.cpu().double() for one in (dense.weight.data, seen.centred))
    after, left, mean = weight, weight.numel(), seen.total / max(1, seen.rows)
    if rank is not None:
        up, down = principal_factors(weight, gram, rank)
        after, left = up @ down, up.numel() + down.numel()
        moved = (weight - after) @ mean.cpu().double()
        bias = None if dense.bias is None else dense.bias.data.cpu() + moved
        factorise(model, linear.path, up, down, bias)
    return ThinnedLinear(
        linear=linear.name,
        block=block.name,
        kind=linear.kind,
        weights=weight.numel(),
        token_rows=seen.rows,
        inputs=weight.shape[1],
        target_sparsity=target,
        sparsity=1 - left / weight.numel(),
        error=output_error(weight, after, seen, mean),
        held_out_error=output_error(weight, after, kept_back, mean),
        seconds=time.perf_counter() - started,
        rank=rank or min(weight.shape),
    )
