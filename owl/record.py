"""Run folders: artefacts that one notebook leaves for the next, each with its provenance, written whole or not at all.

`runs/<run>/config.json` (written by `owl.resolve`) says what a run is; every notebook adds one JSON file and may add folders.
"""

import json
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from owl import accelerate
from owl.config import Config, ConfigError, load_resolved
from owl.paths import ROOT
from owl.resolve import prepare
from owl.whisper import choose_device, choose_dtype
from owl.whole import whole_file

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "jiwer", "whisper-normalizer", "numpy", "onnxruntime", "ctranslate2")


class MissingArtefact(RuntimeError):
    """A notebook was run before the one whose result it reads; the message names both."""


@dataclass(frozen=True)
class Run:
    """One experiment: its name, its folder `runs/<name>` and its resolved configuration."""

    name: str
    folder: Path
    config: Config

    def write(self, artefact: str, data: Mapping) -> None:
        """`<folder>/<artefact>.json`, with provenance and this process's peak memory (bytes) added."""
        text = json.dumps({**data, "peak_rss_bytes": peak_rss_bytes(), "provenance": provenance(self.config)}, indent=1, allow_nan=False)
        with whole_file(self.folder / f"{artefact}.json") as path:
            path.write_text(text + "\n", encoding="utf-8")

    def read(self, artefact: str, made_by: str) -> dict:
        """What `write` left; MissingArtefact that names the notebook `made_by` if it is not there."""
        path = self.folder / f"{artefact}.json"
        if not path.exists():
            raise MissingArtefact(
                f"runs/{self.name}/{artefact}.json is not there: run the notebook {made_by} first, or `make report`, which runs all in order"
            )
        return json.loads(path.read_text(encoding="utf-8"))


def open_run(config: str = "", run: str = "", overrides: Mapping[str, object] | None = None) -> Run:
    """The run that make prepared (`run` names it), or the one that `config` (a path from the repository root) and `overrides` describe."""
    name = run or prepare(ROOT / config, dict(overrides or {}))
    folder = ROOT / "runs" / name
    return Run(name, folder, load_resolved(folder / "config.json"))


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def peak_rss_bytes() -> int:
    """Highest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage also counts the process that started this one
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes


def provenance(config: Config) -> dict:
    """What a result came from: code (git commit), package versions, Python, machine kind, seed and the resolved config."""
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
    (folder / "provenance.json").write_text(json.dumps(provenance(config), indent=1) + "\n", encoding="utf-8")


def device_name(config: Config) -> str:
    """The device that the config's hardware section leads to here, with the GPU's name where there is one."""
    device = choose_device(config.hardware.device, config.hardware.use_mps)
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def acceleration(config: Config) -> tuple[accelerate.Decision, accelerate.Decision]:
    """What transcription runs on here: (2:4 sparse products, compilation), each with its reason. ConfigError where it cannot be had."""
    device = choose_device(config.hardware.device, config.hardware.use_mps)
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    sparse = accelerate.decide_sparse(config.pruning.pattern, device.type, capability, choose_dtype(config.hardware.precision, device))
    try:
        return sparse, accelerate.decide_compile(config.optimization.compile.enabled, config.optimization.compile.mode, device.type)
    except RuntimeError as error:
        raise ConfigError(str(error)) from error


@cache
def git_commit() -> str | None:
    """The commit of the code, with "+changes" when the tree differs from it; None outside a git checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def log_tensorboard(run: Run, scalars: Mapping[str, float], step: int = 0) -> None:
    """Add scalars to `runs/<run>/tensorboard`, if the config asks for it."""
    if not run.config.output.log_to_tensorboard:
        return
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and off by default

    with SummaryWriter(run.folder / "tensorboard") as writer:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)
