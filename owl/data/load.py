"""Speech datasets in, decoded clips with reference texts out: one function for Hub datasets and
local folders.

A clip that cannot be used (missing, broken, empty, no text where one is required, the same samples
as another) is left out and listed in `Dataset.skipped`, never silently, and so is audio in a folder
that nothing names; a dataset without any usable clip is an error. `left_out_table` is the table for
a reader. Not here: normalising texts, features.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float32

from owl.data.audio import RATE, AudioError, digest, read_audio
from owl.data.entries import Entry, by_kind, failure, named
from owl.data.folders import find_entries
from owl.data.hub import stream_entries
from owl.errors import DataError

__all__ = ["RATE", "Clip", "Dataset", "check_disjoint", "left_out_table", "load_dataset"]

# clips of a stream that may all fail before we stop: not the whole archive is streamed to find
# nothing
PATIENCE = 200


@dataclass(frozen=True, eq=False)
class Clip:
    """One decoded utterance."""

    id: str  # unique within its dataset
    audio: Float32[np.ndarray, " samples"]  # mono, RATE samples per second, full scale ±1
    text: str | None  # reference text as the source wrote it, white space collapsed; None: unknown
    speaker: str | None  # None: the source does not say
    digest: str  # SHA-256 of the samples
    remark: str | None = None  # what a reader should know of how it was read

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.audio) / RATE


@dataclass
class Dataset:
    """The usable clips of one source."""

    name: str
    clips: list[Clip]
    # (clip id or file, reason): the source's order, then what nothing in the folder names. A reason
    # is a kind, then what is special to the clip in brackets
    skipped: list[tuple[str, str]]
    language: str | None  # as asked for; None: the model's default


def load_dataset(
    name: str,
    *,
    split: str | None = None,
    subset: str | None = None,
    language: str | None = None,
    max_samples: int | None = None,
    path: str | Path | None = None,
    shuffle_seed: int | None = None,
    cache_dir: str | Path | None = None,
    require_text: bool = True,
) -> Dataset:
    """The first `max_samples` usable clips (None: all) of the folder `path`, or of the Hub dataset
    `name`.

    A `name` that is an existing folder counts as `path`; layouts, splits and subsets:
    `owl.data.folders`, `owl.data.hub`. The order is the source's, or that of a shuffle seeded by
    `shuffle_seed`, so that a few clips are not all one speaker's. Raises DataError if the source
    cannot be read, or has no usable clip.
    """
    if max_samples is not None and max_samples < 1:
        raise failure(
            name,
            f"max_samples is {max_samples}",
            "Ask for at least 1 clip, or leave it out for all of them.",
        )
    if path is None and Path(name).is_dir():
        path = name
    unnamed = []
    if path is None:
        entries = stream_entries(
            name,
            split=split,
            subset=subset,
            shuffle_seed=shuffle_seed,
            cache_dir=cache_dir,
            require_text=require_text,
        )
    else:
        folder = Path(path).expanduser().absolute()
        entries, unnamed = find_entries(
            name, folder, split=split, subset=subset, require_text=require_text
        )
        if shuffle_seed is not None:
            entries = [
                entries[i] for i in np.random.default_rng(shuffle_seed).permutation(len(entries))
            ]
    clips, skipped = _collect(
        entries, max_samples, require_text, patience=PATIENCE if path is None else None
    )
    if not clips:
        kinds = by_kind(skipped + unnamed).values()
        reasons = "; ".join(f"{named(kind)}: {kind[0][1]}" for kind in kinds) or "it lists none"
        fix = "Repair these clips, or point to another dataset, split or folder."
        raise failure(name, f"none of its {len(skipped)} clips can be used ({reasons})", fix)
    return Dataset(name, clips, skipped + unnamed, language)


def left_out_table(datasets: Sequence[Dataset]) -> pd.DataFrame:
    """What became of everything in `datasets`: dataset, clips (how many), what ("used" | "left
    out"), why, examples; one row per kind of reason, what is used first.
    """
    rows = []
    for dataset in datasets:
        remarks = [(clip.id, clip.remark) for clip in dataset.clips if clip.remark]
        plain = [(clip.id, "") for clip in dataset.clips if not clip.remark]
        for what, listed in (("used", plain + remarks), ("left out", dataset.skipped)):
            for why, kind in by_kind(listed).items():
                rows.append((dataset.name, len(kind), what, why, named(kind) if why else ""))
    return pd.DataFrame(rows, columns=["dataset", "clips", "what", "why", "examples"])


def check_disjoint(calibration: Sequence[Clip], evaluation: Sequence[Clip]) -> None:
    """DataError naming the evaluation clips whose audio is also among the calibration clips, sample
    for sample.
    """
    seen = {clip.digest: clip.id for clip in calibration}
    overlap = [
        (f"{clip.id} (calibration: {seen[clip.digest]})", clip)
        for clip in evaluation
        if clip.digest in seen
    ]
    if overlap:
        raise DataError(
            f"calibration and evaluation overlap in {len(overlap)} of {len(evaluation)} evaluation "
            f"clips: {named(overlap)}. "
            "Calibrate on another dataset, split or folder than the evaluation's."
        )


def _collect(
    entries: Iterable[Entry], max_samples: int | None, require_text: bool, *, patience: int | None
) -> tuple[list[Clip], list[tuple[str, str]]]:
    """(clips, skipped): entries are taken until `max_samples` clips, or until `patience` entries
    failed and none was usable.
    """
    clips, skipped, taken, heard = [], [], Counter(), {}
    for entry in entries:
        taken[entry.id] += 1
        id = entry.id if taken[entry.id] == 1 else f"{entry.id}#{taken[entry.id]}"
        try:
            clip = _decode(id, entry, require_text)
            if first := heard.get(clip.digest):
                text = "" if clip.text == first.text else ", but another text"
                raise AudioError(f"the same audio as another clip{text} ({first.id})")
            heard[clip.digest] = clip
            clips.append(clip)
        except AudioError as error:
            skipped.append((id, str(error)))
        if len(clips) == max_samples or (not clips and len(skipped) == patience):
            break
    return clips, skipped


def _decode(id: str, entry: Entry, require_text: bool) -> Clip:
    """The clip of an entry; AudioError if it cannot be used."""
    if require_text and entry.text is None:
        raise AudioError("it has no text")
    if entry.source is None:
        raise AudioError("its row names no audio")
    remarks = []
    audio = read_audio(
        entry.source, start=entry.start, seconds=entry.seconds, remark=remarks.append
    )
    return Clip(id, audio, entry.text, entry.speaker, digest(audio), *remarks)
