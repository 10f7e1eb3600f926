"""What fewer heads, neurons and layers bring: encoder speed against the dense model in the same runtime, beside the word error rate.

`python -m benchmarks.narrow CONFIG [SHARE]`. One process, one batch, the models take turns; the smallest of the rounds counts, because what else
runs on the machine only ever adds time.
"""

import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from owl import analysis, calibration, decoding, evaluation, experiment, formats, oneshot, outliers, whisper
from owl.config import load
from owl.onnx_model import OnnxWhisper, export_onnx

CLIPS, ROUNDS = 4, 15
CHOICES = [("uniform", ["heads", "neurons"]), ("owl", ["heads", "neurons"]), ("uniform", ["neurons"]), ("uniform", ["layers"])]


def main(path: str, share: str = "0.5") -> None:
    config = load(path, {"pattern": "structured", "allocation": "uniform", "sparsity": share})
    model, processor = experiment.load_model(config)
    dataset = experiment.evaluation_sets(config)[0]
    features = decoding.input_features(model, processor, [clip.audio for clip in dataset.clips[:CLIPS]])
    models = {"dense": (model, 0.0)} | {f"{name}, {' + '.join(kinds)}": pruned(config, name, kinds) for name, kinds in CHOICES}
    rows = pd.DataFrame(
        {"model": name, "removed": removed, "WER": wer(config, one, processor), **seconds}
        for (name, (one, removed)), seconds in zip(models.items(), encoder_seconds([one for one, _ in models.values()], processor, features))
    )
    for runtime in ("PyTorch", "onnxruntime"):
        rows[f"× {runtime}"] = rows[runtime].iloc[0] / rows[runtime]
    print(f"\nstructured pruning of {path} at {share}: seconds of the encoder for {len(features)} clips, and times as fast as dense in the same runtime")
    print(rows.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def pruned(config, allocation: str, structures: list[str]):
    """(model, share of its prunable weights removed)."""
    changes = {"allocation": allocation, "structures": structures}
    config = config.model_copy(update={"pruning": config.pruning.model_copy(update=changes)})
    model, processor = experiment.load_model(config)
    every, _ = whisper.select(whisper.blocks(model), config.pruning.target_modules, config.pruning.excluded_modules)
    count = sum(block.weight_count for block in every)
    labels = experiment.calibration_labels(config, model, processor, experiment.calibration_set(config))
    batches = experiment.calibration_batches(config, model, processor, labels)
    walk = calibration.walk(model, every, batches, gram=False, modified=False, description="outliers")
    ratios = [outliers.outlier_ratio(analysis.pooled_scores(block, found), config.pruning.outlier_hyper_m) for block, found in walk]
    rows = oneshot.prune(config, model, processor, every, labels, analysis.chosen_sparsities(config, every, ratios))
    return model, oneshot.removed_weights(rows) / count


def encoder_seconds(models: list, processor, features) -> list[dict[str, float]]:
    """Per model the least seconds of a batch, {"PyTorch", "onnxruntime"}; every round asks all models in turn."""
    with tempfile.TemporaryDirectory() as aside:
        sessions = []
        for index, model in enumerate(models):
            folder = Path(aside, str(index))
            folder.mkdir()
            export_onnx(model, processor, folder)
            sessions.append(OnnxWhisper(folder))
        calls = [(lambda m=model: decoding.encode(m, features), lambda s=session: s.encode(features)) for model, session in zip(models, sessions)]
        rounds = [[[clocked(call) for call in pair] for pair in calls] for _ in range(ROUNDS)]
    return [dict(zip(("PyTorch", "onnxruntime"), (min(one[index][way] for one in rounds[1:]) for way in (0, 1)))) for index in range(len(models))]


def clocked(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def wer(config, model, processor) -> float:
    """Over all evaluation sets of the config."""
    datasets, size = experiment.evaluation_sets(config), config.evaluation.batch_size
    decode = [decoding.torch_decoder(model, processor, language=dataset.language, max_new_tokens=config.evaluation.max_new_tokens) for dataset in datasets]
    said = [evaluation.transcribe(one, processor, dataset.clips, batch_size=size) for one, dataset in zip(decode, datasets)]
    return formats.pooled_wer(said, [experiment.normalizer_of(config, model, dataset) for dataset in datasets])


if __name__ == "__main__":
    main(*sys.argv[1:])
