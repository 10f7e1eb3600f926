"""A linear as two thinner ones, by the principal components of what it puts out: weight and Gram
matrix of its inputs in, the two factors out.

With U the first k eigenvectors of the outputs' covariance W C Wᵀ, C the Gram matrix of the centred
inputs, U (Uᵀ W) is the matrix of rank k whose outputs differ least, the bias taking up the mean
(LiteASR, arXiv 2502.20583; reduced-rank regression, Izenman 1975).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from owl.kernels.gram import check_finite


def rank_for(outputs: int, inputs: int, sparsity: float) -> int:
    """The largest rank k whose factors, k · (outputs + inputs) weights, are at most the share
    1 − sparsity of the matrix'.

    ValueError where not even rank 1 is.
    """
    # a hair above, for shares that are whole ranks
    rank = int((1 - sparsity) * outputs * inputs / (outputs + inputs) + 1e-9)
    if rank < 1:
        raise ValueError(
            f"a matrix of {outputs} × {inputs} weights cannot lose {sparsity:.3g} of them: its "
            f"factors of rank 1 have {outputs + inputs}; lower the sparsity"
        )
    return rank


def principal_factors(
    weight: Float[Tensor, "out n"], gram: Float[Tensor, "n n"], rank: int
) -> tuple[Float[Tensor, "out k"], Float[Tensor, "k n"]]:
    """(U, Uᵀ W) of the `rank` principal components of the outputs, the largest first. `gram`:
    of the centred inputs, where a bias takes up the mean. Of full rank U Uᵀ W is W.

    ValueError for values that are not finite.
    """
    check_finite(weight, gram)
    up = torch.linalg.eigh(weight @ gram @ weight.T).eigenvectors.flip(1)[:, :rank]
    return up, up.T @ weight
