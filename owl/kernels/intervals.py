"""How sure an error rate is: seeded bootstrap intervals of Σ errors / Σ words, alone or as a paired
difference. Characters, or tokens, may stand for words.

Source: percentile bootstrap over clips (Bisani and Ney, ICASSP 2004, who also pair two systems).
Speakers replace clips where enough are named, because clips of one speaker fail together. What it
does not do: correct for bias, or for comparing many models.
"""

from collections.abc import Sequence

import numpy as np

FEWEST_GROUPS = 8  # distinct names below which resampling speakers says less than resampling clips
LEVELS = (2.5, 97.5)  # percentiles of a 95 % interval


def wer_interval(
    errors: np.ndarray,
    words: np.ndarray,
    groups: Sequence[str | None] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """(low, high): 95 % bootstrap interval of Σ errors / Σ words; `errors` and `words` per clip,
    shape (clips,).

    `groups` names each clip's speaker: with at least eight distinct names whole speakers are
    resampled (a clip without a name, None or "", is a speaker of its own), else clips. A resample
    without words is 0 if it has no errors, else 1, as in `owl.kernels.scoring.score`; no clips: (0,
    0). The same seed gives the same interval. ValueError for different lengths or no resample.
    """
    totals = _totals([errors, words], groups)
    rates = _rate(*_resampled(totals, resamples, seed))
    low, high = np.percentile(rates, LEVELS)
    return float(low), float(high)


def paired_difference(
    errors_a: np.ndarray,
    errors_b: np.ndarray,
    words: np.ndarray,
    groups: Sequence[str | None] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """(b − a, low, high) of two systems' error rates on the same clips; every resample draws the
    same clips for both.

    Arguments and undefined cases as in `wer_interval`; an interval that holds no 0 tells the
    systems apart.
    """
    totals = _totals([errors_a, errors_b, words], groups)
    drawn_a, drawn_b, drawn_words = _resampled(totals, resamples, seed)
    low, high = np.percentile(_rate(drawn_b, drawn_words) - _rate(drawn_a, drawn_words), LEVELS)
    sum_a, sum_b, sum_words = totals.sum(1, keepdims=True)
    return (_rate(sum_b, sum_words) - _rate(sum_a, sum_words)).item(), float(low), float(high)


def _totals(columns: Sequence[np.ndarray], groups: Sequence[str | None] | None) -> np.ndarray:
    """Sums of each column per clip or per speaker: (columns, units)."""
    lengths = {len(column) for column in columns} | ({len(groups)} if groups is not None else set())
    if len(lengths) > 1:
        raise ValueError(
            "errors, words and groups need one value per clip, but their lengths are "
            f"{sorted(lengths)}"
        )
    table = np.asarray(columns, dtype=float)
    if groups is None or len({name for name in groups if name}) < FEWEST_GROUPS:
        return table
    units: dict = {}
    unit_of_clip = [
        units.setdefault(name or index, len(units)) for index, name in enumerate(groups)
    ]
    return np.stack([np.bincount(unit_of_clip, weights=column) for column in table])


def _resampled(totals: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums over `resamples` draws of as many units as there are, with replacement: (columns,
    resamples).
    """
    if resamples < 1:
        raise ValueError(f"a bootstrap needs at least one resample, not {resamples}")
    units = totals.shape[1]
    drawn = np.random.default_rng(seed).integers(0, max(units, 1), (resamples, units))
    return np.stack([column[drawn].sum(1) for column in totals])


def _rate(errors: np.ndarray, words: np.ndarray) -> np.ndarray:
    return np.where(words > 0, errors / np.maximum(words, 1), np.sign(errors))
