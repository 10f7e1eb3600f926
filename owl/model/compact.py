"""A pruned Whisper that is really smaller: for every sparse matrix one bit per weight (kept or not)
and the kept values, in one file.

The file is ordinary safetensors whose tensors are the parts that `owl.kernels.bitmask` makes of
each tensor, joined in one order. Rounded values are entropy-coded tensor by tensor, in zlib's
format with Huffman codes alone: levels that repeat no strings are not all equally frequent. Its
metadata hold the format's name and version, the layout (which tensor is stored how) and a SHA-256
over layout and data. A tied tensor is stored once. Writing holds one tensor beside the model's own,
reading maps the file into memory.

Nothing here knows Whisper: tensors by name in, tensors by name out. Folders are in
`owl.export.huggingface`.
"""

import hashlib
import json
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from torch import Tensor

from owl.errors import CompactError
from owl.kernels.bitmask import describe, pack, sizes, unpack

FORMAT, VERSION = "owl-compact", "2"
# part of the file: (safetensors' type, numpy's); widest first, so that each part starts where its
# type may
PARTS = {
    "scales": ("F32", "<f4"),
    "values": ("F16", "<f2"),
    "rest": ("F16", "<f2"),
    "group_scales": ("F16", "<f2"),
    "masks": ("U8", "u1"),
    "int8": ("U8", "i1"),  # coded
    "levels": ("U8", "u1"),
}
CODED = ("int8", "levels")  # parts that are entropy-coded; a tensor has one of them at most
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
    layout = []
    with ExitStack() as open_files:
        files = {part: open_files.enter_context(TemporaryFile(dir=path.parent)) for part in PARTS}
        for name, tensor in tensors.items():
            try:
                one = describe(name, tensor, (bits or {}).get(name, 16))
            except ValueError as error:
                raise CompactError(f"{error}; export another format, e.g. FORMATS=hf") from error
            for part, array in pack(one, tensor).items():
                raw = memoryview(array).cast("B")
                if part in CODED and raw.nbytes:
                    raw = _coded(raw)
                    one["coded"] = len(raw)
                files[part].write(raw)
            layout.append(one)
        file = open_files.enter_context(path.open("w+b"))
        start = file.write(_framed(_header(layout, UNKNOWN)))
        for part in files.values():
            part.seek(0)
            shutil.copyfileobj(part, file, PIECE)
        file.seek(start)
        digest = _digest(layout, iter(lambda: file.read(PIECE), b""))
        file.seek(0)
        file.write(_framed(_header(layout, digest)))
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
        for part, size in _sizes(one).items():
            raw = data[places[part] : places[part] + size]
            if part in CODED and size:
                raw = np.frombuffer(zlib.decompress(raw), np.uint8)
            parts[part] = raw.view(PARTS[part][1])
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


def _sizes(one: dict) -> dict[str, int]:
    """Bytes of each part of a tensor in the file."""
    return {
        part: one["coded"] if part in CODED and size else size for part, size in sizes(one).items()
    }


def _coded(raw: memoryview) -> bytes:
    coder = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    return coder.compress(raw) + coder.flush()


def _framed(header: bytes) -> bytes:
    """As safetensors begins a file."""
    return len(header).to_bytes(8, "little") + header


def _spans(layout: list[dict]) -> dict[str, tuple[int, int]]:
    """part → (offset of its first byte in the data, bytes)."""
    totals = {part: sum(_sizes(one)[part] for one in layout) for part in PARTS}
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
