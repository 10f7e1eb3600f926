"""Two transcriptions of one dataset → the numbers, tables and sentences of a report. Scoring itself
is in `owl.kernels.scoring`.

The headline is the word error rate, or where `owl.kernels.texts.unit_of` says "characters" the
character error rate; its interval, the difference of two models and the counts of errors go by the
same unit.
"""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import compress

import numpy as np
import pandas as pd

from owl.evaluate.transcribe import Transcription
from owl.kernels.intervals import paired_difference, wer_interval
from owl.kernels.scoring import clip_errors, score
from owl.kernels.texts import METRICS, UNITS, broken, unit_of

RATES = {"words": "wer", "characters": "cer"}  # unit → the key of its rate; in capitals, its name


def pairs(transcription: Transcription) -> tuple[list[str], list[str]]:
    """(references, hypotheses), raw."""
    return [one.reference or "" for one in transcription.transcripts], [
        one.hypothesis for one in transcription.transcripts
    ]


def counted(
    transcription: Transcription, normalizer: str, metrics: Sequence[str] = METRICS
) -> tuple[np.ndarray, np.ndarray, str]:
    """(errors, reference units, "words" or "characters") of every clip: two integer arrays of shape
    (clips,), and what the dataset's texts and a config's `metrics` make them count.
    """
    references, hypotheses = pairs(transcription)
    unit = unit_of(references, metrics)
    return *clip_errors(references, hypotheses, normalizer, unit), unit


def of_one(transcription: Transcription, normalizer: str, unit: str = "words") -> dict:
    """WER, CER, their 95 % intervals, counts of errors in `unit`, speed and signs of a broken
    decoder of one model on one dataset: `repeats` counts the clips that loop, `insertions_looping`
    the insertions in them.
    """
    references, hypotheses = pairs(transcription)
    result = score(references, hypotheses, normalizer, unit)
    loops = [one.ended == "loop" for one in transcription.transcripts]
    looping = compress(references, loops), compress(hypotheses, loops)
    intervals = {
        f"{RATES[one]}_interval": list(
            wer_interval(
                *clip_errors(references, hypotheses, normalizer, one), _speakers(transcription)
            )
        )
        for one in UNITS
    }
    return {
        "wer": result.wer,
        "cer": result.cer,
        **intervals,
        "insertions": result.insertions,
        "deletions": result.deletions,
        "substitutions": result.substitutions,
        "rtfx": transcription.rtfx,
        "cap_hits": transcription.cap_hits,
        "repeats": transcription.repeats,
        "insertions_looping": score(*map(list, looping), normalizer, unit).insertions,
    }


def compare(
    name: str,
    dense: Transcription,
    pruned: Transcription,
    normalizer: str,
    metrics: Sequence[str] = METRICS,
) -> dict:
    """One dataset's entry of summary.json, and under "per_clip" a table (id, dense, pruned errors,
    units) that `public` leaves out. `metrics` is the config's.
    """
    references, _ = pairs(dense)
    dense_errors, units, unit = counted(dense, normalizer, metrics)
    pruned_errors, _, _ = counted(pruned, normalizer, metrics)
    difference, low, high = paired_difference(dense_errors, pruned_errors, units, _speakers(dense))
    totals = score(*pairs(dense), normalizer)
    return {
        "name": name,
        "clips": len(references),
        "unit": unit,
        "words": totals.words,
        "characters": totals.characters,
        "audio_seconds": sum(one.audio_seconds for one in dense.transcripts),
        "cut_at_silences": sum(one.windows > 1 for one in dense.transcripts),
        "normalizer": normalizer,
        "dense": of_one(dense, normalizer, unit),
        "pruned": of_one(pruned, normalizer, unit),
        "difference": difference,
        "difference_interval": [low, high],
        "per_clip": pd.DataFrame(
            {
                "id": [one.id for one in dense.transcripts],
                "dense": dense_errors,
                "pruned": pruned_errors,
                "units": units,
            }
        ),
    }


def headline(result: dict, model: str) -> tuple[float, list[float]]:
    """(rate, 95 % interval) of "dense" or "pruned" in `compare`'s result, by the unit of the
    dataset.
    """
    key = RATES[result["unit"]]
    return result[model][key], result[model][f"{key}_interval"]


def public(result: dict) -> dict:
    """The JSON-able part of `compare`'s result."""
    return {key: value for key, value in result.items() if key != "per_clip"}


def clip_rows(result: dict) -> pd.DataFrame:
    """Per clip: id, dense and pruned errors, units, dataset."""
    return result["per_clip"].assign(dataset=result["name"])


def wer_rows(results: list[dict]) -> pd.DataFrame:
    """One row per dataset and model: dataset, model, unit, wer (the headline, whatever its unit),
    low, high.
    """
    rows = []
    for result in results:
        for model in ("dense", "pruned"):
            rate, (low, high) = headline(result, model)
            rows.append((result["name"], model, result["unit"], rate, low, high))
    return pd.DataFrame(rows, columns=["dataset", "model", "unit", "wer", "low", "high"])


