"""One tensor as a bitmask and the values that it keeps, and back: arrays in, arrays out, nothing of
files or models.

A value is kept if its float16 bits are not all zero, so that what comes back is the float16 tensor
bit for bit, negative zeros included. A matrix whose mask would take more than it saves is stored
dense. As an option values are rounded to 8 bits, one scale per output row: the row's largest
magnitude over 127; or to 4 bits as ggml's q4_0: one float16 scale for every 32 inputs of a row,
which puts their largest magnitude on the level -8 of -8 … 7.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

LEVELS = 127  # int8 values on either side of zero
LOW, HIGH, GROUP = -8, 7, 32  # 4-bit levels, and the inputs of a row that share a scale
LARGEST = 65504.0  # of float16


def describe(name: str, tensor: Tensor, bits: int = 16) -> dict:
    """How a tensor will be stored: name, shape, how many values are kept (no such key: dense),
    and `int8` or `int4` for a matrix of so many `bits` (no such key: float16).

    ValueError for a value that float16 cannot hold, other bits than 16, 8 or 4, or rows that are
    no whole groups.
    """
    if bits not in (16, 8, 4):
        raise ValueError(f"a value has 16, 8 or 4 bits, not {bits}")
    if tensor.numel() and not max(abs(bound.item()) for bound in tensor.aminmax()) <= LARGEST:
        raise ValueError(f"{name} holds values beyond float16 ({LARGEST:,.0f}), or NaN")
    half = _half(tensor)
    one = {"name": name, "shape": list(tensor.shape)}
    if tensor.dim() < 2:
        return one
    if bits < 16 and tensor.dim() == 2:
        one[f"int{bits}"] = True
        if bits == 4 and tensor.shape[1] % GROUP:
            raise ValueError(f"{name} has rows of {tensor.shape[1]}; 4 bits go by {GROUP}")
    kept = int(np.count_nonzero(half.view(np.uint16)))
    width = 0.5 if "int4" in one else 1 if "int8" in one else 2
    sparse = math.ceil(half.size / 8) + math.ceil(width * kept) < width * half.size
    return one | ({"kept": kept} if sparse else {})


def sizes(one: Mapping) -> dict[str, int]:
    """Bytes of each part that `pack` makes of a tensor so described."""
    count = math.prod(one["shape"])
    stored, by_row, by_group = one.get("kept", count), "int8" in one, "int4" in one
    floats = 0 if by_row or by_group else 2 * stored
    return {
        "scales": 4 * one["shape"][0] if by_row else 0,
        "values": floats if "kept" in one else 0,
        "rest": floats if "kept" not in one else 0,
        "group_scales": 2 * (count // GROUP) if by_group else 0,
        "masks": math.ceil(count / 8) if "kept" in one else 0,
        "int8": stored if by_row else 0,
        "int4": math.ceil(stored / 2) if by_group else 0,
    }


def pack(one: Mapping, tensor: Tensor) -> dict[str, np.ndarray]:
    """The tensor's parts: of `masks` (bits, the most significant first), `values` or `rest`
    (float16), `int8` and `scales` (float32), `int4` (level + 8, two in a byte, the first in the
    lower half) and `group_scales` (float16).
    """
    half, parts = _half(tensor), {}
    keep = half.view(np.uint16) != 0 if "kept" in one else None
    if keep is not None:
        parts["masks"] = np.packbits(keep)

    def kept(values: np.ndarray) -> np.ndarray:
        return values if keep is None else np.compress(keep, values)

    if "int8" in one:
        rows = half.reshape(one["shape"]).astype(np.float32)
        scales = np.abs(rows).max(axis=1, keepdims=True) / LEVELS
        rounded = _levels(rows, scales).astype(np.int8).reshape(-1)
        return parts | {"int8": kept(rounded), "scales": scales[:, 0].astype("<f4")}
    if "int4" in one:
        groups = half.reshape(-1, GROUP).astype(np.float32)
        largest = np.take_along_axis(groups, np.abs(groups).argmax(axis=1, keepdims=True), axis=1)
        scales = (largest / LOW).astype("<f2")
        levels = _levels(groups, scales.astype(np.float32)).clip(LOW, HIGH) - LOW
        return parts | {
            "int4": _pairs(kept(levels.astype(np.uint8).reshape(-1))),
            "group_scales": scales[:, 0],
        }
    return parts | {"rest" if keep is None else "values": kept(half)}


def unpack(one: Mapping, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """The float16 values, flat, that `pack` took apart."""
    count = math.prod(one["shape"])
    if "int4" in one:
        halves = np.stack([parts["int4"] & 15, parts["int4"] >> 4], axis=1).reshape(-1)
        stored = halves[: one.get("kept", count)].astype(np.int8) + np.int8(LOW)
    else:
        stored = parts["int8" if "int8" in one else "values" if "kept" in one else "rest"]
    flat = stored.copy()
    if "kept" in one:
        flat = np.zeros(count, stored.dtype)
        flat[np.flatnonzero(np.unpackbits(parts["masks"], count=count).view(bool))] = stored
    if "int8" in one:
        return _scaled(flat.reshape(one["shape"]), parts["scales"])
    if "int4" in one:
        return _scaled(flat.reshape(-1, GROUP), parts["group_scales"])
    return flat


def _levels(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.rint(rows / np.where(scales == 0, 1, scales))


def _scaled(levels: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Levels (rows, n) times a scale per row, as float16, flat; zero without a sign."""
    wide = levels * scales[:, None].astype(np.float32)
    return (wide + np.float32(0)).astype(np.float16).reshape(-1)


def _pairs(levels: np.ndarray) -> np.ndarray:
    """Levels below 16, two in a byte."""
    even = np.append(levels, np.zeros(len(levels) % 2, np.uint8))
    return even[::2] | even[1::2] << 4


def _half(tensor: Tensor) -> np.ndarray:
    """The tensor's values as float16, flat."""
    return tensor.detach().to("cpu", torch.float16).contiguous().numpy().reshape(-1)
