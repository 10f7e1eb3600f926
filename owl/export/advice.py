"""The deployment table in words: which format to ship, what is faster and what is not. Rows in,
sentences out; every number comes from a row.

Rows are those of `owl.export.table`: {"format", "runtime", "device", "bytes", "ratio", "wer",
"rtfx", …}, fractions and bytes; a format that starts with "dense" is the unpruned model, "dense
fp16" the one that all are compared with.
"""

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

WORSE = 0.01  # WER that shipping may cost, absolute: one point
# times as fast as dense up to which a format is not called faster, or more where `apart` finds more
FASTER = 1.1
# formats whose matrices are restored to the same shapes in floats
IN_PYTORCH = {"fp16", "hf", "compact", "compact-int8"}

COLUMNS = {  # of the table that a reader sees: key → (title, format)
    "format": ("format", "{}"),
    "bytes": ("bytes on disk", "{:,.0f}"),
    "ratio": ("of dense fp16", "{:.2f}"),
    "wer": ("WER", "{:.2%}"),
    "interval": ("95 % interval, %", "{}"),
    "device": ("on", "{}"),
    "rtfx": ("× real time", "{:.1f}"),
    "speedup": ("× dense, same runtime", "{:.2f}"),
    "first_token_seconds": ("first token, ms", "{:.0f}"),
    "load_seconds": ("load, s", "{:.2f}"),
    "peak_rss_bytes": ("peak MB", "{:,.0f}"),
    "same_text": ("same text", "{:.0%}"),
    "loads_in": ("loads in", "{}"),
}
SHOWN_AS = {"first_token_seconds": 1e3, "peak_rss_bytes": 1e-6}  # ms and MB, for a reader


def is_dense(row: dict) -> bool:
    return row["format"].startswith("dense")


def speedup(row: dict, rows: Sequence[dict]) -> float | None:
    """How many times as fast as the dense model in the same runtime (its float form) a row is; None
    where that was not measured.
    """
    same = [
        one
        for one in rows
        if is_dense(one) and one["runtime"] == row["runtime"] and not one["format"].endswith("int8")
    ]
    return row["rtfx"] / same[0]["rtfx"] if same and same[0]["rtfx"] else None


def apart(rows: Sequence[dict]) -> float:
    """How many times apart the speeds of the same work lie in this table, at least FASTER: one
    model, in PyTorch, with the same WER.
    """
    alike = defaultdict(list)
    for row in rows:
        if row["format"].removeprefix("dense ") in IN_PYTORCH and row["rtfx"]:
            alike[is_dense(row), row["wer"]].append(row["rtfx"])
    return max([FASTER, *(max(speeds) / min(speeds) for speeds in alike.values())])


def table(rows: Sequence[dict]):
    """A styled table for the report, one row per measured format."""
    shown = []
    for row in rows:
        interval = row.get("wer_interval")
        text = f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}" if interval else ""
        scaled = {
            key: row[key] * factor for key, factor in SHOWN_AS.items() if row.get(key) is not None
        }
        shown.append({**row, **scaled, "interval": text, "speedup": speedup(row, rows)})
    frame = (
        pd.DataFrame(shown)
        .reindex(columns=list(COLUMNS))
        .rename(columns={key: title for key, (title, _) in COLUMNS.items()})
    )
    return frame.style.hide().format(dict(COLUMNS.values()), na_rep="", escape="html")


def recommendation(rows: Sequence[dict], refused: Sequence[dict] = ()) -> list[str]:
    """What to ship, see `_verdict`; then the formats that could not be written ({"format",
    "reason"}), by reason.
    """
    reasons = defaultdict(list)
    for one in refused:
        reasons[one["reason"]].append(one["format"])
    return _verdict(rows) + [
        f"Not written: {', '.join(formats)} ({reason})." for reason, formats in reasons.items()
    ]


