"""From a config to things: the model on its device, the clips. Notebooks call this first, kernels
never do.
"""

import hashlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from owl.config.load import Config
from owl.data.load import Dataset, check_disjoint, load_dataset
from owl.model import accelerate
from owl.model.loading import load
from owl.model.whisper import Whisper, choose_device, choose_dtype, language_of
from owl.run.provenance import acceleration


def load_model(config: Config, folder: Path | None = None, *, accelerated: bool = False) -> Whisper:
    """Model and processor as the config's hardware section says; `folder` instead of the config's
    model when given. Says what it chose. ModelError for a dataset's language that it cannot have.

    `accelerated`: for transcribing only, compiled and with 2:4 sparse products where config and
    device allow; dense and pruned alike.
    """
    hardware = config.hardware
    if hardware.cpu_threads:
        torch.set_num_threads(hardware.cpu_threads)
    device = choose_device(hardware.device, hardware.use_mps)
    dtype = choose_dtype(hardware.precision, device)
    if str(dtype) != f"torch.{hardware.precision}":
        print(f"precision {hardware.precision} was asked for; on a CPU we compute in float32")
    asr = load(str(folder or config.model.name), device, dtype, config.model.cache_dir)
    for entry in (*config.evaluation.datasets, config.pruning.calibration.dataset):
        language_of(asr.model, entry.language)  # one that the model cannot have is an error now
    if accelerated:
        _accelerate(config, asr.model)
    return asr


def _accelerate(config: Config, model) -> None:
    sparse, compiled = acceleration(config)
    if sparse.done:
        # linears without a 2:4 pattern, such as all of the dense model's, stay as they are
        taken, all_linears = accelerate.sparsify(model.model.encoder.layers)
        print(f"{sparse.reason}: {taken} of {all_linears}")
    if compiled.done:
        accelerate.compile_parts(
            model.model.encoder, model.model.decoder, config.optimization.compile.mode
        )
        print(compiled.reason)


def evaluation_sets(config: Config) -> list[Dataset]:
    """Every evaluation dataset of the config, in order, whole or its first `max_samples` clips,
    each under a name of its own.
    """
    entries = tqdm(config.evaluation.datasets, desc="evaluation data", unit="dataset")
    loaded = [load_dataset(**_source(entry, config)) for entry in entries]
    return [
        replace(dataset, name=name)
        for dataset, name in zip(loaded, config.evaluation.display_names)
    ]


def calibration_set(config: Config, evaluated: Sequence[Dataset] = ()) -> Dataset:
    """`calibration.samples` clips drawn through a seeded shuffle; DataError where one of them is
    also an evaluation clip.
    """
    wanted = config.pruning.calibration
    source = _source(wanted.dataset, config) | {
        "max_samples": wanted.samples,
        "shuffle_seed": wanted.seed,
    }
    dataset = load_dataset(**source, require_text=wanted.labels == "reference")
    if len(dataset.clips) < wanted.samples:
        warnings.warn(
            f"calibration asks for {wanted.samples} clips; {dataset.name} has {len(dataset.clips)}",
            stacklevel=2,
        )
    check_disjoint(dataset.clips, [clip for other in evaluated for clip in other.clips])
    return dataset


def slug(name: str) -> str:
    """A dataset's name as a file name; where that loses something, a hash keeps it apart from
    others.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    return (
        plain
        if plain == name
        else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}".lstrip("-")
    )


def _source(entry, config: Config) -> dict:
    """Arguments of `load_dataset` for one dataset entry of the config."""
    return {**entry.model_dump(), "cache_dir": config.model.cache_dir}
