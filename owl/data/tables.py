"""Text tables as rows: csv, tsv, JSON lines and JSON lists; the first line that cannot be read is
an error that names it.
"""

import csv
import io
import json
from pathlib import Path

from owl.data.entries import failure

Row = dict[str, object]


def read_text(name: str, file: Path) -> str:
    """The text of a UTF-8 file, a byte order mark removed; DataError (for dataset `name`) for
    another encoding or no access.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise failure(
            name,
            f"{file} is not UTF-8 text ({error.reason} at byte {error.start})",
            "Save it as UTF-8.",
        ) from error
    except OSError as error:
        raise failure(
            name, f"{file} cannot be read ({error.strerror})", "Check the path and its permissions."
        ) from error


def read_table(name: str, file: Path) -> list[Row]:
    """The rows of a `.csv`, `.tsv`, `.json` or `.jsonl` file; blank lines are left out.

    Tabs separate a tsv's cells and quotes in it are plain characters, as Common Voice writes it. A
    `.json` file holds one list of objects or, as NeMo writes manifests, one object per line.
    DataError for broken JSON, for a line with more cells than columns (a comma in an unquoted text:
    it would lose the rest of the text), and for no rows at all.
    """
    text = read_text(name, file)
    rows = (
        _delimited_rows(name, file, text)
        if file.suffix in (".csv", ".tsv")
        else _json_rows(name, file, text)
    )
    if not rows:
        raise failure(
            name,
            f"empty manifest: {file} has no rows",
            "Write one row per clip into it, or remove the file.",
        )
    return rows


def columns_of(rows: list[Row]) -> list[str]:
    """Every column that some row has, in order of appearance."""
    return list(dict.fromkeys(column for row in rows for column in row))


def _delimited_rows(name: str, file: Path, text: str) -> list[Row]:
    """Rows below the header line of a csv or tsv file."""
    style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if file.suffix == ".tsv" else {}
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, **style)
    rows = []
    try:
        for row in reader:
            if None in row:
                raise csv.Error("more cells than columns")
            rows.append(row)
    except csv.Error as error:
        fix = (
            "Put texts with a comma or a quote in double quotes."
            if file.suffix == ".csv"
            else "Correct that line."
        )
        raise failure(name, f"line {reader.line_num} of {file}: {error}", fix) from error
    return rows


def _json_rows(name: str, file: Path, text: str) -> list[Row]:
    """Objects of a JSON list, or one object per line."""
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else None
    except json.JSONDecodeError as error:
        raise failure(
            name, f"line {error.lineno} of {file} is not JSON ({error.msg})", "Correct that line."
        ) from error
    if rows is None:
        rows = [
            _json_line(name, file, number, line)
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip()
        ]
    bad = next((number for number, row in enumerate(rows, 1) if not isinstance(row, dict)), None)
    if bad is not None:
        fix = 'Write rows such as {"audio_filepath": "a.wav", "text": "hello"}.'
        raise failure(name, f"row {bad} of {file} is not an object", fix)
    return rows


def _json_line(name: str, file: Path, number: int, line: str) -> object:
    """One line of a JSON lines file."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise failure(
            name, f"line {number} of {file} is not JSON ({error.msg})", "Correct that line."
        ) from error
