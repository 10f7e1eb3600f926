"""Local folders in, undecoded clips out. Four layouts, looked for in this order:

1. a manifest: `metadata.csv`, `metadata.jsonl`, `manifest.json` or `manifest.jsonl` (file names
relative to it); 2. a Common Voice release: `clips/` beside `<split>.tsv`; 3. LibriSpeech:
`*.trans.txt` beside the audio, at any depth; 4. audio files with a same-named `.txt` beside each,
at any depth.

`split` and `subset` choose a subfolder (Common Voice: the tsv); one that chooses nothing is an
error, never ignored. The `datasets` library is not used: its folder loader needs torchcodec even
for undecoded audio.
"""

from math import inf
from pathlib import Path

from owl.data.audio import SUFFIXES
from owl.data.entries import (
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    Entry,
    cell,
    clean,
    failure,
    find_part,
    need_text_column,
    pick,
)
from owl.data.tables import Row, columns_of, read_table, read_text

MANIFESTS = ("metadata.csv", "metadata.jsonl", "manifest.json", "manifest.jsonl")
FILE_COLUMNS = ("file_name", "audio_filepath", "path")
LAYOUTS = (
    f"{', '.join(MANIFESTS)}; a Common Voice release (clips/ and <split>.tsv); LibriSpeech's "
    "*.trans.txt; "
    "audio files with a same-named .txt beside each"
)


def find_entries(
    name: str, folder: Path, *, split: str | None, subset: str | None, require_text: bool
) -> list[Entry]:
    """The clips of `folder`, in the manifest's order or sorted by path; `name` is the dataset's
    name in errors.

    Raises DataError for a folder that is missing, not a folder, or of no known layout, for a
    `split` or `subset` that it does not have, for a manifest without rows or columns, and for no
    text although `require_text`.
    """
    if not folder.exists():
        raise failure(name, f"the folder {folder} does not exist", "Correct `path`.")
    if not folder.is_dir():
        raise failure(
            name,
            f"{folder} is a file, not a folder",
            "Set `path` to the folder that holds manifest and audio.",
        )
    folder = _choose(name, folder, split, subset)
    manifest = next((folder / file for file in MANIFESTS if (folder / file).is_file()), None)
    if manifest:
        return _manifest_entries(name, manifest, manifest.parent, require_text)
    if _is_common_voice(folder):
        return _manifest_entries(
            name, _release_table(name, folder, split or "test"), folder / "clips", require_text
        )
    transcripts = sorted(folder.rglob("*.trans.txt"))
    if transcripts:
        return [entry for file in transcripts for entry in _transcript_entries(name, file)]
    return _scan(name, folder, require_text)


def _choose(name: str, folder: Path, split: str | None, subset: str | None) -> Path:
    """The subfolder that `split` and `subset` name; `folder` itself if they are None or say what it
    is called.
    """
    part = find_part(split, subset) if split else None
    if part and (folder.name == part or (folder / part).is_dir()):
        return folder if folder.name == part else folder / part
    for key, wanted in (("subset", subset), ("split", split)):
        if wanted is None or wanted == folder.name or (key == "split" and _is_common_voice(folder)):
            continue
        if not (folder / wanted).is_dir():
            found = (
                ", ".join(sorted(child.name for child in folder.iterdir() if child.is_dir()))
                or "none"
            )
            reason = f"{folder} has no subfolder for {key} {wanted!r}; subfolders: {found}"
            raise failure(
                name,
                reason,
                "Correct `split` and `subset`, or leave them out to use the whole folder.",
            )
        folder = folder / wanted
    return folder


def _is_common_voice(folder: Path) -> bool:
    return (folder / "clips").is_dir() and any(folder.glob("*.tsv"))


def _release_table(name: str, folder: Path, split: str) -> Path:
    """The tsv of a Common Voice split; DataError naming the splits that are there."""
    table = folder / f"{split}.tsv"
    if not table.is_file():
        found = ", ".join(sorted(file.stem for file in folder.glob("*.tsv")))
        raise failure(name, f"{folder} has no {table.name}", f"Set `split` to one of: {found}.")
    return table


def _manifest_entries(
    name: str, table: Path, audio_folder: Path, require_text: bool
) -> list[Entry]:
    """One entry per row of `table`; file names are relative to `audio_folder`, or absolute."""
    rows = read_table(name, table)
    columns = columns_of(rows)
    if pick(columns, FILE_COLUMNS) is None:
        reason = f"{table} has no column for the audio file; columns found: {', '.join(columns)}"
        raise failure(name, reason, f"Name it one of {', '.join(FILE_COLUMNS)}.")
    if require_text:
        need_text_column(name, columns, str(table))
    return [
        _row_entry(name, f"row {number} of {table.name}", row, audio_folder)
        for number, row in enumerate(rows, 1)
    ]


def _row_entry(name: str, where: str, row: Row, audio_folder: Path) -> Entry:
    """A manifest row as an entry; `where` names the row. A row without a file name is kept, to be
    reported.
    """
    file = cell(row, FILE_COLUMNS)
    start, seconds = _segment(name, where, row)
    return Entry(
        id=cell(row, ("id",)) or (_file_id(file) if file else where),
        source=audio_folder / file if file else None,
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


def _transcript_entries(name: str, file: Path) -> list[Entry]:
    """The lines `<speaker>-<chapter>-<number> TEXT` of one `*.trans.txt`; the audio lies beside it
    under the same id.
    """
    audio = {path.stem: path for path in file.parent.iterdir() if path.suffix.lower() in SUFFIXES}
    pairs = [line.strip().partition(" ") for line in read_text(name, file).split("\n")]
    return [
        Entry(id, audio.get(id, file.parent / f"{id}.flac"), clean(text), id.split("-")[0])
        for id, _, text in pairs
        if id
    ]


def _scan(name: str, folder: Path, require_text: bool) -> list[Entry]:
    """Audio files at any depth, each with the same-named `.txt` beside it as its text."""
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    texts = {file: file.with_suffix(".txt") for file in files if file.with_suffix(".txt").is_file()}
    if not files or (require_text and not texts):
        reason = (
            f"the {len(files)} audio files in {folder} have no texts"
            if files
            else f"{folder} holds no speech dataset"
        )
        raise failure(name, reason, f"Looked for: {LAYOUTS}. Add one of them, or correct `path`.")
    return [
        Entry(
            file.relative_to(folder).with_suffix("").as_posix(),
            file,
            clean(read_text(name, texts[file])) if file in texts else None,
        )
        for file in files
    ]