def _verdict(rows: Sequence[dict]) -> list[str]:
    """The smallest and the fastest exported format whose WER is at most WORSE above dense fp16, or
    that there is none.
    """
    (dense,) = [row for row in rows if row["format"] == "dense fp16"]
    exported, limit = [row for row in rows if not is_dense(row)], f"+{100 * WORSE:g} % WER"
    if not exported:
        return ["Nothing was exported."]
    good = [row for row in exported if row["wer"] <= dense["wer"] + WORSE]
    if not good:
        nearest = min(exported, key=lambda row: row["wer"])
        gap = nearest["wer"] - dense["wer"]
        said = [
            f"No format is within {limit} of dense ({dense['wer']:.2%}); the nearest is "
            f"{nearest['format']}, {gap:+.2%}. Prune less, or recover."
        ]
        whole = [
            row
            for row in rows
            if is_dense(row)
            and row["wer"] <= dense["wer"] + WORSE
            and row["bytes"] < dense["bytes"]
        ]
        for best in sorted(whole, key=lambda row: row["bytes"])[:1]:
            said.append(
                f"Without pruning, {best['format']} is: {best['bytes']:,} bytes, "
                f"{best['ratio']:.2f} of dense fp16, WER {best['wer']:.2%}."
            )
        return said
    small, fast = min(good, key=lambda row: row["bytes"]), max(good, key=lambda row: row["rtfx"])
    said = [
        f"Smallest within {limit}: {small['format']}, {small['bytes']:,} bytes, "
        f"{small['ratio']:.2f} of dense fp16, WER {small['wer']:.2%} "
        f"against {dense['wer']:.2%}"
        + ("." if small["ratio"] < 1 else "; it is not smaller than dense."),
        f"Fastest within {limit}: {fast['format']}, {fast['rtfx']:.1f}× real "
        f"time{_on(fast, rows)}, {_beside(fast, dense, rows)}",
    ]
    said += _unpruned(rows, dense["wer"] + WORSE, small, fast)
    if apart(rows) > FASTER:
        said.append(
            f"Timings of the same work lie up to {apart(rows):.2f} times apart in this table: what "
            "is within that is not called faster."
        )
    return said


def _on(row: dict, rows: Sequence[dict]) -> str:
    """Where a row was computed, if not all were computed there."""
    return f" on {row['device']}" if len({one["device"] for one in rows}) > 1 else ""


def _beside(fast: dict, dense: dict, rows: Sequence[dict]) -> str:
    """The rest of the sentence on the fastest format: how fast dense is, where it was timed beside
    it.
    """
    if dense["rtfx"] is None:
        return f"WER {fast['wer']:.2%}; dense was not timed beside it, 03_evaluation times both."
    ending = "." if fast["rtfx"] > apart(rows) * dense["rtfx"] else "; it is not faster than dense."
    return (
        f"{fast['rtfx'] / dense['rtfx']:.2f} times dense fp16 in PyTorch{_on(dense, rows)}, WER "
        f"{fast['wer']:.2%}{ending}"
    )


def _unpruned(rows: Sequence[dict], limit: float, small: dict, fast: dict) -> list[str]:
    """Where the unpruned model in another format does as well or better: then the pruning is not
    what helped.
    """
    others = [
        row
        for row in rows
        if is_dense(row) and row["format"] != "dense fp16" and row["wer"] <= limit
    ]
    smaller = [row for row in others if row["bytes"] <= small["bytes"]]
    faster = [row for row in others if row["rtfx"] * apart(rows) >= fast["rtfx"]]
    said = []
    if smaller:
        best = min(smaller, key=lambda row: row["bytes"])
        said.append(
            f"Without pruning, {best['format']} is no larger: {best['bytes']:,} bytes, WER "
            f"{best['wer']:.2%}."
        )
    if faster:
        best = max(faster, key=lambda row: row["rtfx"])
        compared = "as fast" if best["rtfx"] >= fast["rtfx"] else "not told apart from it by speed"
        said.append(
            f"Without pruning, {best['format']} is {compared}: {best['rtfx']:.1f}× real time, WER "
            f"{best['wer']:.2%}."
        )
    return said


def facts(row: dict, rows: Sequence[dict]) -> str:
    """One exported format in a sentence, its speed beside the dense model's in the same runtime."""
    times = speedup(row, rows)
    if times is None:
        speed = ""
    elif times > apart(rows):
        speed = f", {times:.2f} times as fast as dense in {row['runtime']}"
    else:
        speed = f", not faster than dense in {row['runtime']} ({times:.2f} times)"
    return (
        f"{row['format']}: {row['bytes']:,} bytes ({row['ratio']:.2f} of dense fp16), WER "
        f"{row['wer']:.2%}, {row['rtfx']:.1f}× real time{speed}. "
        f"Loads in {row['loads_in']}."
    )
