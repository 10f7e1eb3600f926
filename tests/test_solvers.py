"""Solvers against references: hand-worked 2×4 weights, the slow tests/reference.py, and (where
../shared is) the authors' own outputs.

Only behaviour: identities at sparsity 0 and 1, dtype, dead features, bad input.
"""

import pytest
import torch

from owl.kernels import solvers
from owl.kernels.records import SOLVERS as METHODS
from owl.kernels.solvers import parse_pattern, prune_weight
from tests import reference

SPARSITIES = (0.3, 0.5, 0.7, 0.8)
LAYERS = ("layer0", "layer1", "layer2")


@pytest.fixture
def layer():
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(60, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    return torch.randn(7, 12, generator=generator), inputs, inputs.T @ inputs


def test_magnitude_prunes_the_smallest_of_the_whole_matrix():
    weight = torch.tensor([[4.0, -1.0, 3.0, 0.5], [-0.2, 8.0, 0.1, -6.0]])
    # int(8 * 0.375) + 1 = 4 weights
    pruned = prune_weight(weight, torch.eye(4), method="magnitude", sparsity=0.375)
    assert pruned.tolist() == [[4.0, 0.0, 3.0, 0.0], [0.0, 8.0, 0.0, -6.0]]


def test_wanda_weighs_magnitude_by_the_inputs_and_compares_within_a_row():
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    # rms of the first input is ten times the others'
    gram = torch.diag(torch.tensor([100.0, 1.0, 1.0, 1.0]))
    pruned = prune_weight(weight, gram, method="wanda", sparsity=0.5)
    assert pruned.tolist() == [[1.0, 0.0, 0.0, 4.0], [4.0, 3.0, 0.0, 0.0]]


def test_two_of_four_keeps_the_two_best_of_every_four():
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0, 8.0, 7.0, 6.0, 5.0]])
    assert prune_weight(weight, torch.eye(8), method="wanda", pattern="2:4").tolist() == [
        [0, 0, 3, 4, 8, 7, 0, 0]
    ]
    assert prune_weight(weight, torch.eye(8), method="magnitude", pattern="1:4").tolist() == [
        [0, 0, 0, 4, 8, 0, 0, 0]
    ]


def test_sparsegpt_moves_a_pruned_weight_onto_its_copy():
    """Two identical inputs: what one loses the other can carry, so the output stays (up to the
    damping).
    """
    inputs = torch.randn(50, 1).repeat(1, 2)
    pruned = prune_weight(
        torch.tensor([[1.0, 2.0]]),
        inputs.T @ inputs,
        method="sparsegpt",
        sparsity=0.4,
        damping=1e-6,
    )
    assert pruned[0, 0] == 0
    assert pruned[0, 1].item() == pytest.approx(3.0, abs=1e-4)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_masks_equal_the_slow_reference(layer, sparsity):
    weight, inputs, gram = layer
    assert torch.equal(
        prune_weight(weight, gram, method="wanda", sparsity=sparsity) == 0,
        reference.wanda_mask(weight, inputs, sparsity),
    )
    magnitude = prune_weight(weight, gram, method="magnitude", sparsity=sparsity)
    assert torch.equal(magnitude == 0, reference.magnitude_mask(weight, sparsity))


