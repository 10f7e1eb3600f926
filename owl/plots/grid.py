"""Figures of a sweep: many methods and allocations at many sparsities. Tables (as
`owl.sweep.tables` makes them) and Axes in, those Axes out.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from owl.kernels.records import ALLOCATIONS, SOLVERS
from owl.plots.axes import REFERENCE, block_axis, block_positions, percent, side_color


def grid_lines(
    table: pd.DataFrame,
    ax: Axes,
    *,
    value: str,
    dense: float | None = None,
    top: float | None = None,
) -> Axes:
    """table: method, allocation, sparsity, `value` ("kl", log scale, or "wer") and its low/high: a
    line per method and allocation.

    dense: the dense model's value as a thin grey line. top: where the axis ends; what lies above is
    cut.
    """
    low, high = ("kl_low", "kl_high") if value == "kl" else ("low", "high")
    for (method, allocation), rows in table.groupby(["method", "allocation"], sort=False):
        rows = rows.sort_values("sparsity")
        look = {
            "color": SOLVERS[method].colour,
            "linestyle": ALLOCATIONS[allocation].line,
            "marker": ALLOCATIONS[allocation].marker,
        }
        ax.plot(rows.sparsity, rows[value], markersize=5, linewidth=1.3, **look)
        ax.vlines(
            rows.sparsity, rows[low], rows[high], color=look["color"], linewidth=3, alpha=0.18
        )
    if dense is not None:
        ax.axhline(dense, color=REFERENCE, linewidth=0.8)
    if value == "kl":
        ax.set(yscale="log", ylabel="KL to the dense model (nats per token)")
    else:
        ax.set_ylabel("word error rate")
        ax.yaxis.set_major_formatter(percent())
        ax.set_ylim(0, top)
    ax.set_xlabel("sparsity of the prunable weights")
    ax.xaxis.set_major_formatter(percent())
    return ax


def grid_legend(table: pd.DataFrame, ax: Axes) -> Axes:
    """What the colours (methods) and line styles (allocations) of `grid_lines` mean, beside the
    axes.
    """
    solvers = [SOLVERS[name] for name in table.method.unique()]
    allocations = [ALLOCATIONS[name] for name in table.allocation.unique()]
    handles = [Line2D([], [], color=one.colour, label=one.name) for one in solvers]
    handles += [
        Line2D([], [], color="0.3", linestyle=one.line, marker=one.marker, label=one.name)
        for one in allocations
    ]
    ax.legend(handles=handles, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return ax


def equal_bytes(table: pd.DataFrame, ax: Axes) -> Axes:
    """table: bits, sparsity, ratio (bytes, of dense float16), kl, kl_low, kl_high (nats per token):
    a line per number of bits through its sparsities, KL on a log scale. At one size the lowest line
    says whether to spend it on weights or on bits.
    """
    for (bits, rows), shade in zip(table.groupby("bits"), ("C0", "C1", "C2")):
        rows = rows.sort_values("ratio")
        ax.plot(rows.ratio, rows.kl, color=shade, marker="o", markersize=5, label=f"{bits} bits")
        ax.vlines(rows.ratio, rows.kl_low, rows.kl_high, color=shade, linewidth=3, alpha=0.18)
        for row in rows.itertuples():
            where = {"xytext": (6, 4), "textcoords": "offset points", "color": shade}
            ax.annotate(f"{row.sparsity:.0%}", (row.ratio, row.kl), **where)
    ax.set(yscale="log", ylabel="KL to the dense model (nats per token)")
    ax.set_xlabel("bytes, of the dense model in float16; beside a point its sparsity")
    ax.xaxis.set_major_formatter(percent())
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return ax


def damage(table: pd.DataFrame, axes: Sequence[Axes] | np.ndarray):
    """table: part, of ("kind" | "block"), kl, low, high (nats per token), share (of the prunable
    weights), removed (how many weights); axes: (kinds, blocks).

    Left a bar per kind of linear, right one per block: KL per million removed weights with its
    interval, in the side's colour; beside a kind its whole KL and its share.
    """
    left, right = axes
    scaled = table[["kl", "low", "high"]].mul(1e6 / table.removed, axis=0)
    colors = table.part.map(side_color)
    kinds, blocks = table.of == "kind", table.of == "block"
    places = {part: place for place, part in enumerate(table.part[kinds])}
    positions = block_positions(table.part[blocks])
    y, x = table.part[kinds].map(places), table.part[blocks].map(positions)
    left.barh(y, scaled.kl[kinds], 0.7, color=colors[kinds])
    left.hlines(y, scaled.low[kinds], scaled.high[kinds], colors="black", linewidth=1)
    right.bar(x, scaled.kl[blocks], 0.75, color=colors[blocks])
    right.vlines(x, scaled.low[blocks], scaled.high[blocks], colors="black", linewidth=1)
    for row, end in zip(table[kinds].itertuples(), scaled.high[kinds]):
        text = f"KL {row.kl:.2g}, {100 * row.share:.0f} % of the weights"
        where = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        left.annotate(text, (end, places[row.part]), **where)
    left.set_yticks(list(places.values()), list(places))
    left.set_ylim(len(places) - 0.5, -0.5)
    left.set_xlim(0, 2.2 * scaled.high[kinds].max())
    left.tick_params(axis="y", length=0)
    left.grid(False, axis="y")
    left.grid(True, axis="x")
    left.set_xlabel("KL per million removed weights (nats per token)")
    right.set_ylabel("KL per million removed weights")
    block_axis(right, positions)
    return axes


def allocation_map(table: pd.DataFrame, ax: Axes, *, target: float) -> Axes:
    """table: one row per method and allocation, one column per block, sparsity (fraction): colour
    around the target, number inside.
    """
    values = table.to_numpy(dtype=float)
    reach = max(0.05, np.abs(values - target).max())
    ax.imshow(values, cmap="RdBu_r", vmin=target - reach, vmax=target + reach, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        ax.text(
            column,
            row,
            f"{value:.0%}",
            ha="center",
            va="center",
            color="white" if abs(value - target) > 0.7 * reach else "black",
        )
    ax.set_xticks(range(values.shape[1]), [str(name) for name in table.columns])
    ax.set_yticks(range(values.shape[0]), [" + ".join(name) for name in table.index])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return ax
