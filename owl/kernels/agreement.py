"""Which words of a stream are settled: LocalAgreement-2 ([arXiv
2307.14743](https://arxiv.org/abs/2307.14743)), what two successive hypotheses begin with.
"""

from collections.abc import Callable, Sequence


def agreed(one: Sequence, other: Sequence) -> int:
    """How many first items are equal."""
    length = min(len(one), len(other))
    return next((place for place in range(length) if one[place] != other[place]), length)


def settled(
    previous: Sequence[int], present: Sequence[int], begins_word: Callable[[int], bool]
) -> int:
    """How many tokens of `present` stand: the whole words it begins with as `previous` does, but
    for a last one that may go on.
    """
    alike = agreed(previous, present)
    ends = lambda tokens, place: place == len(tokens) or begins_word(tokens[place])
    places = range(min(alike, len(present) - 1), 0, -1)
    return next((at for at in places if begins_word(present[at]) and ends(previous, at)), 0)


def word_ends(words: Sequence[str], seconds: float) -> list[float]:
    """When each word ends if all characters take equally long, the last one at `seconds`."""
    ends, total = [], sum(len(word) for word in words)
    for word in words:
        ends.append((ends[-1] if ends else 0.0) + seconds * len(word) / total)
    return ends
