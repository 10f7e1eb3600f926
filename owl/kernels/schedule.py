"""Gradual pruning: which sparsity each round of prune → recover aims at. Numbers in, numbers
out.
"""

from collections.abc import Mapping

SCHEDULES = ("one_shot", "linear", "exponential", "cubic")


def targets(name: str, sparsity: float, rounds: int) -> list[float]:
    """The sparsity after each of `rounds` rounds, rising from the dense model (0, not listed) to
    exactly `sparsity`.

    With t = round / rounds: "linear" S·t; "exponential" 1 − (1 − S)^t, every round removes the same
    share of what is left; "cubic" S·(1 − (1 − t)³), fast while weights are redundant and slow at
    the end (Zhu & Gupta, arXiv 1710.01878, equation 1); "one_shot" is [S]. ValueError for an
    unknown name, fewer than one round, several rounds of one_shot, S outside [0, 1] (an allocation
    may take all of a block).
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule '{name}'; choose one of {', '.join(SCHEDULES)}")
    if rounds < 1 or (name == "one_shot" and rounds != 1):
        raise ValueError(
            f"{rounds} rounds do not go with schedule {name}; one_shot has exactly 1, the others "
            "at least 1"
        )
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be in [0, 1], not {sparsity}")
    shares = [number / rounds for number in range(1, rounds)]
    rising = {
        "one_shot": [],
        "linear": [sparsity * share for share in shares],
        "exponential": [1 - (1 - sparsity) ** share for share in shares],
        "cubic": [sparsity * (1 - (1 - share) ** 3) for share in shares],
    }[name]
    return [*rising, sparsity]


def by_linear(name: str, sparsities: Mapping[str, float], rounds: int) -> list[dict[str, float]]:
    """One {linear: sparsity} per round: every linear rises by its own `targets` to its own final
    sparsity.

    An allocation is thereby scaled, not chosen anew; under linear and cubic the weighted mean is
    the schedule's own target in every round.
    """
    rising = {linear: targets(name, sparsity, rounds) for linear, sparsity in sparsities.items()}
    return [
        {linear: values[number] for linear, values in rising.items()} for number in range(rounds)
    ]
