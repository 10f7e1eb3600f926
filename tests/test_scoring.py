"""Error counts against references: hand-worked numbers and a slow edit distance in this file.
Normalisers: known pairs.

Only behaviour: bootstrap invariants (seed, pairing, speakers), undefined cases, the HTML of
alignments.
"""

import random

import numpy as np
import pytest

from owl.kernels.intervals import FEWEST_GROUPS, paired_difference, wer_interval
from owl.kernels.scoring import alignment_html, clip_errors, score, worst
from owl.kernels.texts import normalize


def edit_distance(left, right):
    """Levenshtein by the full table, one cell at a time."""
    table = [[i + j for j in range(len(right) + 1)] for i in range(len(left) + 1)]
    for i in range(1, len(left) + 1):
        for j in range(1, len(right) + 1):
            change = table[i - 1][j - 1] + (left[i - 1] != right[j - 1])
            table[i][j] = min(change, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1]


def random_texts(count, seed):
    generator = random.Random(seed)
    return [" ".join(generator.choices("abcd", k=generator.randint(0, 9))) for _ in range(count)]


def some_errors(clips=60, seed=0):
    generator = np.random.default_rng(seed)
    words = generator.integers(1, 12, clips)
    return generator.binomial(words, 0.2), generator.binomial(words, 0.3), words


def test_a_hand_worked_pair_of_clips():
    # clip 1: "cat" became "bat"; clip 2: "two" is missing and "five" is extra → 3 errors in 7 words
    result = score(
        ["the cat sat", "one two three four"], ["the bat sat", "one three four five"], "none"
    )
    assert (result.substitutions, result.deletions, result.insertions, result.words) == (1, 1, 1, 7)
    assert result.wer == 3 / 7


def test_the_character_error_rate_counts_spaces():
    # c → b, and one space too many
    assert score(["the cat sat"], ["the bat s at"], "none").cer == 2 / 11


def test_a_text_against_itself_has_no_error():
    result = score(["Hello, World!", ""], ["Hello, World!", ""])
    assert (result.wer, result.cer, result.words) == (0, 0, 2)


def test_errors_are_counted_over_all_clips_and_not_averaged_per_clip():
    assert score(["a", "b c d"], ["x", "b c d"], "none").wer == 1 / 4


def test_nothing_heard_is_all_deletions():
    result = score(["a b"], [""], "none")
    assert (result.wer, result.cer, result.deletions) == (1, 1, 2)


def test_the_rate_may_exceed_one():
    assert score(["a"], ["a b c d"], "none").wer == 3


def test_an_empty_reference_beside_others_adds_insertions():
    result = score(["[noise]", "a b"], ["thank you", "a b"])
    assert (result.insertions, result.words, result.wer) == (2, 2, 1)


@pytest.mark.parametrize(
    "references, hypotheses, rate",
    [([""], [""], 0), ([""], ["x y"], 1), (["[um]"], ["(x)"], 0), ([], [], 0)],
)
def test_without_reference_words_the_rate_is_zero_or_one(references, hypotheses, rate):
    result = score(references, hypotheses)
    assert (result.wer, result.cer, result.words) == (rate, rate, 0)


@pytest.mark.parametrize("seed", range(5))
def test_clip_errors_are_the_slow_edit_distance(seed):
    references, hypotheses = random_texts(40, seed), random_texts(40, seed + 100)
    errors, words = clip_errors(references, hypotheses, "none")
    assert errors.tolist() == [
        edit_distance(left.split(), right.split()) for left, right in zip(references, hypotheses)
    ]
    assert words.tolist() == [len(text.split()) for text in references]
    result = score(references, hypotheses, "none")
    assert result.insertions + result.deletions + result.substitutions == errors.sum()
    assert result.wer == pytest.approx(errors.sum() / words.sum())
    characters = sum(edit_distance(left, right) for left, right in zip(references, hypotheses))
    assert result.cer == pytest.approx(characters / sum(map(len, references)))


