"""Read a config file, apply Make's overrides, and say clearly what is wrong with either. The keys
are in `owl.config.schema`.

Relative paths: in a file from the file's folder, in an override from the current folder, in a run's
own config.json from the repository root. Whether datasets exist is checked where they are loaded;
of models, only a name that can be nothing but a missing folder is refused here.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from owl import ROOT
from owl.config.problems import describe
from owl.config.schema import Config, dataset_entries, others_slots, parse_pattern, path_slots
from owl.errors import ConfigError

__all__ = ["OVERRIDES", "Config", "load", "load_resolved", "run_name"]

OVERRIDES = {  # name on the make line, in lower case → the key that it sets
    "sparsity": "pruning.sparsity",
    "method": "pruning.method",
    "allocation": "pruning.allocation",
    "pattern": "pruning.pruning_pattern",
    "model": "model.name",
    "samples": "evaluation.datasets[].max_samples",
    "device": "hardware.device",
    "formats": "output.formats",
    "recovery": "pruning.recovery",
    "minutes": "pruning.recovery_minutes",
}
PARSERS = {
    "minutes": (float, "not a number; use minutes such as 5"),
    "sparsity": (float, "not a number; use a fraction such as 0.5"),
    "samples": (int, "not a whole number; use a count of clips such as 20"),
    "formats": (
        lambda text: [part.strip() for part in text.split(",") if part.strip()],
        "not a list; use e.g. hf,onnx",
    ),
}
# of the config.json that `owl.run.resolve` writes
RUN_KEYS = {"name", "digest", "inputs", "config"}


def load(path: str | os.PathLike, overrides: Mapping[str, object] | None = None) -> Config:
    """The config in the JSON file `path` (a run's config.json works too) with `overrides` (keys as
    in OVERRIDES, any case).

    An override that is None or "" is not set; text is parsed as the key's type. `samples` sets
    max_samples of every evaluation dataset, `method` also its alias, `formats` also export_onnx, an
    N:M `pattern` also the sparsity and a structured one also the method, unless these are
    overridden too. Raises ConfigError for a file that cannot be read, unknown keys, wrong types or
    values, and a missing model folder.
    """
    raw, base = _read(path)
    given = _parse_overrides(overrides or {})
    _locate_datasets(raw, base)
    _resolve_paths(raw, base)
    _apply(raw, given)
    config = _validate(raw, path, given)
    if "minutes" in given and config.pruning.recovery != "distill":
        raise ConfigError(
            f"MINUTES={given['minutes']:g} is the time of RECOVERY=distill, and recovery is "
            f"{config.pruning.recovery}; add it or leave MINUTES out"
        )
    first = f"MODEL={given['model']}" if "model" in given else f"{path}: model.name"
    models = [
        (first, config.model.name),
        *((f"{path}: output.compare_with", name) for name in config.output.compare_with),
    ]
    for where, name in models:
        if os.path.isabs(name) and not os.path.isdir(name):
            problem = "is a file, not a model folder" if os.path.exists(name) else "does not exist"
            raise ConfigError(
                f"{where}: {name} {problem}; give a Whisper folder or a Hub id such as "
                "openai/whisper-tiny (make demo-model builds models/demo)"
            )
    return config


def load_resolved(path: str | os.PathLike) -> Config:
    """The config of a run from the config.json that `owl.run.resolve` wrote. Raises ConfigError if
    `path` is not such a file.
    """
    raw, base = _read(path)
    if base != ROOT:
        raise ConfigError(
            f"{path}: not the config.json of a run; give runs/<run>/config.json, which make report "
            "writes"
        )
    _resolve_paths(raw, base)
    return _validate(raw, path, {})


def run_name(
    path: str | os.PathLike, config: Config, overrides: Mapping[str, object] | None = None
) -> str:
    """Default name of a run, safe as a file name and in make: `demo-wanda-owl-s0.5`, with 2:4
    written 2-4, 20 samples n20 and 5 minutes m5.
    """
    given = _parse_overrides(overrides or {})
    parts = [Path(path).stem, config.pruning.method, config.pruning.allocation_name]
    if "model" in given:
        parts.insert(1, os.path.basename(config.model.name.rstrip("/")))
    if config.pruning.pattern != "unstructured":
        parts.append(config.pruning.pattern)
    parts.append(f"s{config.pruning.sparsity:g}")
    if config.pruning.recovery != "none":
        parts.append(config.pruning.recovery)
    if "minutes" in given:
        parts.append(f"m{given['minutes']:g}")
    if config.pruning.pruning_schedule != "one_shot":
        parts.append(f"{config.pruning.pruning_schedule}{config.pruning.pruning_iterations}")
    if "samples" in given:
        parts.append(f"n{given['samples']}")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).lstrip("-.")


def _read(path: str | os.PathLike) -> tuple[dict[str, Any], Path]:
    """The JSON object in a file, and the folder that its relative paths start from."""

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise ConfigError(
                f"{path}: key '{repeated[0]}' is written twice in one object; keep one of them"
            )
        return dict(pairs)

    try:
        raw = json.loads(
            Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=refuse_duplicates
        )
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such config file; give one, e.g. CONFIG=configs/demo.json"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give a JSON file, e.g. "
            "CONFIG=configs/demo.json"
        ) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(f"{path}: not valid JSON at {where}: {error.msg}; fix it there") from None
    except ConfigError:
        raise
    except ValueError as error:  # not UTF-8, or a number of thousands of digits
        raise ConfigError(f"{path}: not valid JSON: {error}; save it as UTF-8 text") from None
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path}: must hold one JSON object with sections such as model and pruning; see "
            "configs/demo.json"
        )
    if raw.keys() == RUN_KEYS and isinstance(raw["config"], dict):
        return raw["config"], ROOT
    folder = Path(os.path.abspath(path)).parent
    # reached through a link or not, the repository's own paths are recorded alike
    inside = folder.resolve().is_relative_to(ROOT)
    return raw, folder.resolve() if inside else folder


def _parse_overrides(overrides: Mapping[str, object]) -> dict[str, Any]:
    given, problems = {}, []
    for key, value in overrides.items():
        name = key.lower()
        if name not in OVERRIDES:
            problems.append(
                f"{key}: unknown override; use one of "
                f"{', '.join(name.upper() for name in OVERRIDES)}"
            )
        elif value is None or value == "":
            continue
        elif isinstance(value, str) and name in PARSERS:
            parse, problem = PARSERS[name]
            try:
                given[name] = parse(value)
            except ValueError:
                problems.append(f"{name.upper()}={value}: {problem}")
        else:
            given[name] = list(value) if name == "formats" else value
    if problems:
        raise ConfigError("\n".join(problems))
    return given


def _resolve_paths(raw: dict[str, Any], base: Path) -> None:
    """Make every path in a config's JSON absolute, in place."""
    for section, key in path_slots(raw):
        section[key] = _absolute(section[key], base)
    model = raw.get("model")
    if isinstance(model, dict) and isinstance(model.get("name"), str):
        model["name"] = _locate_model(model["name"], base)
    for others, index in others_slots(raw):
        others[index] = _locate_model(others[index], base)


