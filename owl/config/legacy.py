"""The familiar pruning scripts' keys in the words of `owl.config.schema`: JSON in, JSON out. Which
values are allowed is the schema's business.
"""

import copy
import json
from collections.abc import Collection
from typing import Any, Literal

from pydantic import ValidationError

from owl.config.schema import Section

KEYS = {  # familiar key of `pruning` → ours
    "weight_importance_method": "method",
    "pruning_pattern": "pattern",
    "structures": "structured.structures",
    "equal_widths": "structured.equal_widths",
    "pruning_schedule": "schedule.name",
    "pruning_iterations": "schedule.iterations",
    "pruning_frequency": "schedule.frequency",
    "recovery": "recovery.method",  # unless it is a section
    "recovery_minutes": "recovery.minutes",
    "recovery_steps": "recovery.steps",
    "recovery_epochs": "recovery.epochs",
    "recovery_learning_rate": "recovery.learning_rate",
    "recovery_batch_size": "recovery.batch_size",
}
VALUES = {  # (section, key) → {familiar value: ours}
    ("pruning", "pruning_schedule"): {"one-shot": "one_shot"},
    ("evaluation", "metrics"): {"cer": "character_error_rate"},
    ("hardware", "precision"): {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"},
}
NULL_IS_DEFAULT = ("allocation", "weight_importance_method", "pruning_pattern", "normalizer")


class Outliers(Section):
    """What together makes `pruning.allocation`, where that is not written itself."""

    apply_outlier_weighting: bool = True
    outlier_detection_method: Literal["owl", "median"] = "owl"


class Onnx(Section):
    """Another way to list onnx in `output.formats`."""

    export_onnx: bool = False


FAMILIAR = (
    *(f"pruning.{key}" for key in (*KEYS, *Outliers.model_fields)),
    *(f"output.{key}" for key in Onnx.model_fields),
)


def translate(
    raw: dict[str, Any], overridden: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, str], list[dict]]:
    """(the config in our words, our dotted key → the familiar one in `raw`, what is wrong as in
    pydantic's `errors()`). Familiar keys for `overridden` ones (ours, dotted) say nothing; a
    section of the wrong type is left for the schema to refuse.
    """
    data, written, errors = copy.deepcopy(raw), {}, []
    sections = {name: section for name, section in data.items() if isinstance(section, dict)}
    pruning, output = sections.get("pruning", {}), sections.get("output", {})
    _respell(sections)
    for familiar, ours in KEYS.items():
        is_section = familiar == "recovery" and isinstance(pruning.get(familiar), dict)
        if familiar in pruning and not is_section:
            value = pruning.pop(familiar)
            if f"pruning.{ours}" not in overridden:
                written[f"pruning.{ours}"] = f"pruning.{familiar}"
                errors += _put(pruning, familiar, ours, value)
    outliers = _take(pruning, "pruning", Outliers, errors)
    stated = "apply_outlier_weighting" in outliers.model_fields_set
    if not outliers.apply_outlier_weighting:
        pruning.setdefault("allocation", "uniform")
    elif stated or outliers.outlier_detection_method == "median":
        pruning.setdefault("allocation", outliers.outlier_detection_method)
    onnx, formats = _take(output, "output", Onnx, errors), output.get("formats", ["hf"])
    if onnx.export_onnx and "output.formats" not in overridden and isinstance(formats, list):
        output["formats"] = [*formats, "onnx"]
    return data, written, errors


def _respell(sections: dict[str, dict]) -> None:
    """Nulls that mean the default go, familiar values become ours; in place."""
    for section in sections.values():
        for key in [key for key in NULL_IS_DEFAULT if section.get(key, ...) is None]:
            del section[key]
    for (name, key), ours in VALUES.items():
        said = sections.get(name, {}).get(key)
        if isinstance(said, list):
            sections[name][key] = [ours.get(str(one), one) for one in said]
        elif said is not None:
            sections[name][key] = ours.get(str(said), said)


def _put(pruning: dict[str, Any], familiar: str, ours: str, value: Any) -> list[dict]:
    """Set our key, in place, to what the familiar one said; an error if it is another value."""
    *above, key = ours.split(".")
    target = pruning.setdefault(above[0], {}) if above else pruning
    if not isinstance(target, dict) or (other := target.setdefault(key, value)) == value:
        return []
    text = (
        f"{ours} is {json.dumps(other)} but its alias {familiar} is {json.dumps(value)}; remove "
        "one of them"
    )
    return [{"type": "value_error", "loc": ("pruning",), "ctx": {"error": text}}]


def _take(section: dict, name: str, kind: type[Section], errors: list[dict]) -> Section:
    """The keys of `kind` out of a section, in place; its defaults where they are wrong."""
    said = {key: section.pop(key) for key in kind.model_fields if key in section}
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        errors += [one | {"loc": (name, *one["loc"])} for one in error.errors()]
        return kind()
