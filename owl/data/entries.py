"""What every source of clips yields before decoding, and the one way in which a source fails.

A source (`owl.data.folders`, `owl.data.hub`) knows names, texts and where the encoded audio lies;
`owl.data.load` decodes. So a folder of thousands of clips can be shuffled and cut to a few before
any audio is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

from owl.errors import DataError

# in order of preference
TEXT_COLUMNS = ("text", "transcription", "transcript", "sentence", "normalized_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
SHOWN = 5  # clips named in a message or in a row of a table
# what Python, numpy and pandas print for a missing value, where someone turned a column into text
MISSING = {"nan", "NaN", "None", "<NA>", "NaT"}


@dataclass(frozen=True)
class Entry:
    """One clip that is not decoded yet."""

    id: str
    # a file, or an encoded file's bytes; None: the source names no audio for this clip
    source: Path | bytes | None
    text: str | None = None  # None: no reference text
    speaker: str | None = None
    start: float = 0.0  # seconds into the file
    seconds: float | None = None  # length of the segment; None: up to the end of the file


def failure(name: str, reason: str, fix: str) -> DataError:
    """The error for the dataset called `name`: every DataError has these three parts."""
    return DataError(f"dataset {name!r}: {reason.rstrip('.')}. {fix}")


def pick(columns: Iterable[str], wanted: Sequence[str]) -> str | None:
    """The first of `wanted` that is one of `columns`, as it is written there, or None; upper and
    lower case are the same, and the exact name comes first.
    """
    present = {column.strip().lower(): column for column in columns if column} | {
        column: column for column in columns
    }
    return next((present[column] for column in wanted if column in present), None)


def clean(value: object) -> str | None:
    """A cell as one line of text; None for a missing cell.

    Missing are null, the number NaN, blanks, and a cell that is nothing but a word of MISSING,
    spelled like that: "nan" alone is missing, "nan bread" is text, and so is "None." with its full
    stop. Tables without types have more such words: `owl.data.tables.EMPTY_CELLS`.
    """
    if value is None or (isinstance(value, float) and isnan(value)):
        return None
    text = " ".join(str(value).split())
    return None if text in MISSING else text or None


def cell(row: Mapping[str, object], wanted: Sequence[str]) -> str | None:
    """The text of the first of the `wanted` columns that `row` has; None if it has none of them, or
    nothing there.
    """
    column = pick(row, wanted)
    return clean(row[column]) if column else None


def by_kind(left_out: Iterable[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """(id, reason) pairs by the kind of the reason: what it says before the brackets, which hold
    what is special to one clip.
    """
    kinds: dict[str, list[tuple[str, str]]] = {}
    for id, reason in left_out:
        kinds.setdefault(reason.partition(" (")[0], []).append((id, reason))
    return kinds


def named(pairs: Sequence[tuple[str, object]]) -> str:
    """The ids of the first few pairs, for a message or a table."""
    ids = ", ".join(id for id, _ in pairs[:SHOWN])
    return ids + (f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else "")


def need_text_column(name: str, columns: Sequence[str], where: str) -> None:
    """DataError naming the columns found if none of `columns` holds the reference text."""
    if pick(columns, TEXT_COLUMNS) is None:
        reason = f"{where} has no text column; columns found: {', '.join(columns)}"
        raise failure(name, reason, f"Name the text column one of {', '.join(TEXT_COLUMNS)}.")


LIBRISPEECH_ID = "openslr/librispeech_asr"
ALIASES = ("librispeech", "librispeech_asr", LIBRISPEECH_ID)

PARTS = {  # folder name in the archives: (config, split) on the Hub
    "test-clean": ("clean", "test"),
    "test-other": ("other", "test"),
    "dev-clean": ("clean", "validation"),
    "dev-other": ("other", "validation"),
    "train-clean-100": ("clean", "train.100"),
    "train-clean-360": ("clean", "train.360"),
    "train-other-500": ("other", "train.500"),
}


def find_part(split: str, subset: str | None) -> str | None:
    """The part that `split` and `subset` name together; None if there is no such part or they
    contradict each other.

    `split` is `test`, `test-clean`, `validation.other`, `train.360`, …; `subset` is `clean` or
    `other`, and may be None (`clean` unless the split decides) or `all` where the split is already
    a part's full name.
    """
    key = split.lower().replace(".", "-").replace("_", "-").replace("validation", "dev")
    if key in PARTS:
        return key if subset in (None, "all", PARTS[key][0]) else None
    stem, _, hours = key.partition("-")
    for kind in (subset,) if subset else ("clean", "other"):
        part = "-".join(word for word in (stem, kind, hours) if word)
        if part in PARTS:
            return part
    return None
