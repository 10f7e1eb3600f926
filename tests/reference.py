"""Slow, obviously right versions of the papers' equations, in plain loops, for the tests to compare
the kernels with.
"""

import math

import torch


def score(weight, inputs):
    """Wanda eq. 1 with a root mean square per token row: weight (out, in), inputs (rows, in)."""
    out, width = weight.shape
    result = torch.zeros(out, width, dtype=torch.float64)
    for j in range(width):
        rms = math.sqrt(sum(float(row[j]) ** 2 for row in inputs) / len(inputs))
        for i in range(out):
            result[i, j] = abs(float(weight[i, j])) * rms
    return result


def wanda_mask(weight, inputs, sparsity):
    """True = pruned: the int(in·S) smallest scores of each row."""
    scores = score(weight, inputs)
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for i in range(len(weight)):
        for j in sorted(range(weight.shape[1]), key=lambda j: float(scores[i, j]))[
            : int(weight.shape[1] * sparsity)
        ]:
            mask[i, j] = True
    return mask


def group_mask(scores, kept, size):
    """True = pruned: all but the `kept` largest of every `size` consecutive inputs."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for i in range(scores.shape[0]):
        for start in range(0, scores.shape[1], size):
            for j in sorted(range(start, start + size), key=lambda j: float(scores[i, j]))[
                : size - kept
            ]:
                mask[i, j] = True
    return mask


def magnitude_mask(weight, sparsity):
    """True = pruned: |W| <= the int(numel·S)-th smallest magnitude, as the published code has
    it.
    """
    ordered = sorted(abs(float(value)) for value in weight.flatten())
    return weight.abs() <= ordered[int(weight.numel() * sparsity)]


def sparsegpt(weight, gram, sparsity, block_size, damping):
    """SparseGPT, algorithm 1, with the inverse of the remaining Hessian recomputed from scratch for
    every column.
    """
    weight = weight.double().clone()
    width = weight.shape[1]
    hessian = gram.double() + damping * gram.double().diagonal().mean() * torch.eye(
        width, dtype=torch.float64
    )
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(width)]
    for start in range(0, width, block_size):
        stop = min(start + block_size, width)
        saliency = torch.stack(
            [weight[:, j] ** 2 / inverses[j][0, 0] for j in range(start, stop)], dim=1
        )
        threshold = saliency.flatten().sort().values[int(saliency.numel() * sparsity)]
        for j in range(start, stop):
            pruned = saliency[:, j - start] <= threshold
            error = torch.where(pruned, weight[:, j], 0.0) / inverses[j][0, 0]
            weight[:, j:] -= error[:, None] * inverses[j][0]
            weight[pruned, j] = 0.0
    return weight


def outlier_ratio(scores, multiple):
    """LOD: share of scores above M × their mean."""
    values = [float(value) for value in scores.flatten()]
    mean = sum(values) / len(values)
    return sum(value > multiple * mean for value in values) / len(values)


def refit(weight, gram, kept, damping):
    """Row by row, the weights on `kept` (bool) that leave the least output error on inputs scaled
    to unit norm: normal equations.
    """
    scale = gram.double().diagonal().sqrt()
    scaled = gram.double() / scale[:, None] / scale + damping * torch.eye(
        len(gram), dtype=torch.float64
    )
    dense, result = weight.double() * scale, torch.zeros_like(weight, dtype=torch.float64)
    for i in range(len(weight)):
        index = kept[i].nonzero()[:, 0]
        result[i, index] = torch.linalg.solve(scaled[index][:, index], scaled[index] @ dense[i])
    return result / scale
