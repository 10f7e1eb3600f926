"""One tensor as a bitmask and the values that it keeps, and back: arrays in, arrays out, nothing of
files or models.

A value is kept if its float16 bits are not all zero, so that what comes back is the float16 tensor
bit for bit, negative zeros included. A matrix whose mask would take more than it saves is stored
dense. As an option values are rounded to int8, one scale per output row: the row's largest
magnitude over 127.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

LEVELS = 127  # int8 values on either side of zero
LARGEST = 65504.0  # of float16


def describe(name: str, tensor: Tensor, int8: bool) -> dict:
    """How a tensor will be stored: name, shape, how many values are kept (no such key: dense), int8
    (no such key: float16).

    ValueError for a value that float16 cannot hold.
    """
    if tensor.numel() and not max(abs(bound.item()) for bound in tensor.aminmax()) <= LARGEST:
        raise ValueError(f"{name} holds values beyond float16 ({LARGEST:,.0f}), or NaN")
    half = _half(tensor)
    one = {"name": name, "shape": list(tensor.shape)} | (
        {"int8": True} if int8 and tensor.dim() == 2 else {}
    )
    if tensor.dim() < 2:
        return one
    kept = int(np.count_nonzero(half.view(np.uint16)))
    width = 1 if "int8" in one else 2
    sparse = math.ceil(half.size / 8) + width * kept < width * half.size
    return one | ({"kept": kept} if sparse else {})


def sizes(one: Mapping) -> dict[str, int]:
    """Bytes of each part that `pack` makes of a tensor so described."""
    count = math.prod(one["shape"])
    stored, rounded = one.get("kept", count), "int8" in one
    return {
        "scales": 4 * one["shape"][0] if rounded else 0,
        "values": 2 * stored if "kept" in one and not rounded else 0,
        "rest": 2 * stored if "kept" not in one and not rounded else 0,
        "masks": math.ceil(count / 8) if "kept" in one else 0,
        "int8": stored if rounded else 0,
    }


def pack(one: Mapping, tensor: Tensor) -> dict[str, np.ndarray]:
    """The tensor's parts: of `masks` (bits, the most significant first), `values` or `rest`
    (float16), `int8` and `scales` (float32).
    """
    half, parts = _half(tensor), {}
    keep = half.view(np.uint16) != 0 if "kept" in one else None
    if keep is not None:
        parts["masks"] = np.packbits(keep)
    if "int8" in one:
        rows = half.reshape(one["shape"]).astype(np.float32)
        scales = np.abs(rows).max(axis=1) / LEVELS
        rounded = (
            np.rint(rows / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8).reshape(-1)
        )
        return parts | {
            "int8": rounded if keep is None else np.compress(keep, rounded),
            "scales": scales.astype("<f4"),
        }
    return parts | ({"rest": half} if keep is None else {"values": np.compress(keep, half)})


def unpack(one: Mapping, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """The float16 values, flat, that `pack` took apart."""
    count, rounded = math.prod(one["shape"]), "int8" in one
    stored = parts["int8" if rounded else "values" if "kept" in one else "rest"]
    flat = stored.copy()
    if "kept" in one:
        flat = np.zeros(count, stored.dtype)
        flat[np.flatnonzero(np.unpackbits(parts["masks"], count=count).view(bool))] = stored
    if rounded:
        flat = (
            (flat.reshape(one["shape"]) * parts["scales"][:, None]).astype(np.float16).reshape(-1)
        )
    return flat


def _half(tensor: Tensor) -> np.ndarray:
    """The tensor's values as float16, flat."""
    return tensor.detach().to("cpu", torch.float16).contiguous().numpy().reshape(-1)
