"""A table of clips in, undecoded clips out: which columns name the audio, its text, its speaker and
the part of a longer file. Reading the table itself is in `owl.data.tables`.
"""

import os
from math import inf
from pathlib import Path

from owl.data.entries import (
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    Entry,
    cell,
    failure,
    need_text_column,
    pick,
)
from owl.data.names import Finder
from owl.data.tables import Row, columns_of, read_table

FILE_COLUMNS = ("file_name", "audio_filepath", "path")


def manifest_entries(
    name: str, table: Path, audio_folder: Path, disk: Finder, require_text: bool
) -> list[Entry]:
    """One entry per row of `table`; file names are relative to `audio_folder`, or absolute."""
    rows = read_table(name, table)
    columns = columns_of(rows)
    if pick(columns, FILE_COLUMNS) is None:
        reason = f"{table} has no column for the audio file; columns found: {', '.join(columns)}"
        raise failure(name, reason, f"Name it one of {', '.join(FILE_COLUMNS)}.")
    if require_text:
        need_text_column(name, columns, str(table))
    return [_row_entry(name, where, row, audio_folder, disk) for where, row in rows]


def _row_entry(name: str, where: str, row: Row, audio_folder: Path, disk: Finder) -> Entry:
    """A manifest row as an entry; `where` names the row. A row without a file name is kept, to be
    reported.
    """
    file, source = None, None
    start, seconds = _segment(name, where, row)
    if cell(row, FILE_COLUMNS):
        written = str(row[pick(row, FILE_COLUMNS)])
        file = written.strip()
        # as it is written, without the spaces around it, and as Windows writes paths
        tried = (disk.find(audio_folder / one) for one in (written, file, file.replace("\\", "/")))
        for source in tried:
            if os.path.exists(source):
                break
    return Entry(
        id=cell(row, ("id",)) or (_file_id(file) if file else where),
        source=source,
        text=cell(row, TEXT_COLUMNS),
        speaker=cell(row, SPEAKER_COLUMNS),
        start=start,
        seconds=seconds,
    )


def _file_id(file: str) -> str:
    """A file name as the manifest has it, without its suffix; of an absolute path the last part
    only.
    """
    file = Path(file).name if Path(file).is_absolute() else file
    return file.removesuffix(Path(file).suffix)


def _segment(name: str, where: str, row: Row) -> tuple[float, float | None]:
    """NeMo's `offset` and `duration`, both in seconds: which part of a longer file a row means;
    without offset all of it.
    """
    offset, duration = cell(row, ("offset",)), cell(row, ("duration",))
    if offset is None:
        return 0.0, None
    try:
        start, seconds = float(offset), None if duration is None else float(duration)
        if not (0 <= start < inf and (seconds is None or 0 <= seconds < inf)):
            raise ValueError("negative or infinite")
    except ValueError as error:
        reason = f"{where} has offset {offset!r} and duration {duration!r} ({error})"
        raise failure(name, reason, "Write both in seconds.") from error
    return start, seconds
