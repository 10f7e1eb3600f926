"""One exported format from writing to measuring: the folder on disk, then what a user who loads it gets from it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig

from owl import export
from owl.data import Dataset
from owl.decoding import Decoder, torch_decoder
from owl.evaluation import Transcription, transcribe
from owl.experiment import load_model, normalizer_of, transcripts
from owl.measures import pairs
from owl.record import Run, folder_bytes, provenance, whole_folder
from owl.scoring import clip_errors
from owl.whisper import blocks

LOADS_IN = {"hf": "transformers", "onnx": "onnxruntime, with file and tensor names as optimum writes them"}


def export_folder(run: Run, name: str) -> Path:
    """`<output.dir>/<run>/<format>`."""
    return Path(run.config.output.dir) / run.name / name


def write(name: str, run: Run, pruned, processor, pruning: dict, measured: dict) -> Path:
    """Write format `name` of the pruned model, whole or not at all, and return its folder."""
    target = export_folder(run, name)
    with whole_folder(target) as folder:
        if name == "onnx":
            from owl.onnx_model import export_onnx  # seconds to import, and off by default

            export_onnx(pruned, processor, folder)
        else:
            export.save_hf(pruned, processor, folder, dtype=stored_dtype(run), **_papers(run, pruning, measured))
    return target


def measure(name: str, folder: Path, run: Run, pruned, processor, datasets: Sequence[Dataset]) -> dict:
    """Load `folder` from disk, transcribe every dataset with it, and say what it costs: one row of the deployment table."""
    said = [_transcribe(name, folder, run, processor, dataset) for dataset in datasets]
    memory = [transcripts(run, "pruned", pruned, processor, dataset) for dataset in datasets]
    texts = [(a.hypothesis, b.hypothesis) for one, other in zip(said, memory) for a, b in zip(one.transcripts, other.transcripts)]
    return {
        "format": name,
        "path": f"{run.name}/{name}",
        "bytes": folder_bytes(folder),
        "ratio": folder_bytes(folder) / dense_bytes(pruned),
        "wer": pooled_wer(said, [normalizer_of(run.config, pruned, dataset) for dataset in datasets]),
        "rtfx": pooled_rtfx(said),
        "same_text": sum(a == b for a, b in texts) / len(texts),
        "loads_in": LOADS_IN[name],
    }


def dense_row(dense_said: Sequence[Transcription], normalizers: Sequence[str], model) -> dict:
    """The dense model's row: its weights in float16, and the transcripts that 03_evaluation made in memory."""
    return {
        "format": "dense fp16",
        "bytes": dense_bytes(model),
        "ratio": 1.0,
        "wer": pooled_wer(dense_said, normalizers),
        "rtfx": pooled_rtfx(dense_said),
    }


def dense_bytes(model) -> int:
    """Bytes of all parameters in float16, without tokenizer and configs."""
    return 2 * sum(parameter.numel() for parameter in model.parameters())


def pooled_wer(said: Sequence[Transcription], normalizers: Sequence[str]) -> float:
    """Total errors over total words of several datasets, each with its own normaliser."""
    counts = [clip_errors(*pairs(one), normalizer) for one, normalizer in zip(said, normalizers)]
    errors, words = (float(sum(column.sum() for column in columns)) for columns in zip(*counts))
    return errors / words if words else float(errors > 0)


def pooled_rtfx(said: Sequence[Transcription]) -> float:
    """Seconds of audio per second of wall time over several datasets."""
    return sum(one.rtfx * one.seconds for one in said) / sum(one.seconds for one in said)


def stored_dtype(run: Run) -> torch.dtype:
    """The precision of the checkpoint that was pruned: an export is neither padded nor rounded beside it."""
    wanted = AutoConfig.from_pretrained(run.config.model.name, cache_dir=run.config.model.cache_dir).dtype
    return wanted if isinstance(wanted, torch.dtype) else torch.float32


def same_zeros(folder: Path, pruned) -> bool:
    """Do the folder's tensors hold exactly as many zeros, per linear, as the model in memory (rounded to the same precision)?"""
    linears = {f"{linear.path}.weight": linear.module.weight for block in blocks(pruned) for linear in block.linears}
    found = export.zeros_on_disk(folder, list(linears))
    dtype = AutoConfig.from_pretrained(folder).dtype
    return found == {name: (weight.to(dtype) == 0).sum().item() for name, weight in linears.items()}


def _transcribe(name: str, folder: Path, run: Run, processor, dataset: Dataset) -> Transcription:
    decode = _load(name, folder, run, processor, dataset.language)
    decode([dataset.clips[0].audio])  # warm up
    return transcribe(decode, processor, dataset.clips, batch_size=run.config.evaluation.batch_size, description=f"{dataset.name}, {name}")


def _load(name: str, folder: Path, run: Run, processor, language: str | None) -> Decoder:
    cap = run.config.evaluation.max_new_tokens
    if name == "onnx":
        from owl.onnx_model import onnx_decoder

        return onnx_decoder(folder, processor, language=language, max_new_tokens=cap, threads=run.config.hardware.cpu_threads)
    model, _ = load_model(run.config, folder)
    return torch_decoder(model, processor, language=language, max_new_tokens=cap)


def _papers(run: Run, pruning: dict, measured: dict) -> dict:
    """What an exported model carries beside its weights: metadata, metrics and the card."""
    settings, facts, recovery = run.config.pruning, provenance(run.config), pruning["recovery"]
    rounds = len(recovery["rounds"])
    how = "one-shot" if rounds == 1 else f"in {rounds} rounds ({settings.pruning_schedule} schedule)"
    recipe = (
        f"Pruned {how} with {settings.method}, allocation {settings.allocation_name}, pattern {settings.pattern}, "
        f"target {settings.sparsity:.0%}, calibrated on {pruning['calibration_clips']} clips"
    )
    if recovered := recovery["method"] != "none":
        recipe += f", then recovered by {recovery['method']} from the dense model ({recovery['steps']} steps, {recovery['minutes']:.1f} minutes)"
    results = [
        {
            "dataset": row["name"],
            "clips": row["clips"],
            "words": row["words"],
            "dense": row["dense"]["wer"],
            "pruned": row["pruned"]["wer"],
        }
        for row in measured["datasets"]
    ]
    sparsities = {name: pruning[name] for name in ("sparsity_prunable", "sparsity_model")}
    layers = [{key: row[key] for key in ("linear", "target_sparsity", "sparsity", "error")} for row in pruning["linears"]]
    card = export.model_card(base=facts["config"]["model"]["name"], recipe=recipe, results=results, recovered=recovered, **sparsities)
    metadata = {"recovery": recovery["method"], "recovery_result": recovery, **sparsities, "linears": layers, "provenance": facts}
    return {"metadata": metadata, "metrics": {"datasets": measured["datasets"]}, "card": card}
