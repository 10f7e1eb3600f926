"""Local folders in, undecoded clips out. Four layouts, looked for in this order:

1. a manifest: `metadata.csv`, `metadata.jsonl`, `manifest.json` or `manifest.jsonl` (file names
relative to it); 2. a Common Voice release: `clips/` beside `<split>.tsv`; 3. LibriSpeech:
`*.trans.txt` beside the audio, at any depth; 4. audio files with a same-named `.txt` beside each,
at any depth.

Names match whatever their case. Audio that lies there and that nothing names is reported, not
dropped: only a Common Voice release holds the clips of other splits, which are no loss.

`split` and `subset` choose a subfolder (Common Voice: the tsv); one that chooses nothing is an
error, never ignored. The `datasets` library is not used: its folder loader needs torchcodec even
for undecoded audio.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from owl.data.audio import SUFFIXES
from owl.data.entries import Entry, by_kind, clean, failure, find_part, named
from owl.data.manifests import manifest_entries
from owl.data.names import Finder, files_below, same
from owl.data.tables import read_text

MANIFESTS = ("metadata.csv", "metadata.jsonl", "manifest.json", "manifest.jsonl")
LAYOUTS = (
    f"{', '.join(MANIFESTS)}; a Common Voice release (clips/ and <split>.tsv); LibriSpeech's "
    "*.trans.txt; "
    "audio files with a same-named .txt beside each"
)
LeftOut = list[tuple[str, str]]  # (file or id, reason)


def find_entries(
    name: str, folder: Path, *, split: str | None, subset: str | None, require_text: bool
) -> tuple[list[Entry], LeftOut]:
    """The clips of `folder`, in the manifest's order or sorted by path, and the files that are none
    with the reason; `name` is the dataset's name in errors.

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
    disk = Finder()
    folder = _choose(name, disk, folder, split, subset)
    manifests = [file for file in (disk.find(folder / one) for one in MANIFESTS) if file.is_file()]
    if manifests:
        manifest, *others = manifests
        entries = manifest_entries(name, manifest, folder, disk, require_text)
        ignored = [(file.name, f"{manifest.name} is read instead of it") for file in others]
        unnamed = _unnamed(_own_files(name, folder), entries, f"no row of {manifest.name} names it")
        comment = f"a line of {manifest.name} that starts with '# ' is a comment; rename the file"
        return entries, ignored + [
            (_id(file, folder), comment if _id(file, folder).startswith("# ") else why)
            for file, why in unnamed
        ]
    if clips := _clips_of_release(disk, folder):
        table = _release_table(name, disk, folder, split or "test")
        return manifest_entries(name, table, clips, disk, require_text), []
    files = files_below(name, folder)
    transcripts = [file for file in files if same(file.name).endswith(".trans.txt")]
    if transcripts:
        entries = [entry for file in transcripts for entry in _transcript_entries(name, file, disk)]
        unnamed = _unnamed(files, entries, "no line of a *.trans.txt names it")
        return entries, [(_id(file, folder), why) for file, why in unnamed]
    return _scan(name, folder, files, require_text)


def _choose(name: str, disk: Finder, folder: Path, split: str | None, subset: str | None) -> Path:
    """The subfolder that `split` and `subset` name; `folder` itself if they are None or say what it
    is called.
    """
    part = find_part(split, subset) if split else None
    if part and same(folder.name) == part:
        return folder
    if part and disk.find(folder / part).is_dir():
        return disk.find(folder / part)
    for key, wanted in (("subset", subset), ("split", split)):
        if wanted is None or same(wanted) == same(folder.name):
            continue
        if key == "split" and _clips_of_release(disk, folder):
            continue
        chosen = disk.find(folder / wanted)
        if not chosen.is_dir():
            there = (path.name for path in disk.children(folder).values() if path.is_dir())
            found = ", ".join(sorted(there)) or "none"
            reason = f"{folder} has no subfolder for {key} {wanted!r}; subfolders: {found}"
            raise failure(
                name,
                reason,
                "Correct `split` and `subset`, or leave them out to use the whole folder.",
            )
        folder = chosen
    return folder


def _clips_of_release(disk: Finder, folder: Path) -> Path | None:
    """The folder `clips` of a Common Voice release; None if `folder` is none."""
    clips = disk.find(folder / "clips")
    return clips if clips.is_dir() and _tables(disk, folder) else None


def _tables(disk: Finder, folder: Path) -> list[Path]:
    return [path for key, path in disk.children(folder).items() if key.endswith(".tsv")]


def _own_files(name: str, folder: Path) -> list[Path]:
    """The files below `folder`, without those of subfolders with a manifest of their own."""
    files = files_below(name, folder)
    owned = {file.parent for file in files if same(file.name) in MANIFESTS} - {folder}
    return [file for file in files if not owned & {*file.parents}]


