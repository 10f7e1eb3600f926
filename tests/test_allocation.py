"""Outlier ratios and allocations against references: hand-worked numbers and (where ../shared is)
luuyin/OWL's own outputs.

Only behaviour: invariants (weighted mean, λ = 0), limits and bad input.
"""

import jaxtyping
import pytest
import torch

from owl.kernels.allocation import allocate, median_sparsities, widest_lambda
from owl.kernels.outliers import outlier_ratio, wanda_score
from tests import reference

COUNTS = [12, 12, 16, 16]


def weighted_mean(values, counts=COUNTS):
    return sum(value * count for value, count in zip(values, counts)) / sum(counts)


def test_the_score_is_magnitude_times_the_inputs_root_mean_square():
    weight, inputs = (
        torch.tensor([[1.0, -2.0], [0.5, 0.0]]),
        torch.tensor([[3.0, 1.0], [3.0, -1.0], [3.0, 1.0]]),
    )
    ours = wanda_score(weight, inputs.square().mean(0).sqrt())
    assert ours.tolist() == [[3.0, 2.0], [1.5, 0.0]]
    torch.testing.assert_close(ours.double(), reference.score(weight, inputs))


def test_a_score_needs_one_rms_per_input():
    # a length-1 norm would broadcast silently
    with pytest.raises(jaxtyping.TypeCheckError):
        wanda_score(torch.ones(2, 3), torch.ones(1))


def test_the_outlier_ratio_is_the_fraction_above_m_times_the_mean():
    assert outlier_ratio(torch.tensor([1.0, 1.0, 1.0, 9.0]), 2.5) == 0.25  # mean 3, threshold 7.5
    # equal to the threshold is no outlier
    assert outlier_ratio(torch.tensor([1.0, 1.0, 1.0, 9.0]), 3.0) == 0.0
    assert outlier_ratio(torch.zeros(5), 5) == 0.0


def test_planted_outliers_rank_their_block_first():
    generator = torch.Generator().manual_seed(0)
    blocks = [torch.rand(1000, generator=generator) for _ in range(6)]
    blocks[4][:30] = 50.0
    ratios = [outlier_ratio(block, 5) for block in blocks]
    assert ratios.index(max(ratios)) == 4 and ratios[4] == 0.03
    sparsities = allocate("owl", ratios, [1000] * 6, 0.6)
    assert min(sparsities) == sparsities[4]


def test_owl_by_hand():
    """r = 2·0.1·[0, 1/4, 1/2, 1] = [0, .05, .1, .2]; weighted mean (12·.05 + 16·.1 + 16·.2)/56 =
    27/280.
    """
    mean = (12 * 0.05 + 16 * 0.1 + 16 * 0.2) / 56
    expected = [0.5 + mean, 0.5 + mean - 0.05, 0.5 + mean - 0.1, 0.5 + mean - 0.2]
    assert allocate("owl", [0.01, 0.02, 0.03, 0.05], COUNTS, 0.5, lam=0.1) == pytest.approx(
        expected
    )


@pytest.mark.parametrize("lam", [0.0, 0.08, 0.3, 1.0])
@pytest.mark.parametrize("sparsity", [0.0, 0.05, 0.5, 0.7, 0.95, 0.999])
def test_owl_reaches_the_target_exactly_and_stays_in_range(sparsity, lam):
    sparsities = allocate("owl", [0.01, 0.04, 0.02, 0.05], COUNTS, sparsity, lam=lam)
    assert weighted_mean(sparsities) == pytest.approx(sparsity, abs=1e-12)
    assert all(0 <= value <= 1 for value in sparsities)


def test_sparsity_zero_is_exactly_zero_everywhere():
    assert allocate("owl", [0.01, 0.04, 0.02, 0.05], COUNTS, 0.0) == [0.0] * 4


def test_more_outliers_mean_less_pruning_even_where_clipped():
    sparsities = allocate("owl", [0.01, 0.02, 0.03, 0.05], COUNTS, 0.9, lam=0.4)
    assert sparsities == sorted(sparsities, reverse=True) and sparsities[0] == 1.0


def unclipped(ratios, sparsity, lam):
    """S − 2λ(u − ū) by hand: u from 0 to 1, ū weighted."""
    low, high = min(ratios), max(ratios)
    stretched = [(ratio - low) / (high - low) for ratio in ratios]
    return [sparsity - 2 * lam * (one - weighted_mean(stretched)) for one in stretched]


# the first leaves [0, 1] by its least important block, the second by its most important one
@pytest.mark.parametrize("sparsity, expected", [(0.7, 0.3 * 28 / 27), (0.3, 0.3 * 28 / 29)])
def test_the_widest_lambda_is_where_the_first_block_reaches_0_or_1(sparsity, expected):
    """u = [0, 1/4, 1/2, 1], ū = (12/4 + 16/2 + 16)/56 = 27/56."""
    ratios = [0.01, 0.02, 0.03, 0.05]
    widest = widest_lambda(ratios, COUNTS, sparsity)
    assert widest == pytest.approx(expected)
    at, below, above = (unclipped(ratios, sparsity, widest * by) for by in (1, 0.999, 1.001))
    assert min(min(at), 1 - max(at)) == pytest.approx(0, abs=1e-12)
    assert min(below) > 0 and max(below) < 1 and (min(above) < 0 or max(above) > 1)
    for by in (1, 0.999, 1.001):
        ours = allocate("owl", ratios, COUNTS, sparsity, lam=widest * by)
        same = ours == pytest.approx(unclipped(ratios, sparsity, widest * by), abs=1e-9)
        assert same == (by <= 1)


