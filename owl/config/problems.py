"""One line per thing that pydantic found wrong with a file: where, what, what to write instead."""

import json
import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from types import MappingProxyType
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from owl.errors import ConfigError

KINDS = {
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list [...]",
    "model_type": "an object {...}",
    "finite_number": "a finite number",
}
UNQUOTED = ("float_type", "int_type", "bool_type")
NOT_YET = {("quantization", "method"): "static"}  # choices of other tools, by the key's end


def refusal(
    errors: Iterable[Mapping],
    schema: type[BaseModel],
    source: object,
    aliases: Iterable[str] = (),
    labels: Mapping[str, str] = MappingProxyType({}),
) -> ConfigError:
    """What to raise for pydantic's `errors()` of the file `source`.

    `aliases`: dotted keys that are known beside the schema's. `labels`: by dotted key what to call
    it, e.g. "SPARSITY=2", instead of file and key.
    """
    fields, lines = fields_of(schema), []
    for one in errors:
        if one["type"] == "default_factory_not_called":  # merely follows from another error
            continue
        key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in one["loc"]).lstrip(".")
        plain = re.sub(r"\[\d+\]", "", key)
        if one["type"] == "extra_forbidden":
            nearest = _nearest(plain, [*fields, *aliases])
            text = f"unknown key; the nearest known key is {nearest}: rename or remove it"
        else:
            text = _explain(one, _requirement(fields, plain, item=key.endswith("]")))
        lines.append(f"{labels.get(plain, f'{source}: {key}')}: {text}")
    return ConfigError("\n".join(dict.fromkeys(lines)))


def _explain(problem: Mapping, requirement: str | None) -> str:
    kind, value = problem["type"], problem.get("input")
    if kind == "missing":
        return "is required; add it"
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    if kind in KINDS:
        hint = "; write it without quotes" if isinstance(value, str) and kind in UNQUOTED else ""
        return f"must be {KINDS[kind]}, not {json.dumps(value)}{hint}"
    if requirement:
        return f"{requirement}, not {json.dumps(value)}"
    if kind != "literal_error":
        return problem["msg"]
    choices = ", ".join(re.findall(r"'([^']*)'", problem["ctx"]["expected"]))
    if not isinstance(value, str):
        return f"must be one of {choices}, not {json.dumps(value)}"
    known = "available yet" if NOT_YET.get(tuple(problem["loc"][-2:])) == value else "known"
    return f"'{value}' is not {known}; use one of {choices}"


def fields_of(schema: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every dotted key of a schema, without list indices."""
    found = {}
    for name, field in schema.model_fields.items():
        found[prefix + name] = field
        for one in (field.annotation, *get_args(field.annotation)):
            if isinstance(one, type) and issubclass(one, BaseModel):
                found |= fields_of(one, f"{prefix}{name}.")
    return found


def _requirement(fields: Mapping[str, FieldInfo], key: str, *, item: bool) -> str | None:
    """The description of a field, or of its items."""
    field = fields.get(key) or fields.get(key.rpartition(".")[0])
    notes = [
        note
        for one in get_args(field and field.annotation)
        for note in getattr(one, "__metadata__", ())
    ]
    described = notes if item else [field, *notes]
    return next((text for one in described if (text := getattr(one, "description", None))), None)


def _nearest(key: str, known: Iterable[str]) -> str:
    """The known key whose last part is most like that of `key`, rather in the same section."""
    section, _, name = key.rpartition(".")

    def likeness(one: str) -> float:
        above, _, its_name = one.rpartition(".")
        return SequenceMatcher(None, name.lower(), its_name).ratio() + 0.2 * (above == section)

    return max(known, key=likeness)