def _unnamed(files: Iterable[Path], entries: list[Entry], why: str) -> list[tuple[Path, str]]:
    """The audio among `files` that no entry reads."""
    read = {os.path.normpath(entry.source) for entry in entries if entry.source}
    audio = [file for file in files if file.suffix.lower() in SUFFIXES]
    twins = {(file.parent, same(file.stem)): file for file in audio if str(file) in read}
    return [
        (file, _twin(twins[key]) if (key := (file.parent, same(file.stem))) in twins else why)
        for file in audio
        if str(file) not in read
    ]


def _twin(used: Path) -> str:
    return f"another file of the same name is used ({used.name})"


def _id(file: Path, folder: Path) -> str:
    """A file that is not used, as a reader finds it: from the folder, with its suffix."""
    return file.relative_to(folder).as_posix()


def _release_table(name: str, disk: Finder, folder: Path, split: str) -> Path:
    """The tsv of a Common Voice split; DataError naming the splits that are there."""
    table = disk.find(folder / f"{split}.tsv")
    if not table.is_file():
        found = ", ".join(sorted(file.stem for file in _tables(disk, folder)))
        raise failure(name, f"{folder} has no {table.name}", f"Set `split` to one of: {found}.")
    return table


def _transcript_entries(name: str, file: Path, disk: Finder) -> list[Entry]:
    """The lines `<speaker>-<chapter>-<number> TEXT` of one `*.trans.txt`; the audio lies beside it
    under the same id.
    """
    audio = _by_stem(disk.children(file.parent).values())
    pairs = [line.strip().partition(" ") for line in read_text(name, file).split("\n")]
    return [
        Entry(
            id,
            audio.get((file.parent, same(id)), file.parent / f"{id}.flac"),
            clean(text),
            id.split("-")[0],
        )
        for id, _, text in pairs
        if id
    ]


def _by_stem(
    files: Iterable[Path],
    key_of: Callable[[Path], tuple[Path, str]] = lambda file: (file.parent, same(file.stem)),
) -> dict[tuple[Path, str], Path]:
    """Audio by its folder and name without suffix, as `key_of` says them; of several the one whose
    suffix comes first in SUFFIXES.
    """
    audio = [file for file in files if file.suffix.lower() in SUFFIXES]
    ranked = sorted(audio, key=lambda file: SUFFIXES.index(file.suffix.lower()), reverse=True)
    return {key_of(file): file for file in ranked}


def _scan(
    name: str, folder: Path, files: list[Path], require_text: bool
) -> tuple[list[Entry], LeftOut]:
    """Audio files at any depth, each with the same-named `.txt` beside it as its text."""
    written = [file for file in files if file.suffix.lower() == ".txt"]
    heard = {file.with_suffix("") for file in files if file.suffix.lower() in SUFFIXES}
    # a.wav with a.txt and A.wav with A.txt are two clips, where a disk can hold both
    exact = heard & {file.with_suffix("") for file in written}

    def key_of(file: Path) -> tuple[Path, str]:
        return file.parent, file.stem if file.with_suffix("") in exact else same(file.stem)

    audio = _by_stem(files, key_of)
    texts = {key_of(file): file for file in written}
    rest = [
        (_id(file, folder), why)
        for file in files
        if (why := _why_not(file, key_of(file), audio, texts))
    ]
    if not audio or (require_text and not audio.keys() & texts.keys()):
        kinds = "; ".join(f"{named(found)}: {kind}" for kind, found in by_kind(rest).items())
        reason = f"the {len(audio)} audio files in {folder} have no texts"
        if not audio:
            reason = f"{folder} holds no speech dataset"
        reason += f" (found: {kinds or 'nothing else'})"
        raise failure(name, reason, f"Looked for: {LAYOUTS}. Add one of them, or correct `path`.")
    entries = [
        Entry(
            file.relative_to(folder).with_suffix("").as_posix(),
            file,
            clean(read_text(name, texts[key])) if key in texts else None,
        )
        for key, file in sorted(audio.items(), key=lambda pair: pair[1])
    ]
    return entries, rest


def _why_not(file: Path, key: tuple[Path, str], audio: dict, texts: dict) -> str | None:
    """Why a file of a scanned folder is neither a clip nor its text; None if it is."""
    suffix = file.suffix.lower()
    if file in (audio.get(key), texts.get(key)) and key in audio:
        return None
    if suffix in SUFFIXES:
        return _twin(audio[key])
    if same(file.name) in MANIFESTS:
        return "a manifest in a subfolder: give that folder as `path` or `split`"
    if suffix == ".txt":
        return "a text without audio of the same name"
    if key in texts and key not in audio:
        kind = suffix or "a file without suffix"
        return f"{kind} is not read as audio; convert it: ffmpeg -i IN{suffix} OUT.wav"
    return "neither audio nor the text of a clip"
