"""Names on disk, as people's cameras, phones and computers write them: files below a folder, and
the file that a table means.

Upper and lower case are the same here, and so are the two Unicode forms of an accented letter
(macOS splits it); files that an operating system left behind do not exist. Not here: which layout a
folder has (`owl.data.folders`).
"""

import os
from pathlib import Path
from unicodedata import normalize

from owl.data.entries import failure

# in lower case; whatever starts with a dot (.DS_Store, ._clip.wav, .git) counts as well
SYSTEM = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "__macosx",
    "system volume information",
    "lost+found",
}


def same(name: str) -> str:
    """What two names have in common that mean one file."""
    return normalize("NFC", name).casefold()


def is_system(name: str) -> bool:
    """Whether an operating system or a tool wrote a file or folder of this name for itself."""
    return name.startswith(".") or name.lower() in SYSTEM


def files_below(name: str, folder: Path) -> list[Path]:
    """Every file below `folder`, sorted, links to folders followed once; DataError (for dataset
    `name`) for a folder that cannot be listed.
    """

    def stop(error: OSError):
        reason = f"{error.filename} cannot be listed ({error.strerror})"
        raise failure(name, reason, "Check its permissions.") from error

    found, seen = [], set()
    for where, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        real = os.path.realpath(where)
        folders[:] = [] if real in seen else [one for one in folders if not is_system(one)]
        if real not in seen:
            found += [Path(where, one) for one in files if not is_system(one)]
        seen.add(real)
    return sorted(found)


class Finder:
    """Finds what a path means; every folder is listed at most once."""

    def __init__(self):
        self._listed: dict[Path, dict[str, Path]] = {}

    def children(self, folder: Path) -> dict[str, Path]:
        """What lies in `folder`, by `same` name; of two the one that sorts first. Nothing, if it is
        no folder.
        """
        if folder not in self._listed:
            names = sorted(os.listdir(folder), reverse=True) if os.path.isdir(folder) else []
            self._listed[folder] = {same(one): folder / one for one in names if not is_system(one)}
        return self._listed[folder]

    def find(self, path: Path) -> Path:
        """`path` as it is written on disk; unchanged where nothing is there."""
        if os.path.lexists(path) or path == path.parent:
            return path
        parent = self.find(path.parent)
        return self.children(parent).get(same(path.name), parent / path.name)
