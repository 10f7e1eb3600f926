"""Checks of single config values, as pydantic validators: each error says what is wrong and what to
write instead.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from pydantic import AfterValidator, BeforeValidator


def one_of(
    *live: str, later: tuple[str, ...] = (), aliases: dict[str, str] | None = None
) -> AfterValidator:
    """Only the `live` values (or an alias of one); those in `later` get an error that says so."""

    def choose(value: str) -> str:
        value = (aliases or {}).get(value, value)
        if value in live:
            return value
        problem = "is not available yet" if value in later else "is not known"
        raise ValueError(f"'{value}' {problem}; use one of {', '.join(live)}")

    return AfterValidator(choose)


def check(holds: Callable[[Any], object], requirement: str) -> AfterValidator:
    """Only values for which the predicate `holds` is truthy; the error is "`requirement`, not
    <value>".
    """

    def validate(value: Any) -> Any:
        if not holds(value):
            raise ValueError(f"{requirement}, not {json.dumps(value)}")
        return value

    return AfterValidator(validate)


def unique() -> AfterValidator:
    """A list without its repetitions, in order."""
    return AfterValidator(lambda values: list(dict.fromkeys(values)))


def if_null(replacement: str) -> BeforeValidator:
    """null means `replacement`."""
    return BeforeValidator(lambda value: replacement if value is None else value)


def parse_pattern(pattern: object) -> tuple[int, int] | None:
    """(N, M) of a fixed pattern "N:M", N nonzeros of every M consecutive inputs; None for anything
    else.
    """
    match = (
        re.fullmatch(r"([1-9][0-9]*):([1-9][0-9]*)", pattern) if isinstance(pattern, str) else None
    )
    return (int(match[1]), int(match[2])) if match and int(match[1]) < int(match[2]) else None


def parse_mixed(pattern: object) -> int | None:
    """M of a mixed pattern "N:M" with the letter N, as in "N:8": every block has an N of its own;
    None for anything else.
    """
    match = re.fullmatch(r"N:([1-9][0-9]*)", pattern) if isinstance(pattern, str) else None
    return int(match[1]) if match and int(match[1]) > 1 else None


def check_pattern(pattern: str) -> str:
    """`pattern` if it can be pruned to; ValueError otherwise."""
    if pattern in ("unstructured", "structured") or parse_pattern(pattern) or parse_mixed(pattern):
        return pattern
    if re.fullmatch(r"[0-9]+:[0-9]+", pattern):
        raise ValueError(
            f"'{pattern}' would keep N of every M inputs: N must be at least 1 and below M; use "
            "e.g. 2:4 or 4:8"
        )
    choices = (
        "unstructured, structured, 2:4, 4:8 (any N:M with N nonzeros in every M inputs), N:8 (N by "
        "block)"
    )
    raise ValueError(f"'{pattern}' is not known; use one of {choices}")
