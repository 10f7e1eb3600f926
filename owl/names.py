"""What a report calls its datasets: each name once, whatever the config calls them."""

import os
from collections.abc import Mapping, Sequence

PARTS = ("subset", "split", "language")


def tell_apart(entries: Sequence[Mapping]) -> list[str]:
    """One display name per dataset entry (keys name, path, subset, split, language): its `name`, and where that repeats also what differs.

    ("librispeech test-clean", "librispeech test-other"); of paths, what is left below the folder that holds them all. Entries that only
    differ in what is not listed (max_samples) still share a name: the caller refuses them.
    """
    names = [entry["name"] for entry in entries]
    return [
        " ".join([entry["name"], *_differing(entry, [other for other in entries if other["name"] == entry["name"]])])
        if names.count(entry["name"]) > 1
        else entry["name"]
        for entry in entries
    ]


def _differing(entry: Mapping, namesakes: Sequence[Mapping]) -> list[str]:
    paths = {other["path"] for other in namesakes}
    parts = [entry[key] for key in PARTS if entry[key] and len({other[key] for other in namesakes}) > 1]
    if entry["path"] and len(paths) > 1:
        above = os.path.commonpath([os.path.dirname(path) for path in paths if path])
        parts.insert(0, os.path.relpath(entry["path"], above))
    return parts