def _locate_datasets(raw: dict[str, Any], base: Path) -> None:
    """Write a dataset `name` that is a folder under `base` as its `path`, in place: kernels run
    elsewhere, and paths are hashed.
    """
    for entry in dataset_entries(raw):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name.strip() or entry.get("path") is not None:
            continue
        if name.startswith((".", "/", "~")) or os.path.isdir(os.path.join(base, name)):
            entry["path"] = _absolute(name, base)
            entry["name"] = os.path.basename(entry["path"]) or name


def _absolute(path: str, base: Path) -> str:
    return os.path.abspath(os.path.join(base, os.path.expanduser(path)))


def _locate_model(name: str, base: Path) -> str:
    """An absolute path if `name` exists under `base` or cannot be a Hub id; else `name`, the Hub
    id.
    """
    path_like = name.startswith((".", "/", "~")) or name.count(os.sep) > 1
    return (
        _absolute(name, base)
        if name.strip() and (path_like or os.path.exists(os.path.join(base, name)))
        else name
    )


def _apply(raw: dict[str, Any], given: dict[str, Any]) -> None:
    """Put overrides into a config's JSON, in place. A section of the wrong type is left for the
    schema to refuse.
    """
    for name, value in given.items():
        section, key = OVERRIDES[name].split(".", 1)
        target = raw.setdefault(section, {})
        if not isinstance(target, dict):
            continue
        if name == "samples":
            _limit_samples(target, value)
            continue
        target[key] = (
            _locate_model(value, Path.cwd())
            if name == "model" and isinstance(value, str)
            else value
        )
        if name == "method":
            target.pop("weight_importance_method", None)
        if name == "formats":
            target.pop("export_onnx", None)
        if name == "pattern" and parse_pattern(value) and "sparsity" not in given:
            target.pop("sparsity", None)
        if (
            name == "pattern" and value == "structured" and "method" not in given
        ):  # the file's is for another pattern
            target.pop("method", None)
            target.pop("weight_importance_method", None)


def _limit_samples(evaluation: dict[str, Any], samples: object) -> None:
    datasets = evaluation.setdefault("datasets", Config().resolved()["evaluation"]["datasets"])
    for dataset in datasets if isinstance(datasets, list) else []:
        if isinstance(dataset, dict):
            dataset["max_samples"] = samples


def _validate(raw: dict[str, Any], path: str | os.PathLike, given: dict[str, Any]) -> Config:
    shown = {
        name: ",".join(map(str, value)) if isinstance(value, list) else value
        for name, value in given.items()
    }
    labels = {OVERRIDES[name]: f"{name.upper()}={value}" for name, value in shown.items()}
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        problems = [
            describe(problem, str(path), labels) for problem in error.errors(include_url=False)
        ]
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None
