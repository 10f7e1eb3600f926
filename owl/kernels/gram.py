"""What is done to a Gram matrix XᵀX of inputs X (rows, in), and what it says of output errors."""

import torch
from jaxtyping import Float
from torch import Tensor


def centred(
    gram: Float[Tensor, "n n"], total: Float[Tensor, " n"], rows: int
) -> Float[Tensor, "n n"]:
    """The Gram matrix of the inputs minus their mean, from XᵀX, the sum over rows and the number of
    rows.
    """
    return gram - torch.outer(total, total) / max(1, rows)


def damped(gram: Float[Tensor, "n n"], damping: float) -> Float[Tensor, "n n"]:
    """`gram` made invertible: `damping` × the mean diagonal of the live inputs on its diagonal, and
    the whole mean for dead ones (1 where all are dead).
    """
    diagonal = gram.diagonal()
    live = diagonal[diagonal > 0]
    mean = live.mean() if len(live) else torch.ones((), dtype=gram.dtype, device=gram.device)
    return gram + torch.diag(torch.where(diagonal > 0, 0.0, mean) + damping * mean)


def check_finite(weight: Tensor, gram: Tensor) -> None:
    """ValueError for NaN or infinity."""
    if not torch.isfinite(weight).all() or not torch.isfinite(gram).all():
        raise ValueError(
            "weight and Gram matrix must be finite: the model or its calibration inputs hold NaN "
            "or infinity"
        )


def energy(weight: Float[Tensor, "out n"], gram: Float[Tensor, "n n"]) -> float:
    """‖XWᵀ‖²."""
    return ((weight @ gram) * weight).sum().item()


def relative_output_error(
    before: Tensor, after: Tensor, gram: Tensor, centred: Tensor | None = None
) -> float:
    """‖XWᵀ − XŴᵀ‖² / ‖XWᵀ‖² from the Gram matrix XᵀX (in, in), in float64 on the CPU; 0 where the
    output was all zeros already.

    Give the Gram matrix of the `centred` inputs too where the bias takes up the mean of the
    difference.
    """
    dense, inputs = before.cpu().double(), gram.cpu().double()
    scale, seen = energy(dense, inputs), inputs if centred is None else centred.cpu().double()
    return energy(dense - after.cpu().double(), seen) / scale if scale > 0 else 0.0
