"""One point of a sweep: prune a copy of the dense model, transcribe, compare. What all points share
is made once and kept on disk.

Shared per model: the dense transcripts' errors and the teacher's predictions; per model and
calibration seed: the calibration text and the outlier ratios. All are keyed by what they depend on.
"""

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from owl.data.load import Clip, Dataset
from owl.errors import DataError
from owl.evaluate.compare import kl_summary, pairs
from owl.evaluate.divergence import TextBatch, divergence_rows, predictions, text_batches
from owl.evaluate.stored import normalizer_of
from owl.evaluate.transcribe import transcribe
from owl.kernels.intervals import wer_interval
from owl.kernels.scoring import clip_errors
from owl.model import decoding, whisper
from owl.model.decoding import States
from owl.prune import calibration_text, guides, measured, oneshot
from owl.run import cache, experiment, provenance
from owl.run.files import whole_file, whole_folder
from owl.run.record import peak_rss_bytes
from owl.sweep.grid import Job, key_of

# heuristics that the measured allocation starts from
CANDIDATES = ("uniform", "owl", "dlp", "alpha")


@dataclass(frozen=True)
class Heard:
    """An evaluation dataset with the dense model's teacher-forced predictions for it."""

    dataset: Dataset
    normalizer: str
    batches: list[TextBatch]
    # folder with one file of log probabilities per batch: all together may be larger than the
    # memory
    teacher: Path

    def dense(self, index: int) -> Tensor:
        """The dense model's log probabilities for one batch, (clips, text + 1, vocabulary)."""
        return load_file(self.teacher / f"{index}.safetensors")["logs"]


@dataclass(frozen=True)
class Ready:
    """Everything a job needs before its first point."""

    model: object
    processor: object
    every: list[whisper.Block]
    heard: list[Heard]
    labels: calibration_text.Labels
    guide: guides.Guides


def ready(job: Job) -> Ready:
    """Load the model and what is shared; make what is not there yet."""
    config = job.config_at(job.sparsities[0])
    model, processor = experiment.load_model(config)
    every, _ = whisper.select(
        whisper.blocks(model), config.pruning.target_modules, config.pruning.excluded_modules
    )
    datasets = experiment.evaluation_sets(config)
    heard = [_heard(job, config, model, processor, dataset) for dataset in datasets]
    calibrated = experiment.calibration_set(config, datasets)
    stem = job.folder / f"calibration-{job.model}-seed{job.seed}"
    facts = _kept(
        stem,
        model,
        calibrated.clips,
        config,
        lambda: _listen(config, model, processor, every, calibrated),
    )
    labels = calibration_text.saved_labels(calibrated, facts["clips"])
    guide = guides.Guides(
        [block for block in every if block.linears],
        facts["outlier_ratios"],
        facts["medians"],
        config.pruning.outlier_hyper_lambda,
        config.pruning.outlier_hyper_m,
    )
    return Ready(model, processor, every, heard, labels, guide)


def measure(job: Job, shared: Ready, sparsity: float) -> dict:
    """Make one point and keep it, whole or not at all."""
    config = job.config_at(sparsity)
    sparsities, seconds, detail = _allocation(config, shared)
    pruned, started = copy.deepcopy(shared.model), time.perf_counter()
    every, _ = whisper.select(
        whisper.blocks(pruned), config.pruning.target_modules, config.pruning.excluded_modules
    )
    patterns = guides.chosen_patterns(config, sparsities)
    rows = oneshot.prune(
        config, pruned, shared.processor, every, shared.labels, sparsities, patterns
    )
    took = time.perf_counter() - started
    prunable, parameters = whisper.weight_counts(pruned, every)
    zeros = whisper.zero_count(every)
    result = {
        **{key: getattr(job, key) for key in ("model", "method", "allocation", "seed")},
        "sparsity": sparsity,
        "recovery": "none",
        "sparsity_prunable": zeros / prunable,
        "sparsity_model": zeros / parameters,
        "seconds_prune": took,
        "seconds_allocation": seconds,
        "measured": detail,
        "peak_rss_bytes": peak_rss_bytes(),
        "blocks": dict(
            zip(
                (block.name for block in shared.guide.blocks),
                guides.per_block(shared.guide.blocks, sparsities),
            )
        ),
        "layers": [
            {"linear": row.linear, "kind": row.kind, "sparsity": row.sparsity, "error": row.error}
            for row in rows
        ],
        "datasets": [_score(config, pruned, shared.processor, one) for one in shared.heard],
        "key": key_of(config),
        "provenance": provenance.collect(config),
    }
    _write(job.path(sparsity), result)
    return result


