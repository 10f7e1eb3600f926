"""One tensor as a bitmask and the values that it keeps, and back: arrays in, arrays out, nothing of
files or models.

A value is kept if its float16 bits are not all zero, so that what comes back is the float16 tensor
bit for bit, negative zeros included. A matrix whose mask would take more than it saves is stored
dense. As an option values are rounded to 8 bits, one scale per output row: the row's largest
magnitude over 127; or to 4 (5) bits as ggml's q4_0 (q5_0): one float16 scale for every 32 inputs of
a row, which puts their largest magnitude on the level -8 of -8 … 7 (-16 of -16 … 15). Some rows may
be wide, 8 bits in a matrix of few: then it is stored dense, and the others' groups are longer.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

LEVELS = 127  # int8 values on either side of zero
FEW = (5, 4)  # bits of a value in groups
GROUP, LONG = 32, 128  # inputs of a row that share a scale; at most, where other rows are wide
LARGEST = 65504.0  # of float16


def describe(name: str, tensor: Tensor, bits: int = 16, wide: Tensor | None = None) -> dict:
    """How a tensor will be stored: name, shape, how many values are `kept` (no such key: dense),
    `bits` of a value of a matrix (no such key: float16), and for fewer than 8 the `group` of inputs
    that share a scale, and how many rows are `wide`: those where `wide` (rows,) is true, if given.

    ValueError for a value that float16 cannot hold, other bits than 16, 8, 5 or 4, or rows that are
    no whole groups.
    """
    if bits not in (16, 8, *FEW):
        raise ValueError(f"a value has 16, 8, 5 or 4 bits, not {bits}")
    if tensor.numel() and not max(abs(bound.item()) for bound in tensor.aminmax()) <= LARGEST:
        raise ValueError(f"{name} holds values beyond float16 ({LARGEST:,.0f}), or NaN")
    half = _half(tensor)
    one = {"name": name, "shape": list(tensor.shape)}
    if tensor.dim() < 2:
        return one
    if bits < 16 and tensor.dim() == 2:
        one["bits"] = bits
    if "bits" in one and bits in FEW:
        if tensor.shape[1] % GROUP:
            raise ValueError(f"{name} has rows of {tensor.shape[1]}; {bits} bits go by {GROUP}")
        one["group"] = GROUP
        if wide is not None:
            group = math.gcd(tensor.shape[1], LONG)
            return one | {"group": group, "wide": int(wide.sum())}
    kept = int(np.count_nonzero(half.view(np.uint16)))
    width = one.get("bits", 16) / 8
    sparse = math.ceil(half.size / 8) + math.ceil(width * kept) < width * half.size
    return one | ({"kept": kept} if sparse else {})


def sizes(one: Mapping) -> dict[str, int]:
    """Bytes of each part that `pack` makes of a tensor so described."""
    count, bits = math.prod(one["shape"]), one.get("bits", 16)
    rows = one["shape"][0] if bits == 8 else one.get("wide", 0)  # of 8 bits
    in_rows = rows * one["shape"][1] if rows else 0
    stored = one.get("kept", count)
    masks = count if "kept" in one else one["shape"][0] if "wide" in one else 0
    return {
        "scales": 4 * rows,
        "values": 2 * stored if bits == 16 and "kept" in one else 0,
        "rest": 2 * stored if bits == 16 and "kept" not in one else 0,
        "group_scales": 2 * (count - in_rows) // one["group"] if bits in FEW else 0,
        "masks": math.ceil(masks / 8),
        "int8": stored if bits == 8 else in_rows,
        "levels": math.ceil((stored - in_rows) * bits / 8) if bits in FEW else 0,
    }


def pack(one: Mapping, tensor: Tensor, wide: Tensor | None = None) -> dict[str, np.ndarray]:
    """The tensor's parts: of `masks` (bits, the most significant first: which values are kept, or
    which rows are wide), `values` or `rest` (float16), `int8` and `scales` (float32), `levels` (the
    lowest is 0; their bits one after the other, the most significant first) and `group_scales`
    (float16).
    """
    half, parts, bits = _half(tensor), {}, one.get("bits", 16)
    if "wide" in one:
        rows, chosen = half.reshape(one["shape"]), wide.cpu().numpy()
        return (
            {"masks": np.packbits(chosen)}
            | _in_rows(rows[chosen])
            | _in_groups(rows[~chosen], bits, one["group"])
        )
    keep = half.view(np.uint16) != 0 if "kept" in one else None
    if keep is not None:
        parts["masks"] = np.packbits(keep)
    if bits == 8:
        return parts | _in_rows(half.reshape(one["shape"]), keep)
    if bits in FEW:
        return parts | _in_groups(half, bits, one["group"], keep)
    return parts | ({"rest": half} if keep is None else {"values": half[keep]})


def unpack(one: Mapping, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """The float16 values, flat, that `pack` took apart."""
    count, bits = math.prod(one["shape"]), one.get("bits", 16)
    if "wide" in one:
        chosen = np.unpackbits(parts["masks"], count=one["shape"][0]).view(bool)
        rows = np.empty(one["shape"], np.float16)
        narrow = (one["shape"][0] - one["wide"]) * one["shape"][1]
        rows[chosen] = _scaled(parts["int8"], parts["scales"]).reshape(-1, one["shape"][1])
        levels = _unpacked(parts["levels"], narrow, bits)
        rows[~chosen] = _scaled(levels, parts["group_scales"]).reshape(-1, one["shape"][1])
        return rows.reshape(-1)
    if bits in FEW:
        stored = _unpacked(parts["levels"], one.get("kept", count), bits)
    else:
        stored = parts["int8" if bits == 8 else "values" if "kept" in one else "rest"]
    flat = stored.copy()
    if "kept" in one:
        flat = np.zeros(count, stored.dtype)
        flat[np.flatnonzero(np.unpackbits(parts["masks"], count=count).view(bool))] = stored
    if bits == 16:
        return flat
    return _scaled(flat, parts["scales" if bits == 8 else "group_scales"])


def _in_rows(rows: np.ndarray, keep: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Values (rows, n) in 8 bits, those that are kept, and a scale per row."""
    wide = rows.astype(np.float32)
    scales = np.abs(wide).max(axis=1, keepdims=True, initial=0) / LEVELS
    levels = _levels(wide, scales).astype(np.int8).reshape(-1)
    return {"int8": _kept(levels, keep), "scales": scales[:, 0].astype("<f4")}


