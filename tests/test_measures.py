"""From two transcriptions to a dataset's numbers. The intervals are checked against
`owl.kernels.intervals` called by hand; the rest is behaviour.
"""

import numpy as np
import pytest

from owl.evaluate import compare
from owl.evaluate.transcribe import Transcript, Transcription
from owl.kernels.intervals import paired_difference, wer_interval


def said(hypotheses, speakers, references=None):
    references = references or ["one two three four"] * len(hypotheses)
    rows = zip(references, hypotheses, speakers)
    return Transcription(
        [
            Transcript(str(i), ref, hyp, 1.0, who, 4, "end", 1)
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
    errors, words = result["per_clip"].pruned.to_numpy(), result["per_clip"].units.to_numpy()
    assert (
        tuple(result["pruned"]["wer_interval"])
        == wer_interval(errors, words, speakers)
        != wer_interval(errors, words)
    )
    assert (
        tuple(result["difference_interval"])
        == paired_difference(0 * errors, errors, words, speakers)[1:]
    )


CHINESE = ["今天天气很好", "我们去公园", "他说的是什么"]
HEARD = ["今天天气很好", "我们去花园", "他说是什么呢"]  # 0, 1 and 2 of 17 characters wrong


def chinese(metrics=compare.METRICS):
    dense, pruned = (said(texts, [None] * 3, CHINESE) for texts in (CHINESE, HEARD))
    return compare.compare("mine", dense, pruned, "basic", metrics)


def test_where_words_are_not_separated_everything_goes_by_characters():
    result = chinese()
    errors, characters = np.array([0, 1, 2]), np.array([6, 5, 6])
    assert (result["unit"], result["characters"], result["words"]) == ("characters", 17, 3)
    assert result["per_clip"].pruned.tolist() == errors.tolist()
    assert result["difference"] == result["pruned"]["cer"] == 3 / 17
    assert result["pruned"]["wer"] == 2 / 3
    interval = list(wer_interval(errors, characters))
    assert result["pruned"]["cer_interval"] == interval == result["difference_interval"]
    assert [result["pruned"][f"{kind}s"] for kind in ("insertion", "deletion", "substitution")] == [
        1,
        1,
        1,
    ]
    assert compare.headline(result, "pruned") == (3 / 17, interval)
    assert compare.wer_rows([result]).wer.tolist() == [0, 3 / 17]
    text = compare.sentence(result, {"kl": None}, 0.5)
    assert "17 characters): CER 0.00% dense → 17.65%" in text and "+17.65%" in text
    table = compare.comparison_table([result], ["wer"]).data
    assert table["by"].tolist() == ["characters"] * 3
    assert table.CER.tolist() == [0, 3 / 17, 3 / 17] and np.isnan(table.WER.iloc[2])


def test_the_config_may_force_words_or_characters():
    result = chinese(["wer"])
    assert (result["unit"], result["difference"]) == ("words", 2 / 3)
    english = said(["one two three for"], [None], ["one two three four"])
    for metrics, unit, rate in (
        (["character_error_rate"], "characters", 1 / 18),
        (["wer"], "words", 1 / 4),
    ):
        result = compare.compare("mine", english, english, "basic", metrics)
        assert (result["unit"], compare.headline(result, "dense")[0]) == (unit, rate)
    assert "4 words): WER 25.00%" in compare.sentence(result, {"kl": None}, 0.5)