def test_no_lambda_is_too_wide_where_owl_is_uniform_anyway():
    assert widest_lambda([0.02, 0.02], [12, 16], 0.6) == float("inf")
    assert widest_lambda([0.02], [12], 0.6) == float("inf")
    assert widest_lambda([0.02, 0.05], [12, 16], 0.0) == float("inf")
    with pytest.raises(ValueError, match="2 values but 1 weight counts"):
        widest_lambda([0.02, 0.05], [12], 0.6)


@pytest.mark.parametrize("name", ["uniform", "owl", "owl-equal"])
def test_equal_ratios_one_block_or_lambda_zero_are_uniform(name):
    assert allocate(name, [0.02, 0.02], [12, 16], 0.6) == [0.6, 0.6]
    assert allocate(name, [0.02], [12], 0.6) == [0.6]
    assert allocate(name, [0.02, 0.05], [12, 16], 0.6, lam=0.0) == pytest.approx([0.6, 0.6])


def test_owl_equal_misses_the_target_and_floors_as_published():
    sparsities = allocate("owl-equal", [0.0, 0.0, 0.05, 0.05], COUNTS, 0.5, lam=0.08)
    assert sparsities == pytest.approx([0.58, 0.58, 0.42, 0.42])
    assert weighted_mean(sparsities) < 0.5 - 0.005
    assert allocate("owl-equal", [0.0, 1.0], [1, 1], 0.05, lam=0.08)[1] == 0.01


def test_owl_equal_and_outlier_ratios_equal_the_published_code(golden):
    tensors, facts = golden
    blocks = [tensors[f"owl.block{index}.scores"] for index in range(6)]
    for case in facts["owl"]:
        ratios = [outlier_ratio(block, case["M"]) for block in blocks]
        assert [100 * ratio for ratio in ratios] == pytest.approx(case["outlier_percent"], abs=1e-9)
        assert ratios == [reference.outlier_ratio(block, case["M"]) for block in blocks]
        ours = allocate("owl-equal", ratios, [1] * 6, case["S"], case["lambda"])
        assert ours == pytest.approx(case["block_sparsity"], abs=1e-9)
        # equal counts, no clipping
        assert allocate("owl", ratios, [1] * 6, case["S"], case["lambda"]) == pytest.approx(ours)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(name="owls"), "unknown allocation 'owls'"),
        (dict(outlier_ratios=[]), "no blocks"),
        (dict(weight_counts=[1]), "2 values but 1 weight counts"),
        (dict(outlier_ratios=[0.1, float("nan")]), "finite"),
        (dict(sparsity=1.0), "sparsity must be in"),
        (dict(sparsity=-0.1), "sparsity must be in"),
        (dict(lam=-1), "lambda must be finite and not negative"),
        (dict(lam=float("inf")), "lambda must be finite"),
        (dict(lam=float("nan")), "lambda must be finite"),
    ],
)
def test_bad_input_is_refused_with_the_reason(change, words):
    arguments = (
        dict(name="owl", outlier_ratios=[0.1, 0.2], weight_counts=[1, 1], sparsity=0.5) | change
    )
    with pytest.raises(ValueError, match=words):
        allocate(**arguments)


def test_median_sparsities_reach_the_target_and_differ_between_matrices():
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(40, 50, generator=generator) * scale for scale in (0.5, 1.0, 2.0)]
    sparsities = median_sparsities(weights, 0.6, lam=0.08, boost=5.0)
    assert sum(sparsities) / 3 == pytest.approx(0.6, abs=1 / 6000)
    assert sparsities == sorted(sparsities, reverse=True)


def test_the_median_boost_moves_sparsity_between_matrices_only_where_lambda_splits_them():
    """λ = 0.08 marks about 95 % of the weights: boosting nearly all of them ranks as plain
    magnitude does; λ = 1 marks half.
    """
    generator = torch.Generator().manual_seed(1)
    weights = [
        torch.randn(40, 50, generator=generator),
        2 * torch.randn(40, 50, generator=generator),
    ]
    plain = median_sparsities(weights, 0.5, lam=0.08, boost=1.0)
    assert median_sparsities(weights, 0.5, lam=0.08, boost=5.0) == pytest.approx(plain, abs=0.02)
    assert plain[0] - plain[1] > 0.2  # the matrix of smaller weights is pruned more
    assert median_sparsities(weights, 0.5, lam=1.0, boost=5.0) == pytest.approx(
        [0.5, 0.5], abs=0.01
    )
