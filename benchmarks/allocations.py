"""What an allocation costs, beside one pruning run of the solver that it is for: seconds and peak
memory, each in a process of its own.
"""

import tempfile
import time
from pathlib import Path

import pandas as pd

from owl.config.load import load
from owl.export.measure import in_fresh_process
from owl.model import whisper
from owl.model.whisper import Whisper
from owl.prune import calibration_text, guides, measured, weights
from owl.run import experiment, record

NAMES, SOLVERS = ("uniform", "owl", "dlp", "alpha", "measured"), ("sparsegpt", "alps")
HEURISTICS, WALKED = NAMES[:-1], ("owl", "dlp", "measured")


def main(path: str) -> None:
    print(
        "\nallocations: seconds once per model and clips (walk for the scores, database), seconds "
        "for each sparsity, peak memory; × one pruning run"
    )
    for method in SOLVERS:
        run = in_fresh_process(one_run, path, method)
        rows = pd.DataFrame([in_fresh_process(allocate, path, method, name) for name in NAMES])
        rows["once ratio"], rows["each ratio"] = rows["once s"] / run, rows["each s"] / run
        print(f"{method}: one pruning run takes {run:.1f} s")
        print(rows.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def one_run(path: str, method: str) -> float:
    """Seconds of calibration walk and solving, uniform, at the config's sparsity."""
    config, model, processor, every, labels = ready(path, method)
    started = time.perf_counter()
    batches = calibration_text.calibration_batches(config, Whisper(model, processor), labels)
    sparsities = weights.spread(
        every, [config.pruning.sparsity] * sum(bool(block.linears) for block in every)
    )
    weights.prune(model, every, batches, sparsities, method=method)
    return time.perf_counter() - started


def allocate(path: str, method: str, name: str) -> dict:
    """One row: what deciding by `name` costs; the database of "measured" is built anew."""
    config, model, processor, every, labels = ready(path, method)
    blocks, settings = [block for block in every if block.linears], config.pruning
    ratios = medians = [0.0] * len(blocks)
    started = time.perf_counter()
    if name in WALKED:
        batches = calibration_text.calibration_batches(config, Whisper(model, processor), labels)
        ratios, medians = guides.ratios_and_medians(model, every, batches, settings.outlier_hyper_m)
    once, started = time.perf_counter() - started, time.perf_counter()
    guide = guides.Guides(
        blocks, ratios, medians, settings.outlier_hyper_lambda, settings.outlier_hyper_m
    )
    if name == "measured":
        starts = {one: guide.sparsities(one, settings.sparsity) for one in HEURISTICS}
        with tempfile.TemporaryDirectory() as aside:
            found = measured.allocate(
                config, Whisper(model, processor), every, labels, starts, Path(aside)
            )
        once, each = once + found.seconds_database, found.seconds_search
    else:
        guide.sparsities(name, settings.sparsity)
        each = time.perf_counter() - started
    return {
        "allocation": name,
        "once s": once,
        "each s": each,
        "peak GB": record.peak_rss_bytes() / 1e9,
    }


def ready(path: str, method: str):
    """Config, model, processor, blocks, calibration labels."""
    config = load(path, {"method": method, "allocation": "uniform"})
    model, processor = experiment.load_model(config)
    every, _ = whisper.select(
        whisper.blocks(model), config.pruning.target_modules, config.pruning.excluded_modules
    )
    labels = calibration_text.calibration_labels(
        config, Whisper(model, processor), experiment.calibration_set(config)
    )
    return config, model, processor, every, labels