def _allocation(config, shared: Ready) -> tuple[dict[str, float], float, dict | None]:
    """(sparsity by linear, seconds, how it was measured)."""
    started = time.perf_counter()
    if config.pruning.allocation != "measured":
        return guides.chosen_sparsities(config, shared.guide), time.perf_counter() - started, None
    starts = {name: shared.guide.sparsities(name, config.pruning.sparsity) for name in CANDIDATES}
    found = measured.allocate(
        config, shared.model, shared.processor, shared.every, shared.labels, starts
    )
    detail = {
        "winner": found.winner,
        "candidates": found.candidates.to_dict("records"),
        "seconds_database": found.seconds_database,
    }
    return found.sparsities, found.seconds_search, detail


def _score(config, model, processor, heard: Heard) -> dict:
    """Errors per clip, WER with its interval, and divergence of one model on one dataset."""
    dataset, settings, states = heard.dataset, config.evaluation, States()
    decode = decoding.torch_decoder(
        model,
        processor,
        language=dataset.language,
        max_new_tokens=settings.max_new_tokens,
        states=states,
    )
    said = transcribe(
        decode, processor, dataset.clips, batch_size=settings.batch_size, description=dataset.name
    )
    errors, words = clip_errors(*pairs(said), heard.normalizer)
    speakers = [one.speaker for one in said.transcripts]
    kl = [
        row
        for index, batch in enumerate(heard.batches)
        for row in divergence_rows(
            batch, heard.dense(index), predictions(model, processor, batch, states)
        )
    ]
    return {
        "name": dataset.name,
        "wer": float(errors.sum() / max(1, words.sum())),
        "wer_interval": list(wer_interval(errors, words, speakers)),
        "errors": errors.tolist(),
        "words": words.tolist(),
        "speakers": speakers,
        "cap_hits": said.cap_hits,
        "kl": kl_summary(kl),
        "kl_clips": [{"kl": row["kl"], "tokens": row["tokens"]} for row in kl],
    }


def _heard(job: Job, config, model, processor, dataset: Dataset) -> Heard:
    """The dataset with the dense model's predictions, from disk or made now; its dense score is
    kept beside them.
    """
    settings = config.evaluation
    batches = list(
        text_batches(
            model,
            processor,
            dataset.clips,
            language=dataset.language,
            batch_size=settings.batch_size,
        )
    )
    stem = job.folder / f"dense-{job.model}-{experiment.slug(dataset.name)}"
    normalizer = normalizer_of(config, model, dataset)
    key = cache.key(model, dataset.clips, settings.model_dump(mode="json"), "owl.sweep.point")
    if not batches:
        raise DataError(
            f"'{dataset.name}' has no clip with text that fits the model's window, so no "
            "divergence can be measured; leave it out"
        )
    path, heard = (
        stem.with_name(f"{stem.name}.json"),
        Heard(dataset, normalizer, batches, stem.with_name(f"{stem.name}-{key}")),
    )
    if not heard.teacher.exists():
        with whole_folder(heard.teacher, keep=True) as folder:
            for index, batch in enumerate(batches):
                save_file(
                    {"logs": predictions(model, processor, batch)}, folder / f"{index}.safetensors"
                )
    if not (path.exists() and json.loads(path.read_text(encoding="utf-8")).get("key") == key):
        _write(path, {"model": job.model, "key": key, **_score(config, model, processor, heard)})
    return heard


def _listen(config, model, processor, every, dataset: Dataset) -> dict:
    """Calibration text and what the allocations go by, of the dense model."""
    labels = calibration_text.calibration_labels(config, model, processor, dataset)
    batches = calibration_text.calibration_batches(config, model, processor, labels)
    ratios, medians = guides.ratios_and_medians(
        model, every, batches, config.pruning.outlier_hyper_m
    )
    clips = [{"id": clip.id, "tokens": tokens} for clip, tokens in zip(labels.clips, labels.tokens)]
    return {"clips": clips, "outlier_ratios": ratios, "medians": medians}


def _kept(stem: Path, model, clips: Sequence[Clip], config, make) -> dict:
    """The JSON that `make` returns, kept under its key with the settings of calibration and of the
    scores.
    """
    pruning, evaluation = config.pruning, config.evaluation
    scored = [pruning.outlier_hyper_m, pruning.target_modules, pruning.excluded_modules]
    calibrated = [
        pruning.calibration.model_dump(mode="json"),
        evaluation.batch_size,
        evaluation.max_new_tokens,
    ]
    key = cache.key(model, clips, [scored, calibrated], "owl.sweep.point")
    path = stem.with_name(f"{stem.name}-{key}.json")
    if not path.exists():
        _write(path, make())
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, data: dict) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(data, allow_nan=False) + "\n", encoding="utf-8")
