"""One point of a sweep: prune a copy of the dense model, transcribe, compare. What all points share
is made once and kept on disk.

Shared per model: the dense transcripts' errors and the teacher's predictions; per model and
calibration seed: the calibration text and the outlier ratios. All are keyed by what they depend on.
"""

import copy
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from owl.config.formats import FORMATS
from owl.data.load import Clip, Dataset
from owl.errors import DataError
from owl.evaluate.compare import counted, kl_summary, of_one
from owl.evaluate.divergence import Teacher, predictor, text_batches, write_predictions
from owl.evaluate.stored import hear, normalizer_of
from owl.export.formats import save
from owl.model import whisper
from owl.model.decoding import States
from owl.model.loading import COMPACT_FILE
from owl.model.whisper import Whisper
from owl.prune import calibration_text, guides, pipeline, rounding
from owl.run import cache, experiment, provenance
from owl.run.files import whole_file, whole_folder
from owl.run.record import peak_rss_bytes
from owl.sweep.grid import Job


@dataclass(frozen=True)
class Heard:
    """An evaluation dataset with the dense model's teacher-forced predictions for it."""

    dataset: Dataset
    normalizer: str
    teacher: Teacher


@dataclass(frozen=True)
class Ready:
    """Everything a job needs before its first point."""

    dense: Whisper
    every: list[whisper.Block]
    heard: list[Heard]
    labels: calibration_text.Labels
    guide: guides.Guides


def ready(job: Job) -> Ready:
    """Load the model and what is shared; make what is not there yet."""
    config = job.config_at(job.sparsities[0])
    asr = experiment.load_model(config)
    every, _ = pipeline.targets(config, asr.model)
    datasets = experiment.evaluation_sets(config)
    heard = [_heard(job, config, asr, dataset) for dataset in datasets]
    calibrated = experiment.calibration_set(config, datasets)
    stem = job.folder / f"calibration-{job.model}-seed{job.seed}"
    facts = _kept(
        stem, asr.model, calibrated.clips, config, lambda: _listen(config, asr, every, calibrated)
    )
    labels = calibration_text.saved_labels(calibrated, facts["clips"])
    guide = guides.Guides(
        [block for block in every if block.linears],
        facts["outlier_ratios"],
        facts["medians"],
        config.pruning.outlier_hyper_lambda,
        config.pruning.outlier_hyper_m,
    )
    return Ready(asr, every, heard, labels, guide)


def measure(job: Job, shared: Ready, sparsity: float) -> dict:
    """Make one point and keep it, whole or not at all."""
    config, dense = job.config_at(sparsity), shared.dense
    asr = dense._replace(model=copy.deepcopy(dense.model))
    plan = pipeline.plan(config, dense, shared.every, shared.labels, shared.guide)
    pruned = pipeline.prune(config, asr, shared.labels, plan.sparsities, plan.patterns)
    prunable, parameters = whisper.weight_counts(dense.model, shared.every)
    blocks = shared.guide.blocks
    per_block = guides.per_block(blocks, plan.sparsities)
    result = {
        **{key: getattr(job, key) for key in ("model", "method", "allocation", "seed")},
        "sparsity": sparsity,
        "recovery": "none",
        "sparsity_prunable": pruned.removed / prunable,
        "sparsity_model": pruned.removed / parameters,
        "dense_bytes": 2 * parameters,  # in float16
        "seconds_prune": pruned.seconds,
        "seconds_allocation": plan.seconds,
        "measured": plan.facts()["measured"],
        "peak_rss_bytes": peak_rss_bytes(),
        "blocks": {block.name: share for block, share in zip(blocks, per_block)},
        "layers": [
            {"linear": row.linear, "kind": row.kind, "sparsity": row.sparsity, "error": row.error}
            for row in pruned.rows
        ],
        "datasets": [_score(config, asr, one) for one in shared.heard],
        "rounded": [_rounded(config, asr, shared, bits) for bits in job.bits],
        "key": job.key_at(sparsity),
        "provenance": provenance.collect(config),
    }
    keep(job.path(sparsity), result)
    return result


