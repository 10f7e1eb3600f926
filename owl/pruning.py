"""Sequential pruning of a whole Whisper: statistics of a block, solve its linears, go on with the pruned block's output.

Which sparsity each linear gets is decided before (`owl.allocation`); which weights of a linear go is decided by `owl.solvers`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from owl.calibration import Batch, walk
from owl.solvers import Factors, factorise, parse_pattern, prune_weight
from owl.whisper import Block, Linear

COLUMN_BLOCK = 128  # sparsegpt's lazy-update width, columns


@dataclass(frozen=True)
class PrunedLinear:
    """What happened to one linear. `error` = ‖XWᵀ − XŴᵀ‖² / ‖XWᵀ‖² on the inputs that the pruned model feeds it."""

    linear: str
    block: str
    kind: str
    weights: int
    token_rows: int
    target_sparsity: float
    sparsity: float
    error: float
    seconds: float


def prune(
    model,
    every: Sequence[Block],
    batches: Sequence[Batch],
    sparsities: Mapping[str, float],
    *,
    method: str,
    pattern: str = "unstructured",
    damping: float = 0.01,
) -> list[PrunedLinear]:
    """Prune the linears of `every` in place, one block after the other; `sparsities` by linear name (ignored by an N:M pattern).

    Raises AssertionError where the realised sparsity is off its target by more than the solver's counting allows: one weight per row
    (wanda), per matrix (magnitude, alps) or per column block (sparsegpt); nothing for N:M.
    """
    pruned, factors = [], Shared(method, damping)
    for block, statistics in walk(model, every, batches, gram=True, modified=True, description="prune"):
        for linear in block.linears:
            before, started = linear.module.weight.data.clone(), time.perf_counter()
            target = _target(sparsities[linear.name], pattern)
            gram = statistics[linear.name].gram
            after = prune_weight(
                before, gram, method=method, **target, block_size=COLUMN_BLOCK, damping=damping, factors=factors.of(linear, gram)
            )
            linear.module.weight.data.copy_(after)
            sparsity = _realised(linear, before, after, sparsities[linear.name], method, pattern)
            pruned.append(
                PrunedLinear(
                    linear=linear.name,
                    block=block.name,
                    kind=linear.kind,
                    weights=before.numel(),
                    token_rows=statistics[linear.name].rows,
                    target_sparsity=sparsities[linear.name],
                    sparsity=sparsity,
                    error=relative_output_error(before, after, gram),
                    seconds=time.perf_counter() - started,
                )
            )
    return pruned


class Shared:
    """Factors of Gram matrices, made once for all linears that see the same inputs, and forgotten when other inputs come.

    The encoder's output, which every decoder block's cross-attention reads, is remembered beside the latest other inputs.
    """

    def __init__(self, method: str, damping: float):
        self.method, self.damping = method, damping
        self.made: dict[bool, tuple[Tensor, Factors]] = {}

    def of(self, linear: Linear, gram: Tensor) -> Factors:
        slot = linear.inputs == "encoder output"
        if slot not in self.made or self.made[slot][0] is not gram:
            self.made[slot] = gram, factorise(gram, method=self.method, damping=self.damping)
        return self.made[slot][1]


def spread(every: Sequence[Block], per_block: Sequence[float]) -> dict[str, float]:
    """Sparsity by linear name from one sparsity per block that has linears to prune, in order."""
    prunable = [block for block in every if block.linears]
    return {linear.name: sparsity for block, sparsity in zip(prunable, per_block, strict=True) for linear in block.linears}


def relative_output_error(before: Tensor, after: Tensor, gram: Tensor) -> float:
    """‖XWᵀ − XŴᵀ‖² / ‖XWᵀ‖² from the Gram matrix XᵀX (in, in); 0 where the output was all zeros already."""
    gram = gram.cpu().double()
    dense, change = before.cpu().double(), (before.cpu().double() - after.cpu().double())
    scale = ((dense @ gram) * dense).sum().item()
    return ((change @ gram) * change).sum().item() / scale if scale > 0 else 0.0


def _target(sparsity: float, pattern: str) -> dict:
    return {"sparsity": sparsity} if parse_pattern(pattern) is None else {"pattern": pattern}


def _realised(linear: Linear, before: Tensor, after: Tensor, target: float, method: str, pattern: str) -> float:
    """The share of zeros in `after`, asserted; weights that were zero before may add to it, and half precision may round some to zero."""
    zeros, count, (rows, columns) = (after == 0).sum().item(), after.numel(), after.shape
    group = parse_pattern(pattern)
    allowance = 0 if group else {"wanda": rows, "magnitude": 1, "alps": 1, "sparsegpt": -(-columns // COLUMN_BLOCK)}[method]
    wanted = (1 - group[0] / group[1] if group else target) * count
    extra = (before == 0).sum().item() + (count / 1000 if after.dtype != torch.float32 else 0)
    assert wanted - allowance - 1e-6 <= zeros <= wanted + allowance + extra + 1e-6, (
        f"{linear.name}: {zeros} of {count} weights are zero, but {wanted:.1f} ± {allowance} were asked for ({method}, {pattern})"
    )
    return zeros / count
