"""One line per thing that pydantic found wrong with a config: where, what, and what to write
instead.
"""

import json
import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any, get_args

from pydantic import BaseModel

from owl.config.schema import Config

KINDS = {
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list [...]",
    "model_type": "an object {...}",
    "finite_number": "a finite number",
}


def describe(problem: Mapping[str, Any], source: str, overrides: Mapping[str, str]) -> str:
    """The message for one entry of pydantic's `errors()`.

    `source` is the file; `overrides` maps keys as in `owl.config.load.OVERRIDES` to what was given,
    e.g. {"pruning.sparsity": "SPARSITY=2"}, which is then named instead of the file.
    """
    key = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]
    ).lstrip(".")
    text = _explain(problem, key)
    override = overrides.get(re.sub(r"\[\d+\]", "[]", key)) or overrides.get(
        re.sub(r"\[\d+\]$", "", key)
    )
    return f"{override}: {text}" if override else f"{source}: {key}: {text}"


def _explain(problem: Mapping[str, Any], key: str) -> str:
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return f"unknown key; the nearest known key is {nearest_key(key)}: rename or remove it"
    if kind == "missing":
        return "is required; add it"
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    if kind not in KINDS:
        return problem["msg"]
    hint = (
        "; write it without quotes"
        if isinstance(value, str) and kind in ("float_type", "int_type", "bool_type")
        else ""
    )
    return f"must be {KINDS[kind]}, not {json.dumps(value)}{hint}"


def nearest_key(key: str) -> str:
    """The known key, dotted, whose last part is most like that of `key`; keys of the same section
    are preferred.
    """
    section, _, name = re.sub(r"\[\d+\]", "", key).rpartition(".")

    def likeness(known: str) -> float:
        known_section, _, known_name = known.rpartition(".")
        return SequenceMatcher(None, name.lower(), known_name).ratio() + 0.2 * (
            known_section == section
        )

    return max(known_keys(Config), key=likeness)


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a schema, without list indices."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from known_keys(inner, f"{prefix}{name}.")
    yield from (prefix + name for name in model.model_computed_fields)
