"""The config of a run, settled before make builds it.

`python -m owl.run.resolve --config PATH [--run NAME] NAME=VALUE …` writes `runs/<run>/config.json`,
the file whose time make compares, only if its content changes (then what an older report of this
name claimed is taken away), and prints the run's name. NAME=VALUE are make's overrides; an empty
VALUE is none. On a problem: `error: …` on stderr, exit 2, nothing written.
"""

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from owl import ROOT
from owl.config.load import Config, load, run_name
from owl.errors import ConfigError
from owl.run.files import whole_file

CLAIMS = ("summary.json", "index.html")  # what makes a report look finished


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m owl.run.resolve", description="Write a run's config.json, print its name."
    )
    parser.add_argument("--config", required=True, help="JSON config file")
    parser.add_argument("--run", help="name of the run; by default made from the config")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="NAME=VALUE",
        help="e.g. SPARSITY=0.7; empty values are ignored",
    )
    options = parser.parse_args(arguments)
    try:
        print(prepare(options.config, parse_assignments(options.overrides), options.run))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def prepare(
    config_path: str | os.PathLike, overrides: Mapping[str, object], run: str | None = None
) -> str:
    """Check config and run, write the run's config.json if it changes, and return the run's name.

    `run` names the run (None: made from the config). Raises ConfigError.
    """
    config = load(config_path, overrides)
    name = run_name(config_path, config, overrides) if run is None else check_run_name(run)
    folder, report = ROOT / "runs" / name, ROOT / "reports" / name
    check_folder(Path(config.output.dir), "output.dir")
    check_folder(folder, f"run '{name}'")
    check_folder(report, f"the report of run '{name}'")
    if run is not None:
        refuse_finished_run_of_another_config(folder / "config.json", name, config)
    written = {
        "name": name,
        "digest": config.digest(),
        "inputs": fingerprints(config),
        "config": config.portable(),
    }
    text = json.dumps(written, indent=2) + "\n"
    if write_if_changed(folder / "config.json", text):
        for claim in CLAIMS:
            (report / claim).unlink(missing_ok=True)
    return name


def fingerprints(config: Config) -> dict[str, str]:
    """Which files the local model and dataset folders hold (names, sizes, times), hashed: a changed
    input is a changed run.
    """
    datasets = [config.pruning.calibration.dataset, *config.evaluation.datasets]
    folders = [
        Path(name)
        for name in (
            config.model.name,
            *config.output.compare_with,
            *(entry.path for entry in datasets),
        )
        if name and Path(name).is_dir()
    ]
    found = {}
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        facts = [
            (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
            for path in files
        ]
        found[os.path.relpath(folder, ROOT)] = hashlib.sha256(
            json.dumps(facts).encode()
        ).hexdigest()[:16]
    return found


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """{"SPARSITY": "0.7"} of ["SPARSITY=0.7"]."""
    for text in assignments:
        if "=" not in text:
            raise ConfigError(f"'{text}' is not NAME=VALUE; write e.g. SPARSITY=0.7")
    return dict(text.split("=", 1) for text in assignments)


def check_run_name(name: str) -> str:
    """`name` if it is safe as a folder name and in make."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", name) and ".." not in name:
        return name
    raise ConfigError(
        f"RUN={name}: not a run name; use letters, digits, '-', '_' and '.' only, e.g. "
        "RUN=first-try"
    )


def check_folder(folder: Path, what: str) -> None:
    """Refuse a folder that cannot be made because it, or a folder above it, is a file."""
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise ConfigError(
            f"{what}: {nearest} is a file where a folder belongs; move it away or set output.dir "
            "to another folder"
        )


def refuse_finished_run_of_another_config(written: Path, name: str, config: Config) -> None:
    """A named run that has a report keeps its config; `written` is its config.json."""
    if not (ROOT / "reports" / name / "summary.json").exists() or not written.exists():
        return
    try:
        digest = json.loads(written.read_text(encoding="utf-8"))["digest"]
    except (ValueError, KeyError, TypeError):
        digest = "unreadable"
    if digest != config.digest():
        raise ConfigError(
            f"RUN={name}: a finished run of another config has this name (digest {digest}, now "
            f"{config.digest()}); "
            f"choose another RUN, or remove reports/{name} and runs/{name} to replace it"
        )


def write_if_changed(path: Path, text: str) -> bool:
    """Write a file whole or not at all; a file with this very text keeps its time. Returns whether
    it wrote.
    """
    try:
        if path.is_file() and path.read_bytes() == text.encode():
            return False
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return True
    except OSError as error:
        fix = "check its permissions and the free space, or make room"
        raise ConfigError(f"cannot write {path} ({error.strerror}); {fix}") from None


if __name__ == "__main__":
    sys.exit(main())
