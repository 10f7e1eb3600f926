"""What a better solver gains linear by linear, and what it costs: the error of ALPS beside
SparseGPT's and the seconds of both, on the dense model's inputs, at the levels of the published
tables.

`python -m benchmarks.linears CONFIG`; a part of `make bench`, alone with LINEARS=1.
"""

import sys
import time

import pandas as pd

from benchmarks.allocations import ready
from owl.export.measure import in_fresh_process
from owl.kernels.gram import relative_output_error
from owl.kernels.solvers import prune_weight
from owl.model.whisper import Whisper
from owl.prune import calibration, calibration_text
from owl.prune.weights import COLUMN_BLOCK, DAMPING, Shared

LEVELS = (0.5, 0.7, 0.8, "2:4", "4:8")


def main(path: str) -> None:
    print(
        "\nlinears: relative output error of alps ÷ sparsegpt's, over all targeted linears (above "
        "1: sparsegpt is better)"
    )
    found = in_fresh_process(ratios, path, LEVELS)
    table = found.groupby("level", sort=False).ratio.agg(["min", "median", "max", "count"])
    print(table.to_string(float_format=lambda value: f"{value:.3f}"))
    worst = found.loc[found.ratio.idxmax()]
    print(f"highest: {worst.linear} at {worst.level}, {worst.ratio:.3f}")
    print("\nby kind of linear: median error and seconds of one linear, and alps ÷ sparsegpt")
    print(by_kind(found).to_string(index=False, float_format=lambda value: f"{value:.3g}"))


def by_kind(found: pd.DataFrame) -> pd.DataFrame:
    """Medians of what `ratios` made, one row per kind and level."""
    columns = ["sparsegpt", "alps", "sparsegpt s", "alps s"]
    table = found.groupby(["kind", "level"], sort=False)[columns].median().reset_index()
    table["error ratio"] = table["alps"] / table["sparsegpt"]
    table["time ratio"] = table["alps s"] / table["sparsegpt s"]
    return table


def ratios(path: str, levels) -> pd.DataFrame:
    """One row per linear and level (a sparsity or an N:M pattern): linear, kind ("decoder fc1",
    attention without its projection), level, sparsegpt, alps (relative output errors), "sparsegpt
    s", "alps s" (seconds, with what a linear shares with others of the same inputs), ratio (of the
    errors; NaN where sparsegpt makes none).
    """
    config, model, processor, every, labels = ready(path, "alps")
    batches = calibration_text.calibration_batches(config, Whisper(model, processor), labels)
    shared = {method: Shared(method) for method in ("sparsegpt", "alps")}
    rows = []
    for block, statistics in calibration.walk(
        model, every, batches, gram=True, modified=False, description="linears"
    ):
        for linear in block.linears:
            made, prepared = {}, {}
            for method, factors in shared.items():
                started = time.perf_counter()
                made[method] = factors.of(linear, statistics[linear.name], False)
                prepared[method] = time.perf_counter() - started
            part, attention = linear.name.split(".")[0], linear.kind.split(".")[0]
            for level in levels:
                errors, seconds = {}, {}
                for method in shared:
                    started = time.perf_counter()
                    pruned = _pruned(linear.module.weight.data, method, level, *made[method])
                    seconds[f"{method} s"] = prepared[method] + time.perf_counter() - started
                    errors[method] = relative_output_error(
                        linear.module.weight.data, pruned, made[method][0]
                    )
                ratio = (
                    errors["alps"] / errors["sparsegpt"] if errors["sparsegpt"] else float("nan")
                )
                rows.append(
                    {"linear": linear.name, "kind": f"{part} {attention}", "level": level}
                    | errors
                    | seconds
                    | {"ratio": ratio}
                )
    return pd.DataFrame(rows)


def _pruned(weight, method: str, level, gram, factors):
    target = {"pattern": level} if isinstance(level, str) else {"sparsity": level}
    return prune_weight(
        weight,
        gram,
        method=method,
        **target,
        block_size=COLUMN_BLOCK,
        damping=DAMPING,
        factors=factors,
    )


if __name__ == "__main__":
    main(sys.argv[1])