def test_the_english_normaliser_knows_spellings_numbers_and_titles():
    assert score(["The colour's grey, Mr. Smith"], ["the color is gray mister smith"]).wer == 0
    assert normalize(["twenty-one dollars", "um, yes"], "english") == ["$21", "yes"]


def test_the_basic_normaliser_keeps_spelled_letters_and_drops_case_and_punctuation():
    assert normalize(["W. O. O. D!  twenty "], "basic") == ["w o o d twenty"]
    assert normalize(["colour"], "basic") == ["colour"]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors", "words", "characters"),
    [
        ("今天天气很好我们去公园", "今天天气很好我们去花园", 1, 1, 11),
        ("今天天气很好。", "今天 天气很好", 0, 1, 6),  # the space and the full stop are nothing
        ("私は iPhone 15 を買った", "私はiPhone 14を買った", 1, 4, 15),
        ("ไม่เป็นไร ครับ", "ไม่เป็นไรคับ", 1, 2, 13),
        ("the cat sat", "the bat s at", 2, 3, 11),
    ],
)
def test_by_characters_one_wrong_character_is_one_error(
    reference, hypothesis, errors, words, characters
):
    result = score([reference], [hypothesis], "basic", "characters")
    found, counts = clip_errors([reference], [hypothesis], "basic", "characters")
    assert result.insertions + result.deletions + result.substitutions == errors == found.sum()
    assert (result.words, result.characters, counts.sum()) == (words, characters, characters)
    assert result.cer == errors / characters
    assert result.wer == score([reference], [hypothesis], "basic").wer
    rows = worst([reference], [hypothesis], "basic", 1, "characters")
    assert [row["characters"] for row in rows] == [characters] * bool(errors)
    assert all(f"reference characters {characters}" in alignment_html(rows) for _ in rows)


def test_none_keeps_everything_but_extra_whitespace():
    assert normalize(["  A,\tb \n c"], "none") == ["A, b c"]


def test_different_lengths_and_unknown_normalisers_are_refused():
    with pytest.raises(ValueError, match="2 references and 1 hypotheses"):
        score(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="english, basic, none"):
        score(["a"], ["a"], "german")
    with pytest.raises(ValueError, match="words, characters"):
        clip_errors(["a"], ["a"], "none", "letters")


def test_the_interval_holds_the_estimate_and_depends_on_nothing_but_the_seed():
    errors, _, words = some_errors()
    low, high = wer_interval(errors, words)
    assert low < errors.sum() / words.sum() < high
    assert wer_interval(errors, words) == (low, high)
    assert wer_interval(errors, words, seed=1) != (low, high)


def test_the_interval_of_equal_clips_is_a_point():
    assert wer_interval(np.full(10, 1), np.full(10, 4)) == (0.25, 0.25)


def test_the_interval_matches_the_spread_of_a_mean():
    # one word per clip: a proportion, 1.96 standard errors either side
    errors = np.random.default_rng(0).binomial(1, 0.2, 400)
    low, high = wer_interval(errors, np.ones(400, int), resamples=4000)
    expected = 2 * 1.96 * np.sqrt(errors.mean() * (1 - errors.mean()) / 400)
    # 4000 resamples leave about 3 % in a percentile distance
    assert high - low == pytest.approx(expected, rel=0.08)


def test_eight_named_speakers_replace_clips_and_seven_do_not():
    errors, _, words = some_errors(80)
    by_clip = wer_interval(errors, words)
    speakers = [f"speaker {index % FEWEST_GROUPS}" for index in range(80)]
    assert wer_interval(errors, words, speakers) != by_clip
    assert wer_interval(errors, words, [name.replace("7", "6") for name in speakers]) == by_clip
    assert wer_interval(errors, words, [None] * 80) == by_clip


