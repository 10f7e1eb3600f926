"""What decides mask and kept values inside one linear: weight and input statistics in, new weight
out.

Magnitude, Wanda (arXiv 2306.11695), SparseGPT (arXiv 2301.00774, algorithm 1) and ALPS (arXiv
2406.07831, in `owl.kernels.alps`); the table of them is `owl.kernels.records.SOLVERS`.

Only the Gram matrix XᵀX of the inputs is needed; all ignore its scale. Counts follow the published
codes: magnitude and sparsegpt prune `<= threshold`, one weight more (per matrix, per column block)
than int(numel·S); alps prunes int(numel·S). Arithmetic is float64, on the CPU where the weight's
device has none. Which linears to prune and what follows from it is `owl.prune.weights`'s business.
"""

import math
from dataclasses import dataclass
from pkgutil import resolve_name

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from owl.kernels import alps
from owl.kernels.gram import check_finite, damped
from owl.kernels.patterns import parse_pattern
from owl.kernels.records import SOLVERS, Solver

SAMPLE = 4096  # scores that tell where a matrix's threshold is, about


@dataclass(frozen=True)
class Target:
    """`sparsity` (a fraction) of a linear, or the `group` (N, M) of an N:M pattern; sparsegpt works
    on `block_size` columns at a time.
    """

    sparsity: float | None
    group: tuple[int, int] | None
    block_size: int


def prune_weight(
    weight: Float[Tensor, "out in"],
    gram: Float[Tensor, "rows columns"],
    *,
    method: str,
    sparsity: float | None = None,
    pattern: str | None = None,
    block_size: int = 128,
    damping: float = 0.01,
    factors: object = None,
) -> Float[Tensor, "out in"]:
    """The pruned weight: entries exactly 0 where pruned, dtype and device of `weight`, which is
    left as it was.

    `gram` is XᵀX over all token rows X (rows, in). Give `sparsity` (a fraction in [0, 1]: 0 returns
    the weight unchanged, 1 zeros) or an N:M `pattern` (N nonzeros in every M consecutive inputs of
    a row; a sparsity given beside it must be 1 − N/M). `block_size` (columns) matters to sparsegpt
    alone, `damping` (share of the mean diagonal) to sparsegpt and alps. `factors`: what `factorise`
    made of this very `gram`, where several linears share one (default: made here). Raises
    ValueError for an unknown method, bad shapes, sparsity outside [0, 1], neither sparsity nor
    pattern, inputs not divisible by M, or values that are not finite.
    """
    group = _check(weight, gram, method, sparsity, pattern)
    if sparsity == 0:
        return weight.clone()
    if sparsity == 1:
        return torch.zeros_like(weight)
    device = _device(weight)
    dense, gram = weight.to(device, torch.float64), gram.to(device, torch.float64)
    if factors is None:
        factors = factorise(gram, method=method, damping=damping)
    solve = resolve_name(solver_of(method).solve)
    return solve(dense, gram, factors, Target(sparsity, group, block_size)).to(weight)


def factorise(gram: Float[Tensor, "in in"], *, method: str, damping: float = 0.01) -> object:
    """The costly part of a solver that depends on the inputs alone: sparsegpt's inverse factor,
    alps' eigendecomposition, else None.
    """
    prepare = solver_of(method).prepare
    return (
        resolve_name(prepare)(gram.to(_device(gram), torch.float64), damping) if prepare else None
    )


def solver_of(method: str) -> Solver:
    """The record of a method; ValueError for an unknown one."""
    if method not in SOLVERS:
        raise ValueError(f"unknown method '{method}'; choose one of {', '.join(SOLVERS)}")
    return SOLVERS[method]


def _device(tensor: Tensor) -> torch.device:
    """Where its float64 arithmetic runs."""
    return tensor.device if tensor.device.type in ("cpu", "cuda") else torch.device("cpu")


def magnitude(dense: Tensor, gram: Tensor, factors: None, target: Target) -> Tensor:
    """The smallest |W| of the whole matrix go."""
    score = dense.abs()
    if target.group:
        return dense.masked_fill(_group_mask(score, *target.group), 0)
    count = int(score.numel() * target.sparsity) + 1
    return dense.masked_fill(_smallest(score.flatten(), count).view_as(score), 0)


def wanda(dense: Tensor, gram: Tensor, factors: None, target: Target) -> Tensor:
    """The smallest |W_ij|·rms_j of each output row go, kept weights stay untouched."""
    score = dense.abs() * gram.diagonal().clamp(min=0).sqrt()
    if target.group:
        return dense.masked_fill(_group_mask(score, *target.group), 0)
    return dense.masked_fill(_smallest(score, int(score.shape[1] * target.sparsity)), 0)


