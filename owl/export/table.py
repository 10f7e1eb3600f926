"""Rows of the deployment table: what a user gets who loads an exported folder, and the dense model
beside it.

Every exported folder is measured in a process of its own (`owl.export.measure`). So is the dense
model, in PyTorch and in every other runtime that a format needs. Only where nothing but `hf` is
exported, the transcripts of 03_evaluation stand for its words; its speed is left to that page,
which times both models in one process.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from owl import ROOT
from owl.data.load import Dataset
from owl.evaluate.compare import pairs
from owl.evaluate.stored import normalizer_of, transcripts
from owl.evaluate.transcribe import Transcription
from owl.export.formats import dense_bytes, loads_in, save, stored_dtype
from owl.export.measure import Measured, in_fresh_process, measure, runtime_of, weights_digest
from owl.kernels.intervals import wer_interval
from owl.kernels.scoring import clip_errors
from owl.run.record import Run, folder_bytes


def measure_row(
    name: str, folder: Path, run: Run, pruned, original, processor, datasets: Sequence[Dataset]
) -> dict:
    """Load an exported `folder` in a fresh process and say what it costs and whether it is the
    model in memory.
    """
    stored = torch.float16 if name == "compact" else stored_dtype(run)
    found = in_fresh_process(measure, name, str(folder), run.config, datasets, stored)
    memory = [transcripts(run, "pruned", pruned, processor, dataset) for dataset in datasets]
    texts = [
        (a.hypothesis, b.hypothesis)
        for one, other in zip(found.said, memory)
        for a, b in zip(one.transcripts, other.transcripts)
    ]
    compared = found.weights is not None and not name.endswith("-int8")
    if compared and found.weights != weights_digest(pruned, stored):
        shutil.rmtree(folder)
        raise RuntimeError(
            f"{folder} did not hold the weights that are in memory, and was removed: a fault of "
            f"the export as {name}; report it"
        )
    return {
        **_row(name, found, folder_bytes(folder), run, original, datasets),
        "path": os.path.relpath(folder, ROOT),
        "same_text": sum(a == b for a, b in texts) / len(texts),
        "same_weights": True if compared else None,
        "loads_in": loads_in(name, pruned),
    }


def dense_twins(wanted: Sequence[str]) -> list[str]:
    """Formats in which the dense model is measured beside `wanted`: the same, the float form of
    their runtime, and int8 beside compact.
    """
    names = [[name.removesuffix("-int8"), name] for name in wanted if runtime_of(name) != "pytorch"]
    names += [["compact-int8"] for name in wanted if name.startswith("compact")]
    return list(dict.fromkeys(name for pair in names for name in pair))


def dense_rows(
    wanted: Sequence[str], run: Run, original, processor, datasets: Sequence[Dataset]
) -> list[dict]:
    """The dense model's rows: fp16 in PyTorch, then `dense_twins` of `wanted`, then
    `output.compare_with`.
    """
    others, plain = run.config.output.compare_with, dense_bytes(original)
    if set(wanted) <= {"hf"} and not others:
        return [_remembered_row(run, original, processor, datasets)]
    rows = [
        _row(
            "dense fp16",
            in_fresh_process(measure, "hf", None, run.config, datasets, torch.float16),
            plain,
            run,
            original,
            datasets,
        )
    ]
    for name in dense_twins(wanted):
        with tempfile.TemporaryDirectory(dir=run.folder) as aside:
            folder = Path(aside) / name
            folder.mkdir()
            save(name, original, processor, folder, dtype=torch.float16, papers={})
            found = in_fresh_process(
                measure, name, str(folder), run.config, datasets, torch.float16
            )
            rows.append(_row(f"dense {name}", found, folder_bytes(folder), run, original, datasets))
    for other in others:
        config = run.config.model_copy(
            update={"model": run.config.model.model_copy(update={"name": other})}
        )
        found = in_fresh_process(measure, "hf", None, config, datasets, torch.float16)
        rows.append(
            _row(
                f"dense model {Path(other).name}",
                found,
                2 * found.parameters,
                run,
                original,
                datasets,
            )
        )
    return rows


def _row(
    name: str, found: Measured, size: int, run: Run, original, datasets: Sequence[Dataset]
) -> dict:
    """What every row of the table has; `size` in bytes, its ratio to the dense `original`."""
    wer, interval = pooled(
        found.said, [normalizer_of(run.config, original, dataset) for dataset in datasets]
    )
    return {
        "format": name,
        "runtime": found.runtime,
        "device": found.device,
        "bytes": size,
        "ratio": size / dense_bytes(original),
        "wer": wer,
        "wer_interval": interval,
        "rtfx": pooled_rtfx(found.said),
        "first_token_seconds": found.first_token_seconds,
        "load_seconds": found.load_seconds,
        "idle_rss_bytes": found.idle_rss_bytes,
        "peak_rss_bytes": found.peak_rss_bytes,
    }


def _remembered_row(run: Run, original, processor, datasets: Sequence[Dataset]) -> dict:
    """The dense row without a process of its own: the words that 03_evaluation heard, and no time
    or memory beside those of fresh processes.
    """
    said = [transcripts(run, "dense", original, processor, dataset) for dataset in datasets]
    found = Measured("pytorch", original.device.type, said, None, None, None, None, None, None)
    return _row("dense fp16", found, dense_bytes(original), run, original, datasets) | {
        "rtfx": None
    }


def pooled(said: Sequence[Transcription], normalizers: Sequence[str]) -> tuple[float, list[float]]:
    """(WER, its 95 % interval) of several datasets together, each with its own normaliser: total
    errors over total words.
    """
    counts = [clip_errors(*pairs(one), normalizer) for one, normalizer in zip(said, normalizers)]
    errors, words = (np.concatenate(column) for column in zip(*counts))
    speakers = [clip.speaker for one in said for clip in one.transcripts]
    total = float(words.sum())
    wer = float(errors.sum()) / total if total else float(errors.sum() > 0)
    return wer, list(wer_interval(errors, words, None if None in speakers else speakers))


def pooled_rtfx(said: Sequence[Transcription]) -> float:
    """Seconds of audio per second of wall time over several datasets."""
    return sum(one.rtfx * one.seconds for one in said) / sum(one.seconds for one in said)
