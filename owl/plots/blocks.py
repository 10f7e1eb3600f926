"""Figures over a model's blocks ("encoder.0", "decoder.3"): two colours, a gap between encoder and
decoder.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from owl.plots.axes import (
    CATEGORIES,
    FEW_BLOCKS,
    MARKERS,
    REFERENCE,
    block_axis,
    block_positions,
    label_right,
    log_percent,
    percent,
    side_color,
    sides,
)

THIN = {"color": REFERENCE, "linewidth": 0.9, "zorder": 1.5}
RATIO, SPARSITY = "outlier ratio (share of a block's scores)", "sparsity (share of weights pruned)"
STYLES = ("-", "--", "-.", ":", "-")
LOWEST_SCORE = 1e-3  # times the mean: where the axis of the score distribution ends
# order of a block's linears
KINDS = (
    *(
        f"{attention}.{name}_proj"
        for attention in ("self_attn", "encoder_attn")
        for name in ("q", "k", "v", "out")
    ),
    "fc1",
    "fc2",
)


def layer_allocation(table: pd.DataFrame, axes: Sequence[Axes] | np.ndarray, *, target: float):
    """House figure. table: block, outlier_ratio, sparsity (fractions); axes: (upper, lower);
    target: the uniform sparsity.

    Above bars of the outlier ratio, below the sparsity as points on stems from the uniform
    allocation (grey line).
    """
    upper, lower = axes
    positions = block_positions(table.block)
    x, colors = table.block.map(positions), table.block.map(side_color)
    upper.bar(x, table.outlier_ratio, width=0.75, color=colors)
    upper.margins(y=0.12)
    upper.set_ylabel("outlier ratio\n(share of a block's scores)")
    upper.yaxis.set_major_formatter(percent())
    lower.vlines(x, target, table.sparsity, colors=colors, linewidth=1.2, alpha=0.5)
    lower.axhline(target, **THIN)
    lower.scatter(x, table.sparsity, c=colors, s=36, zorder=3)
    reach = max(0.05, 1.35 * (table.sparsity - target).abs().max())
    lower.set_ylim(max(-0.15 * reach, target - reach), min(1 + 0.15 * reach, target + reach))
    lower.set_ylabel("sparsity\n(share of weights pruned)")
    lower.yaxis.set_major_formatter(percent())
    block_axis(upper, positions, labels=False)
    block_axis(lower, positions)
    label_right(lower, [(target, f"uniform\n{target:.0%}".replace("%", " %"), REFERENCE)])
    if len(table) <= FEW_BLOCKS:
        for left, ratio, sparsity in zip(x, table.outlier_ratio, table.sparsity):
            _write(upper, left, ratio, f"{ratio:.2%}", 3)
            _write(lower, left, sparsity, f"{sparsity:.1%}", 6 if sparsity >= target else -6)
    return axes


def score_distribution(table: pd.DataFrame, ax: Axes, *, multiple: float) -> Axes:
    """table: block, q01, q05, q25, q50, q75, q95, q99, q999, max, each score / mean(score of the
    block); multiple: M.

    Per block a thin line from 1 % to 99 %, a thicker one 5–95 %, a bar 25–75 %, the median white;
    dots: 99.9 % and the maximum. Log axis, cut below a thousandth of the mean; everything above the
    line M counts as an outlier.
    """
    positions = block_positions(table.block)
    x, colors = table.block.map(positions), table.block.map(side_color)
    low = table.drop(columns="block").clip(lower=LOWEST_SCORE)
    width = 1 if len(positions) <= 24 else 0.5
    for bottom, top, thickness in (("q01", "q99", 1.0), ("q05", "q95", 3.0), ("q25", "q75", 9.0)):
        ax.vlines(x, low[bottom], low[top], colors=colors, linewidth=thickness * width)
    ax.scatter(x, low["q50"], c="white", s=14 * width, zorder=3)
    ax.scatter(x, low["q999"], c=colors, s=16 * width, zorder=3)
    ax.scatter(x, low["max"], facecolors="white", edgecolors=colors, s=24 * width, zorder=3)
    ax.axhline(1, **THIN)
    ax.axhline(multiple, **THIN | {"linestyle": "--", "color": "#1C2430"})
    ax.set_yscale("log")
    ax.set_ylim(low["q01"].min() * 0.8, max(low["max"].max(), multiple) * 1.5)
    ax.set_ylabel("score / the block's mean score")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    block_axis(ax, positions)
    last = max(positions, key=positions.get)
    named = {"max": "maximum", "q999": "99.9 %", "q99": "99 %", "q50": "median", "q01": "1 %"}
    at_last = [
        (low[name][table.block == last].iloc[0], text, side_color(last))
        for name, text in named.items()
    ]
    label_right(ax, [*at_last, (1, "mean", REFERENCE), (multiple, f"M = {multiple:g}", "#1C2430")])
    return ax


def outlier_sensitivity(table: pd.DataFrame, ax: Axes) -> Axes:
    """table: multiple (M), block, outlier_ratio (fraction): one line per M, darker for a larger
    one.

    Log axis; if some ratios are zero, linear below the smallest that is not.
    """
    positions = block_positions(table.block)
    multiples = sorted(table.multiple.unique())
    shades = sns.color_palette("Purples", len(multiples) + 3).as_hex()[3:]
    for multiple, shade in zip(multiples, shades):
        _line_by_side(
            ax,
            positions,
            table[table.multiple == multiple].set_index("block").outlier_ratio,
            color=shade,
            marker="o",
        )
    positive = table.outlier_ratio[table.outlier_ratio > 0]
    if len(positive) == len(table):
        ax.set_yscale("log")
    elif len(positive):
        ax.set_yscale("symlog", linthresh=positive.min(), linscale=0.4)
    log_percent(ax.yaxis, *ax.get_ylim())
    ax.set_ylabel(RATIO)
    block_axis(ax, positions)
    last = (
        table[table.block == max(positions, key=positions.get)].set_index("multiple").outlier_ratio
    )
    label_right(
        ax,
        [
            (last[multiple], f"M = {multiple:g}", shade)
            for multiple, shade in zip(multiples, shades)
        ],
    )
    return ax


def allocations(table: pd.DataFrame, ax: Axes, *, target: float | None = None) -> Axes:
    """table: block, allocation (a name), sparsity (fraction): one line per allocation, "uniform"
    thin and grey.

    target: draws the uniform allocation where the table has none.
    """
    positions = block_positions(table.block)
    last = max(positions, key=positions.get)
    names = [name for name in table.allocation.unique() if name != "uniform"]
    labels = []
    for index, name in enumerate(["uniform", *names]):
        rows = table[table.allocation == name].set_index("block").sparsity
        if name == "uniform" and rows.empty and target is not None:
            rows = pd.Series(target, index=list(positions))
        if rows.empty:
            continue
        color, marker, style = (
            cycle[(index - 1) % len(cycle)] for cycle in (CATEGORIES, MARKERS, STYLES)
        )
        look = THIN if name == "uniform" else {"color": color, "marker": marker, "linestyle": style}
        _line_by_side(ax, positions, rows, **look)
        labels.append((rows.get(last, rows.iloc[-1]), str(name), look["color"]))
    ax.set_ylabel(SPARSITY)
    ax.yaxis.set_major_formatter(percent())
    block_axis(ax, positions)
    label_right(ax, labels)
    return ax


def unit_divergence(table: pd.DataFrame, ax: Axes) -> Axes:
    """table: unit ("encoder.0.self_attn"), sparsity (fraction), kl (nats per token): a line per
    unit, log scale, kinds told by line style.
    """
    styles = {"self_attn": "-", "encoder_attn": "--", "feed_forward": ":"}
    for unit, rows in table.groupby("unit", sort=False):
        block, _, kind = unit.rpartition(".")
        ax.plot(
            rows.sparsity,
            rows.kl.clip(lower=1e-7),
            color=side_color(block),
            linestyle=styles[kind],
            marker=".",
            linewidth=1,
        )
    names = {"self-attention": "-", "cross-attention": "--", "feed-forward": ":"}
    handles = [
        Line2D([], [], color="0.3", linestyle=style, label=name) for name, style in names.items()
    ]
    handles += [
        Line2D([], [], color=side_color(side), label=side) for side in ("encoder", "decoder")
    ]
    ax.legend(handles=handles, frameon=False)
    ax.set(yscale="log", xlabel="sparsity of the unit", ylabel="divergence (nats per token)")
    ax.xaxis.set_major_formatter(percent())
    return ax


def seed_stability(table: pd.DataFrame, ax: Axes) -> Axes:
    """table: seed, block, and outlier_ratio or sparsity (fraction): a dot per seed and block, a bar
    from lowest to highest.
    """
    value = "sparsity" if "sparsity" in table else "outlier_ratio"
    positions = block_positions(table.block)
    by_block = table.groupby("block")[value].agg(["min", "max"])
    x, colors = by_block.index.map(positions), by_block.index.map(side_color)
    ax.vlines(x, by_block["min"], by_block["max"], colors=colors, linewidth=4, alpha=0.25)
    width = 0.1 if len(positions) <= FEW_BLOCKS else 0.3
    seeds = sorted(table.seed.unique())
    offset = table.seed.map(
        {seed: width * (2 * index / max(1, len(seeds) - 1) - 1) for index, seed in enumerate(seeds)}
    )
    ax.scatter(
        table.block.map(positions) + offset,
        table[value],
        c=table.block.map(side_color),
        s=18,
        alpha=0.75,
        linewidth=0,
    )
    ax.set_ylabel(RATIO if value == "outlier_ratio" else SPARSITY)
    ax.yaxis.set_major_formatter(percent())
    block_axis(ax, positions)
    ax.text(
        1,
        1,
        f"one dot per seed, {len(seeds)} seeds",
        transform=ax.transAxes,
        ha="right",
        va="bottom",
        color=REFERENCE,
    )
    return ax


def linear_errors(table: pd.DataFrame, ax: Axes) -> Axes:
    """table: linear ("decoder.0.encoder_attn.q_proj"), block, error (‖XWᵀ − XŴᵀ‖² / ‖XWᵀ‖²): a heat
    map block × kind.

    Darker is worse, on a log scale (zeros and absent linears stay blank); up to FEW_BLOCKS blocks
    the values are in the cells.
    """
    positions = block_positions(table.block)
    kinds = pd.Series(
        [linear.removeprefix(f"{block}.") for linear, block in zip(table.linear, table.block)],
        index=table.index,
    )
    rows = sorted(
        kinds.unique(), key=lambda kind: (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)
    )
    grid = np.full((len(rows), max(positions.values()) + 1), np.nan)
    for kind, block, error in zip(kinds, table.block, table.error):
        grid[rows.index(kind), positions[block]] = error if error > 0 else np.nan
    filled = grid[np.isfinite(grid)]
    norm = (
        LogNorm(filled.min(), max(filled.max(), filled.min() * 1.01))
        if len(filled)
        else Normalize(0, 1)
    )
    ax.grid(False)
    # without white: a blank cell is no value
    shades = ListedColormap(sns.color_palette("Purples", 256)[32:])
    bottom, left = (np.arange(length + 1) - 0.5 for length in grid.shape)
    mesh = ax.pcolormesh(left, bottom, np.ma.masked_invalid(grid), norm=norm, cmap=shades)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    block_axis(ax, positions)
    bar = ax.figure.colorbar(
        mesh, ax=ax, label="relative output error (of the squared norm)", pad=0.01
    )
    bar.outline.set_visible(False)
    log_percent(bar.ax.yaxis, norm.vmin, norm.vmax)
    if len(positions) <= FEW_BLOCKS:
        for row, column in zip(*np.nonzero(np.isfinite(grid))):
            error, color = grid[row, column], "white" if norm(grid[row, column]) > 0.6 else "black"
            ax.text(
                column,
                row,
                f"{float(f'{100 * error:.2g}'):g} %",
                ha="center",
                va="center",
                fontsize=8.5,
                color=color,
            )
    return ax


def _line_by_side(ax: Axes, positions: dict[str, int], values: pd.Series, **look) -> None:
    """A line over the encoder's blocks and one over the decoder's; `values` is indexed by block."""
    for _, blocks in sides(positions):
        present = [block for block in blocks if block in values.index]
        ax.plot(
            [positions[block] for block in present],
            [values[block] for block in present],
            markersize=4,
            **look,
        )


def _write(ax: Axes, x: float, y: float, text: str, points: float) -> None:
    """`text` above (points > 0) or below a mark at (x, y)."""
    align = "bottom" if points > 0 else "top"
    text = text.replace("%", " %")
    ax.annotate(
        text,
        (x, y),
        xytext=(0, points),
        textcoords="offset points",
        ha="center",
        va=align,
        fontsize=9,
    )
