"""Against a reference: the rule written out in plain loops over prefixes, phrases and repeats.
Behaviour: speech that repeats itself does not loop; what follows a loop does not change it.
"""

import numpy as np
import pytest
import torch

from owl.kernels.loops import loop_ends


def reference(row: list[int]) -> int:
    for end in range(len(row) + 1):
        for length in range(1, end):
            tail = row[max(0, end - 4 * length - 24) : end]
            if len(tail) == 4 * length + 24 and all(
                tail[at] == tail[at - length] for at in range(length, len(tail))
            ):
                return end
    return 0


def some_rows(seed: int, count: int = 40, tokens: int = 224) -> list[list[int]]:
    """Random text, a phrase up to twelve times, random text again."""
    draw, rows = np.random.default_rng(seed), []
    for _ in range(count):
        before, phrase, behind = (
            draw.integers(3, size=draw.integers(least, most)).tolist()
            for least, most in ((0, 60), (1, 50), (tokens, tokens + 1))
        )
        rows.append((before + phrase * draw.integers(1, 13) + behind)[:tokens])
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_ends_are_those_of_the_rule_written_out(seed):
    rows = some_rows(seed)
    expected = [reference(row) for row in rows]
    assert loop_ends(torch.tensor(rows)).tolist() == expected
    assert 0 in expected and len(set(expected)) > 8


def test_a_prefix_loops_whatever_is_behind_it_and_no_shorter_one_does():
    rows = torch.tensor(some_rows(0))
    for row, end in zip(rows, loop_ends(rows).tolist()):
        if end:
            assert loop_ends(row[None, :end]).item() == end
            assert loop_ends(row[None, : end - 1]).item() == 0


@pytest.mark.parametrize("length, span", [(1, 28), (2, 32), (6, 48), (20, 104), (40, 184)])
def test_a_phrase_loops_at_four_of_it_and_24_tokens_more(length, span):
    phrase = list(range(length))
    row = [98, *(phrase * 30)[:span], 99]
    assert loop_ends(torch.tensor([row])).item() == 1 + span
    row[span] = 99
    assert loop_ends(torch.tensor([row])).item() == 0


@pytest.mark.parametrize("shape", [(2, 0), (0, 5), (3, 1)])
def test_rows_too_short_for_a_loop_have_none(shape):
    assert loop_ends(torch.zeros(shape, dtype=torch.long)).tolist() == [0] * shape[0]


@pytest.mark.parametrize(
    "text",
    [
        "no no no no no no no no",
        "0 0 0 0 0 0 0 0",
        "1,000,000,000,000,000,000",
        "one two three four one two three four one two three four",
        "go on go on go on go on go on",
        "happy birthday to you happy birthday to you happy birthday dear one happy birthday to you",
        "ha ha ha ha ha ha ha ha ha ha",
        "thank you very much thank you very much thank you very much",
        "......................",
    ],
)
def test_speech_that_repeats_itself_does_not_loop(text):
    """By characters, the finest tokens that there are."""
    assert loop_ends(torch.tensor([[ord(one) for one in text]])).item() == 0
