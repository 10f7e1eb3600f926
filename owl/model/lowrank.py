"""Linears of low rank: two thinner matrices in place of one, and how a saved model remembers them.

The first keeps the linear's place and name, "fc1.weight" with fewer rows, the second is "fc1.up".
So a plain transformers user gets an error about mismatched sizes, never a wrong model, and
`owl.model.whisper.blocks` finds both. The config's `owl_ranks` says the rank by path.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LowRank(nn.Linear):
    """A linear through `rank` inner features: `weight` (rank, in), without a bias, leads there, and
    `up` (out, rank), with the linear's bias, back.
    """

    def __init__(self, dense: nn.Linear, rank: int):
        """Values undefined; shapes, precision and device as of `dense`. ValueError for a rank that
        cannot be.
        """
        outputs, inputs = dense.weight.shape
        if not 1 <= rank < min(outputs, inputs):
            raise ValueError(
                f"a linear of {outputs} × {inputs} is to have rank {rank}, but 1 to "
                f"{min(outputs, inputs) - 1} are possible"
            )
        like = {"device": dense.weight.device, "dtype": dense.weight.dtype}
        super().__init__(inputs, rank, bias=False, **like)
        self.up = nn.Linear(rank, outputs, bias=dense.bias is not None, **like)
        self.train(dense.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        return self.up(F.linear(inputs, self.weight))


def factorise(
    model: nn.Module, path: str, up: Tensor, down: Tensor, bias: Tensor | None
) -> LowRank:
    """Replace the linear at `path` by one with the factors `up` (out, rank) and `down` (rank, in)
    and, if the linear has one, the bias (out,).
    """
    factors = LowRank(model.get_submodule(path), len(down))
    with torch.no_grad():
        factors.weight.copy_(down)
        factors.up.weight.copy_(up)
        if bias is not None:
            factors.up.bias.copy_(bias)
    model.set_submodule(path, factors)
    return factors


def remember(model: nn.Module) -> None:
    """Write the ranks of a Whisper's linears of low rank, if it has any, into its config."""
    ranks = {
        path: module.out_features
        for path, module in model.named_modules()
        if isinstance(module, LowRank)
    }
    if ranks:
        model.config.owl_ranks = ranks


def outline(model: nn.Module, ranks: dict[str, int]) -> None:
    """Linears of these ranks by path, values undefined: a checkpoint is about to fill them.
    ValueError for a path that is no linear, or a rank that cannot be.
    """
    linears = {path: one for path, one in model.named_modules() if isinstance(one, nn.Linear)}
    for path, rank in ranks.items():
        if path not in linears:
            raise ValueError(f"owl_ranks in config.json: the model has no linear '{path}'")
        try:
            model.set_submodule(path, LowRank(linears[path], rank))
        except ValueError as error:
            raise ValueError(f"owl_ranks in config.json: {path}: {error}") from error
