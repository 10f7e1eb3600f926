"""What a pattern's name says about which weights go together. Text in, numbers out; needs no
torch.
"""

import re

SMALLER = ("structured", "lowrank")  # leave smaller matrices, not zeros


def parse_pattern(pattern: str | None) -> tuple[int | None, int] | None:
    """(N, M) of "N:M", N nonzeros in every M consecutive inputs of a row; N is None where the
    letter stands for it: in "N:8" every block has an N of its own.

    None for None, "unstructured", "structured" (whole heads, neurons, layers) and "lowrank".
    ValueError for anything else.
    """
    if pattern in (None, "unstructured", *SMALLER):
        return None
    match = re.fullmatch(r"(0|[1-9][0-9]*|N):(0|[1-9][0-9]*)", pattern)
    if not match:
        raise ValueError(
            f"'{pattern}' is not known; use one of unstructured, structured, lowrank, 2:4, 4:8 "
            "(any N:M with N nonzeros in every M inputs), N:8 (N by block)"
        )
    kept, size = None if match[1] == "N" else int(match[1]), int(match[2])
    if not 0 < (1 if kept is None else kept) < size:
        raise ValueError(
            f"'{pattern}' would keep N of every M inputs: N must be at least 1 and below M; use "
            "e.g. 2:4 or 4:8"
        )
    return kept, size


def fixed_sparsity(pattern: str | None) -> float | None:
    """1 − N/M of a fixed "N:M"; None where the pattern leaves the sparsity open. ValueError as
    `parse_pattern`.
    """
    kept, size = parse_pattern(pattern) or (None, None)
    return None if kept is None else 1 - kept / size
