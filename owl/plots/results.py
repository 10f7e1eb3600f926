"""Figures of a pruned model beside the dense one: weights, error rates, clips, sizes. Dense is thin
and grey.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, ScalarFormatter

from owl.plots.axes import PRUNED, REFERENCE, label_points, literal, percent

JITTER = 0.22  # errors: how far dots move aside so that equal clips stay visible
# errors in one clip above which the scatter turns logarithmic: a looping decoder inserts hundreds
# of words
LINEAR_ERRORS = 40
COLORS = {"dense": REFERENCE, "pruned": PRUNED}


def weight_distribution(table: pd.DataFrame, ax: Axes, *, zeros: int | None = None) -> Axes:
    """table: bin_left, bin_right (weights), dense, pruned (counts without zeros, log axis); zeros:
    how many, to say so.
    """
    edges = [*table.bin_left, table.bin_right.iloc[-1]]
    ax.stairs(table.pruned, edges, fill=True, color=PRUNED, alpha=0.35, linewidth=0)
    ax.stairs(table.pruned, edges, color=PRUNED, linewidth=1.2)
    ax.stairs(table.dense, edges, color=REFERENCE, linewidth=0.9)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.7)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xlabel("weight")
    ax.set_ylabel("weights per bin")
    ax.text(0.99, 0.97, "dense", transform=ax.transAxes, ha="right", va="top", color=REFERENCE)
    left_out = "" if zeros is None else f", {zeros:,} zeros left out"
    ax.text(
        0.99, 0.90, f"pruned{left_out}", transform=ax.transAxes, ha="right", va="top", color=PRUNED
    )
    return ax


def wer_comparison(table: pd.DataFrame, ax: Axes) -> Axes:
    """table: dataset, model ("dense" | "pruned"), wer, low, high (fractions): a point with its
    interval per row.
    """
    datasets = list(dict.fromkeys(table.dataset))
    for row in table.itertuples():
        y = datasets.index(row.dataset) + (-0.17 if row.model == "dense" else 0.17)
        color, thickness = COLORS[row.model], 1.0 if row.model == "dense" else 2.0
        ax.hlines(y, row.low, row.high, colors=color, linewidth=thickness)
        ax.plot(row.wer, y, marker="o", markersize=6, color=color, linestyle="none")
        text = f"{row.model} {100 * row.wer:.1f} %"
        ax.annotate(
            text, (row.high, y), xytext=(6, 0), textcoords="offset points", va="center", color=color
        )
    ax.set_yticks(range(len(datasets)), [literal(name) for name in datasets])
    ax.set_ylim(len(datasets) - 0.5, -0.5)
    ax.set_xlim(0, max(1.2 * table.high.max(), 0.01))
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    ax.xaxis.set_major_formatter(percent())
    ax.set_xlabel(f"{rate_name(table)}, with 95 % interval")
    return ax


def rate_name(table: pd.DataFrame) -> str:
    """What column `wer` of a table holds, by its column `unit` ("words" | "characters"), if any."""
    units = set(table.unit) if "unit" in table else {"words"}
    return " or ".join(f"{unit.removesuffix('s')}" for unit in sorted(units)) + " error rate"


def clip_scatter(table: pd.DataFrame, ax: Axes) -> Axes:
    """table: dense, pruned (errors of one clip): a dot per clip, above the grey diagonal where
    pruning made it worse.

    Dots are moved aside by a fixed pseudo-random JITTER; logarithmic beyond ten errors when a clip
    has more than LINEAR_ERRORS.
    """
    moved = np.random.default_rng(0).uniform(-JITTER, JITTER, (2, len(table)))
    largest = max(table.dense.max(), table.pruned.max(), 4) if len(table) else 4
    ax.plot([-1, 2 * largest], [-1, 2 * largest], color=REFERENCE, linewidth=0.9, zorder=1)
    ax.scatter(
        table.dense + moved[0], table.pruned + moved[1], s=16, alpha=0.5, linewidth=0, color=PRUNED
    )
    for axis, scale in ((ax.xaxis, ax.set_xscale), (ax.yaxis, ax.set_yscale)):
        if largest > LINEAR_ERRORS:
            scale("symlog", linthresh=10, linscale=1.5)
            axis.set_major_locator(
                FixedLocator(
                    [0, 2, 5, *(digit * 10**power for power in range(1, 6) for digit in (1, 2, 5))]
                )
            )
            axis.set_major_formatter(ScalarFormatter())
        else:
            axis.set_major_locator(MaxNLocator(integer=True))
    top = largest * (1.4 if largest > LINEAR_ERRORS else 1.05) + 0.4
    ax.set(xlim=(-0.5, top), ylim=(-0.5, top), aspect="equal")
    ax.set(xlabel="errors in a clip, dense", ylabel="errors in a clip, pruned")
    ax.grid(True)
    worse, better = int((table.pruned > table.dense).sum()), int((table.pruned < table.dense).sum())
    counts = (
        f"{len(table)} clips: {worse} worse (above), {better} better (below), "
        f"{len(table) - worse - better} equal"
    )
    ax.text(0, 1.02, counts, transform=ax.transAxes, color=PRUNED)
    return ax


def recovery_curve(table: pd.DataFrame, ax: Axes) -> Axes:
    """table: round, minutes (training), kl and kept (nats per token, held-out clips): a line per
    round; grey marks what pruning left before it.
    """
    for _, part in table.groupby("round"):
        ax.plot(part.minutes, part.kl, color=PRUNED, marker="o", markersize=3)
        first, best = part.iloc[0], part.loc[(part.kl - part.kept).abs().idxmin()]
        ax.plot(
            first.minutes, first.kl, marker="o", markersize=6, color=REFERENCE, linestyle="none"
        )
        ax.annotate(
            f"pruned {first.kl:.3g}",
            (first.minutes, first.kl),
            xytext=(7, 2),
            textcoords="offset points",
            color=REFERENCE,
        )
        ax.annotate(
            f"kept {best.kept:.3g}",
            (best.minutes, best.kl),
            xytext=(0, -13),
            textcoords="offset points",
            ha="center",
            color=PRUNED,
        )
    ax.set_ylim(0, 1.1 * table.kl.max())
    ax.set_xlabel("minutes of training")
    ax.set_ylabel("KL on held-out clips\n(nats per token)")
    return ax


def size_bars(table: pd.DataFrame, ax: Axes) -> Axes:
    """table: format, dense, bytes; the dense model is grey: labels say the others as a share of its
    first row.
    """
    reference = table.bytes[table.dense]
    for y, (size, dense) in enumerate(zip(table.bytes, table.dense)):
        ax.barh(y, size / 1e6, height=0.3 if dense else 0.6, color=REFERENCE if dense else PRUNED)
        share = (
            f" ({100 * size / reference.iloc[0]:.0f} % of dense)"
            if len(reference) and not dense
            else ""
        )
        ax.annotate(
            f"{size / 1e6:.3g} MB{share}",
            (size / 1e6, y),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    ax.set_yticks(range(len(table)), table.format)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlim(0, 1.5 * table.bytes.max() / 1e6)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    ax.set_xlabel("size on disk (MB, 10⁶ bytes)")
    return ax


def size_against_wer(
    table: pd.DataFrame, ax: Axes, *, steps: Sequence[tuple[int, float]] = ()
) -> Axes:
    """table: format, dense, bytes, wer, low, high (fractions): a labelled point with its interval
    per format; the dense model is grey. steps: (bytes, wer) of what others offer, from small to
    large, as a line that goes down where one is better.
    """
    axes = _against_wer(
        table, table.bytes / 1e6, ax, "size on disk (MB, 10⁶ bytes): left is smaller"
    )
    if len(steps) > 1:
        sizes, rates = zip(*steps)
        ends = [size / 1e6 for size in sizes] + [ax.get_xlim()[1]]
        ax.step(ends, [*rates, rates[-1]], where="post", color=REFERENCE, linewidth=0.8, zorder=1)
    return axes


def speed_against_wer(table: pd.DataFrame, ax: Axes) -> Axes:
    """table: format, dense, rtfx (None: not timed, not drawn), wer, low, high (fractions): a
    labelled point with its interval; the dense model is grey.
    """
    timed = table[table.rtfx.notna()].astype({"rtfx": float})
    return _against_wer(timed, timed.rtfx, ax, "seconds of audio per second: right is faster")


def _against_wer(table: pd.DataFrame, x: pd.Series, ax: Axes, label: str) -> Axes:
    colors = [REFERENCE if dense else PRUNED for dense in table.dense]
    ax.vlines(x, table.low, table.high, colors=colors, linewidth=0.8, alpha=0.6)
    ax.scatter(x, table.wer, c=colors, s=36, zorder=3)
    ax.set_xlim(0, 1.15 * x.max())
    ax.set_ylim(0, max(1.1 * table.high.max(), 0.01))
    ax.yaxis.set_major_formatter(percent())
    ax.set(xlabel=label, ylabel=rate_name(table))
    label_points(ax, list(zip(x, table.wer)), [literal(name) for name in table.format], colors)
    return ax
