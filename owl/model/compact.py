"""A pruned Whisper that is really smaller: for every sparse matrix one bit per weight (kept or not)
and the kept values, in one file.

The file is ordinary safetensors whose tensors are the parts that `owl.kernels.bitmask` makes of
each tensor, joined in one order. Its metadata hold the format's name and version, the layout (which
tensor is stored how) and a SHA-256 over layout and data. A tied tensor is stored once. Writing
holds one tensor beside the model's own, reading maps the file into memory.

Nothing here knows Whisper: tensors by name in, tensors by name out. Folders are in
`owl.export.huggingface`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from owl.errors import CompactError
from owl.kernels.bitmask import describe, pack, sizes, unpack

FORMAT, VERSION = "owl-compact", "1"
# part of the file: (safetensors' type, numpy's); widest first, so that each part starts where its
# type may
PARTS = {
    "scales": ("F32", "<f4"),
    "values": ("F16", "<f2"),
    "rest": ("F16", "<f2"),
    "group_scales": ("F16", "<f2"),
    "masks": ("U8", "u1"),
    "int8": ("I8", "i1"),
    "levels": ("U8", "u1"),
}
PIECE = 1 << 22  # bytes hashed at once
UNKNOWN = "0" * 64  # as long as a digest


def write(
    path: Path, tensors: Mapping[str, Tensor], *, bits: Mapping[str, int] | None = None
) -> int:
    """Store `tensors` (cast to float16), matrices for which `bits` says 8, 5 or 4 rounded to so
    many, and return the bytes of the file.

    One tensor after the other: beside `tensors` only one more is ever held. CompactError for a
    value beyond float16, or rows that few bits cannot hold.
    """
    try:
        layout = [
            describe(name, tensor, (bits or {}).get(name, 16)) for name, tensor in tensors.items()
        ]
    except ValueError as error:
        raise CompactError(f"{error}; export another format, e.g. FORMATS=hf") from error
    start = 8 + len(_header(layout, UNKNOWN))
    places = {part: start + offset for part, (offset, _) in _spans(layout).items()}
    with path.open("w+b") as file:
        for one in layout:
            for part, array in pack(one, tensors[one["name"]]).items():
                file.seek(places[part])
                file.write(memoryview(array).cast("B"))
                places[part] += array.nbytes
        file.seek(start)
        digest = _digest(layout, iter(lambda: file.read(PIECE), b""))
        file.seek(0)
        header = _header(layout, digest)
        file.write(len(header).to_bytes(8, "little") + header)
    return path.stat().st_size


def read(path: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor in float16) in the order they were stored; CompactError for a file that is not
    ours, not whole or changed.
    """
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    layout, start = _check(data)
    places = {part: start + offset for part, (offset, _) in _spans(layout).items()}
    for one in layout:
        parts = {}
        for part, size in sizes(one).items():
            parts[part] = data[places[part] : places[part] + size].view(PARTS[part][1])
            places[part] += size
        yield one["name"], torch.from_numpy(unpack(one, parts)).reshape(one["shape"])


def _check(data: np.ndarray) -> tuple[list[dict], int]:
    """(layout, where the data start) of a whole file in memory, after everything in it has been
    verified.
    """
    length = int.from_bytes(data[:8].tobytes(), "little")
    raw, unreadable = (
        data[8 : 8 + length].tobytes(),
        "its header cannot be read: it is truncated, damaged or another kind of file",
    )
    try:
        metadata = json.loads(raw)["__metadata__"]
        form, version = metadata["format"], metadata["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CompactError(unreadable) from error
    if form != FORMAT or version != VERSION:
        raise CompactError(
            f"it is '{form}' version {version}, and this code reads '{FORMAT}' version {VERSION}; "
            "use the code that wrote it"
        )
    try:
        layout, digest = json.loads(metadata["layout"]), metadata["sha256"]
        same = raw == _header(layout, digest)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise CompactError(unreadable) from error
    if not same:
        raise CompactError(
            "its header does not fit its layout: it was changed after it was written"
        )
    start = 8 + length
    wanted = start + sum(size for _, size in _spans(layout).values())
    if len(data) != wanted:
        raise CompactError(
            f"it has {len(data):,} bytes of {wanted:,}: it is truncated, or something was added"
        )
    if digest != _digest(layout, (data[at : at + PIECE] for at in range(start, wanted, PIECE))):
        raise CompactError(
            "its checksum does not fit its data: it was damaged or changed after it was written"
        )
    return layout, start


def _digest(layout: list[dict], pieces: Iterable) -> str:
    """SHA-256 over layout and data, in hexadecimal."""
    digest = hashlib.sha256(_text(layout).encode())
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _spans(layout: list[dict]) -> dict[str, tuple[int, int]]:
    """part → (offset of its first byte in the data, bytes)."""
    totals = {part: sum(sizes(one)[part] for one in layout) for part in PARTS}
    offsets = np.cumsum([0, *totals.values()]).tolist()
    return {part: (offset, size) for (part, size), offset in zip(totals.items(), offsets)}


def _header(layout: list[dict], digest: str) -> bytes:
    """safetensors' JSON header, padded with spaces so that the data start at a multiple of eight
    bytes.
    """
    header = {
        "__metadata__": {
            "format": FORMAT,
            "version": VERSION,
            "sha256": digest,
            "layout": _text(layout),
        }
    }
    for part, (offset, size) in _spans(layout).items():
        kind, number = PARTS[part]
        header[part] = {
            "dtype": kind,
            "shape": [size // np.dtype(number).itemsize],
            "data_offsets": [offset, offset + size],
        }
    text = _text(header).encode()
    return text + b" " * (-len(text) % 8)
