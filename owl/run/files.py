"""Files and folders that are written whole or not at all: a temporary neighbour takes the place of
the target when the block ends well.

Neighbours have names of their own, so that several processes, also on several machines, may make
the same file, or folder with `keep`, at once.
"""

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FORGOTTEN = 24 * 3600  # seconds after which a neighbour belongs to a process that was killed


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A path to write to instead of `target`; the last of several makers stays. Its folder is made
    if it is not there.
    """
    temporary = _neighbour(target)
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path, *, keep: bool = False) -> Iterator[Path]:
    """An empty folder to fill instead of `target`, which it replaces with all that was in it.

    `keep`: the first of several makers stays, for a target whose name says all that it depends on
    and that others may be reading.
    """
    temporary = _neighbour(target)
    temporary.mkdir()
    try:
        yield temporary
        if not keep:
            shutil.rmtree(target, ignore_errors=True)
        try:
            temporary.replace(target)
        except OSError:
            if not (keep and target.is_dir()):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _neighbour(target: Path) -> Path:
    """A path beside `target` that nobody else uses; what makers of it that were killed left behind
    is removed after a day.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.iterdir():
        with suppress(FileNotFoundError):  # another process may remove it too
            if (
                left.name.startswith(f"{target.name}.")
                and left.suffix == ".tmp"
                and left.stat().st_mtime < time.time() - FORGOTTEN
            ):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
