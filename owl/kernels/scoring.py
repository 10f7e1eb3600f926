"""Texts → word and character error rates, errors per clip, and alignments of the worst clips.

What it does not do: transcribe, or say how sure a rate is (`owl.kernels.intervals`). Source of the
rates: jiwer (minimum edit distance, all errors of a data set over all its reference words); texts
are compared as `owl.kernels.texts` makes them. Differences from jiwer: with no reference words at
all the rate is 1, not the number of insertions, when there is any hypothesis word; runs of
whitespace count as one space, also under "none".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import jiwer
import numpy as np

from owl.kernels.texts import UNITS, characters_of, known_unit, normalize


@dataclass(frozen=True)
class Score:
    """Errors of a data set after normalisation."""

    # (insertions + deletions + substitutions) / words, a fraction that may exceed 1; no words: 0 or
    # 1, see `score`
    wer: float
    cer: float  # the same over characters, spaces between words included
    insertions: int  # hypothesis words, or characters, that have no reference word
    deletions: int  # reference words, or characters, that have no hypothesis word
    substitutions: int  # reference words, or characters, that became another one
    words: int  # reference words
    characters: int  # reference characters


def score(
    references: Sequence[str],
    hypotheses: Sequence[str],
    normalizer: str = "english",
    unit: str = "words",
) -> Score:
    """Errors of `hypotheses` against `references`, one pair per clip: total errors over total
    reference words or characters; `unit` is what insertions, deletions and substitutions count.

    A reference that normalises to nothing beside others that do not: its hypothesis words count as
    insertions. No reference words at all (also: no clips): WER and CER are 0 if the hypotheses are
    empty too, else 1. ValueError for different lengths, an unknown normaliser or unit.
    """
    pairs = _normalized_pairs(references, hypotheses, normalizer)
    words, characters = _aligned(*pairs, "words"), _aligned(*pairs, "characters")
    counts = {
        "words": sum(len(reference) for reference in words.references),
        "characters": sum(len(reference) for reference in characters.references),
    }
    counted = words if known_unit(unit) == "words" else characters
    silent = float(any(words.hypotheses))
    return Score(
        wer=float(words.wer) if counts["words"] else silent,
        cer=float(characters.cer) if counts["words"] else silent,
        insertions=counted.insertions,
        deletions=counted.deletions,
        substitutions=counted.substitutions,
        **counts,
    )


def clip_errors(
    references: Sequence[str],
    hypotheses: Sequence[str],
    normalizer: str = "english",
    unit: str = "words",
) -> tuple[np.ndarray, np.ndarray]:
    """(errors, reference words or characters) of every clip after normalisation: two integer arrays
    of shape (clips,).
    """
    aligned = _aligned(*_normalized_pairs(references, hypotheses, normalizer), unit)
    errors = [
        sum(_length(chunk) for chunk in chunks if chunk.type != "equal")
        for chunks in aligned.alignments
    ]
    return np.array(errors, dtype=int), np.array(
        [len(reference) for reference in aligned.references], dtype=int
    )


def worst(
    references: Sequence[str],
    hypotheses: Sequence[str],
    normalizer: str = "english",
    k: int = 5,
    unit: str = "words",
) -> list[dict]:
    """At most `k` clips, those with the most errors (ties: the higher error rate, then the earlier
    clip); never one without.

    Each is {"index", "reference", "hypothesis" (raw texts), "errors", "words" or "characters"
    (of the reference), "alignment"}; the alignment lists (op, reference word, hypothesis word) over
    the normalised words or characters, op in equal, substitute, insert, delete, the missing one of
    the last two "".
    """
    errors, counts = clip_errors(references, hypotheses, normalizer, unit)
    ranked = sorted(np.flatnonzero(errors).tolist(), key=lambda i: (-errors[i], counts[i], i))[
        : max(k, 0)
    ]
    chosen = [references[i] for i in ranked], [hypotheses[i] for i in ranked]
    aligned = _aligned(*_normalized_pairs(*chosen, normalizer), unit)
    return [
        {
            "index": index,
            "reference": references[index],
            "hypothesis": hypotheses[index],
            "errors": int(errors[index]),
            unit: int(counts[index]),
            "alignment": [
                step for chunk in chunks for step in _steps(chunk, reference, hypothesis)
            ],
        }
        for index, chunks, reference, hypothesis in zip(
            ranked, aligned.alignments, aligned.references, aligned.hypotheses
        )
    ]


def alignment_html(rows: Sequence[dict]) -> str:
    """The rows of `worst` as HTML: reference over hypothesis, wrapping with the page;
    every text is escaped.

    Each row is a <div class="align">; word pairs that differ carry the class sub, ins or del
    (colours are the page's), a missing word is a dash. No rows: a paragraph that says so.
    """
    return "\n".join(_row_html(row) for row in rows) or "<p>No clip has an error.</p>"


def _normalized_pairs(
    references: Sequence[str], hypotheses: Sequence[str], normalizer: str
) -> tuple[list[str], list[str]]:
    if len(references) != len(hypotheses):
        lengths = f"{len(references)} references and {len(hypotheses)} hypotheses"
        raise ValueError(f"every reference needs one hypothesis, but there are {lengths}")
    return normalize(references, normalizer), normalize(hypotheses, normalizer)


def _aligned(
    references: list[str], hypotheses: list[str], unit: str
) -> jiwer.WordOutput | jiwer.CharacterOutput:
    """jiwer's alignment of normalised texts, word by word or character by character."""
    if known_unit(unit) == "words":
        return jiwer.process_words(references, hypotheses)
    return jiwer.process_characters(characters_of(references), characters_of(hypotheses))


def _steps(
    chunk: jiwer.AlignmentChunk, reference: list[str], hypothesis: list[str]
) -> list[tuple[str, str, str]]:
    left = reference[chunk.ref_start_idx : chunk.ref_end_idx]
    right = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
    blank = [""] * _length(chunk)
    return [(chunk.type, *pair) for pair in zip(left or blank, right or blank)]


def _length(chunk: jiwer.AlignmentChunk) -> int:
    return max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)


# The layout travels with the markup, so that a notebook without the report's stylesheet shows the
# same columns.
_PAIR = "display:inline-block;margin:0 6px 6px 0"
_CLASSES = {
    "equal": "",
    "substitute": ' class="sub"',
    "insert": ' class="ins"',
    "delete": ' class="del"',
}


def _row_html(row: dict) -> str:
    size = next(f"{unit} {row[unit]}" for unit in UNITS if unit in row)
    title = f"clip {row['index']} · errors {row['errors']} · reference {size}"
    pairs = [f'<span style="{_PAIR}"><small>REF<br>HYP</small></span>']
    for op, left, right in row["alignment"]:
        pairs.append(
            f"<span{_CLASSES[op]} "
            f'style="{_PAIR}">{escape(left) or "–"}<br>{escape(right) or "–"}</span>'
        )
    return (
        '<div class="align" '
        f'style="overflow-wrap:anywhere"><p><small>{title}</small></p>{" ".join(pairs)}</div>'
    )
