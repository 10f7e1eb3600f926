"""DLP and AlphaPruning allocations and mixed N:M against hand-worked numbers and brute force;
invariants of every allocation.
"""

from itertools import product

import pytest
import torch

from owl.kernels import allocation
from owl.kernels.allocation import mixed_groups

COUNTS = [12, 12, 16, 16]


def mean(values, counts):
    return sum(value * count for value, count in zip(values, counts)) / sum(counts)


def test_dlp_prunes_the_block_with_the_lowest_median_least():
    """Medians 1, 2, 3 of equal blocks at α = 0.15: importances stretch to 0.3, 0.15, 0 and centre
    on the target.
    """
    assert allocation.dlp([1.0, 2.0, 3.0], [1, 1, 1], 0.5) == pytest.approx([0.35, 0.5, 0.65])


def test_dlp_of_relative_importance_equals_the_published_formula():
    """1 − median/Σ, min–max stretched, is what the paper writes; Σ cancels."""
    medians, counts = [0.3, 0.7, 0.4, 0.9], [1, 1, 1, 1]
    importance = [1 - value / sum(medians) for value in medians]
    low, high = min(importance), max(importance)
    stretched = [2 * 0.15 * (value - low) / (high - low) for value in importance]
    density = [value - sum(stretched) / 4 + 0.4 for value in stretched]
    assert allocation.dlp(medians, counts, 0.6) == pytest.approx([1 - value for value in density])


def test_alpha_prunes_heavy_tails_less_in_proportion():
    assert allocation.alpha([2.0, 3.0, 4.0], [1, 1, 1], 0.5, width=0.2) == pytest.approx(
        [0.4, 0.5, 0.6]
    )


def test_the_tail_exponent_is_the_hill_estimate_of_the_upper_half():
    # squared singular values 1, 4, 16, 64: the half is 16, 64
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert allocation.tail_exponent(torch.diag(values)) == pytest.approx(
        1 + 2 / torch.tensor(4.0).log().item()
    )


def test_a_heavier_tail_has_a_smaller_exponent():
    generator = torch.Generator().manual_seed(0)
    light = torch.randn(64, 64, generator=generator)
    heavy = torch.linalg.svd(light)
    heavy = heavy.U @ torch.diag(heavy.S**3) @ heavy.Vh
    assert allocation.tail_exponent(heavy) < allocation.tail_exponent(light)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("allocate", [allocation.dlp, allocation.alpha])
def test_the_weighted_mean_is_the_target(allocate, sparsity):
    values = allocate([1.0, 3.0, 2.0, 9.0], COUNTS, sparsity)
    assert mean(values, COUNTS) == pytest.approx(sparsity, abs=1e-9) and all(
        0 <= value <= 1 for value in values
    )


@pytest.mark.parametrize("allocate", [allocation.dlp, allocation.alpha])
def test_equal_guides_are_uniform_and_bad_ones_refused(allocate):
    assert allocate([2.0, 2.0], [3, 4], 0.4) == [0.4, 0.4]
    with pytest.raises(ValueError, match="finite"):
        allocate([1.0, float("nan")], [1, 1], 0.5)
    with pytest.raises(ValueError, match="2 values but 1"):
        allocate([1.0, 2.0], [1], 0.5)


@pytest.mark.parametrize("sparsity", [0.35, 0.5, 0.62])
def test_mixed_groups_come_as_close_as_whole_numbers_allow(sparsity):
    wanted = [sparsity - 0.11, sparsity + 0.04, sparsity + 0.09, sparsity - 0.03]
    chosen = mixed_groups(wanted, COUNTS, 8, sparsity)
    ideal = [(1 - value) * 8 for value in wanted]
    every = product(*[{int(value), int(value) + 1} for value in ideal])
    misses = [abs(mean(way, COUNTS) / 8 - (1 - sparsity)) for way in every]
    assert abs(mean(chosen, COUNTS) / 8 - (1 - sparsity)) == pytest.approx(min(misses), abs=1e-12)
    assert all(abs(count - value) < 1 for count, value in zip(chosen, ideal))


def test_mixed_groups_keep_whole_wishes():
    assert mixed_groups([0.5, 0.25, 0.75], [1, 1, 1], 8, 0.5) == [4, 6, 2]
    # at least one nonzero; all of them is "not pruned"
    assert mixed_groups([1.0, 0.0], [1, 1], 4, 0.4) == [1, 4]
