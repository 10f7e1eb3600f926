"""Two transcriptions of one dataset → the numbers, tables and sentences of a report. Scoring itself
is in `owl.kernels.scoring`.
"""

from collections.abc import Sequence
from html import escape

import pandas as pd

from owl.evaluate.transcribe import Transcription
from owl.kernels.intervals import paired_difference, wer_interval
from owl.kernels.scoring import clip_errors, is_repetitive, score


def pairs(transcription: Transcription) -> tuple[list[str], list[str]]:
    """(references, hypotheses), raw."""
    return [one.reference or "" for one in transcription.transcripts], [
        one.hypothesis for one in transcription.transcripts
    ]


def of_one(transcription: Transcription, normalizer: str) -> dict:
    """WER, CER, 95 % interval, error counts, speed and signs of a broken decoder of one model on
    one dataset.
    """
    references, hypotheses = pairs(transcription)
    result = score(references, hypotheses, normalizer)
    errors, words = clip_errors(references, hypotheses, normalizer)
    return {
        "wer": result.wer,
        "cer": result.cer,
        "wer_interval": list(wer_interval(errors, words, _speakers(transcription))),
        "insertions": result.insertions,
        "deletions": result.deletions,
        "substitutions": result.substitutions,
        "rtfx": transcription.rtfx,
        "cap_hits": transcription.cap_hits,
        "repetitions": sum(is_repetitive(text) for text in hypotheses),
    }


def compare(name: str, dense: Transcription, pruned: Transcription, normalizer: str) -> dict:
    """One dataset's entry of summary.json, and under "per_clip" a table (id, dense, pruned errors,
    words) that `public` leaves out.
    """
    references, hypotheses = pairs(dense)
    dense_errors, words = clip_errors(references, hypotheses, normalizer)
    pruned_errors, _ = clip_errors(*pairs(pruned), normalizer)
    difference, low, high = paired_difference(dense_errors, pruned_errors, words, _speakers(dense))
    ids = [one.id for one in dense.transcripts]
    return {
        "name": name,
        "clips": len(references),
        "words": int(words.sum()),
        "audio_seconds": sum(one.audio_seconds for one in dense.transcripts),
        "cut_at_silences": sum(one.windows > 1 for one in dense.transcripts),
        "normalizer": normalizer,
        "dense": of_one(dense, normalizer),
        "pruned": of_one(pruned, normalizer),
        "difference": difference,
        "difference_interval": [low, high],
        "per_clip": pd.DataFrame(
            {"id": ids, "dense": dense_errors, "pruned": pruned_errors, "words": words}
        ),
    }


def public(result: dict) -> dict:
    """The JSON-able part of `compare`'s result."""
    return {key: value for key, value in result.items() if key != "per_clip"}


def clip_rows(result: dict) -> pd.DataFrame:
    """Per clip: id, dense and pruned errors, words, dataset."""
    return result["per_clip"].assign(dataset=result["name"])


def wer_rows(results: list[dict]) -> pd.DataFrame:
    """One row per dataset and model: dataset, model, wer, low, high."""
    return pd.DataFrame(
        {
            "dataset": result["name"],
            "model": model,
            "wer": result[model]["wer"],
            "low": result[model]["wer_interval"][0],
            "high": result[model]["wer_interval"][1],
        }
        for result in results
        for model in ("dense", "pruned")
    )


def comparison_table(results: list[dict], metrics: Sequence[str]):
    """A styled table for the report: one row per dataset and model, the paired difference under
    both; CER only if `metrics` asks.
    """
    rows = []
    for result in results:
        for model in ("dense", "pruned"):
            one = result[model]
            rows.append(
                {
                    "dataset": result["name"],
                    "model": model,
                    "WER": one["wer"],
                    "95 % interval": interval(one["wer_interval"]),
                    "CER": one["cer"],
                    "sub": one["substitutions"],
                    "del": one["deletions"],
                    "ins": one["insertions"],
                    "cap hits": one["cap_hits"],
                    "repetitive": one["repetitions"],
                    "RTFx": one["rtfx"],
                }
            )
        rows.append(
            {
                "dataset": result["name"],
                "model": "pruned − dense",
                "WER": result["difference"],
                "95 % interval": interval(result["difference_interval"]),
            }
        )
    table = pd.DataFrame(rows)
    if "character_error_rate" not in metrics:
        table = table.drop(columns="CER")
    counts = ["sub", "del", "ins", "cap hits", "repetitive"]
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
    broken = result["pruned"]["cap_hits"] + result["pruned"]["repetitions"]
    return (
        f"- **{escape(result['name'])}** ({result['clips']} clips, {result['words']} words): WER "
        f"{result['dense']['wer']:.2%} dense → "
        f"{result['pruned']['wer']:.2%} at {sparsity:.1%} sparsity; the difference is "
        f"{result['difference']:+.2%} "
        f"({interval((low, high))}): {verdict(low, high)}. Divergence "
        f"{kl['kl'] if kl['kl'] is not None else float('nan'):.4f} nats per token. "
        + (
            f"{broken} transcripts hit the token cap or repeat themselves."
            if broken
            else "No transcript ran into the token cap or repeats itself."
        )
        + (
            f" {result['cut_at_silences']} clips were longer than the window and cut at silences."
            if result["cut_at_silences"]
            else ""
        )
    )
