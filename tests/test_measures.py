"""From two transcriptions to a dataset's numbers. The intervals are checked against
`owl.kernels.intervals` called by hand; the rest is behaviour.
"""

import pytest

from owl.evaluate import compare
from owl.evaluate.transcribe import Transcript, Transcription
from owl.kernels.intervals import paired_difference, wer_interval


def said(hypotheses, speakers):
    references = ["one two three four"] * len(hypotheses)
    rows = zip(references, hypotheses, speakers)
    return Transcription(
        [
            Transcript(str(i), ref, hyp, 1.0, who, 4, False, 1)
            for i, (ref, hyp, who) in enumerate(rows)
        ],
        1.0,
    )


# ten speakers of three clips; whole speakers fail
SPEAKERS = [f"speaker{index // 3}" for index in range(30)]
HYPOTHESES = ["one two three four" if index // 3 % 2 else "no" for index in range(30)]


@pytest.mark.parametrize("unnamed", [0, 1, 5])
def test_clips_without_a_speaker_do_not_turn_the_bootstrap_over_speakers_off(unnamed):
    speakers = [None if index < unnamed else name for index, name in enumerate(SPEAKERS)]
    dense, pruned = said(["one two three four"] * 30, speakers), said(HYPOTHESES, speakers)
    result = compare.compare("some", dense, pruned, "none")
    errors, words = result["per_clip"].pruned.to_numpy(), result["per_clip"].words.to_numpy()
    assert (
        tuple(result["pruned"]["wer_interval"])
        == wer_interval(errors, words, speakers)
        != wer_interval(errors, words)
    )
    assert (
        tuple(result["difference_interval"])
        == paired_difference(0 * errors, errors, words, speakers)[1:]
    )