def _rounded(config, asr: Whisper, shared: Ready, bits: int) -> dict:
    """What a file of the pruned model in so many bits, rounded by the calibration clips, takes, and
    what the model that it holds says: {"bits", "bytes" of its tensors, "datasets"}.
    """
    name = f"compact-int{bits}"
    copied = asr._replace(model=copy.deepcopy(asr.model))
    batches = calibration_text.calibration_batches(config, copied, shared.labels)
    rounding.round_model(copied.model, batches, FORMATS[name].grid)
    with tempfile.TemporaryDirectory() as aside:
        save(name, copied, Path(aside), dtype=torch.float16, papers={})
        size = (Path(aside) / COMPACT_FILE).stat().st_size
        held = experiment.load_model(config, Path(aside))
    return {
        "bits": bits,
        "bytes": size,
        "datasets": [_score(config, held, one) for one in shared.heard],
    }


def _score(config, asr: Whisper, heard: Heard) -> dict:
    """What one model's transcripts come to, errors per clip, and its divergence on one dataset."""
    states = States()
    said = hear(config, asr, heard.dataset, states, heard.dataset.name)
    errors, units, unit = counted(said, heard.normalizer, config.evaluation.metrics)
    kl = heard.teacher.divergence(predictor(asr, states))
    return {
        "name": heard.dataset.name,
        **of_one(said, heard.normalizer, unit),
        "unit": unit,
        "errors": errors.tolist(),
        "words": units.tolist(),
        "speakers": [one.speaker for one in said.transcripts],
        "kl": kl_summary(kl),
        "kl_clips": [{"kl": row["kl"], "tokens": row["tokens"]} for row in kl],
    }


def _heard(job: Job, config, asr: Whisper, dataset: Dataset) -> Heard:
    """The dataset with the dense model's predictions, from disk or made now; its dense score is
    kept beside them.
    """
    settings = config.evaluation
    batches = list(
        text_batches(asr, dataset.clips, language=dataset.language, batch_size=settings.batch_size)
    )
    stem = job.folder / f"dense-{job.model}-{experiment.slug(dataset.name)}"
    normalizer = normalizer_of(config, asr.model, dataset)
    key = cache.key(asr.model, dataset.clips, settings.model_dump(mode="json"), "owl.sweep.point")
    if not batches:
        raise DataError(
            f"'{dataset.name}' has no clip with text that fits the model's window, so no "
            "divergence can be measured; leave it out"
        )
    path, teacher = (
        stem.with_name(f"{stem.name}.json"),
        Teacher(batches, stem.with_name(f"{stem.name}-{key}")),
    )
    heard = Heard(dataset, normalizer, teacher)
    if not teacher.folder.exists():
        with whole_folder(teacher.folder, keep=True) as folder:
            write_predictions(asr, batches, folder)
    if not (path.exists() and json.loads(path.read_text(encoding="utf-8")).get("key") == key):
        keep(path, {"model": job.model, "key": key, **_score(config, asr, heard)})
    return heard


def _listen(config, asr: Whisper, every, dataset: Dataset) -> dict:
    """Calibration text and what the allocations go by, of the dense model."""
    labels = calibration_text.calibration_labels(config, asr, dataset)
    batches = calibration_text.calibration_batches(config, asr, labels)
    ratios, medians = guides.ratios_and_medians(
        asr.model, every, batches, config.pruning.outlier_hyper_m
    )
    return {"clips": labels.saved(), "outlier_ratios": ratios, "medians": medians}


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
        keep(path, make())
    return json.loads(path.read_text(encoding="utf-8"))


def keep(path: Path, data: dict) -> None:
    """As JSON, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(data, allow_nan=False) + "\n", encoding="utf-8")
