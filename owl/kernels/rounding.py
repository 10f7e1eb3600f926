"""Weights rounded onto the grid of a file's format, as the inputs ask: a weight and the Gram matrix
of its inputs in, the rounded weight out.

GPTQ (arXiv 2210.17323): column by column, the columns to come making up for the error. The scale of
a block is the one of least error, each weight's error weighted by what the later columns cannot
make up for. Zeros stay zero.

A format's writer takes the scale from the largest value of a block, which it puts on the outermost
level: so does what comes out here, whatever the scale, so that writers and ggml's own tools find
scales and levels again without being told.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from owl.kernels.gram import check_finite
from owl.kernels.solvers import inverse_factor

DAMPING = 0.1  # share of the Gram matrix' mean diagonal
SHRINK = torch.linspace(1, 0.6, 21, dtype=torch.float64)  # scales that are tried, of the plain one
COLUMNS = 128  # that wait for one another's errors, at least


@dataclass(frozen=True)
class Grid:
    """Levels `low` … `high` times a scale for every `block` weights of a row (None: for the row),
    in float16 unless the scale is of a row.
    """

    low: int
    high: int
    block: int | None


GRIDS = {
    "int8": Grid(-127, 127, None),
    "q8_0": Grid(-127, 127, 32),
    "q5_0": Grid(-16, 15, 32),
    "q4_0": Grid(-8, 7, 32),
}


def grid_of(name: str, inputs: int) -> Grid:
    """The grid `name`; ValueError for an unknown one, or where its blocks do not divide the
    inputs.
    """
    if name not in GRIDS:
        raise ValueError(f"unknown grid '{name}'; choose one of {', '.join(GRIDS)}")
    block = GRIDS[name].block
    if block and inputs % block:
        raise ValueError(f"{name} packs rows by {block} weights; the weight's have {inputs}")
    return GRIDS[name]


def round_weight(
    weight: Float[Tensor, "out in"],
    gram: Float[Tensor, "rows columns"],
    grid: str,
    *,
    damping: float = DAMPING,
    factor: Tensor | None = None,
) -> Float[Tensor, "out in"]:
    """The weight on the grid `grid` (a name of GRIDS), zeros where it had zeros, in its dtype and
    on its device; the error ‖XWᵀ − XŴᵀ‖² of the inputs X (rows, in) is kept small.

    `gram` is XᵀX, `factor` what `inverse_factor` makes of it (default: made here with `damping`,
    a share of its mean diagonal). Float64 on the CPU. ValueError for an unknown grid, blocks that
    do not divide the inputs, a Gram matrix of another shape or values that are not finite.
    """
    inputs = weight.shape[1]
    form = grid_of(grid, inputs)
    if gram.shape != (inputs, inputs):
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)} needs a Gram matrix ({inputs}, {inputs}), "
            f"not {tuple(gram.shape)}"
        )
    check_finite(weight, gram)
    if factor is None:
        factor = inverse_factor(gram.cpu().double(), damping)
    left, zero = weight.detach().cpu().double().clone(), weight.cpu() == 0
    block = form.block or inputs
    width = -(-COLUMNS // block) * block  # whole blocks
    for start in range(0, inputs, width):
        stop = min(start + width, inputs)
        part, local = left[:, start:stop], factor[start:stop, start:stop]
        errors = torch.zeros_like(part)
        for column in range(stop - start):
            if column % block == 0:
                span = slice(column, column + block)
                here = part[:, span].masked_fill(zero[:, start:stop][:, span], 0)
                outermost = here.abs().max(1).indices
                scales = _best_scales(here, outermost, local.diagonal()[span] ** -2, form)
            levels = _levels(part[:, column], scales, form)
            levels[outermost == column % block] = form.low
            rounded = (levels * scales).masked_fill(zero[:, start + column], 0)
            errors[:, column] = (part[:, column] - rounded) / local[column, column]
            part[:, column:] -= errors[:, column, None] * local[column, column:]
            part[:, column] = rounded
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return left.to(weight) + 0.0  # no negative zeros


def _best_scales(block: Tensor, outermost: Tensor, importance: Tensor, form: Grid) -> Tensor:
    """Of one block per row, (out, block), the scales (out,) of least weighted squared error that
    put its largest weight, at `outermost`, on the lowest level or beyond.
    """
    largest = block.gather(1, outermost[:, None])[:, 0]
    best, least = torch.zeros_like(largest), torch.full_like(largest, torch.inf)
    for share in SHRINK:
        scales = _scales(share * largest, form)
        off = block - _levels(block, scales[:, None], form) * scales[:, None]
        error = off.square() @ importance
        best, least = torch.where(error < least, scales, best), torch.minimum(error, least)
    return best


def _scales(outermost: Tensor, form: Grid) -> Tensor:
    """The scales that put a value on the lowest level, in the precision in which files have
    them.
    """
    if form.block:
        return (outermost / form.low).half().double()
    return (outermost.half().float() / form.low).double()


def _levels(values: Tensor, scales: Tensor, form: Grid) -> Tensor:
    return torch.where(scales == 0, 0, values / scales).round().clamp(form.low, form.high)
