"""Text tables as rows: csv, tsv, JSON lines and JSON lists; the first line that cannot be read is
an error that names it, as an editor numbers the lines.
"""

import csv
import io
import json
from pathlib import Path

from owl.data.entries import failure

Row = dict[str, object]
# a csv or tsv cell has no type: these mean a missing one, as for pandas.read_csv
EMPTY_CELLS = {"", "NULL", "null", "NA", "N/A", "n/a", "#N/A", "#NA", "-nan", "-NaN"}


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


def read_table(name: str, file: Path) -> list[tuple[str, Row]]:
    """The rows of a `.csv`, `.tsv`, `.json` or `.jsonl` file, each after the words that say where
    it is ("line 3 of metadata.csv"; of a JSON list "row 2 of …"). Blank lines are left out.

    Tabs separate a tsv's cells and quotes in it are plain characters, as Common Voice writes it;
    lines of a csv or tsv that start with "# ", and lone cells with # above the header, are
    comments. A `.json` file holds one list of objects or, as NeMo writes manifests, one object per
    line.
    DataError for broken JSON, for a line with more cells than columns (a comma in an unquoted text:
    it would lose the rest of the text), and for no rows at all.
    """
    text = read_text(name, file)
    kind = file.suffix.lower()
    if kind in (".csv", ".tsv"):
        rows = _delimited_rows(name, file, text, kind)
    else:
        rows = _json_rows(name, file, text)
    if not rows:
        raise failure(
            name,
            f"empty manifest: {file} has no rows",
            "Write one row per clip into it, or remove the file.",
        )
    return rows


def columns_of(rows: list[tuple[str, Row]]) -> list[str]:
    """Every column that some row has, in order of appearance."""
    return list(dict.fromkeys(column for _, row in rows for column in row))


def _delimited_rows(name: str, file: Path, text: str, kind: str) -> list[tuple[str, Row]]:
    """Rows below the header line of a csv or tsv file; a row that quotes line breaks goes by the
    line where it starts.
    """
    style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == ".tsv" else {}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **style)
    header, rows, start = None, [], 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not cells or _is_comment(cells, header is None):
                continue
            if header is None:
                header = cells
                continue
            if any(value.strip() for value in cells[len(header) :]):
                start = line
                raise csv.Error("more cells than columns")
            values = [None if value.strip() in EMPTY_CELLS else value for value in cells]
            values += [None] * (len(header) - len(cells))
            rows.append((f"line {line} of {file.name}", dict(zip(header, values))))
    except csv.Error as error:
        fix = "Correct that line."
        if "field limit" in str(error):
            fix = "Close the double quote that was opened there, or shorten the text."
        elif kind == ".csv":
            fix = "Put texts with a comma or a quote in double quotes."
        raise failure(name, f"line {start} of {file}: {error}", fix) from error
    return rows


def _is_comment(cells: list[str], above_header: bool) -> bool:
    start, lone = cells[0][:2], above_header and len(cells) == 1
    return start.startswith("#") and (lone or start.strip() == "#")


def _json_rows(name: str, file: Path, text: str) -> list[tuple[str, Row]]:
    """Objects of a JSON list, or one object per line."""
    if text.lstrip().startswith("["):
        found = enumerate(_json(name, file, text, 1), 1)
        rows = [(f"row {number} of {file.name}", row) for number, row in found]
    else:
        rows = [
            (f"line {number} of {file.name}", _json(name, file, line, number))
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip()
        ]
    for where, row in rows:
        if not isinstance(row, dict):
            fix = 'Write rows such as {"audio_filepath": "a.wav", "text": "hello"}.'
            raise failure(name, f"{where} is not an object", fix)
    return rows


def _json(name: str, file: Path, text: str, first: int) -> object:
    """What `text`, whose first line is line `first` of the file, says."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"line {first + error.lineno - 1} of {file} is not JSON ({error.msg})"
        raise failure(name, reason, "Correct that line.") from error
