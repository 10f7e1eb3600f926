"""Whether anybody should take one of our files: beside each the best that people have without us,
at its size. Rows in, sentences out.
"""

from collections.abc import Sequence

from owl.export.advice import Row


def sentences(rows: Sequence[Row]) -> list[str]:
    """Which exported files no peer beats in both bytes and error rate, or that there is none;
    nothing where no peer but the reference was measured.
    """
    peers = [row for row in rows if row.peer]
    exported = sorted((row for row in rows if not row.dense), key=lambda row: row.bytes)
    if len(peers) < 2 or not exported:
        return []
    beaten = {row.name: _best(peers, row.bytes) for row in exported}
    ahead = [row for row in exported if not beaten[row.name] or row.rate < beaten[row.name].rate]
    if ahead:
        told = "; ".join(_beside(row, beaten[row.name]) for row in ahead)
        return [f"No peer beats in both bytes and {ahead[0].measure}: {told}."]
    row = min(exported, key=lambda row: row.rate)
    return [
        f"There is no file here that no peer beats in both bytes and {row.measure}: beside "
        f"{_sizes(row)} there is {_sizes(beaten[row.name])}."
    ]


def steps(rows: Sequence[Row]) -> list[tuple[int, float]]:
    """(bytes, error rate) of the peers that no other peer beats in both, from small to large."""
    found: list[tuple[int, float]] = []
    for row in sorted((row for row in rows if row.peer), key=lambda row: (row.bytes, row.rate)):
        if not found or row.rate < found[-1][1]:
            found.append((row.bytes, row.rate))
    return found


def _best(peers: Sequence[Row], size: int) -> Row | None:
    """The peer of the lowest error rate that takes no more than `size` bytes."""
    fitting = (peer for peer in peers if peer.bytes <= size)
    return min(fitting, key=lambda peer: (peer.rate, peer.bytes), default=None)


def _beside(row: Row, best: Row | None) -> str:
    if best is None:
        return f"{_sizes(row)}, smaller than all of them"
    return f"{_sizes(row)}, the best of no larger ones being {_sizes(best)}{_overlap(row, best)}"


def _overlap(row: Row, best: Row) -> str:
    """Where the two intervals overlap, that they do."""
    one, other = row.interval, best.interval
    if one and other and one[1] > other[0] and other[1] > one[0]:
        return ", whose 95 % intervals overlap"
    return ""


def _sizes(row: Row) -> str:
    return f"{row.format} ({row.bytes:,} bytes, {row.said})"
