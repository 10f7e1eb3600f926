"""Read a config file, apply Make's overrides, and say clearly what is wrong with either. The keys
are in `owl.config.schema`, the familiar ones in `owl.config.legacy`.

Relative paths: in a file from the file's folder, in an override from the current folder, in a run's
own config.json from the repository root. Whether datasets exist is checked where they are loaded;
of models, only a name that can be nothing but a missing folder is refused here.
"""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from owl import ROOT
from owl.config import legacy
from owl.config.paths import Origin
from owl.config.problems import refusal
from owl.config.schema import Config
from owl.errors import ConfigError
from owl.kernels.patterns import SMALLER, fixed_sparsity

OVERRIDES = {  # name on the make line, in lower case → the key that it sets
    "sparsity": "pruning.sparsity",
    "method": "pruning.method",
    "allocation": "pruning.allocation",
    "pattern": "pruning.pattern",
    "model": "model.name",
    "samples": "evaluation.datasets.max_samples",
    "device": "hardware.device",
    "formats": "output.formats",
    "recovery": "pruning.recovery.method",
    "minutes": "pruning.recovery.minutes",
    "window": "evaluation.window",
}
PARSERS = {
    "minutes": (float, "not a number; use minutes such as 5"),
    "sparsity": (float, "not a number; use a fraction such as 0.5"),
    "samples": (int, "not a whole number; use a count of clips such as 20"),
    "formats": (lambda text: [one.strip() for one in text.split(",") if one.strip()], ""),
}
RUN_KEYS = {"name", "digest", "inputs", "config"}  # of what `owl.run.resolve` writes


def load(path: str | os.PathLike, overrides: Mapping[str, object] | None = None) -> Config:
    """The config in the JSON file `path` (a run's config.json works too) with `overrides` (keys as
    in OVERRIDES, any case).

    An override that is None or "" is not set; text is parsed as the key's type. `samples` sets
    max_samples of every evaluation dataset, an N:M `pattern` also the sparsity and one that makes
    matrices smaller also the method, unless these are overridden too. Raises ConfigError for a file
    that cannot be read, unknown keys, wrong types or values, and a missing model folder.
    """
    (raw, base), given = _read(path), _parse(overrides)
    start = Path.cwd() if "model" in given else base
    config = _validate(raw, path, given, Origin(base, start, models_exist=True))
    if "minutes" in given and config.pruning.recovery.method != "distill":
        raise ConfigError(
            f"MINUTES={given['minutes']:g} is the time of RECOVERY=distill, and recovery is "
            f"{config.pruning.recovery.method}; add it or leave MINUTES out"
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
    return _validate(raw, path, {}, Origin())


def run_name(
    path: str | os.PathLike, config: Config, overrides: Mapping[str, object] | None = None
) -> str:
    """Default name of a run, safe as a file name and in make: `demo-wanda-owl-s0.5`, with 2:4
    written 2-4, 20 samples n20 and 5 minutes m5; a window that was asked for comes last.
    """
    given, pruning = _parse(overrides), config.pruning
    schedule, recovery = pruning.schedule, pruning.recovery.method
    parts = [
        Path(path).stem,
        "model" in given and os.path.basename(config.model.name.rstrip("/")),
        pruning.method,
        pruning.allocation,
        pruning.pattern != "unstructured" and pruning.pattern,
        f"s{pruning.sparsity:g}",
        recovery != "none" and recovery,
        "minutes" in given and f"m{given['minutes']:g}",
        schedule.name != "one_shot" and f"{schedule.name}{schedule.iterations}",
        "samples" in given and f"n{given['samples']}",
        "window" in given and config.evaluation.window,
    ]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(filter(None, parts))).lstrip("-.")


def read_json(path: str | os.PathLike, example: str) -> dict[str, Any]:
    """The JSON object in a file; ConfigError, which names an `example`, where there is none."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        raw = json.loads(text, object_pairs_hook=_without_repetition)
        if isinstance(raw, dict):
            return raw
        problem = "must hold one JSON object {...} of keys and values"
    except FileNotFoundError:
        problem = "no such config file"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        problem = f"not valid JSON at {where}: {error.msg}; fix it there"
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text (byte {error.start}); save it as UTF-8"
    except ValueError as error:  # a key twice, or a number of thousands of digits
        problem = f"not valid JSON: {error}"
    raise ConfigError(f"{path}: {problem} (for example {example})")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if repeated := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"key '{repeated[0]}' is written twice in one object; keep one of them")
    return dict(pairs)


def _read(path: str | os.PathLike) -> tuple[dict[str, Any], Path]:
    """A config file's JSON, and the folder that its relative paths start from."""
    raw = read_json(path, "CONFIG=configs/demo.json")
    if raw.keys() == RUN_KEYS and isinstance(raw["config"], dict):
        return raw["config"], ROOT
    folder = Path(os.path.abspath(path)).parent
    # reached through a link or not, the repository's own paths are recorded alike
    inside = folder.resolve().is_relative_to(ROOT)
    return raw, folder.resolve() if inside else folder


def _parse(overrides: Mapping[str, object] | None) -> dict[str, Any]:
    given, problems, known = {}, [], ", ".join(OVERRIDES).upper()
    for key, value in (overrides or {}).items():
        name = key.lower()
        parse, problem = PARSERS.get(name, (str, ""))
        if name not in OVERRIDES:
            problems.append(f"{key}: unknown override; use one of {known}")
        elif value is not None and value != "":
            try:
                given[name] = parse(value) if isinstance(value, str) else value
            except ValueError:
                problems.append(f"{name.upper()}={value}: {problem}")
    if problems:
        raise ConfigError("\n".join(problems))
    return given


def _validate(raw: dict, path: str | os.PathLike, given: dict[str, Any], origin: Origin) -> Config:
    data, written, errors = legacy.translate(raw, {OVERRIDES[name] for name in given})
    _apply(data, given)
    try:
        config = Config.model_validate(data, context=origin)
    except ValidationError as error:
        errors += error.errors(include_url=False)
    if errors:
        labels = {ours: f"{path}: {familiar}" for ours, familiar in written.items()}
        for name, value in given.items():
            shown = ",".join(map(str, value)) if isinstance(value, list) else value
            labels[OVERRIDES[name]] = f"{name.upper()}={shown}"
        raise refusal(errors, Config, path, legacy.FAMILIAR, labels)
    return config


def _apply(data: dict[str, Any], given: dict[str, Any]) -> None:
    """Put overrides into a config's JSON, in place. A section of the wrong type is left for the
    schema to refuse.
    """
    for name in given.keys() - {"samples"}:
        *sections, key = OVERRIDES[name].split(".")
        target = data
        for section in sections:
            target = _section(target, section)
        target[key] = given[name]
    if "samples" in given:
        default = Config().resolved()["evaluation"]["datasets"]
        datasets = _section(data, "evaluation").setdefault("datasets", default)
        for dataset in datasets if isinstance(datasets, list) else []:
            if isinstance(dataset, dict):
                dataset["max_samples"] = given["samples"]
    pattern, pruning = given.get("pattern"), _section(data, "pruning")
    with suppress(ValueError):  # what is no pattern is refused by the schema
        if "sparsity" not in given and pattern and fixed_sparsity(str(pattern)) is not None:
            pruning.pop("sparsity", None)
    if "method" not in given and pattern in SMALLER:  # the file's is for another pattern
        pruning.pop("method", None)


def _section(data: dict[str, Any], name: str) -> dict[str, Any]:
    section = data.setdefault(name, {})
    return section if isinstance(section, dict) else {}