def window_rows(
    said: Mapping[tuple[str, str], Transcription], normalizer: str, metrics: Sequence[str]
) -> pd.DataFrame:
    """What short windows cost and save: one row per (model, window) of `said`, format "pruned,
    speech", dense, rtfx, times (as fast as the same model in full windows), wer (the headline,
    whatever its unit), low, high, unit.
    """
    rows = []
    for (model, window), transcription in said.items():
        errors, units, unit = counted(transcription, normalizer, metrics)
        low, high = wer_interval(errors, units, _speakers(transcription))
        times = transcription.rtfx / said[model, "full"].rtfx
        rate = of_one(transcription, normalizer, unit)[RATES[unit]]
        name, dense = f"{model}, {window}", model == "dense"
        rows.append((name, dense, transcription.rtfx, times, rate, low, high, unit))
    columns = ["format", "dense", "rtfx", "times", "wer", "low", "high", "unit"]
    return pd.DataFrame(rows, columns=columns)


def window_table(rows: pd.DataFrame):
    """`window_rows` with their dataset, styled for the report."""
    shown = pd.DataFrame(
        {
            "dataset": rows.dataset,
            "model, window": rows.format,
            RATES[rows.unit[0]].upper(): rows.wer,
            "95 % interval": [interval(bounds) for bounds in zip(rows.low, rows.high)],
            "RTFx": rows.rtfx,
            "× full windows": rows.times,
        }
    )
    formats = {"RTFx": "{:.1f}", "× full windows": "{:.2f}"}
    formats[RATES[rows.unit[0]].upper()] = "{:.2%}"
    return shown.style.hide().format(formats, escape="html")


def comparison_table(results: list[dict], metrics: Sequence[str]):
    """A styled table for the report: one row per dataset and model, the paired difference under
    both; CER only if `metrics` asks or a dataset goes by it. The interval, the difference and the
    counts go by the column "by".
    """
    rows = []
    for result in results:
        for model in ("dense", "pruned"):
            one = result[model]
            rows.append(
                {
                    "dataset": result["name"],
                    "model": model,
                    "by": result["unit"],
                    "WER": one["wer"],
                    "95 % interval": interval(headline(result, model)[1]),
                    "CER": one["cer"],
                    "sub": one["substitutions"],
                    "del": one["deletions"],
                    "ins": one["insertions"],
                    "ins, looping": one["insertions_looping"],
                    "repeats": one["repeats"],
                    "cap hits": one["cap_hits"],
                    "RTFx": one["rtfx"],
                }
            )
        rows.append(
            {
                "dataset": result["name"],
                "model": "pruned − dense",
                "by": result["unit"],
                RATES[result["unit"]].upper(): result["difference"],
                "95 % interval": interval(result["difference_interval"]),
            }
        )
    table = pd.DataFrame(rows)
    by_characters = any(result["unit"] == "characters" for result in results)
    if not by_characters and "character_error_rate" not in metrics:
        table = table.drop(columns="CER")
    counts = ["sub", "del", "ins", "ins, looping", "repeats", "cap hits"]
    formats = {"WER": "{:.2%}", "CER": "{:.2%}", "RTFx": "{:.1f}"} | dict.fromkeys(counts, "{:.0f}")
    formats = {column: text for column, text in formats.items() if column in table}
    return table.style.hide().format(formats, na_rep="", escape="html")


def kl_summary(rows: list[dict]) -> dict:
    """Mean KL per token over clips ({"kl", "tokens"} each), its bootstrap interval over clips, and
    how many clips and tokens it rests on.
    """
    if not rows:
        return {"kl": None, "low": None, "high": None, "clips": 0, "tokens": 0}
    table = pd.DataFrame(rows)
    low, high = wer_interval(table.kl.to_numpy(), table.tokens.to_numpy())
    return {
        "kl": table.kl.sum() / table.tokens.sum(),
        "low": low,
        "high": high,
        "clips": len(table),
        "tokens": int(table.tokens.sum()),
    }


def _speakers(transcription: Transcription) -> list[str | None]:
    """The speaker of each clip, None where the source names none: `owl.kernels.intervals` says what
    those count as.
    """
    return [one.speaker for one in transcription.transcripts]


def interval(bounds) -> str:
    """ "1.2 % … 3.4 %" of two fractions."""
    return f"{bounds[0]:.2%} … {bounds[1]:.2%}"


def verdict(low: float, high: float) -> str:
    """What the interval of a difference of errors says."""
    if low > 0:
        return "worse, by the interval"
    return "better, by the interval" if high < 0 else "not told apart on these clips"


def sentence(result: dict, kl: dict, sparsity: float) -> str:
    """A Markdown list item that says what a dataset's comparison came to."""
    low, high = result["difference_interval"]
    unit, (dense, _), (pruned, _) = (
        result["unit"],
        headline(result, "dense"),
        headline(result, "pruned"),
    )
    return (
        f"- **{escape(result['name'])}** ({result['clips']} clips, {result[unit]} {unit}): "
        f"{RATES[unit].upper()} {dense:.2%} dense → {pruned:.2%} at {sparsity:.1%} sparsity; "
        f"the difference is {result['difference']:+.2%} "
        f"({interval((low, high))}): {verdict(low, high)}. Divergence "
        f"{kl['kl'] if kl['kl'] is not None else float('nan'):.4f} nats per token. "
        + (
            broken(result["pruned"], result["clips"])
            or "No transcript loops or runs into the token cap."
        )
        + (
            f" {result['cut_at_silences']} clips were longer than the window and cut at silences."
            if result["cut_at_silences"]
            else ""
        )
    )
