"""ALPS against references: every support of a tiny problem tried, normal equations row by row, and
the authors' own errors (../shared).
"""

from itertools import combinations
from unittest.mock import Mock

import pytest
import torch

from owl.kernels import alps
from owl.kernels.solvers import factorise, prune_weight
from tests import reference

LAYERS = ("layer0", "layer1", "layer2")
TARGETS = ("0.5", "0.7", "0.8", "2:4", "4:8")


@pytest.fixture
def layer():
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(60, 16, generator=generator) @ torch.randn(16, 16, generator=generator)
    return torch.randn(7, 16, generator=generator), inputs.T @ inputs


def error(before, after, gram):
    change = (before - after).double()
    return (
        torch.trace(change @ gram.double() @ change.T)
        / torch.trace(before.double() @ gram.double() @ before.double().T)
    ).item()


def half(score):
    kept = torch.zeros(score.numel(), dtype=torch.bool)
    kept[score.flatten().topk(score.numel() // 2).indices] = True
    return kept.view_as(score)


def target(text):
    return dict(pattern=text) if ":" in text else dict(sparsity=float(text))


def test_the_support_of_one_row_is_near_the_best_of_all_supports():
    """ADMM is a heuristic: over twenty small rows with correlated inputs its error may exceed the
    exhaustive optimum's by 15 %.
    """
    generator, found, best = torch.Generator().manual_seed(0), 0.0, 0.0
    for _ in range(20):
        inputs = torch.randn(40, 8, generator=generator) @ (
            torch.eye(8) + 0.3 * torch.randn(8, 8, generator=generator)
        )
        weight, gram = torch.randn(1, 8, generator=generator), inputs.T @ inputs
        found += error(weight, prune_weight(weight, gram, method="alps", sparsity=0.5), gram)
        masks = [
            torch.zeros(1, 8, dtype=torch.bool).index_fill(1, torch.tensor(kept), True)
            for kept in combinations(range(8), 4)
        ]
        best += min(
            error(weight, reference.refit(weight, gram, mask, 0.01), gram) for mask in masks
        )
    assert best <= found * (1 + 1e-9) and found <= 1.15 * best


@pytest.mark.parametrize("goal", TARGETS)
def test_kept_values_solve_the_normal_equations_on_their_support(layer, goal):
    weight, gram = layer
    pruned = prune_weight(weight.double(), gram, method="alps", **target(goal))
    # CG stops at 1e-6 of the right-hand side
    assert torch.allclose(pruned, reference.refit(weight, gram, pruned != 0, 0.01), atol=1e-5)


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.77])
def test_the_whole_matrix_loses_exactly_the_share_asked_for(layer, sparsity):
    weight, gram = layer
    assert (prune_weight(weight, gram, method="alps", sparsity=sparsity) == 0).sum() == int(
        weight.numel() * sparsity
    )


def test_every_group_of_a_pattern_keeps_its_count(layer):
    weight, gram = layer
    kept = (
        (prune_weight(weight, gram, method="alps", pattern="1:4") != 0).unflatten(1, (4, 4)).sum(-1)
    )
    assert (kept == 1).all()


def test_a_dead_input_costs_nothing_and_breaks_nothing(layer):
    weight, gram = layer
    gram[:, 5] = gram[5] = 0
    pruned = prune_weight(weight, gram, method="alps", sparsity=0.5)
    assert torch.isfinite(pruned).all() and error(weight, pruned, gram) < error(
        weight, weight * 0, gram
    )


def test_shared_factors_give_the_same_weights(layer):
    weight, gram = layer
    for method in ("alps", "sparsegpt"):
        shared = factorise(gram, method=method)
        again = prune_weight(weight, gram, method=method, sparsity=0.5, factors=shared)
        assert torch.equal(again, prune_weight(weight, gram, method=method, sparsity=0.5))


def test_the_decomposition_is_that_of_the_scaled_damped_gram_matrix(layer):
    eigen = alps.decompose(layer[1].double(), 0.01)
    assert torch.allclose((eigen.vectors * eigen.values) @ eigen.vectors.T, eigen.gram)
    assert torch.allclose(eigen.gram.diagonal(), torch.full((16,), 1.01, dtype=torch.float64))


@pytest.mark.parametrize("goal", TARGETS)
@pytest.mark.parametrize("name", LAYERS)
def test_error_is_at_most_the_published_implementations(golden, name, goal):
    tensors, facts = golden
    weight, inputs = tensors[f"{name}.weight"], tensors[f"{name}.inputs"].flatten(0, 1).double()
    gram = inputs.T @ inputs
    published = facts["layers"][LAYERS.index(name)]["relative_output_error"]
    ours = error(weight, prune_weight(weight, gram, method="alps", **target(goal)), gram)
    assert ours <= published[f"alps@{goal}"]


def test_dead_inputs_go_first_whatever_the_scale_of_the_gram_matrix():
    inputs = torch.randn(200, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs[:, 3] = 0
    weight, gram = torch.ones(7, 16, dtype=torch.float64), inputs.T @ inputs
    whole = prune_weight(weight, gram, method="alps", sparsity=0.5)
    small = prune_weight(weight, 1e-6 * gram, method="alps", sparsity=0.5)
    assert not whole[:, 3].any() and torch.equal(whole != 0, small != 0)


@pytest.mark.parametrize("damping", [1e-2, 1e-6, 0.0])
def test_a_singular_gram_matrix_takes_no_more_steps_and_loses_next_to_nothing(damping):
    """Fewer rows than weights to keep: the support can give the same outputs."""
    generator, steps = torch.Generator().manual_seed(0), []
    weight = torch.randn(48, 64, generator=generator, dtype=torch.float64)
    for rows in (400, 20):
        inputs = torch.randn(rows, 64, generator=generator, dtype=torch.float64)
        gram, keep = inputs.T @ inputs, Mock(side_effect=half)
        pruned = alps.solve(weight, alps.decompose(gram, damping), keep)
        steps.append(keep.call_count)
    assert steps[1] <= 1.5 * steps[0] and (pruned != 0).sum() == weight.numel() // 2
    assert error(weight, pruned, gram) < 1e-3


def test_the_support_does_not_depend_on_the_scale_of_the_weights(layer):
    """ADMM runs in float32, whose range is narrow."""
    weight, gram = layer[0].double(), layer[1].double()
    plain = prune_weight(weight, gram, method="alps", sparsity=0.5)
    for factor in (2.0**-200, 2.0**200):
        scaled = prune_weight(weight * factor, gram, method="alps", sparsity=0.5)
        assert torch.equal(scaled != 0, plain != 0)
