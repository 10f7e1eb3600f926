"""The figure of a stream: how soon its words are confirmed. Dense is thin and grey."""

import pandas as pd
from matplotlib.axes import Axes

from owl.plots.axes import PRUNED, REFERENCE, percent

STYLES = {"full": ":", "speech": "-"}


def word_latency(table: pd.DataFrame, ax: Axes) -> Axes:
    """table: model ("dense" | "pruned"), window ("full" | "speech"), latency (seconds), a row per
    word: the share of the words that are confirmed so soon after their end.
    """
    for (model, window), rows in table.groupby(["model", "window"], sort=False):
        ax.ecdf(
            rows.latency,
            color=REFERENCE if model == "dense" else PRUNED,
            linewidth=1.0 if model == "dense" else 1.8,
            linestyle=STYLES[window],
            label=f"{model}, {window}: median {rows.latency.median():.2f} s",
        )
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(percent())
    ax.set(xlabel="seconds from a word's end to its confirmation", ylabel="share of the words")
    ax.legend(frameon=False, loc="lower right")
    return ax
