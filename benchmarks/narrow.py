"""What fewer heads, neurons and layers, and low rank bring: encoder speed against the dense model
in the same runtime, beside the word error rate.

`python -m benchmarks.narrow CONFIG [SHARE]`. One process, one batch, the models take turns; the
least time of the rounds counts, because what else runs on the machine only ever adds to it.
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pandas as pd

from owl.config.load import load
from owl.config.schema import Structured
from owl.evaluate import stored, transcribe
from owl.export import table
from owl.export.onnx import OnnxWhisper, export_onnx
from owl.model import decoding, whisper
from owl.model.whisper import Whisper
from owl.prune import calibration_text, guides, pipeline
from owl.run import experiment

CLIPS, ROUNDS = 4, 15
CHOICES = {
    "uniform, heads + neurons": {},
    "owl, heads + neurons": {"allocation": "owl"},
    "uniform, neurons": {"structured": Structured(structures=["neurons"])},
    "uniform, layers": {"structured": Structured(structures=["layers"])},
    "uniform, low rank": {"pattern": "lowrank"},
}


def main(path: str, share: str = "0.5") -> None:
    config = load(path, {"pattern": "structured", "allocation": "uniform", "sparsity": share})
    model, processor = experiment.load_model(config)
    dataset = experiment.evaluation_sets(config)[0]
    features = decoding.input_features(
        Whisper(model, processor), [clip.audio for clip in dataset.clips[:CLIPS]]
    )
    models = {"dense": (model, 0.0)} | {
        name: pruned(config, changes) for name, changes in CHOICES.items()
    }
    seconds = encoder_seconds([one for one, _ in models.values()], processor, features)
    rows = pd.DataFrame(
        {"model": name, "removed": removed, "WER": wer(config, Whisper(one, processor)), **times}
        for (name, (one, removed)), times in zip(models.items(), seconds)
    )
    for runtime in ("PyTorch", "onnxruntime"):
        rows[f"× {runtime}"] = rows[runtime].iloc[0] / rows[runtime]
    print(f"\nsmaller matrices of {path} at {share}")
    print(
        f"seconds of the encoder for {len(features)} clips, and × as fast as dense in the same "
        "runtime"
    )
    print(rows.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def pruned(config, changes: dict):
    """(model, share of its prunable weights removed) under changes of `pruning`."""
    config = config.model_copy(update={"pruning": config.pruning.model_copy(update=changes)})
    model, processor = experiment.load_model(config)
    every, _ = whisper.select(
        whisper.blocks(model), config.pruning.target_modules, config.pruning.excluded_modules
    )
    count = sum(block.weight_count for block in every)
    labels = calibration_text.calibration_labels(
        config, Whisper(model, processor), experiment.calibration_set(config)
    )
    batches = calibration_text.calibration_batches(config, Whisper(model, processor), labels)
    settings = config.pruning
    ratios, medians = guides.ratios_and_medians(model, every, batches, settings.outlier_hyper_m)
    guide = guides.Guides(
        every, ratios, medians, settings.outlier_hyper_lambda, settings.outlier_hyper_m
    )
    rows = pipeline.prune_targets(
        config, Whisper(model, processor), every, labels, guides.chosen_sparsities(config, guide)
    )
    return model, pipeline.removed_weights(rows) / count


def encoder_seconds(models: list, processor, features) -> list[dict[str, float]]:
    """Per model the least seconds of a batch, {"PyTorch", "onnxruntime"}; every round asks all
    models in turn.
    """
    with tempfile.TemporaryDirectory() as aside:
        folders = [Path(aside, str(index)) for index in range(len(models))]
        calls = []
        for model, folder in zip(models, folders):
            folder.mkdir()
            export_onnx(Whisper(model, processor), folder)
            calls.append(
                {
                    "PyTorch": partial(decoding.encode, model, features),
                    "onnxruntime": partial(OnnxWhisper(folder).encode, features),
                }
            )
        rounds = [
            [{runtime: clocked(call) for runtime, call in pair.items()} for pair in calls]
            for _ in range(ROUNDS)
        ]
    return [
        {runtime: min(one[index][runtime] for one in rounds[1:]) for runtime in pair}
        for index, pair in enumerate(calls)
    ]


def clocked(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def wer(config, asr: Whisper) -> float:
    """Over all evaluation sets of the config."""
    datasets, settings, said = experiment.evaluation_sets(config), config.evaluation, []
    for dataset in datasets:
        decode = decoding.torch_decoder(
            asr, language=dataset.language, max_new_tokens=settings.max_new_tokens
        )
        said.append(
            transcribe.transcribe(
                decode, asr.processor, dataset.clips, batch_size=settings.batch_size
            )
        )
    return table.pooled(
        said, [stored.normalizer_of(config, asr.model, dataset) for dataset in datasets]
    )["wer"]


if __name__ == "__main__":
    main(*sys.argv[1:])
