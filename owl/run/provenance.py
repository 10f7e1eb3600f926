"""What a result came from: code, packages, machine, seed and config, collected for artefacts and
shown to readers.

torch is imported only where something is collected: pages are drawn without it.
"""

import json
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from owl import ROOT
from owl.config.load import Config
from owl.errors import ConfigError

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "jiwer",
    "whisper-normalizer",
    "numpy",
    "onnxruntime",
    "ctranslate2",
    "gguf",
    "pywhispercpp",
)


def collect(config: Config) -> dict:
    """What a result came from: code (git commit), package versions, Python, machine kind, seed and
    the resolved config.
    """
    return {
        "git_commit": git_commit(),
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "seed": config.pruning.calibration.seed,
        "device": device_name(config),
        "acceleration": "; ".join(decision.reason for decision in acceleration(config)),
        "config": config.portable(),
    }


def write_provenance(folder: Path, config: Config) -> None:
    """`provenance.json` in a folder that has no artefact of ours to carry it."""
    (folder / "provenance.json").write_text(
        json.dumps(collect(config), indent=1) + "\n", encoding="utf-8"
    )


def device_name(config: Config) -> str:
    """The device that the config's hardware section leads to here, with the GPU's name where there
    is one.
    """
    import torch

    from owl.model.whisper import choose_device

    device = choose_device(config.hardware.device, config.hardware.use_mps)
    return (
        f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
    )


def acceleration(config: Config) -> tuple:
    """What transcription runs on here: (2:4 sparse products, compilation), each with its reason.
    ConfigError where it cannot be had.
    """
    import torch

    from owl.model import accelerate
    from owl.model.whisper import choose_device, choose_dtype

    device = choose_device(config.hardware.device, config.hardware.use_mps)
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    sparse = accelerate.decide_sparse(
        config.pruning.pattern,
        device.type,
        capability,
        choose_dtype(config.hardware.precision, device),
    )
    try:
        return sparse, accelerate.decide_compile(
            config.optimization.compile.enabled, config.optimization.compile.mode, device.type
        )
    except RuntimeError as error:
        raise ConfigError(str(error)) from error


@cache
def git_commit() -> str | None:
    """The commit of the code, with "+changes" when the tree differs from it; None outside a git
    checkout.
    """
    command = [
        "git",
        "-C",
        str(ROOT),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+changes",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def model_label(name: str) -> str:
    """A model's name for a page or card: of a folder outside the repository the last part, its path
    is nobody's business.
    """
    return Path(name).name if name.startswith("..") else name


def rows(facts: Mapping) -> list[tuple[str, str]]:
    """What `collect` returned as (what, value) rows."""
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    found = [("commit", facts["git_commit"] or "not in a git checkout"), ("packages", packages)]
    found += [
        (name, str(facts[name]))
        for name in ("python", "platform", "device", "acceleration", "seed")
        if name in facts
    ]
    return [*found, ("configuration", json.dumps(facts["config"]))]


def table(source: Config | Mapping):
    """What `collect` says of a config, or said when a result was made, as a styled table."""
    facts = collect(source) if isinstance(source, Config) else source
    return pd.DataFrame(rows(facts), columns=["what", "value"]).style.hide().format(escape="html")
