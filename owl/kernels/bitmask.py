"""One tensor as a bitmask and the values that it keeps, and back: arrays in, arrays out, nothing of
files or models.

A value is kept if its float16 bits are not all zero, so that what comes back is the float16 tensor
bit for bit, negative zeros included. A matrix whose mask would take more than it saves is stored
dense. As an option values are rounded to 8 bits, one scale per output row: the row's largest
magnitude over 127; or to 4 (5) bits as ggml's q4_0 (q5_0): one float16 scale for every 32 inputs of
a row, which puts their largest magnitude on the level -8 of -8 … 7 (-16 of -16 … 15).
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

LEVELS = 127  # int8 values on either side of zero
FEW = (5, 4)  # bits of a value in groups
GROUP = 32  # inputs of a row that share a scale of values in few bits
LARGEST = 65504.0  # of float16


def describe(name: str, tensor: Tensor, bits: int = 16) -> dict:
    """How a tensor will be stored: name, shape, how many values are `kept` (no such key: dense),
    and `bits` of a value of a matrix that has fewer than 16.

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
        if bits in FEW and tensor.shape[1] % GROUP:
            raise ValueError(f"{name} has rows of {tensor.shape[1]}; {bits} bits go by {GROUP}")
    kept = int(np.count_nonzero(half.view(np.uint16)))
    width = one.get("bits", 16) / 8
    sparse = math.ceil(half.size / 8) + math.ceil(width * kept) < width * half.size
    return one | ({"kept": kept} if sparse else {})


def sizes(one: Mapping) -> dict[str, int]:
    """Bytes of each part that `pack` makes of a tensor so described."""
    count, bits = math.prod(one["shape"]), one.get("bits", 16)
    stored = one.get("kept", count)
    return {
        "scales": 4 * one["shape"][0] if bits == 8 else 0,
        "values": 2 * stored if bits == 16 and "kept" in one else 0,
        "rest": 2 * stored if bits == 16 and "kept" not in one else 0,
        "group_scales": 2 * (count // GROUP) if bits in FEW else 0,
        "masks": math.ceil(count / 8) if "kept" in one else 0,
        "int8": stored if bits == 8 else 0,
        "levels": math.ceil(stored * bits / 8) if bits in FEW else 0,
    }


def pack(one: Mapping, tensor: Tensor) -> dict[str, np.ndarray]:
    """The tensor's parts: of `masks` (bits, the most significant first), `values` or `rest`
    (float16), `int8` and `scales` (float32), `levels` (the lowest is 0; their bits one after the
    other, the most significant first) and `group_scales` (float16).
    """
    half, parts, bits = _half(tensor), {}, one.get("bits", 16)
    keep = half.view(np.uint16) != 0 if "kept" in one else None
    if keep is not None:
        parts["masks"] = np.packbits(keep)

    def kept(values: np.ndarray) -> np.ndarray:
        return values if keep is None else np.compress(keep, values)

    if bits == 8:
        rows = half.reshape(one["shape"]).astype(np.float32)
        scales = np.abs(rows).max(axis=1, keepdims=True) / LEVELS
        rounded = _levels(rows, scales).astype(np.int8).reshape(-1)
        return parts | {"int8": kept(rounded), "scales": scales[:, 0].astype("<f4")}
    if bits in FEW:
        groups, low = half.reshape(-1, GROUP).astype(np.float32), _lowest(bits)
        largest = np.take_along_axis(groups, np.abs(groups).argmax(axis=1, keepdims=True), axis=1)
        scales = (largest / low).astype("<f2")
        levels = _levels(groups, scales.astype(np.float32)).clip(low, -low - 1) - low
        planes = np.unpackbits(kept(levels.astype(np.uint8).reshape(-1))[:, None], axis=1)
        return parts | {"levels": np.packbits(planes[:, 8 - bits :]), "group_scales": scales[:, 0]}
    return parts | {"rest" if keep is None else "values": kept(half)}


def unpack(one: Mapping, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """The float16 values, flat, that `pack` took apart."""
    count, bits = math.prod(one["shape"]), one.get("bits", 16)
    if bits in FEW:
        stored = one.get("kept", count)
        planes = np.unpackbits(parts["levels"], count=stored * bits).reshape(stored, bits)
        levels = np.packbits(planes, axis=1)[:, 0] >> (8 - bits)
        stored = levels.astype(np.int8) + np.int8(_lowest(bits))
    else:
        stored = parts["int8" if bits == 8 else "values" if "kept" in one else "rest"]
    flat = stored.copy()
    if "kept" in one:
        flat = np.zeros(count, stored.dtype)
        flat[np.flatnonzero(np.unpackbits(parts["masks"], count=count).view(bool))] = stored
    if bits == 8:
        return _scaled(flat.reshape(one["shape"]), parts["scales"])
    if bits in FEW:
        return _scaled(flat.reshape(-1, GROUP), parts["group_scales"])
    return flat


def _lowest(bits: int) -> int:
    """The lowest level of few bits, on which a group's largest magnitude lies."""
    return -(2 ** (bits - 1))


def _levels(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.rint(rows / np.where(scales == 0, 1, scales))


def _scaled(levels: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Levels (rows, n) times a scale per row, as float16, flat; zero without a sign."""
    wide = levels * scales[:, None].astype(np.float32)
    return (wide + np.float32(0)).astype(np.float16).reshape(-1)


def _half(tensor: Tensor) -> np.ndarray:
    """The tensor's values as float16, flat."""
    return tensor.detach().to("cpu", torch.float16).contiguous().numpy().reshape(-1)
