"""The formats of a run, written: one folder each, whole or not at all. What they cost is measured
in `owl.export.table`.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name

import torch
from transformers import AutoConfig

from owl.config.formats import BITS, FORMATS, INT8, short_folder
from owl.errors import UnsupportedFormat
from owl.evaluate.compare import headline
from owl.export import huggingface
from owl.kernels.patterns import SMALLER
from owl.kernels.records import ALLOCATIONS, SOLVERS
from owl.kernels.texts import broken
from owl.model.shapes import is_stock
from owl.model.whisper import Whisper, blocks
from owl.model.windows import Window
from owl.prune import rounding
from owl.run import provenance
from owl.run.files import whole_folder
from owl.run.provenance import model_label
from owl.run.record import Run


def export_folder(run: Run, name: str) -> Path:
    """`<output.dir>/<run>/<format>`."""
    return Path(run.config.output.dir) / run.name / name


def remove_others(wanted: Sequence[str], run: Run) -> None:
    """Remove the folders of formats that are not wanted: an earlier model's is not this one's."""
    for name in set(FORMATS) - set(wanted):
        _remove(export_folder(run, name))


def _remove(folder: Path) -> None:
    for one in (folder, short_folder(folder)):
        shutil.rmtree(one, ignore_errors=True)


def write(
    name: str, run: Run, pruned: Whisper, pruning: dict, measured: dict
) -> tuple[Path, str | None]:
    """(the folder of one format, written whole; None, or the reason why it cannot represent this
    model: then nothing is there).
    """
    target = export_folder(run, name)
    papers = _papers(run, pruning, measured, stock=is_stock(pruned.model.config))
    shutil.rmtree(short_folder(target), ignore_errors=True)  # an earlier model's
    try:
        if FORMATS[name].calibrated:
            pruned = rounding.calibrated(run, pruned, FORMATS[name].grid)
        with whole_folder(target) as folder:
            save(name, pruned, folder, dtype=stored_dtype(run), papers=papers)
    except UnsupportedFormat as error:
        _remove(target)
        return target, str(error)
    add_short(name, target, run.config.evaluation.window)
    return target, None


def add_short(name: str, folder: Path, window: Window) -> None:
    """Beside the `folder` of format `name` what short windows need of their own, if they do."""
    if window == "speech" and (short := FORMATS[name].short):
        resolve_name(short)(folder)


def save(name: str, asr: Whisper, folder: Path, *, dtype: torch.dtype, papers: dict) -> None:
    """Write `model` into `folder` as format `name`; `dtype` and `papers` (metadata, metrics, card)
    are for formats as models are published.
    """
    wanted = FORMATS[name]
    options = {"dtype": dtype, **papers} if wanted.published else {}
    if wanted.grid == INT8 and wanted.rounds:
        options["int8"] = True
    elif wanted.rounds:
        ours = wanted.runtime == "pytorch"
        options |= {"bits": BITS[wanted.grid]} if ours else {"grid": wanted.grid}
    resolve_name(wanted.save)(asr, folder, **options)


def loads_in(name: str, model) -> str:
    """What loads a format's folder."""
    words = FORMATS[name].loads_in
    return resolve_name(words)(model) if ":" in words else words


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
    how = "one-shot" if rounds == 1 else f"in {rounds} rounds ({settings.schedule.name} schedule)"
    low_rank = settings.pattern == "lowrank"
    by = "by principal components of the outputs" if low_rank else f"with {settings.method}"
    recipe = (
        f"Pruned {how} {by}, allocation {settings.allocation}, pattern "
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
            "words": row["words"] if row["unit"] == "words" else f"{row['characters']} characters",
            "by": "" if row["unit"] == "words" else "CER ",
            "dense": headline(row, "dense")[0],
            "pruned": headline(row, "pruned")[0],
            "broken": broken(row["pruned"], row["clips"]),
        }
        for row in measured["datasets"]
    ]
    sparsities = {name: pruning[name] for name in ("sparsity_prunable", "sparsity_model")}
    layers = [
        {key: row[key] for key in ("linear", "target_sparsity", "sparsity", "error")}
        for row in pruning["linears"]
    ]
    name = facts["config"]["model"]["name"]
    papers = SOLVERS[settings.method].source, ALLOCATIONS[settings.allocation].source
    card = huggingface.model_card(
        base=model_label(name),
        recipe=recipe,
        source=", ".join(filter(None, papers)),
        targets=settings.target_modules,
        results=results,
        recovered=recovered,
        stock=stock,
        smaller=settings.pattern in SMALLER,
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
