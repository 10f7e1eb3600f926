"""Rows of the deployment table: what a user gets who loads an exported folder, and the dense model
beside it.

Every exported folder is measured in a process of its own (`owl.export.measure`). So is the dense
model, in PyTorch and in every other runtime that a format needs. Where PyTorch loads, value for
value, the weights that 03_evaluation listened to, that page's words and speed stand, which times
both models in one process. Where nothing but `hf` is exported the dense model has no process of its
own, and no speed here.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from owl import ROOT
from owl.config.formats import FORMATS, PEERS, Format
from owl.config.load import Config
from owl.data.load import Dataset
from owl.errors import UnsupportedFormat
from owl.evaluate.compare import RATES, kl_summary, pairs
from owl.evaluate.divergence import Teacher
from owl.evaluate.stored import normalizer_of, transcripts
from owl.evaluate.transcribe import Transcription
from owl.export.advice import REFERENCE, Row
from owl.export.closeness import predictor, teacher_of
from owl.export.formats import add_short, dense_bytes, loads_in, save, stored_dtype
from owl.export.measure import Measurement, in_fresh_process, measure, weights_digest, windows
from owl.kernels.intervals import wer_interval
from owl.kernels.scoring import clip_errors
from owl.kernels.texts import METRICS, unit_of
from owl.model.whisper import Whisper
from owl.run.record import Run, folder_bytes


def measure_row(
    name: str,
    folder: Path,
    run: Run,
    pruned: Whisper,
    original: Whisper,
    datasets: Sequence[Dataset],
    teacher: Teacher | None = None,
) -> Row:
    """Load an exported `folder` in a fresh process and say what it costs and whether it is the
    model in memory; with a `teacher` also how far it is from the dense model.
    """
    wanted = FORMATS[name]
    stored = stored_dtype(run) if wanted.published else torch.float16
    memory = [transcripts(run, "pruned", pruned, dataset) for dataset in datasets]
    heard = {weights_digest(pruned.model, torch.float32): memory}
    window = run.config.evaluation.window
    given = wanted, str(folder), run.config, datasets, stored, heard, window
    found = in_fresh_process(measure, *given)
    texts = [
        (a.hypothesis, b.hypothesis)
        for one, other in zip(found.said, memory)
        for a, b in zip(one.transcripts, other.transcripts)
    ]
    compared = found.weights is not None and not wanted.rounds
    if compared and found.weights != weights_digest(pruned.model, stored):
        shutil.rmtree(folder)
        raise RuntimeError(
            f"{folder} did not hold the weights that are in memory, and was removed: a fault of "
            f"the export as {name}; report it"
        )
    return replace(
        _row(name, found, folder_bytes(folder), run, original.model, datasets, dense=False),
        path=os.path.relpath(folder, ROOT),
        same_text=sum(a == b for a, b in texts) / len(texts),
        same_weights=True if compared else None,
        loads_in=loads_in(name, pruned.model),
        kl=_kl(teacher, original, wanted, folder, run.config, str(run.folder / "pruned")),
    )


def dense_twins(wanted: Sequence[str]) -> list[str]:
    """Formats in which the dense model is measured beside `wanted`, each once."""
    return list(dict.fromkeys(twin for name in wanted for twin in FORMATS[name].dense))


def dense_rows(
    wanted: Sequence[str],
    run: Run,
    original: Whisper,
    datasets: Sequence[Dataset],
    teacher: Teacher | None = None,
) -> tuple[list[Row], list[dict]]:
    """(The dense model's rows: fp16 in PyTorch, then `dense_twins` of `wanted`, then the peers if
    `output.peers` says so, then `output.compare_with`; {"format", "reason"} of peers that cannot
    hold the model.) Where windows are short, each row in full ones too, before.
    """
    output, rows, refused = run.config.output, [], []
    others, window = output.compare_with or output.peers, run.config.evaluation.window
    if all(FORMATS[name].published for name in wanted) and not others and window == "full":
        return [_remembered_row(run, original, datasets)], refused

    said = [transcripts(run, "dense", original, dataset) for dataset in datasets]
    heard = {weights_digest(original.model, torch.float32): said}

    def add(name: str, kind: str, folder: Path | None, config: Config = run.config) -> None:
        kl = _kl(teacher, original, FORMATS[kind], folder, config, config.model.name)
        for window in windows(config):
            given = FORMATS[kind], folder and str(folder), config, datasets, torch.float16, heard
            found = in_fresh_process(measure, *given, window)
            size = folder_bytes(folder) if folder else 2 * found.parameters
            rows.append(replace(_row(name, found, size, run, original.model, datasets), kl=kl))

    add(REFERENCE, "hf", None)
    for name in dict.fromkeys([*dense_twins(wanted), *(PEERS if output.peers else ())]):
        with tempfile.TemporaryDirectory(dir=run.folder) as aside:
            folder = Path(aside) / name
            folder.mkdir()
            try:
                save(name, original, folder, dtype=torch.float16, papers={})
            except UnsupportedFormat as error:
                refused.append({"format": f"dense {name}", "reason": str(error)})
                continue
            add_short(name, folder, window)
            add(name, name, folder)
    for other in output.compare_with:
        model = run.config.model.model_copy(update={"name": other})
        config = run.config.model_copy(update={"model": model})
        add(f"model {Path(other).name}", "hf", None, config)
    return rows, refused


def teacher(run: Run, original: Whisper, datasets: Sequence[Dataset]) -> Teacher | None:
    """The dense model's predictions; None where `output.peers` does not ask for them."""
    if not run.config.output.peers:
        return None
    return teacher_of(original, datasets, run.config.evaluation.batch_size, run.folder)


