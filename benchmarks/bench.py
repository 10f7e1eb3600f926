"""`make bench`: what pruning and transcription cost on this machine, every figure beside what it is
compared with.

Each job runs in a process of its own, so that its peak memory is its own. Figures of different
machines do not compare; ratios of one run do.
"""

import sys
import time

import pandas as pd

from benchmarks import allocations, formats, linears
from owl.config.load import load
from owl.evaluate import stored, transcribe
from owl.export import table
from owl.export.measure import in_fresh_process
from owl.kernels import allocation
from owl.kernels.records import SOLVERS
from owl.model import decoding, whisper
from owl.model.whisper import Whisper
from owl.prune import calibration_text, weights
from owl.run import experiment, record

ALONE = 24  # clips that batched, one at a time and encoder alone are timed on


def main(path: str) -> None:
    print(f"benchmark on {path}\n")
    batched, alone, encoder = (
        in_fresh_process(transcription, path),
        in_fresh_process(one_at_a_time, path),
        in_fresh_process(encoder_alone, path),
    )
    print(f"transcription, batched               {batched['rtfx']:8.1f} × real time")
    print(f"transcription, one clip at a time    {alone['rtfx']:8.1f} × real time")
    print(f"the encoder alone, batched           {encoder['rtfx']:8.1f} × real time")
    print(f"ratio batched / one at a time        {batched['rtfx'] / alone['rtfx']:8.2f}")
    print(
        f"ratio encoder / one at a time        {encoder['rtfx'] / alone['rtfx']:8.2f}   (what a "
        "batched run with free decoding would reach)\n"
    )
    idle = in_fresh_process(nothing, path)
    jobs = [
        (method, padding)
        for method in SOLVERS
        for padding in ("exclude", "include")
        if not (method == "magnitude" and padding == "include")
    ]
    rows = pd.DataFrame(
        [in_fresh_process(prune, path, method, padding) for method, padding in jobs]
    )
    fastest = rows.seconds.min()
    rows["seconds ratio"] = rows.seconds / fastest
    rows["peak GB"] = rows.peak / 1e9
    rows["peak ratio"] = rows.peak / idle["peak"]
    print(
        "calibration + pruning, uniform allocation, the config's sparsity; peak ratio: to a "
        "process that only loads model and clips"
    )
    print(
        rows.drop(columns="peak").to_string(index=False, float_format=lambda value: f"{value:.3f}")
    )
    print(
        "\ncalibration.padding: WER with padding rows left out (exclude) against counted (include)"
    )
    for method in ("wanda", "sparsegpt"):
        wer = rows[rows.method == method].set_index("padding").wer
        print(
            f"  {method:10s} exclude {wer['exclude']:.4f}   include {wer['include']:.4f}   include "
            f"− exclude {wer['include'] - wer['exclude']:+.4f}"
        )
    linears.main(path)
    allocations.main(path)
    formats.main(path)


def transcription(path: str) -> dict:
    model, processor, dataset, decode = ready(path)
    return {
        "rtfx": transcribe.transcribe(
            decode, processor, dataset.clips[:ALONE], batch_size=load(path).evaluation.batch_size
        ).rtfx
    }


def one_at_a_time(path: str) -> dict:
    """The loop that most scripts have: processor, `generate`, decode, for one clip after the other;
    clips and settings as batched.
    """
    model, processor, dataset, decode = ready(path)
    clips, settings = (
        dataset.clips[:ALONE],
        decoding.generate_settings(model, dataset.language, load(path).evaluation.max_new_tokens),
    )
    started = time.perf_counter()
    for clip in clips:
        tokens = model.generate(
            decoding.input_features(Whisper(model, processor), [clip.audio]), **settings
        )
        processor.batch_decode(tokens, skip_special_tokens=True)
    return {"rtfx": sum(clip.seconds for clip in clips) / (time.perf_counter() - started)}


def encoder_alone(path: str) -> dict:
    """Features ready, no decoding: the part that batching cannot save, because every clip fills the
    window.
    """
    model, processor, dataset, _ = ready(path)
    clips = dataset.clips[:ALONE]
    features = decoding.input_features(Whisper(model, processor), [clip.audio for clip in clips])
    started = time.perf_counter()
    decoding.encode(model, features)
    return {"rtfx": sum(clip.seconds for clip in clips) / (time.perf_counter() - started)}


def nothing(path: str) -> dict:
    ready(path)
    return {"peak": record.peak_rss_bytes()}


def prune(path: str, method: str, padding: str) -> dict:
    config = load(path, {"method": method, "allocation": "uniform"})
    calibration = config.pruning.calibration.model_copy(update={"padding": padding})
    config = config.model_copy(
        update={"pruning": config.pruning.model_copy(update={"calibration": calibration})}
    )
    model, processor = experiment.load_model(config)
    every, _ = whisper.select(
        whisper.blocks(model), config.pruning.target_modules, config.pruning.excluded_modules
    )
    labels = calibration_text.calibration_labels(
        config, Whisper(model, processor), experiment.calibration_set(config)
    )
    sparsities = weights.spread(
        every,
        allocation.allocate(
            "uniform", [0.0] * len(every), [1] * len(every), config.pruning.sparsity
        ),
    )
    started = time.perf_counter()
    weights.prune(
        model,
        every,
        calibration_text.calibration_batches(config, Whisper(model, processor), labels),
        sparsities,
        method=method,
    )
    seconds, peak = time.perf_counter() - started, record.peak_rss_bytes()
    datasets = experiment.evaluation_sets(config)
    size, cap = config.evaluation.batch_size, config.evaluation.max_new_tokens
    decoders = [
        decoding.torch_decoder(
            Whisper(model, processor), language=dataset.language, max_new_tokens=cap
        )
        for dataset in datasets
    ]
    said = [
        transcribe.transcribe(decode, processor, dataset.clips, batch_size=size)
        for decode, dataset in zip(decoders, datasets)
    ]
    wer = table.pooled(
        said, [stored.normalizer_of(config, model, dataset) for dataset in datasets]
    )["wer"]
    return {
        "method": method,
        "padding": padding,
        "sparsity": config.pruning.sparsity,
        "seconds": seconds,
        "peak": peak,
        "wer": wer,
    }


def ready(path: str):
    """Model, processor, first evaluation dataset and a warm decoder."""
    config = load(path)
    model, processor = experiment.load_model(config)
    dataset = experiment.evaluation_sets(config)[0]
    decode = decoding.torch_decoder(
        Whisper(model, processor),
        language=dataset.language,
        max_new_tokens=config.evaluation.max_new_tokens,
    )
    decode([dataset.clips[0].audio])
    return model, processor, dataset, decode


if __name__ == "__main__":
    main(sys.argv[1])
