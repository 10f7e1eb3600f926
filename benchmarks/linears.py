"""What a better solver gains linear by linear: the error of ALPS beside SparseGPT's, on the dense
model's inputs, at the levels of the published tables.
"""

import pandas as pd

from benchmarks.allocations import ready
from owl.export.measure import in_fresh_process
from owl.kernels.gram import relative_output_error
from owl.kernels.solvers import prune_weight
from owl.model.whisper import Whisper
from owl.prune import calibration, calibration_text
from owl.prune.weights import COLUMN_BLOCK, Shared

LEVELS = (0.5, 0.7, 0.8, "2:4", "4:8")
DAMPING = 0.01


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


def ratios(path: str, levels) -> pd.DataFrame:
    """One row per linear and level (a sparsity or an N:M pattern): linear, level, sparsegpt, alps
    (relative output errors), ratio (NaN where sparsegpt makes none).
    """
    config, model, processor, every, labels = ready(path, "alps")
    batches = calibration_text.calibration_batches(config, Whisper(model, processor), labels)
    shared = {method: Shared(method, DAMPING) for method in ("sparsegpt", "alps")}
    rows = []
    for block, statistics in calibration.walk(
        model, every, batches, gram=True, modified=False, description="linears"
    ):
        for linear in block.linears:
            made = {
                method: factors.of(linear, statistics[linear.name], False)
                for method, factors in shared.items()
            }
            for level in levels:
                errors = {
                    method: _error(linear.module.weight.data, method, level, *made[method])
                    for method in shared
                }
                ratio = (
                    errors["alps"] / errors["sparsegpt"] if errors["sparsegpt"] else float("nan")
                )
                rows.append({"linear": linear.name, "level": level, **errors, "ratio": ratio})
    return pd.DataFrame(rows)


def _error(weight, method: str, level, gram, factors) -> float:
    target = {"pattern": level} if isinstance(level, str) else {"sparsity": level}
    pruned = prune_weight(
        weight,
        gram,
        method=method,
        **target,
        block_size=COLUMN_BLOCK,
        damping=DAMPING,
        factors=factors,
    )
    return relative_output_error(weight, pruned, gram)