def _kl(
    teacher: Teacher | None,
    original: Whisper,
    wanted: Format,
    folder: Path | None,
    config: Config,
    alike: str,
) -> float | None:
    if teacher is None:
        return None
    predict = predictor(wanted, folder, config, alike, original.model.config.vocab_size)
    return kl_summary(teacher.divergence(predict))["kl"] if predict else None


def _row(
    name: str,
    found: Measurement,
    size: int,
    run: Run,
    original,
    datasets: Sequence[Dataset],
    dense: bool = True,
) -> Row:
    """What every row of the table has; `size` in bytes, its ratio to the dense `original`."""
    normalizers = [normalizer_of(run.config, original, dataset) for dataset in datasets]
    return Row(
        name,
        dense,
        runtime=found.runtime,
        window=found.window,
        device=found.device,
        bytes=size,
        ratio=size / dense_bytes(original),
        **pooled(found.said, normalizers, run.config.evaluation.metrics),
        rtfx=pooled_rtfx(found.said),
        first_token_seconds=found.first_token_seconds,
        load_seconds=found.load_seconds,
        idle_rss_bytes=found.idle_rss_bytes,
        peak_rss_bytes=found.peak_rss_bytes,
    )


def _remembered_row(run: Run, original: Whisper, datasets: Sequence[Dataset]) -> Row:
    """The dense row without a process of its own: the words that 03_evaluation heard, and no time
    or memory beside those of fresh processes.
    """
    said = [transcripts(run, "dense", original, dataset) for dataset in datasets]
    found = Measurement(
        "pytorch", "full", original.model.device.type, said, None, None, None, None, None, None
    )
    row = _row(REFERENCE, found, dense_bytes(original.model), run, original.model, datasets)
    return replace(row, rtfx=None)


def pooled(
    said: Sequence[Transcription], normalizers: Sequence[str], metrics: Sequence[str] = METRICS
) -> dict:
    """Several datasets together, each with its own normaliser, total errors over total words or
    characters: {"wer", "wer_interval", "cer", "cer_interval", "unit"}, rates with their 95 %
    intervals; the unit is characters where one of them goes by characters.
    """
    texts = [pairs(one) for one in said]
    units = [unit_of(references, metrics) for references, _ in texts]
    speakers = [clip.speaker for one in said for clip in one.transcripts]
    result: dict = {"unit": "characters" if "characters" in units else "words"}
    for unit, key in RATES.items():
        counts = [clip_errors(*pair, name, unit) for pair, name in zip(texts, normalizers)]
        errors, sizes = (np.concatenate(column) for column in zip(*counts))
        total = float(sizes.sum())
        result[key] = float(errors.sum()) / total if total else float(errors.sum() > 0)
        result[f"{key}_interval"] = list(
            wer_interval(errors, sizes, None if None in speakers else speakers)
        )
    return result


def pooled_rtfx(said: Sequence[Transcription]) -> float:
    """Seconds of audio per second of wall time over several datasets."""
    return sum(one.rtfx * one.seconds for one in said) / sum(one.seconds for one in said)