@pytest.mark.parametrize("block_size", [4, 12, 128])
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_sparsegpt_equals_recomputing_the_inverse_for_every_column(layer, sparsity, block_size):
    weight, _, gram = layer
    ours = prune_weight(
        weight.double(), gram, method="sparsegpt", sparsity=sparsity, block_size=block_size
    )
    slow = reference.sparsegpt(weight, gram, sparsity, block_size, damping=0.01)
    # float64 both: only the order of operations differs
    torch.testing.assert_close(ours, slow, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("pattern", ["2:4", "3:4", "1:4"])
@pytest.mark.parametrize("method", METHODS)
def test_every_group_has_exactly_n_nonzeros(layer, method, pattern):
    weight, _, gram = layer
    kept, size = parse_pattern(pattern)
    # 6 is no multiple of 4
    pruned = prune_weight(weight, gram, method=method, pattern=pattern, block_size=6)
    assert ((pruned != 0).unflatten(1, (-1, size)).sum(-1) == kept).all()
    if method in ("magnitude", "wanda"):
        score = weight.abs() if method == "magnitude" else weight.abs() * gram.diagonal().sqrt()
        assert torch.equal(pruned == 0, reference.group_mask(score, kept, size))


@pytest.mark.parametrize("method", METHODS)
def test_realised_counts_are_the_published_ones(layer, method):
    weight, _, gram = layer
    zeros = (
        (prune_weight(weight, gram, method=method, sparsity=0.5, block_size=4) == 0).sum().item()
    )
    assert (
        zeros
        == {"magnitude": 42 + 1, "wanda": 7 * 6, "sparsegpt": 3 * (14 + 1), "alps": 42}[method]
    )


@pytest.mark.parametrize("method", METHODS)
def test_sparsity_zero_is_the_identity_and_one_is_all_zeros(layer, method):
    weight, _, gram = layer
    assert torch.equal(prune_weight(weight, gram, method=method, sparsity=0.0), weight)
    assert not prune_weight(weight, gram, method=method, sparsity=1.0).any()


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_kept_weights_are_bitwise_unchanged_in_every_dtype(layer, method):
    weight, _, gram = layer
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        pruned = prune_weight(weight.to(dtype), gram, method=method, sparsity=0.5)
        assert pruned.dtype == dtype
        assert torch.equal(pruned[pruned != 0], weight.to(dtype)[pruned != 0])


@pytest.mark.parametrize("method", METHODS)
def test_the_scale_of_the_gram_matrix_does_not_matter(layer, method):
    weight, _, gram = layer
    ours, scaled = (
        prune_weight(weight, gram * factor, method=method, sparsity=0.5) for factor in (1.0, 1e-4)
    )
    assert torch.equal(ours == 0, scaled == 0)
    torch.testing.assert_close(ours, scaled, rtol=1e-5, atol=1e-6)  # float32 results


def test_a_dead_input_feature_is_pruned_first_and_breaks_nothing(layer):
    weight, inputs, _ = layer
    inputs[:, 5] = 0
    for method in ("wanda", "sparsegpt"):
        pruned = prune_weight(weight, inputs.T @ inputs, method=method, sparsity=0.25)
        assert torch.isfinite(pruned).all() and not pruned[:, 5].any()


def test_fewer_token_rows_than_inputs_still_solve(layer):
    weight, inputs, _ = layer
    few = inputs[:4]
    assert torch.isfinite(prune_weight(weight, few.T @ few, method="sparsegpt", sparsity=0.5)).all()


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(method="wandb"), "unknown method 'wandb'"),
        (dict(sparsity=1.5), "sparsity must be in"),
        (dict(sparsity=None), "give a sparsity or"),
        (dict(sparsity=0.5, pattern="1:4"), "fixes the sparsity at 0.75"),
        (dict(sparsity=None, pattern="4:2"), "N must be at least 1 and below M"),
        (dict(pattern="structured"), "inside one linear give N:M"),
        (dict(pattern="N:8"), "inside one linear give N:M"),
        (dict(sparsity=None, pattern="2:5"), "12 inputs cannot be split into groups of 5"),
        (dict(gram=torch.full((12, 12), torch.nan)), "finite"),
        (dict(gram=torch.eye(11)), "needs a Gram matrix"),
    ],
)
def test_bad_input_is_refused_with_the_reason(layer, change, words):
    weight, _, gram = layer
    arguments = dict(gram=gram, method="wanda", sparsity=0.5) | change
    with pytest.raises(ValueError, match=words):
        prune_weight(weight, arguments.pop("gram"), **arguments)


@pytest.mark.parametrize("name", LAYERS)
def test_masks_equal_the_published_implementations(golden, name):
    tensors, _ = golden
    weight, inputs = tensors[f"{name}.weight"], tensors[f"{name}.inputs"].flatten(0, 1).double()
    gram = inputs.T @ inputs
    for method in ("wanda", "magnitude"):
        for sparsity in SPARSITIES:
            ours = prune_weight(weight, gram, method=method, sparsity=sparsity) == 0
            assert torch.equal(ours, tensors[f"{name}.{method}.pruned_mask@{sparsity}"]), (
                method,
                sparsity,
            )
    for pattern in ("2:4", "4:8"):
        ours = prune_weight(weight, gram, method="wanda", pattern=pattern) == 0
        assert torch.equal(ours, tensors[f"{name}.wanda.pruned_mask@{pattern}"]), pattern


@pytest.mark.parametrize("name", LAYERS)
def test_sparsegpt_equals_the_published_implementation(golden, name):
    tensors, facts = golden
    weight, inputs = tensors[f"{name}.weight"], tensors[f"{name}.inputs"].flatten(0, 1).double()
    gram = inputs.T @ inputs
    published = facts["layers"][LAYERS.index(name)]["relative_output_error"]
    for key in (key for key in published if key.startswith("sparsegpt")):
        rate, _, block = key.removeprefix("sparsegpt@").partition(".block")
        target = (
            dict(pattern=rate) if ":" in rate else dict(sparsity=float(rate), block_size=int(block))
        )
        ours, theirs = (
            prune_weight(weight, gram, method="sparsegpt", **target),
            tensors[f"{name}.sparsegpt.weight{key[9:]}"],
        )
        assert torch.equal(ours == 0, theirs == 0), key
        assert (ours - theirs).norm() / theirs.norm() <= 1e-5, key  # theirs is float32
        change = (weight - ours).double()
        error = torch.trace(change @ gram @ change.T) / torch.trace(
            weight.double() @ gram @ weight.double().T
        )
        # stated to six decimals
        assert error.item() == pytest.approx(published[key], abs=2e-6), key


@pytest.mark.parametrize("count", [1, 700, 5000, 9999, 10000])
@pytest.mark.parametrize("spread", ["normal", "equal", "mostly zero", "by column"])
def test_the_largest_scores_are_those_of_a_full_sort(count, spread):
    score = torch.randn(100, 100, generator=torch.Generator().manual_seed(0)).abs()
    score = {
        "normal": score,
        "equal": torch.ones(100, 100),
        "mostly zero": score.where(score > 2, 0),
        "by column": torch.arange(100.0).expand(100, 100),
    }[spread]
    kept = solvers._largest(score, count)
    assert kept.sum() == count
    largest = score.flatten().sort(descending=True).values[:count]
    assert torch.equal(score[kept].sort(descending=True).values, largest)
