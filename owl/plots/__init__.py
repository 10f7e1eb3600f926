"""Figures: a table (pandas) and Axes in, those Axes out; columns are in each docstring, fractions
in, percent only on the axes.

Figures over blocks are in `owl.plots.blocks`, of one model beside the dense one in
`owl.plots.results`, of a stream in `owl.plots.live`, of a sweep in `owl.plots.grid`, what all need
in `owl.plots.axes`. No function reads a model or a file (but `use_style` the style beside it), sets
a title, or saves.
"""

from owl.plots.axes import DECODER, ENCODER, PRUNED, REFERENCE, use_style
from owl.plots.blocks import (
    allocations,
    layer_allocation,
    linear_errors,
    outlier_sensitivity,
    score_distribution,
    seed_stability,
    unit_divergence,
)
from owl.plots.grid import allocation_map, damage, equal_bytes, grid_legend, grid_lines
from owl.plots.live import word_latency
from owl.plots.results import (
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
    "allocation_map",
    "allocations",
    "clip_scatter",
    "damage",
    "equal_bytes",
    "grid_legend",
    "grid_lines",
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
    "word_latency",
]
