"""Hugging Face Hub datasets in, a stream of undecoded clips out.

Streaming only: nothing but the clips that are asked for (and, with a shuffle, its buffer) is
transferred. Audio columns are cast to `Audio(decode=False)`, so torchcodec is never needed.
`datasets` is imported where it is used: it takes a second.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from owl.data.entries import (
    ALIASES,
    LIBRISPEECH_ID,
    PARTS,
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    Entry,
    cell,
    failure,
    find_part,
    need_text_column,
)
from owl.errors import DataError

# clips held while shuffling a stream: several speakers' worth, roughly 100 MB of LibriSpeech
SHUFFLE_BUFFER = 500
# the Hub client's own retries need a minute or more to give up without a network
PROBE_SECONDS = 10
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
LOCAL = (
    "Or download the data and set `path` to a local folder (metadata.csv, LibriSpeech or Common "
    "Voice layout)."
)


def stream_entries(
    name: str,
    *,
    split: str | None,
    subset: str | None,
    shuffle_seed: int | None,
    cache_dir: str | Path | None,
    require_text: bool,
) -> Iterator[Entry]:
    """The clips of Hub dataset `name`, one by one, as the archive orders them or through a seeded
    shuffle buffer.

    Raises DataError for a name that is no dataset, no network, a missing or gated dataset, config
    or split, and for rows without audio or (with `require_text`) without a text column. What fails
    while streaming raises it too.
    """
    hub_id, config, hub_split = resolve(name, split, subset)
    reason = unreachable()
    if reason:
        raise failure(name, reason, f"Connect to the network. {LOCAL}")
    try:
        dataset = _open(name, hub_id, config, hub_split, cache_dir)
        if shuffle_seed is not None:
            dataset = dataset.shuffle(seed=shuffle_seed, buffer_size=SHUFFLE_BUFFER)
        for number, row in enumerate(dataset):
            yield _row_entry(name, number, row, require_text)
    except DataError:
        raise
    except (
        Exception
    ) as error:  # every layer below (HTTP, Arrow, builder scripts) has errors of its own
        raise failure(name, _short(error), f"{_advice()} {LOCAL}") from error


def resolve(name: str, split: str | None, subset: str | None) -> tuple[str, str | None, str | None]:
    """(Hub id, config, split) that `name`, `split` and `subset` mean; DataError for a name that
    cannot be one.
    """
    if name in ALIASES:
        part = find_part(split or "test", subset)
        if part is None:
            reason = f"LibriSpeech has no part with split {split!r} and subset {subset!r}"
            fix = (
                f"Set `split` to one of: {', '.join(PARTS)}; `subset` (clean, other) may be left "
                "out."
            )
            raise failure(name, reason, fix)
        return LIBRISPEECH_ID, *PARTS[part]
    if re.fullmatch(r"(mozilla-foundation/)?common[_-]?voice[\w.-]*", name.lower()):
        fix = (
            "Download a release from Mozilla, unpack it, and set `path` to its language folder "
            "(clips/ and test.tsv)."
        )
        raise failure(name, "Common Voice has left the Hugging Face Hub", fix)
    if not HUB_ID.fullmatch(name):
        fix = (
            "Use `librispeech`, a Hub id `owner/dataset` with `subset` and `split`, or set `path` "
            "to a folder."
        )
        raise failure(name, "it is neither a known name, nor a Hub id, nor an existing folder", fix)
    return name, subset, split


def unreachable() -> str | None:
    """Why the Hub cannot be asked, or None if it answers at all; in offline mode None, since
    `datasets` says so at once.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.is_offline_mode():
        return None
    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except Exception as error:  # whichever HTTP library the Hub client uses
        return f"{constants.ENDPOINT} cannot be reached ({_short(error)})"
    return None


def _advice() -> str:
    """What to do about a Hub dataset that failed although the Hub answers, or that offline mode
    kept us from asking.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "Offline mode is on: unset HF_HUB_OFFLINE."
    return (
        "Check name, `subset` and `split`; for a gated dataset accept its terms and run `hf auth "
        "login`."
    )


def _open(
    name: str, hub_id: str, config: str | None, split: str | None, cache_dir: str | Path | None
) -> Any:
    """The stream, its audio columns left undecoded; without `split`: `test`, or the only one."""
    import datasets

    dataset = datasets.load_dataset(
        hub_id, config, split=split, streaming=True, cache_dir=cache_dir and str(cache_dir)
    )
    if isinstance(dataset, dict):
        chosen = "test" if "test" in dataset else next(iter(dataset)) if len(dataset) == 1 else None
        if chosen is None:
            raise failure(
                name,
                "it has several splits and no `test`",
                f"Set `split` to one of: {', '.join(dataset)}.",
            )
        dataset = dataset[chosen]
    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Audio):
            dataset = dataset.cast_column(column, datasets.Audio(decode=False))
    return dataset


def _row_entry(name: str, number: int, row: dict[str, Any], require_text: bool) -> Entry:
    """A row as an entry; the audio is the column `audio`, or the only one that holds encoded
    files.
    """
    encoded = [
        value
        for value in row.values()
        if isinstance(value, dict) and {"bytes", "path"} <= set(value)
    ]
    audio = row["audio"] if "audio" in row else encoded[0] if len(encoded) == 1 else "absent"
    if not isinstance(audio, dict | None):
        reason = f"it has no audio column; columns found: {', '.join(row)}"
        raise failure(name, reason, f"Use a speech dataset with a column `audio`. {LOCAL}")
    if require_text:
        need_text_column(name, list(row), "it")
    path = (audio or {}).get("path")
    return Entry(
        id=cell(row, ("id",)) or (Path(path).stem if path else str(number)),
        source=(audio or {}).get("bytes") or (Path(path) if path else None),
        text=cell(row, TEXT_COLUMNS),
        speaker=cell(row, SPEAKER_COLUMNS),
    )


def _short(error: Exception) -> str:
    """The first line of an error's message, or its kind if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