def _in_groups(
    half: np.ndarray, bits: int, group: int, keep: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Values in few bits, those that are kept, and a scale per group."""
    groups, low = half.reshape(-1, group).astype(np.float32), -(2 ** (bits - 1))
    largest = np.take_along_axis(groups, np.abs(groups).argmax(axis=1, keepdims=True), axis=1)
    scales = (largest / low).astype("<f2")
    levels = _levels(groups, scales.astype(np.float32)).clip(low, -low - 1) - low
    levels = _kept(levels.astype(np.uint8).reshape(-1), keep)
    packed = np.packbits(np.unpackbits(levels[:, None], axis=1)[:, 8 - bits :])
    return {"levels": packed, "group_scales": scales[:, 0]}


def _unpacked(packed: np.ndarray, count: int, bits: int) -> np.ndarray:
    """Levels around zero, int8, that `_in_groups` packed."""
    planes = np.unpackbits(packed, count=count * bits).reshape(-1, bits)
    levels = np.packbits(planes, axis=1)[:, 0] >> (8 - bits)
    return levels.astype(np.int8) - np.int8(2 ** (bits - 1))


def _kept(values: np.ndarray, keep: np.ndarray | None) -> np.ndarray:
    return values if keep is None else np.compress(keep, values)


def _levels(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.rint(rows / np.where(scales == 0, 1, scales))


def _scaled(levels: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Levels, flat, times a scale for every so many, as float16; zero without a sign."""
    groups = levels.reshape(len(scales), len(levels) // max(1, len(scales)))
    wide = groups * scales[:, None].astype(np.float32)
    return (wide + np.float32(0)).astype(np.float16).reshape(-1)


def _half(tensor: Tensor) -> np.ndarray:
    """The tensor's values as float16, flat."""
    return tensor.detach().to("cpu", torch.float16).contiguous().numpy().reshape(-1)
