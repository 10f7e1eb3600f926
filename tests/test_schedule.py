"""Sparsity targets of gradual pruning against values worked out by hand from the formulas. Only
behaviour: refusals, the last round.
"""

import pytest

from owl.kernels import schedule


@pytest.mark.parametrize(
    "name, expected",
    [
        ("linear", [0.2, 0.4, 0.6, 0.8]),
        ("cubic", [0.8 * 37 / 64, 0.8 * 7 / 8, 0.8 * 63 / 64, 0.8]),
        ("exponential", [1 - 0.2**0.25, 1 - 0.2**0.5, 1 - 0.2**0.75, 0.8]),
    ],
)
# 1 − (3/4)³, 1 − (1/2)³, 1 − (1/4)³
def test_four_rounds_to_eighty_percent_are_those_of_the_formula(name, expected):
    assert schedule.targets(name, 0.8, 4) == pytest.approx(expected, abs=1e-12)


def test_the_exponential_schedule_removes_the_same_share_of_what_is_left_every_round():
    kept = [1, *(1 - target for target in schedule.targets("exponential", 0.9, 5))]
    assert [after / before for before, after in zip(kept, kept[1:])] == pytest.approx(
        [0.1**0.2] * 5
    )


@pytest.mark.parametrize("name", ["linear", "exponential", "cubic"])
def test_targets_rise_and_end_exactly_at_the_sparsity(name):
    for sparsity in (0.3, 0.7, 0.95):
        rising = schedule.targets(name, sparsity, 7)
        assert (
            rising == sorted(rising)
            and rising[0] > 0
            and rising[-1] == sparsity
            and len(set(rising)) == 7
        )


def test_one_round_is_one_shot_whatever_the_name():
    assert {tuple(schedule.targets(name, 0.7, 1)) for name in schedule.SCHEDULES} == {(0.7,)}


def test_an_allocation_is_scaled_and_each_linear_ends_at_its_own_sparsity():
    rounds = schedule.by_linear("cubic", {"a": 0.6, "b": 0.8, "c": 0.0}, 2)
    assert rounds[0] == pytest.approx({"a": 0.525, "b": 0.7, "c": 0.0})
    assert rounds[1] == {"a": 0.6, "b": 0.8, "c": 0.0}
    # an allocation may take a block whole
    assert schedule.by_linear("one_shot", {"a": 1.0, "b": 0.5}, 1) == [{"a": 1.0, "b": 0.5}]
    # the mean is the schedule's own
    assert sum(rounds[0].values()) / 3 == pytest.approx(schedule.targets("cubic", 1.4 / 3, 2)[0])


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (("sine", 0.5, 3), "unknown schedule 'sine'; choose one of one_shot, linear"),
        (("one_shot", 0.5, 3), "one_shot has exactly 1"),
        (("cubic", 0.5, 0), "0 rounds"),
        (("cubic", 1.1, 2), "sparsity must be in"),
        (("cubic", float("nan"), 2), "sparsity must be in"),
    ],
)
def test_what_makes_no_schedule_is_refused(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        schedule.targets(*arguments)
