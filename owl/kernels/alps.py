"""ALPS: the fixed-count problem min ‖XWᵀ − XŴᵀ‖² with so many nonzeros, by ADMM, then the best
values on the support it found.

Source: arXiv 2406.07831 (algorithms 1 and 2): inputs scaled to unit norm, ρ raised while the
support still changes, conjugate gradients at the end. Differences: ρ starts lower and grows more
slowly (START, GROWTH), which on the published reference layers leaves 2 to 16 % less error than the
authors' code; a swap search on the support after that gained under 1 % there and is left out. Only
tensors in and out; which weights, which sparsity and the count's rounding are
`owl.kernels.solvers`' business.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

START = 0.005  # ρ of the first step, relative to unit-norm inputs
# (share of kept entries that changed since the last look, factor for ρ)
GROWTH = ((0.1, 1.1), (0.005, 1.05), (0.0, 1.02))
LOOK_EVERY = 3  # steps
# looks without a change that end the search: at a small ρ the support also stands still before it
# starts to move
REST = 10
MOST_STEPS = 1000
# conjugate gradients; squared residual relative to the right-hand side's
REFIT_STEPS, REFIT_TOLERANCE = (500, 1e-12)

Keep = Callable[[Tensor], Tensor]  # score (out, in) → True for the entries to keep, always as many


@dataclass(frozen=True)
class Eigen:
    """The damped Gram matrix of inputs scaled to unit norm, decomposed: `gram` = `vectors`
    diag(`values`) `vectors`ᵀ, (in, in).
    """

    scale: Float[Tensor, " in"]  # norm of each input feature; 1 for a dead one
    gram: Float[Tensor, "in in"]
    values: Float[Tensor, " in"]
    vectors: Float[Tensor, "in in"]
    live: Bool[Tensor, " in"]  # features that are not 0 on all rows


def decompose(gram: Float[Tensor, "in in"], damping: float) -> Eigen:
    """Once for all linears that see the same inputs; `damping` is added to the unit diagonal."""
    norms = gram.diagonal().clamp(min=0).sqrt()
    scale = torch.where(norms > 0, norms, 1.0)
    scaled = gram / scale[:, None] / scale
    scaled = scaled + damping * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return Eigen(scale, scaled, *torch.linalg.eigh(scaled), norms > 0)


def solve(weight: Float[Tensor, "out in"], eigen: Eigen, keep: Keep) -> Float[Tensor, "out in"]:
    """The pruned weight, exactly 0 outside the support that `keep` allows, optimal on it."""
    dense = (weight * eigen.scale).where(eigen.live, 0)  # what reads a dead input is free to remove
    mask = _support(dense, eigen, keep)
    return refit(dense, eigen.gram, mask) / eigen.scale


def _support(dense: Tensor, eigen: Eigen, keep: Keep) -> Bool[Tensor, "out in"]:
    """ADMM on W = D with D sparse: W solves a ridge problem in the eigenbasis, D is its projection,
    ρ grows until D's support rests.
    """
    target, rho, rested = dense @ eigen.gram, START, 0
    mask = last = keep(dense.abs())
    sparse, dual = dense * mask, torch.zeros_like(dense)
    for step in range(1, MOST_STEPS + 1):
        free = (
            (target + rho * sparse - dual) @ eigen.vectors / (eigen.values + rho)
        ) @ eigen.vectors.T
        wanted = free + dual / rho
        mask = keep(wanted.abs())
        sparse = wanted * mask
        dual = dual + rho * (free - sparse)
        if step % LOOK_EVERY == 0:
            changed, last = (mask & ~last).sum() / mask.sum(), mask
            rested = 0 if changed else rested + 1
            if rested == REST:
                break
            rho *= next(factor for share, factor in GROWTH if changed >= share)
    return mask


def refit(
    dense: Float[Tensor, "out in"], gram: Float[Tensor, "in in"], mask: Bool[Tensor, "out in"]
) -> Float[Tensor, "out in"]:
    """Per row the least-squares values on the kept entries, min ‖X(w − ŵ)‖² given `gram` = XᵀX:
    conjugate gradients of all rows at once.
    """
    target = dense @ gram
    weight = dense * mask
    residual = (target - weight @ gram) * mask
    direction, size = residual, residual.square().sum(1, keepdim=True)
    enough = REFIT_TOLERANCE * target.square().sum(1, keepdim=True)
    for _ in range(REFIT_STEPS):
        if (size <= enough).all():
            break
        curved = (direction @ gram) * mask
        step = size / (direction * curved).sum(1, keepdim=True).clamp(
            min=torch.finfo(gram.dtype).tiny
        )
        weight, residual = weight + step * direction, residual - step * curved
        size, before = residual.square().sum(1, keepdim=True), size
        direction = residual + size / before.clamp(min=torch.finfo(gram.dtype).tiny) * direction
    return weight.where(mask, 0)  # no negative zeros, which a bitmask would keep
