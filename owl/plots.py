"""Figures: a table (pandas) and Axes in, those Axes out; columns are in each docstring, fractions in, percent only on the axes.

Figures over blocks are in `owl.plots_blocks`, of one model beside the dense one in `owl.plots_results`, what both need in
`owl.plots_axes`. No function reads a model or a file (but `use_style` the style beside it), sets a title, or saves.
"""

from owl.plots_axes import DECODER, ENCODER, PRUNED, REFERENCE, use_style
from owl.plots_blocks import (
    allocations,
    layer_allocation,
    linear_errors,
    outlier_sensitivity,
    score_distribution,
    seed_stability,
    unit_divergence,
)
from owl.plots_results import (
    clip_scatter,
    recovery_curve,
    size_against_wer,
    size_bars,
    speed_against_wer,
    weight_distribution,
    wer_comparison,
)

__all__ = [
    "DECODER",
    "ENCODER",
    "PRUNED",
    "REFERENCE",
    "allocations",
    "clip_scatter",
    "layer_allocation",
    "linear_errors",
    "outlier_sensitivity",
    "recovery_curve",
    "score_distribution",
    "seed_stability",
    "size_against_wer",
    "size_bars",
    "speed_against_wer",
    "unit_divergence",
    "use_style",
    "weight_distribution",
    "wer_comparison",
]
