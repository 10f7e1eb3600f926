"""Sequential pruning of a whole Whisper: statistics of a block, solve its linears, go on with the
pruned block's output.

Which sparsity each linear gets is decided before (`owl.kernels.allocation`); which weights of a
linear go is decided by `owl.kernels.solvers`. A decoder's linears see few rows beside their inputs,
and a solver fits those: so some clips are held out, on which every linear's error is measured
again.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from owl.errors import MissedTarget
from owl.kernels.gram import relative_output_error
from owl.kernels.patterns import parse_pattern
from owl.kernels.solvers import factorise, prune_weight, solver_of
from owl.model.whisper import Block, Linear
from owl.prune.calibration import Batch, Statistics, walk, warn_if_singular

COLUMN_BLOCK = 128  # sparsegpt's lazy-update width, columns
# share of the Gram matrix' mean diagonal: with the published codes' 0.01 SparseGPT's divergence on
# OpenAI's tiny.en is a third higher (docs/results.md)
DAMPING = 0.1


@dataclass(frozen=True)
class PrunedLinear:
    """What happened to one linear. `error` = ‖XWᵀ − XŴᵀ‖² / ‖XWᵀ‖² on the inputs X that the pruned
    model feeds it, (token_rows, inputs); `held_out_error` the same on clips that the solver did not
    see, None where there were none.
    """

    linear: str
    block: str
    kind: str
    weights: int
    token_rows: int
    inputs: int
    target_sparsity: float
    sparsity: float
    error: float
    held_out_error: float | None
    seconds: float


def prune(
    model,
    every: Sequence[Block],
    batches: Sequence[Batch],
    sparsities: Mapping[str, float],
    **options,
) -> list[PrunedLinear]:
    """Prune the linears of `every` in place, all blocks of `prune_blocks`, which says what the
    arguments mean.
    """
    blocks = prune_blocks(model, every, batches, sparsities, **options)
    return [row for _, rows in blocks for row in rows]


def prune_blocks(
    model,
    every: Sequence[Block],
    batches: Sequence[Batch],
    sparsities: Mapping[str, float],
    *,
    method: str,
    pattern: str | Mapping[str, str] = "unstructured",
    held_out: Sequence[Batch] = (),
    damping: float = DAMPING,
    bias_refit: bool = False,
) -> Iterator[tuple[Block, list[PrunedLinear]]]:
    """Prune the linears of `every` in place, one block after the other, and yield each with its
    rows: what its weights are when the next is asked for makes the next one's inputs. `sparsities`
    by linear name (ignored by an N:M pattern).

    `pattern`: one for all, or by linear name (mixed N:M; "M:M" leaves a linear as it is).
    `held_out`: batches that errors are measured on again and nothing else. With `bias_refit` a
    linear that has a bias gets the one that makes its mean output on the calibration rows the dense
    one's, and solvers that update kept weights then minimise what no bias can mend: the error of
    the centred inputs.

    Raises MissedTarget where the realised sparsity is off its target by more than the solver's
    `count` in `owl.kernels.records.SOLVERS`; nothing may differ for N:M.
    """
    shared, solver = Shared(method, damping), solver_of(method)
    options = {"modified": True, "description": None}
    learning = walk(model, every, batches, gram=True, **options)
    judging = walk(model, every, held_out, gram=bool(held_out), **options)
    bar = tqdm(total=sum(len(block.linears) for block in every), desc="prune", unit="linear")
    for (block, statistics), (_, kept_back) in zip(learning, judging):
        warn_if_singular(block, statistics)
        pruned = []
        for linear in block.linears:
            before, started = linear.module.weight.data.clone(), time.perf_counter()
            own = pattern if isinstance(pattern, str) else pattern[linear.name]
            target, seen = _target(sparsities[linear.name], own), statistics[linear.name]
            moves_bias = bias_refit and linear.module.bias is not None
            gram, factors = shared.of(linear, seen, moves_bias and solver.updates)
            after = prune_weight(
                before,
                gram,
                method=method,
                **target,
                block_size=COLUMN_BLOCK,
                damping=damping,
                factors=factors,
            )
            linear.module.weight.data.copy_(after)
            mean = seen.total / seen.rows if moves_bias else None
            if mean is not None:
                linear.module.bias.data += ((before - after).to(mean) @ mean).to(before)
            dead = int((gram.diagonal() <= 0).sum()) if solver.updates else 0
            sparsity = _realised(linear, before, after, sparsities[linear.name], method, own, dead)
            pruned.append(
                PrunedLinear(
                    linear=linear.name,
                    block=block.name,
                    kind=linear.kind,
                    weights=before.numel(),
                    token_rows=seen.rows,
                    inputs=before.shape[1],
                    target_sparsity=sparsities[linear.name],
                    sparsity=sparsity,
                    error=output_error(before, after, seen, mean),
                    held_out_error=output_error(before, after, kept_back[linear.name], mean),
                    seconds=time.perf_counter() - started,
                )
            )
            bar.update()
        yield block, pruned
    bar.close()


def output_error(
    before: Tensor, after: Tensor, seen: Statistics, mean: Tensor | None
) -> float | None:
    """The relative output error on some rows, without what a bias that was moved by the `mean`
    input makes up for; None where there are no rows.
    """
    if not seen.rows:
        return None
    return relative_output_error(
        before, after, seen.gram, None if mean is None else seen.about(mean)
    )


class Shared:
    """Gram matrices and what a solver makes of them, once for all linears that see the same inputs,
    forgotten when other inputs come.

    The encoder's output, which every decoder block's cross-attention reads, is remembered beside
    the latest other inputs.
    """

    def __init__(self, method: str, damping: float = DAMPING):
        self.method, self.damping = method, damping
        self.made: dict[tuple[bool, bool], tuple[Statistics, Tensor, object]] = {}

    def of(self, linear: Linear, seen: Statistics, centred: bool) -> tuple[Tensor, object]:
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
    """The share of zeros in `after`. What may add to what was asked for: weights that were zero
    before, those of `dead` input features, which solvers that update kept weights take away
    whatever the target, and in half precision what rounds to zero.
    """
    zeros, total, (rows, columns) = (after == 0).sum().item(), after.numel(), after.shape
    group = None if target == 0 else parse_pattern(pattern)
    off = 0 if group else solver_of(method).count(rows, columns, COLUMN_BLOCK)
    wanted = (1 - group[0] / group[1] if group else target) * total
    rounded = total / 1000 if after.dtype != torch.float32 else 0
    extra = dead * rows + (before == 0).sum().item() + rounded
    if not wanted - off - 1e-6 <= zeros <= wanted + off + extra + 1e-6:
        raise MissedTarget(
            f"{linear.name}: {zeros} of {total} weights are zero, but {wanted:.1f} ± {off} were "
            f"asked for ({method}, {pattern}); the solver counts wrongly, or its record in "
            "owl.kernels.records says a wrong count: use another method until one is mended"
        )
    return zeros / total
