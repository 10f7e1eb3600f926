"""Sequential pruning of a whole Whisper: statistics of a block, solve its linears, go on with the
pruned block's output.

Which sparsity each linear gets is decided before (`owl.kernels.allocation`); which weights of a
linear go is decided by `owl.kernels.solvers`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from owl.kernels.solvers import Factors, factorise, parse_pattern, prune_weight
from owl.model.whisper import Block, Linear
from owl.prune.calibration import Batch, Statistics, walk

COLUMN_BLOCK = 128  # sparsegpt's lazy-update width, columns


@dataclass(frozen=True)
class PrunedLinear:
    """What happened to one linear. `error` = ‖XWᵀ − XŴᵀ‖² / ‖XWᵀ‖² on the inputs that the pruned
    model feeds it.
    """

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
    pattern: str | Mapping[str, str] = "unstructured",
    damping: float = 0.01,
    bias_refit: bool = False,
) -> list[PrunedLinear]:
    """Prune the linears of `every` in place, one block after the other; `sparsities` by linear name
    (ignored by an N:M pattern).

    `pattern`: one for all, or by linear name (mixed N:M; "M:M" leaves a linear as it is). With
    `bias_refit` a linear that has a bias gets the one that makes its mean output on the calibration
    rows the dense one's, and sparsegpt and alps then minimise what no bias can mend: the error of
    the centred inputs.

    Raises AssertionError where the realised sparsity is off its target by more than the solver's
    counting allows: one weight per row (wanda), per matrix (magnitude, alps) or per column block
    (sparsegpt); nothing for N:M.
    """
    pruned, factors = [], Shared(method, damping)
    for block, statistics in walk(
        model, every, batches, gram=True, modified=True, description="prune"
    ):
        for linear in block.linears:
            before, started = linear.module.weight.data.clone(), time.perf_counter()
            own = pattern if isinstance(pattern, str) else pattern[linear.name]
            target, seen = _target(sparsities[linear.name], own), statistics[linear.name]
            moves_bias = bias_refit and linear.module.bias is not None
            gram, made = factors.of(linear, seen, moves_bias and method in ("sparsegpt", "alps"))
            after = prune_weight(
                before,
                gram,
                method=method,
                **target,
                block_size=COLUMN_BLOCK,
                damping=damping,
                factors=made,
            )
            linear.module.weight.data.copy_(after)
            if moves_bias:
                linear.module.bias.data += (
                    (before - after).to(seen.total) @ seen.total / seen.rows
                ).to(before)
            dead = int((gram.diagonal() <= 0).sum()) if method == "sparsegpt" else 0
            sparsity = _realised(linear, before, after, sparsities[linear.name], method, own, dead)
            pruned.append(
                PrunedLinear(
                    linear=linear.name,
                    block=block.name,
                    kind=linear.kind,
                    weights=before.numel(),
                    token_rows=seen.rows,
                    target_sparsity=sparsities[linear.name],
                    sparsity=sparsity,
                    error=relative_output_error(
                        before, after, seen.gram, seen.centred if moves_bias else None
                    ),
                    seconds=time.perf_counter() - started,
                )
            )
    return pruned


class Shared:
    """Gram matrices and what a solver makes of them, once for all linears that see the same inputs,
    forgotten when other inputs come.

    The encoder's output, which every decoder block's cross-attention reads, is remembered beside
    the latest other inputs.
    """

    def __init__(self, method: str, damping: float):
        self.method, self.damping = method, damping
        self.made: dict[tuple[bool, bool], tuple[Statistics, Tensor, Factors]] = {}

    def of(self, linear: Linear, seen: Statistics, centred: bool) -> tuple[Tensor, Factors]:
        """(Gram matrix, factors) of the inputs, or of the inputs minus their mean."""
        slot = linear.inputs == "encoder output", centred
        if slot not in self.made or self.made[slot][0] is not seen:
            gram = seen.centred if centred else seen.gram
            self.made[slot] = seen, gram, factorise(gram, method=self.method, damping=self.damping)
        return self.made[slot][1:]


def spread(every: Sequence[Block], per_block: Sequence[float]) -> dict[str, float]:
    """Sparsity by linear name from one sparsity per block that has linears to prune, in order."""
    prunable = [block for block in every if block.linears]
    return {
        linear.name: sparsity
        for block, sparsity in zip(prunable, per_block, strict=True)
        for linear in block.linears
    }


def relative_output_error(
    before: Tensor, after: Tensor, gram: Tensor, centred: Tensor | None = None
) -> float:
    """‖XWᵀ − XŴᵀ‖² / ‖XWᵀ‖² from the Gram matrix XᵀX (in, in); 0 where the output was all zeros
    already.

    Give the Gram matrix of the `centred` inputs too where the bias takes up the mean of the
    difference.
    """
    energy = lambda weight, inputs: ((weight @ inputs.cpu().double()) * weight).sum().item()
    dense, change = before.cpu().double(), (before.cpu().double() - after.cpu().double())
    scale = energy(dense, gram)
    return energy(change, gram if centred is None else centred) / scale if scale > 0 else 0.0


def _target(sparsity: float, pattern: str) -> dict:
    kept, _, size = pattern.partition(":")
    if kept == size:
        return {"sparsity": 0.0}  # every input of every group is kept
    return {"sparsity": sparsity} if pattern == "unstructured" else {"pattern": pattern}


def _realised(
    linear: Linear,
    before: Tensor,
    after: Tensor,
    target: float,
    method: str,
    pattern: str,
    dead: int,
) -> float:
    """The share of zeros in `after`, asserted. What may add to it: weights that were zero before,
    those of `dead` input features, which sparsegpt takes away whatever the target, and in half
    precision what rounds to zero."""
    zeros, count, (rows, columns) = (after == 0).sum().item(), after.numel(), after.shape
    group = None if target == 0 else parse_pattern(pattern)
    allowance = (
        0
        if group
        else {"wanda": rows, "magnitude": 1, "alps": 1, "sparsegpt": -(-columns // COLUMN_BLOCK)}[
            method
        ]
    )
    wanted = (1 - group[0] / group[1] if group else target) * count
    extra = (
        dead * rows
        + (before == 0).sum().item()
        + (count / 1000 if after.dtype != torch.float32 else 0)
    )
    assert wanted - allowance - 1e-6 <= zeros <= wanted + allowance + extra + 1e-6, (
        f"{linear.name}: {zeros} of {count} weights are zero, but {wanted:.1f} ± {allowance} were "
        f"asked for ({method}, {pattern})"
    )
    return zeros / count