def test_clips_that_fail_together_widen_the_interval():
    # every second of ten speakers gets all words wrong
    errors, words = (np.repeat(np.arange(10) % 2 * 4, 10), np.full(100, 4))
    speakers = np.repeat(np.arange(10), 10).astype(str).tolist()
    alone, together = wer_interval(errors, words), wer_interval(errors, words, speakers)
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_a_clip_without_a_name_is_a_speaker_of_its_own():
    errors, _, words = some_errors(20)
    named = [f"speaker {index}" for index in range(18)]
    assert wer_interval(errors, words, [*named, None, ""]) == wer_interval(
        errors, words, [*named, "x", "y"]
    )


def test_a_system_does_not_differ_from_itself():
    errors, _, words = some_errors()
    assert paired_difference(errors, errors, words) == (0, 0, 0)


def test_the_paired_difference_is_b_minus_a_and_tighter_than_unpaired():
    first, second, words = some_errors()
    difference, low, high = paired_difference(first, second, words)
    assert difference == pytest.approx((second.sum() - first.sum()) / words.sum())
    assert low < difference < high
    # one error more per word, in every clip
    shifted, low, high = paired_difference(first, first + words, words)
    assert (shifted, low, high) == pytest.approx((1, 1, 1))


def test_intervals_without_words_follow_the_rule_of_score():
    none = np.zeros(0, int)
    assert wer_interval(none, none) == (0, 0)
    assert paired_difference(none, none, none) == (0, 0, 0)
    assert wer_interval(np.array([2]), np.array([0])) == (1, 1)


def test_intervals_refuse_different_lengths_and_no_resample():
    with pytest.raises(ValueError, match="one value per clip"):
        wer_interval(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="one value per clip"):
        wer_interval(np.zeros(2), np.zeros(2), ["a"])
    with pytest.raises(ValueError, match="resample"):
        wer_interval(np.zeros(2), np.ones(2), resamples=0)


def test_the_worst_clips_come_first_with_their_alignment():
    references = ["a b", "the cat sat", "one two", "e"]
    hypotheses = ["a b", "the bat sat down", "", "e f"]
    rows = worst(references, hypotheses, "none", 3)
    assert [(row["index"], row["errors"], row["words"]) for row in rows] == [
        (2, 2, 2),
        (1, 2, 3),
        (3, 1, 1),
    ]
    assert rows[0]["alignment"] == [("delete", "one", ""), ("delete", "two", "")]
    assert rows[1]["alignment"][:2] == [("equal", "the", "the"), ("substitute", "cat", "bat")]
    assert rows[1]["alignment"][2:] == [("equal", "sat", "sat"), ("insert", "", "down")]
    assert (rows[1]["reference"], rows[1]["hypothesis"]) == ("the cat sat", "the bat sat down")


def test_clips_without_errors_are_never_among_the_worst():
    assert worst(["a", "b"], ["a", "b"], "none", 5) == []
    assert alignment_html([]) == "<p>No clip has an error.</p>"


@pytest.mark.parametrize("seed", range(3))
def test_an_alignment_reads_back_as_both_texts_and_counts_its_errors(seed):
    references, hypotheses = random_texts(20, seed), random_texts(20, seed + 50)
    for row in worst(references, hypotheses, "none", 20):
        steps = row["alignment"]
        assert [left for _, left, _ in steps if left] == row["reference"].split()
        assert [right for _, _, right in steps if right] == row["hypothesis"].split()
        assert sum(op != "equal" for op, _, _ in steps) == row["errors"]


def test_alignment_html_escapes_every_text_and_marks_what_differs():
    html = alignment_html(worst(["<script>alert(1)</script> a b"], ["a c d & e"], "none", 1))
    assert (
        "<script" not in html
        and "&lt;script&gt;alert(1)&lt;/script&gt;" in html
        and "&amp;" in html
    )
    assert html.startswith('<div class="align"')
    assert 'class="sub"' in html
    only = alignment_html(
        [
            {
                "index": 4,
                "errors": 2,
                "words": 1,
                "alignment": [("insert", "", "x"), ("delete", "y", "")],
            }
        ]
    )
    assert 'class="ins"' in only and ">–<br>x</span>" in only
    assert 'class="del"' in only and ">y<br>–</span>" in only
