"""The structured kernels against brute force: saliencies and refits against `torch.linalg.lstsq` on
the inputs themselves, the mix of heads and neurons against trying everything, budgets by hand. Only
behaviour: bad input, ties.
"""

from functools import partial
from itertools import product

import pytest
import torch

from owl.kernels.gram import centred
from owl.kernels.structured import (
    columns_of,
    fit_budgets,
    influence,
    layers_to_drop,
    mix,
    refit,
    removal_path,
)


def problem(columns=8, rows=60, out=5, seed=0):
    """(weight, inputs with correlations and a mean), float64."""
    draw = torch.Generator().manual_seed(seed)
    make = partial(torch.randn, generator=draw, dtype=torch.float64)
    return make(out, columns), make(rows, columns) @ make(columns, columns) + make(columns)


def best_squared_error(weight, inputs, kept):
    """What is left of ‖XWᵀ − X_K Wᵀ_K‖² at the best W_K, by least squares on the inputs."""
    wanted = inputs @ weight.T
    found = torch.linalg.lstsq(inputs[:, kept], wanted).solution
    return (wanted - inputs[:, kept] @ found).square().sum().item()


@pytest.mark.parametrize("group, chunk", [(1, 1), (1, 3), (2, 1), (2, 2), (4, 1)])
def test_every_error_on_the_path_is_that_of_the_best_refit(group, chunk):
    weight, inputs = problem()
    path = removal_path(weight, inputs.T @ inputs, group=group, chunk=chunk, damping=0.0)
    assert len(path.order) == 8 // group - 1 and path.errors[0] == 0
    for count in range(1, len(path.order) + 1):
        groups = sorted({*range(8 // group)} - {*path.order[:count].tolist()})
        kept = columns_of(torch.tensor(groups), group)
        assert path.errors[count].item() == pytest.approx(
            best_squared_error(weight, inputs, kept), rel=1e-8
        )


@pytest.mark.parametrize("group", [1, 2, 4])
def test_the_first_group_to_go_is_the_one_whose_removal_costs_least(group):
    weight, inputs = problem(seed=3)
    costs = {}
    for gone in range(8 // group):
        kept = columns_of(torch.tensor(sorted({*range(8 // group)} - {gone})), group)
        costs[gone] = best_squared_error(weight, inputs, kept)
    path = removal_path(weight, inputs.T @ inputs, group=group, damping=0.0)
    assert path.order[0].item() == min(costs, key=costs.get)


def test_the_refit_is_least_squares_and_its_bias_makes_up_for_the_mean():
    weight, inputs = problem()
    bias, kept, mean = torch.randn(5, dtype=torch.float64), torch.tensor([0, 2, 5]), inputs.mean(0)
    wanted = inputs @ weight.T + bias
    ones = torch.ones(len(inputs), 1, dtype=torch.float64)
    direct = torch.linalg.lstsq(torch.cat([inputs[:, kept], ones], 1), wanted).solution
    gram = centred(inputs.T @ inputs, inputs.sum(0), len(inputs))
    refitted = refit(weight, gram, kept, damping=0.0)
    torch.testing.assert_close(refitted, direct[:-1].T)
    torch.testing.assert_close(bias + weight @ mean - refitted @ mean[kept], direct[-1])


def test_damping_keeps_the_refit_near_the_dense_weights():
    weight, inputs = problem()
    kept, gram = torch.tensor([1, 2, 3]), inputs.T @ inputs
    far = [
        (refit(weight, gram, kept, damping=damping) - weight[:, kept]).norm().item()
        for damping in (0.0, 0.1, 10.0)
    ]
    assert far[0] > far[1] > far[2]


def test_neurons_that_are_silent_go_first_and_for_nothing():
    weight, inputs = problem()
    inputs[:, [1, 4]] = 0
    path = removal_path(weight, inputs.T @ inputs)
    assert set(path.order[:2].tolist()) == {1, 4}
    assert path.errors[:3].tolist() == [0, 0, 0] and path.errors[3] > 0


def test_a_neuron_that_never_changes_is_free_where_the_bias_may_move():
    weight, inputs = problem()
    inputs[:, 6] = 3.0
    path = removal_path(weight, centred(inputs.T @ inputs, inputs.sum(0), len(inputs)))
    assert path.order[0] == 6 and path.errors[1].item() < 1e-12 * path.errors[-1].item()


def test_a_twin_costs_nothing_once_the_other_takes_over():
    weight, inputs = problem()
    inputs[:, 3] = inputs[:, 0]
    path = removal_path(weight, inputs.T @ inputs, damping=1e-9)
    assert path.order[0] in (0, 3) and path.errors[1] < 1e-5 * path.errors[-1]


@pytest.mark.parametrize("budget", [0, 7, 12, 33, 50, 10_000])
def test_the_mix_is_the_best_of_all_that_meet_the_budget(budget):
    draw = torch.Generator().manual_seed(budget)
    errors = [
        torch.cat([torch.zeros(1), torch.rand(count, generator=draw).cumsum(0)])
        for count in (3, 2, 9)
    ]
    sizes = [10, 8, 3]
    every = [[*counts] for counts in product(*(range(len(curve)) for curve in errors))]
    missed = {
        tuple(counts): abs(sum(count * size for count, size in zip(counts, sizes)) - budget)
        for counts in every
    }
    meeting = [
        counts for counts in every if missed[tuple(counts)] <= max(1.5, min(missed.values()))
    ]
    cost = lambda counts: sum(curve[count].item() for curve, count in zip(errors, counts))
    found = mix(errors, sizes, budget)
    assert missed[tuple(found)] <= max(1.5, min(missed.values()))
    assert cost(found) == pytest.approx(min(cost(counts) for counts in meeting))


def test_what_one_block_cannot_lose_goes_to_the_others_by_their_room():
    assert fit_budgets([10, 10, 10], [4, 16, 22]) == pytest.approx([4, 12, 14])
    assert fit_budgets([1, 2], [4, 4]) == [1, 2]
    with pytest.raises(
        ValueError, match="30 weights are to go, but the structures that may be removed hold 29"
    ):
        fit_budgets([15, 15], [14, 15])


def test_influence_is_zero_for_a_block_that_only_scales_and_two_for_one_that_turns_around():
    states = torch.randn(20, 6)
    assert influence([states], [3 * states]) == pytest.approx(0, abs=1e-6)
    assert influence([states], [-states]) == pytest.approx(2)


def test_the_least_influential_layers_go_and_a_stack_keeps_its_last():
    stacks = ["encoder"] * 3 + ["decoder"] * 2
    assert layers_to_drop([0.5, 0.1, 0.2, 0.3, 0.9], [3, 3, 3, 4, 4], stacks, 6) == [1, 2]
    assert layers_to_drop([0.1, 0.1, 0.1, 0.9, 0.9], [3, 3, 3, 4, 4], stacks, 9) == [0, 1, 3]
    assert layers_to_drop([0.5, 0.1, 0.2, 0.3, 0.9], [3, 3, 3, 4, 4], stacks, 1) == []


def test_bad_problems_are_refused():
    weight, inputs = problem()
    with pytest.raises(ValueError, match="8 columns are no multiple of the group size 3"):
        removal_path(weight, inputs.T @ inputs, group=3)
    inputs[0, 0] = torch.nan
    with pytest.raises(ValueError, match="must be finite"):
        removal_path(weight, inputs.T @ inputs)


def test_columns_come_group_after_group():
    assert columns_of(torch.tensor([0, 2]), 3).tolist() == [0, 1, 2, 6, 7, 8]
    assert columns_of(torch.tensor([], dtype=torch.long), 3).tolist() == []
