"""The deployment table and what it says: which format to ship, what is faster and what is not. Rows
in, sentences out; every number comes from a row.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import pandas as pd

from owl.config.formats import FORMATS

REFERENCE = "fp16"  # the dense model in PyTorch, its bytes those of its weights alone
SHORT = ", speech only"  # behind the name of what was measured in short windows
WORSE = 0.01  # WER, or CER, that shipping may cost, absolute: one point
# times as fast as dense up to which a format is not called faster, or more where `apart` finds more
FASTER = 1.1

COLUMNS = {  # of the table that a reader sees: key → (title, format)
    "format": ("format", "{}"),
    "bytes": ("bytes on disk", "{:,.0f}"),
    "ratio": ("of dense fp16", "{:.2f}"),
    "wer": ("WER", "{:.2%}"),
    "interval": ("95 % interval, %", "{}"),
    "kl": ("KL, nats", "{:.3f}"),
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


@dataclass(frozen=True)
class Row:
    """What a user gets who loads one folder, or the dense model: bytes, seconds, shares as
    fractions; None where it was not measured.

    `name`: a format; of the dense model also REFERENCE, or "model …" for another dense model.
    """

    name: str
    dense: bool
    runtime: str
    device: str | None
    bytes: int
    ratio: float  # of REFERENCE's bytes
    wer: float
    wer_interval: list[float] | None
    rtfx: float | None
    first_token_seconds: float | None
    load_seconds: float | None
    idle_rss_bytes: int | None
    peak_rss_bytes: int | None
    cer: float | None = None
    cer_interval: list[float] | None = None
    unit: str = "words"  # or "characters": what the advice goes by
    kl: float | None = None  # to the dense model, nats per token
    window: str = "full"  # or "speech"
    # of an exported folder alone
    path: str | None = None
    same_text: float | None = None
    same_weights: bool | None = None
    loads_in: str | None = None

    @property
    def format(self) -> str:
        """The name that a reader sees."""
        return self.file_name + (SHORT if self.window == "speech" else "")

    @property
    def file_name(self) -> str:
        """The name that files hold beside the window."""
        return f"dense {self.name}" if self.dense else self.name

    @property
    def reference(self) -> bool:
        """Is it the row that all others are compared with?"""
        return self.dense and self.name == REFERENCE and self.window == "full"

    @property
    def measure(self) -> str:
        """The error rate that counts, WER or CER."""
        return "CER" if self.unit == "characters" else "WER"

    @property
    def rate(self) -> float:
        return self.cer if self.unit == "characters" else self.wer

    @property
    def said(self) -> str:
        return f"{self.measure} {self.rate:.2%}"

    @property
    def interval(self) -> list[float] | None:
        return self.cer_interval if self.unit == "characters" else self.wer_interval

    @property
    def rounded(self) -> bool:
        return self.name in FORMATS and FORMATS[self.name].rounds is not None

    @property
    def peer(self) -> bool:
        """Could somebody take it without us: the dense model in another runtime's own format, or
        another dense model, in full windows?
        """
        return (
            self.dense
            and self.window == "full"
            and (self.name not in FORMATS or self.runtime != "pytorch")
        )

    def public(self) -> dict:
        """The row as export.json and summary.json hold it."""
        exported = ("path", "same_text", "same_weights", "loads_in")
        left_out = ("name", "dense", *(exported if self.dense else ()))
        kept = {key: value for key, value in asdict(self).items() if key not in left_out}
        return {"format": self.file_name, **kept}

    @classmethod
    def read(cls, row: Mapping, *, dense: bool) -> "Row":
        """The row that `public` made, from one of the files' two lists."""
        known = {one.name: row.get(one.name) for one in fields(cls)}
        known["unit"], known["window"] = known["unit"] or "words", known["window"] or "full"
        return cls(**known | {"name": row["format"].removeprefix("dense "), "dense": dense})


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a table for figures: what `Row.public` holds, `dense`; `wer` is the rate that counts,
    `low` and `high` its interval.
    """
    return pd.DataFrame(
        row.public()
        | {"format": row.format, "dense": row.dense, "wer": row.rate}
        | dict(zip(("low", "high"), row.interval))
        for row in rows
    )


def speedup(row: Row, rows: Sequence[Row]) -> float | None:
    """How many times as fast as the dense model in full windows and the same runtime (its float
    form) a row is; None where that was not measured.
    """
    dense = [one for one in rows if one.dense and one.window == "full" and not one.rounded]
    same = [one for one in dense if one.runtime == row.runtime]
    return row.rtfx / same[0].rtfx if same and same[0].rtfx else None


def apart(rows: Sequence[Row]) -> float:
    """How many times apart the speeds of the same work lie in this table, at least FASTER: one
    model, in PyTorch (all formats restore matrices of the same shapes there), with the same error
    rate.
    """
    alike = defaultdict(list)
    for row in rows:
        if row.runtime == "pytorch" and row.name in {REFERENCE, *FORMATS} and row.rtfx:
            alike[row.dense, row.window, row.rate].append(row.rtfx)
    return max([FASTER, *(max(speeds) / min(speeds) for speeds in alike.values())])


def table(rows: Sequence[Row]):
    """A styled table for the report, one row per measured format."""
    shown = []
    for row in rows:
        interval, values = row.interval, row.public() | {"format": row.format, "wer": row.rate}
        text = f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}" if interval else ""
        scaled = {
            key: values[key] * factor for key, factor in SHOWN_AS.items() if values[key] is not None
        }
        shown.append({**values, **scaled, "interval": text, "speedup": speedup(row, rows)})
    titles = {key: title for key, (title, _) in COLUMNS.items()}
    formats = dict(COLUMNS.values())
    if rows and rows[0].measure != "WER":
        titles["wer"], formats = "CER", formats | {"CER": formats.pop("WER")}
    found = pd.DataFrame(shown).reindex(columns=list(COLUMNS)).rename(columns=titles)
    return found.style.hide().format(formats, na_rep="", escape="html")


def recommendation(rows: Sequence[Row], refused: Sequence[dict] = ()) -> list[str]:
    """What to ship, see `_verdict`; then the formats that could not be written ({"format",
    "reason"}), by reason.
    """
    reasons = defaultdict(list)
    for one in refused:
        reasons[one["reason"]].append(one["format"])
    return _verdict(rows) + [
        f"Not written: {', '.join(formats)} ({reason})." for reason, formats in reasons.items()
    ]


def _verdict(rows: Sequence[Row]) -> list[str]:
    """The smallest and the fastest exported format whose error rate is at most WORSE above dense
    fp16, or that there is none.
    """
    (dense,) = [row for row in rows if row.reference]
    exported, limit = [row for row in rows if not row.dense], f"+{100 * WORSE:g} % {dense.measure}"
    if not exported:
        return ["Nothing was exported."]
    good = [row for row in exported if row.rate <= dense.rate + WORSE]
    if not good:
        nearest = min(exported, key=lambda row: row.rate)
        said = [
            f"No format is within {limit} of dense ({dense.rate:.2%}); the nearest is "
            f"{nearest.format}, {nearest.rate - dense.rate:+.2%}. Prune less, or recover."
        ]
        whole = [
            row
            for row in rows
            if row.dense and row.rate <= dense.rate + WORSE and row.bytes < dense.bytes
        ]
        for best in sorted(whole, key=lambda row: row.bytes)[:1]:
            said.append(
                f"Without pruning, {best.format} is: {best.bytes:,} bytes, {best.ratio:.2f} of "
                f"dense fp16, {best.said}."
            )
        return said
    small, fast = min(good, key=lambda row: row.bytes), max(good, key=lambda row: row.rtfx)
    said = [
        f"Smallest within {limit}: {small.format}, {small.bytes:,} bytes, {small.ratio:.2f} of "
        f"dense fp16, {small.said} against {dense.rate:.2%}"
        + ("." if small.ratio < 1 else "; it is not smaller than dense."),
        f"Fastest within {limit}: {fast.format}, {fast.rtfx:.1f}× real time{_on(fast, rows)}, "
        f"{_beside(fast, dense, rows)}",
    ]
    said += _unpruned(rows, dense.rate + WORSE, small, fast)
    if apart(rows) > FASTER:
        said.append(
            f"Timings of the same work lie up to {apart(rows):.2f} times apart in this table: what "
            "is within that is not called faster."
        )
    return said


def _on(row: Row, rows: Sequence[Row]) -> str:
    """Where a row was computed, if not all were computed there."""
    return f" on {row.device}" if len({one.device for one in rows}) > 1 else ""


def _beside(fast: Row, dense: Row, rows: Sequence[Row]) -> str:
    """The rest of the sentence on the fastest format: how fast dense is, where it was timed beside
    it.
    """
    if dense.rtfx is None:
        return f"{fast.said}; dense was not timed beside it, 03_evaluation times both."
    ending = "." if fast.rtfx > apart(rows) * dense.rtfx else "; it is not faster than dense."
    return (
        f"{fast.rtfx / dense.rtfx:.2f} times dense fp16 in PyTorch{_on(dense, rows)}, "
        f"{fast.said}{ending}"
    )


def _unpruned(rows: Sequence[Row], limit: float, small: Row, fast: Row) -> list[str]:
    """Where the unpruned model in another format does as well or better: then the pruning is not
    what helped.
    """
    others = [row for row in rows if row.dense and not row.reference and row.rate <= limit]
    smaller = [row for row in others if row.bytes <= small.bytes]
    faster = [row for row in others if row.rtfx * apart(rows) >= fast.rtfx]
    said = []
    if smaller:
        best = min(smaller, key=lambda row: row.bytes)
        said.append(
            f"Without pruning, {best.format} is no larger: {best.bytes:,} bytes, {best.said}."
        )
    if faster:
        best = max(faster, key=lambda row: row.rtfx)
        compared = "as fast" if best.rtfx >= fast.rtfx else "not told apart from it by speed"
        said.append(
            f"Without pruning, {best.format} is {compared}: {best.rtfx:.1f}× real time, "
            f"{best.said}."
        )
    return said


def facts(row: Row, rows: Sequence[Row]) -> str:
    """One exported format in a sentence, its speed beside the dense model's in the same runtime."""
    times = speedup(row, rows)
    if times is None:
        speed = ""
    elif times > apart(rows):
        speed = f", {times:.2f} times as fast as dense in {row.runtime}"
    else:
        speed = f", not faster than dense in {row.runtime} ({times:.2f} times)"
    return (
        f"{row.format}: {row.bytes:,} bytes ({row.ratio:.2f} of dense fp16), {row.said}, "
        f"{row.rtfx:.1f}× real time{speed}. Loads in {row.loads_in}."
    )
