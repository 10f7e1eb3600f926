"""What every source of clips yields before decoding, and the one way in which a source fails.

A source (`owl.folders`, `owl.hub`) knows names, texts and where the encoded audio lies; `owl.data` decodes. So a folder of
thousands of clips can be shuffled and cut to a few before any audio is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TEXT_COLUMNS = ("text", "transcription", "transcript", "sentence", "normalized_text")  # in order of preference
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")


class DataError(RuntimeError):
    """A dataset cannot be loaded or used; the message names the dataset, the reason and what to do."""


@dataclass(frozen=True)
class Entry:
    """One clip that is not decoded yet."""

    id: str
    source: Path | bytes | None  # a file, or an encoded file's bytes; None: the source names no audio for this clip
    text: str | None = None  # None: no reference text
    speaker: str | None = None
    start: float = 0.0  # seconds into the file
    seconds: float | None = None  # length of the segment; None: up to the end of the file


def failure(name: str, reason: str, fix: str) -> DataError:
    """The error for the dataset called `name`: every DataError has these three parts."""
    return DataError(f"dataset {name!r}: {reason.rstrip('.')}. {fix}")


def pick(columns: Iterable[str], wanted: Sequence[str]) -> str | None:
    """The first of `wanted` that is one of `columns`, or None."""
    present = set(columns)
    return next((column for column in wanted if column in present), None)


def clean(value: object) -> str | None:
    """A cell as one line of text; None for a missing or blank cell."""
    return " ".join(str(value).split()) or None if value is not None else None


def cell(row: Mapping[str, object], wanted: Sequence[str]) -> str | None:
    """The text of the first of the `wanted` columns that `row` has; None if it has none of them, or a blank there."""
    column = pick(row, wanted)
    return clean(row[column]) if column else None


def need_text_column(name: str, columns: Sequence[str], where: str) -> None:
    """DataError naming the columns found if none of `columns` holds the reference text."""
    if pick(columns, TEXT_COLUMNS) is None:
        reason = f"{where} has no text column; columns found: {', '.join(columns)}"
        raise failure(name, reason, f"Name the text column one of {', '.join(TEXT_COLUMNS)}.")
