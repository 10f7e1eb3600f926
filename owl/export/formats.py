"""The formats of a run, written: one folder each, whole or not at all. What they cost is measured
in `owl.export.table`.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig

from owl.config.schema import FORMATS
from owl.errors import UnsupportedFormat
from owl.export import huggingface
from owl.export.compact import export_compact
from owl.model.whisper import blocks
from owl.run import provenance
from owl.run.files import whole_folder
from owl.run.provenance import model_label
from owl.run.record import Run

SOURCES = {
    "magnitude": "magnitude pruning (Han et al., arXiv 1506.02626)",
    "wanda": "Wanda (Sun et al., arXiv 2306.11695)",
    "sparsegpt": "SparseGPT (Frantar and Alistarh, arXiv 2301.00774)",
    "alps": "ALPS (Meng et al., arXiv 2406.07831)",
    "owl": "Outlier Weighed Layerwise sparsity (Yin et al., arXiv 2310.05175)",
    "owl-equal": "Outlier Weighed Layerwise sparsity as published (Yin et al., arXiv 2310.05175)",
    "dlp": "Dynamic Layerwise Pruning (Chen et al., arXiv 2505.23807)",
    "alpha": "AlphaPruning (Lu et al., arXiv 2410.10912)",
    "measured": "measured allocation (unit-wise divergence and budget; EvoPress, arXiv 2410.14649, "
    "for the search)",
}


def export_folder(run: Run, name: str) -> Path:
    """`<output.dir>/<run>/<format>`."""
    return Path(run.config.output.dir) / run.name / name


def write_all(
    wanted: Sequence[str], run: Run, pruned, processor, pruning: dict, measured: dict
) -> tuple[dict[str, Path], list[dict]]:
    """({format: its folder}, [{"format", "reason"} that cannot represent this model]); each folder
    is written whole or not at all.
    """
    written, refused = {}, []
    remove_others(wanted, run)
    for name in wanted:
        folder, reason = write(name, run, pruned, processor, pruning, measured)
        if reason is None:
            written[name] = folder
        else:
            refused.append({"format": name, "reason": reason})
    return written, refused


def remove_others(wanted: Sequence[str], run: Run) -> None:
    """Remove the folders of formats that are not wanted: an earlier model's is not this one's."""
    for name in set(FORMATS) - set(wanted):
        shutil.rmtree(export_folder(run, name), ignore_errors=True)


def write(
    name: str, run: Run, pruned, processor, pruning: dict, measured: dict
) -> tuple[Path, str | None]:
    """(the folder of one format, written whole; None, or the reason why it cannot represent this
    model: then nothing is there).
    """
    target = export_folder(run, name)
    papers = _papers(run, pruning, measured, stock=not hasattr(pruned.config, "owl_shapes"))
    try:
        with whole_folder(target) as folder:
            save(name, pruned, processor, folder, dtype=stored_dtype(run), papers=papers)
    except UnsupportedFormat as error:
        shutil.rmtree(target, ignore_errors=True)
        return target, str(error)
    return target, None


def save(name: str, model, processor, folder: Path, *, dtype: torch.dtype, papers: dict) -> None:
    """Write `model` into `folder` as format `name`; `dtype` and `papers` (metadata, metrics, card)
    go into "hf" alone.
    """
    int8 = name.endswith("-int8")
    if name == "hf":
        huggingface.save_hf(model, processor, folder, dtype=dtype, **papers)
    elif name.startswith("compact"):
        export_compact(model, processor, folder, int8=int8)
    elif name.startswith("onnx"):
        from owl.export.onnx import export_onnx

        # these runtimes take seconds to import, and are off by default
        from owl.export.onnx_int8 import export_onnx_int8

        (export_onnx_int8 if int8 else export_onnx)(model, processor, folder)
    else:
        from owl.export.ct2 import export_ct2

        export_ct2(model, processor, folder, int8=int8)


def loads_in(name: str, model) -> str:
    """What loads a format's folder."""
    if name.startswith("ct2"):
        from owl.export.ct2 import loads_in as ct2_loads_in

        return ct2_loads_in(model)
    own = name.startswith("compact") or (name == "hf" and hasattr(model.config, "owl_shapes"))
    return "onnxruntime" if name.startswith("onnx") else "owl.load" if own else "transformers"


def dense_bytes(model) -> int:
    """Bytes of all parameters in float16, without tokenizer and configs."""
    return 2 * sum(parameter.numel() for parameter in model.parameters())


def stored_dtype(run: Run) -> torch.dtype:
    """The precision of the checkpoint that was pruned: an export is neither padded nor rounded
    beside it.
    """
    wanted = AutoConfig.from_pretrained(
        run.config.model.name, cache_dir=run.config.model.cache_dir
    ).dtype
    return wanted if isinstance(wanted, torch.dtype) else torch.float32


def same_zeros(folder: Path, pruned) -> bool:
    """Do the folder's tensors hold exactly as many zeros, per linear, as the model in memory
    (rounded to the same precision)?
    """
    linears = {
        f"{linear.path}.weight": linear.module.weight
        for block in blocks(pruned)
        for linear in block.linears
    }
    found = huggingface.zeros_on_disk(folder, list(linears))
    dtype = AutoConfig.from_pretrained(folder).dtype
    return found == {name: (weight.to(dtype) == 0).sum().item() for name, weight in linears.items()}


def _papers(run: Run, pruning: dict, measured: dict, stock: bool) -> dict:
    """What an exported model carries beside its weights: metadata, metrics and the card."""
    settings, facts, recovery = (
        run.config.pruning,
        provenance.collect(run.config),
        pruning["recovery"],
    )
    rounds = len(recovery["rounds"])
    how = (
        "one-shot" if rounds == 1 else f"in {rounds} rounds ({settings.pruning_schedule} schedule)"
    )
    recipe = (
        f"Pruned {how} with {settings.method}, allocation {settings.allocation_name}, pattern "
        f"{settings.pattern}, "
        f"target {settings.sparsity:.0%}, calibrated on {pruning['calibration_clips']} clips"
    )
    if recovered := recovery["method"] != "none":
        recipe += (
            f", then recovered by {recovery['method']} from the dense model ({recovery['steps']} "
            f"steps, {recovery['minutes']:.1f} minutes)"
        )
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
    layers = [
        {key: row[key] for key in ("linear", "target_sparsity", "sparsity", "error")}
        for row in pruning["linears"]
    ]
    name = facts["config"]["model"]["name"]
    card = huggingface.model_card(
        base=model_label(name),
        recipe=recipe,
        source=", ".join(
            SOURCES[one] for one in (settings.method, settings.allocation_name) if one in SOURCES
        ),
        targets=settings.target_modules,
        results=results,
        recovered=recovered,
        stock=stock,
        smaller=settings.pattern == "structured",
        **sparsities,
    )
    metadata = {
        "recovery": recovery["method"],
        "recovery_result": recovery,
        **sparsities,
        "linears": layers,
        "provenance": facts,
    }
    return {"metadata": metadata, "metrics": {"datasets": measured["datasets"]}, "card": card}
