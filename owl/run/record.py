"""Run folders: artefacts that one notebook leaves for the next, each with its provenance, written
whole or not at all.

`runs/<run>/config.json` (written by `owl.run.resolve`) says what a run is; every notebook adds one
JSON file and may add folders.
"""

import json
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from owl import ROOT
from owl.config.load import Config, load_resolved
from owl.errors import MissingArtefact
from owl.run import provenance
from owl.run.files import whole_file
from owl.run.resolve import prepare


@dataclass(frozen=True)
class Run:
    """One experiment: its name, its folder `runs/<name>` and its resolved configuration."""

    name: str
    folder: Path
    config: Config

    def write(self, artefact: str, data: Mapping) -> None:
        """`<folder>/<artefact>.json`, with provenance and this process's peak memory (bytes)
        added.
        """
        text = json.dumps(
            {
                **data,
                "peak_rss_bytes": peak_rss_bytes(),
                "provenance": provenance.collect(self.config),
            },
            indent=1,
            allow_nan=False,
        )
        with whole_file(self.folder / f"{artefact}.json") as path:
            path.write_text(text + "\n", encoding="utf-8")

    def read(self, artefact: str, made_by: str) -> dict:
        """What `write` left; MissingArtefact that names the notebook `made_by` if it is not
        there.
        """
        path = self.folder / f"{artefact}.json"
        if not path.exists():
            raise MissingArtefact(
                f"runs/{self.name}/{artefact}.json is not there: run the notebook {made_by} first, "
                "or `make report`, which runs all in order"
            )
        return json.loads(path.read_text(encoding="utf-8"))


def open_run(config: str = "", run: str = "", overrides: Mapping[str, object] | None = None) -> Run:
    """The run that make prepared (`run` names it), or the one that `config` (a path from the
    repository root) and `overrides` describe.
    """
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


def log_tensorboard(run: Run, scalars: Mapping[str, float], step: int = 0) -> None:
    """Add scalars to `runs/<run>/tensorboard`, if the config asks for it."""
    if not run.config.output.log_to_tensorboard:
        return
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and off by default

    with SummaryWriter(run.folder / "tensorboard") as writer:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)