def fixed_count(dense: Tensor, gram: Tensor, eigen: alps.Eigen, target: Target) -> Tensor:
    """The whole matrix at once by ADMM, then a least-squares refit of what is kept."""
    kept = dense.numel() - int(dense.numel() * (target.sparsity or 0))
    keep = lambda score: (
        ~_group_mask(score, *target.group) if target.group else _largest(score, kept)
    )
    return alps.solve(dense, eigen, keep)


def sparsegpt(dense: Tensor, gram: Tensor, factor: Tensor, target: Target) -> Tensor:
    """Column by column, with optimal-brain-surgeon updates of the columns to come."""
    group, block_size = target.group, target.block_size
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1 column, not {block_size}")
    weight = dense.clone()
    weight[:, gram.diagonal() <= 0] = 0  # a dead input feature carries nothing
    if group:
        # no group crosses a column block
        block_size = max(group[1], block_size - block_size % group[1])
    for start in range(0, weight.shape[1], block_size):
        stop = min(start + block_size, weight.shape[1])
        block, local = weight[:, start:stop], factor[start:stop, start:stop]
        errors = torch.zeros_like(block)
        pruned = torch.zeros_like(block, dtype=torch.bool)
        if group is None:
            saliency = (block / local.diagonal()) ** 2
            pruned = _smallest(
                saliency.flatten(), int(saliency.numel() * target.sparsity) + 1
            ).view_as(saliency)
        for column in range(stop - start):
            if group and column % group[1] == 0:
                span = slice(column, column + group[1])
                pruned[:, span] = _group_mask(
                    (block[:, span] / local.diagonal()[span]) ** 2, *group
                )
            kept = block[:, column].masked_fill(pruned[:, column], 0)
            errors[:, column] = (block[:, column] - kept) / local[column, column]
            block[:, column:] -= errors[:, column, None] * local[column, column:]
            block[:, column] = kept
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return weight


def inverse_factor(gram: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped Gram matrix, (in, in)."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(gram, damping)))
    return torch.linalg.cholesky(inverse, upper=True)


def _smallest(score: Float[Tensor, "*rows n"], count: int) -> Bool[Tensor, "*rows n"]:
    """True for the `count` smallest scores along the last axis; among equals the earlier ones."""
    order = torch.sort(score, dim=-1, stable=True).indices[..., :count]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, order, True)


def _largest(score: Float[Tensor, "out in"], count: int) -> Bool[Tensor, "out in"]:
    """True for the `count` largest scores of the matrix, some of those that are equal to the last.

    A sorted sample tells between which two scores the last one most likely lies; only those in
    between are then compared, which takes half the time on a CPU.
    """
    flat = score.flatten()
    some = flat[:: len(flat) // SAMPLE + 1 | 1].sort(descending=True).values
    last, spread = count * len(some) // len(flat), 2 * math.isqrt(len(some))  # 4 σ
    high, low = some[max(last - spread, 0)], some[min(last + spread, len(some) - 1)]
    kept, near = flat > high, ((flat >= low) & (flat <= high)).nonzero().flatten()
    missing = count - int(kept.sum())
    if not 0 <= missing <= len(near):
        kept, near, missing = torch.zeros_like(kept), torch.arange(len(flat)).to(near), count
    kept[near[flat[near].topk(missing, sorted=False).indices]] = True
    return kept.view_as(score)


def _group_mask(score: Float[Tensor, "out in"], kept: int, size: int) -> Bool[Tensor, "out in"]:
    """True for the `size` − `kept` smallest of every `size` consecutive inputs."""
    return _smallest(score.unflatten(1, (-1, size)), size - kept).flatten(1)


def _check(
    weight: Tensor, gram: Tensor, method: str, sparsity: float | None, pattern: str | None
) -> tuple[int, int] | None:
    """The pattern as (N, M) or None, once everything fits together."""
    solver_of(method)
    if gram.shape != (weight.shape[1], weight.shape[1]):
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)} needs a Gram matrix (in, in), not "
            f"{tuple(gram.shape)}"
        )
    check_finite(weight, gram)
    group = parse_pattern(pattern)
    if pattern == "structured" or (group and group[0] is None):
        raise ValueError(
            f"pattern '{pattern}' is decided over blocks; inside one linear give N:M such as 2:4"
        )
    if group is None and sparsity is None:
        raise ValueError("give a sparsity or an N:M pattern")
    if sparsity is not None and not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be in [0, 1], not {sparsity}")
    if group and sparsity is not None and abs(sparsity - (1 - group[0] / group[1])) > 1e-9:
        raise ValueError(
            f"pattern {pattern} fixes the sparsity at {1 - group[0] / group[1]}; {sparsity} "
            "contradicts it"
        )
    if group and weight.shape[1] % group[1]:
        raise ValueError(
            f"{weight.shape[1]} inputs cannot be split into groups of {group[1]} for pattern "
            f"{pattern}"
        )
    return group
