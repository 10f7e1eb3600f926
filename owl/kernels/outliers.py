"""Where a model keeps its outliers: the Wanda score of every weight, and a block's share of
outstanding scores.

Source: Outlier Weighed Layerwise sparsity (OWL), arXiv 2310.05175, section 3 (layerwise outlier
distribution, LOD). Differences from the published code (luuyin/OWL `lib/prune_all.py`): the norm is
a root mean square per *token row seen*, not divided by the number of sequences (that inflates
cross-attention k/v, which see about 1500 rows a sequence, over linears that see a few tokens), and
the ratio is a fraction, not percent. What this module does not do: collect activations, or turn
ratios into sparsities.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def wanda_score(
    weight: Float[Tensor, "out in"], rms: Float[Tensor, " in"]
) -> Float[Tensor, "out in"]:
    """|W_ij| · rms_j, where rms_j is the root mean square of input feature j over the token rows
    (Wanda, arXiv 2306.11695, eq. 1).
    """
    return weight.abs() * rms


def outlier_ratio(scores: Float[Tensor, "..."], multiple: float) -> float:
    """Share of `scores` (all linears of a block pooled) above `multiple` × their mean: a fraction
    in [0, 1].

    All scores zero: 0. Raises ValueError for no scores, scores that are not finite or negative, or
    a `multiple` that is not positive.
    """
    if scores.numel() == 0:
        raise ValueError("outlier_ratio needs at least one score")
    if not multiple > 0:
        raise ValueError(f"the outlier multiple M must be positive, not {multiple}")
    mean = scores.mean(dtype=torch.float64) if scores.device.type != "mps" else scores.mean()
    if not torch.isfinite(mean) or scores.min() < 0:
        raise ValueError(
            "scores must be finite and not negative: check the calibration statistics for NaN or "
            "infinity"
        )
    return (scores > multiple * mean).sum().item() / scores.numel()


def score_quantiles(scores: Float[Tensor, "..."]) -> dict[str, float]:
    """Quantiles of `scores` relative to their mean, as {"q01": …, "q999": …, "max": …}; from at
    most a million evenly spaced scores.
    """
    flat = scores.flatten()
    mean, largest = flat.mean().item() or 1.0, flat.max().item()
    sample = flat[:: max(1, flat.numel() // 1_000_000)].float().cpu() / mean
    found = {
        f"q{digits}": torch.quantile(sample[:2_000_000], float(f"0.{digits}")).item()
        for digits in ("01", "05", "25", "50", "75", "95", "99", "999")
    }
    return found | {"max": largest / mean}
