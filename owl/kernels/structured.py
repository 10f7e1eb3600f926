"""Which neurons, heads or layers go, and what the kept weights become: Gram matrices and weights
in, choices and weights out.

A group is a neuron (one column of fc2) or a head (head_dim columns of out_proj). Removing the
columns s of a weight W and refitting the rest raises the squared output error by tr(W_s
((C⁻¹)_ss)⁻¹ W_sᵀ), C the Gram matrix of the inputs: optimal brain surgeon for groups (Hassibi and
Stork 1993; ZipLM, arXiv 2302.04089). With C centred, the refit of the bias is part of it. Whole
layers go by how little they turn their input (ShortGPT, arXiv 2403.03853). Applying all this to a
model is `owl.prune.structures`'s business.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from owl.kernels.gram import check_finite, damped


@dataclass(frozen=True)
class Removal:
    """Greedy removal. `order` (groups − 1,): which group goes first, second, …; one always stays.
    `errors` (groups,): the squared output error once the first 0, 1, … of them are gone and the
    kept columns are refit."""

    order: Tensor
    errors: Tensor


def removal_path(
    weight: Float[Tensor, "out n"],
    gram: Float[Tensor, "n n"],
    *,
    group: int = 1,
    chunk: int = 1,
    damping: float = 0.01,
) -> Removal:
    """In which order the groups of `group` consecutive columns are best removed, and what each step
    costs.

    Greedy, `chunk` groups between two looks at the saliencies; the errors stay exact for the order
    taken. `damping`: share of the mean diagonal that is added to it. ValueError for columns that
    are no multiple of `group`, or values that are not finite.
    """
    if weight.shape[1] % group:
        raise ValueError(f"{weight.shape[1]} columns are no multiple of the group size {group}")
    check_finite(weight, gram)
    weight = weight.masked_fill(gram.diagonal() <= 0, 0)  # a dead input is free to remove
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(gram, damping)))
    left = torch.arange(weight.shape[1] // group, device=weight.device)
    order, rises = [], [torch.zeros(1, dtype=weight.dtype, device=weight.device)]
    while len(left) > 1:
        ranked = _saliency(weight, inverse, group).argsort(stable=True)
        going, staying = (
            ranked[: min(chunk, len(left) - 1)],
            ranked[min(chunk, len(left) - 1) :].sort().values,
        )
        gone, kept = columns_of(going, group), columns_of(staying, group)
        factor = torch.linalg.cholesky(inverse[gone][:, gone])
        lost = torch.linalg.solve_triangular(factor, weight[:, gone].T, upper=False)
        coupling = torch.linalg.solve_triangular(factor, inverse[gone][:, kept], upper=False)
        # one after the other: what the factor's rows say
        rises.append(lost.square().sum(1).unflatten(0, (-1, group)).sum(1))
        weight, inverse = (
            weight[:, kept] - lost.T @ coupling,
            inverse[kept][:, kept] - coupling.T @ coupling,
        )
        order.append(left[going])
        left = left[staying]
    return Removal(torch.cat([*order, left[:0]]), torch.cat(rises).cumsum(0))


def refit(
    weight: Float[Tensor, "out n"],
    gram: Float[Tensor, "n n"],
    kept: Int[Tensor, " k"],
    *,
    damping: float = 0.01,
) -> Float[Tensor, "out k"]:
    """Least-squares weights of the `kept` columns that stand in for all of them; damping keeps them
    near what they were.
    """
    gone = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device).index_fill(
        0, kept, False
    )
    factor = torch.linalg.cholesky(damped(gram, damping)[kept][:, kept])
    return (
        weight[:, kept] + torch.cholesky_solve((weight[:, gone] @ gram[gone][:, kept]).T, factor).T
    )


def mix(errors: Sequence[Tensor], sizes: Sequence[int], budget: float) -> list[int]:
    """How many groups of each unit to remove: the least total error whose removed weights are
    nearest to `budget`.

    `errors` per unit as in `Removal`, `sizes` the weights that one group holds. The unit of the
    smallest groups fills what combinations of the others leave, so `budget` is met within half of
    its group wherever that can be.
    """
    finest = min(range(len(sizes)), key=lambda unit: (sizes[unit], -len(errors[unit])))
    curves, best = [curve.tolist() for curve in errors], None
    for counts in product(
        *(range(1 if unit == finest else len(curve)) for unit, curve in enumerate(curves))
    ):
        rest = budget - sum(count * size for count, size in zip(counts, sizes))
        fill = max(0, min(len(curves[finest]) - 1, round(rest / sizes[finest])))
        full = [fill if unit == finest else count for unit, count in enumerate(counts)]
        miss = round(max(0.0, abs(rest - fill * sizes[finest]) - sizes[finest] / 2))
        candidate = (miss, sum(curve[count] for curve, count in zip(curves, full)), full)
        best = candidate if best is None else min(best, candidate)
    return best[2]


def fit_budgets(wanted: Sequence[float], most: Sequence[float]) -> list[float]:
    """Budgets in weights, none above what its block can lose: what one cannot take goes to the
    others, by the room that they have.

    ValueError where all of them together cannot lose that much.
    """
    budgets = [min(ask, limit) for ask, limit in zip(wanted, most, strict=True)]
    missing, room = (
        sum(wanted) - sum(budgets),
        [limit - budget for limit, budget in zip(most, budgets)],
    )
    if missing > sum(room) * (1 + 1e-9):
        problem = (
            f"{sum(wanted):.0f} weights are to go, but the structures that may be removed hold "
            f"{sum(most):.0f}"
        )
        raise ValueError(f"{problem}; lower the sparsity or allow more structures")
    return [budget + missing * space / max(sum(room), 1e-9) for budget, space in zip(budgets, room)]


def influence(
    before: Sequence[Float[Tensor, "_ d"]], after: Sequence[Float[Tensor, "_ d"]]
) -> float:
    """How much a block turns its states, given batch by batch: 1 − mean cosine between a row before
    and after it; 0: it does nothing.
    """
    cosines = [
        torch.nn.functional.cosine_similarity(a.double().cpu(), b.double().cpu(), dim=-1)
        for a, b in zip(before, after, strict=True)
    ]
    return 1 - sum(one.sum().item() for one in cosines) / sum(len(one) for one in cosines)


def layers_to_drop(
    influences: Sequence[float], counts: Sequence[int], stacks: Sequence[str], budget: float
) -> list[int]:
    """Indices of the blocks to drop: least influence per weight first, as long as each brings the
    removed weights nearer to `budget`.

    `stacks` names each block's stack; the last block of a stack stays.
    """
    dropped: list[int] = []
    for index in sorted(range(len(counts)), key=lambda one: influences[one] / counts[one]):
        removed = sum(counts[one] for one in dropped)
        peers = [
            one for one, stack in enumerate(stacks) if stack == stacks[index] and one not in dropped
        ]
        if len(peers) > 1 and abs(removed + counts[index] - budget) < abs(removed - budget):
            dropped.append(index)
    return sorted(dropped)


def columns_of(groups: Int[Tensor, " g"], size: int) -> Int[Tensor, " columns"]:
    """The columns of groups of `size` consecutive columns, group after group."""
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()


def _saliency(weight: Tensor, inverse: Tensor, group: int) -> Tensor:
    """(groups,) rise of the squared error for each group alone: tr(W_g ((C⁻¹)_gg)⁻¹ W_gᵀ)."""
    count = weight.shape[1] // group
    blocks = inverse.view(count, group, count, group).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    parts = weight.view(-1, count, group).permute(1, 2, 0)  # (groups, group, out)
    if group == 1:
        return parts.square().sum((1, 2)) / blocks[:, 0, 0]
    return (parts * torch.cholesky_solve(parts, torch.linalg.cholesky(blocks))).sum((1, 2))
