"""From ratios to the sparsities that pruning uses, on a tiny model. All of it is behaviour;
`allocate` itself: test_allocation.
"""

import pytest

from owl.config.load import load
from owl.kernels.allocation import allocate
from owl.kernels.solvers import prune_weight
from owl.model import whisper
from owl.prune import guides
from tests import tiny
from tests.conftest import ROOT

RATIOS = [0.01, 0.02, 0.02, 0.03]


def guide(blocks):
    return guides.Guides(blocks, RATIOS, [1.0, 2.0, 2.0, 3.0], 0.08, 5.0)


@pytest.fixture
def blocks():
    return whisper.blocks(tiny.make_model())


def test_no_linear_is_asked_for_more_than_all_its_weights(blocks):
    """As published, "owl-equal" gives the first of these blocks 1.03; what is used of it is 1, and
    the solvers accept that.
    """
    config = load(ROOT / "configs" / "demo.json", {"sparsity": 0.95, "allocation": "owl-equal"})
    assert max(allocate("owl-equal", RATIOS, [1] * 4, 0.95)) == pytest.approx(1.03)
    sparsities = guides.chosen_sparsities(config, guide(blocks))
    assert max(sparsities.values()) == 1 and sparsities["decoder.1.fc1"] == pytest.approx(0.87)
    weight = blocks[0].linears[0].module.weight.detach()
    assert not prune_weight(
        weight, weight.T @ weight, method="wanda", sparsity=sparsities[blocks[0].linears[0].name]
    ).any()


def test_no_allocation_is_drawn_above_one(blocks):
    assert guide(blocks).all(0.95).sparsity.max() <= 1


def test_a_mixed_pattern_gives_each_block_whole_nonzeros_near_its_sparsity_and_the_mean(blocks):
    config = load(
        ROOT / "configs" / "demo.json", {"sparsity": 0.6, "allocation": "owl", "pattern": "N:8"}
    )
    sparsities = guides.chosen_sparsities(config, guide(blocks))
    patterns = guides.chosen_patterns(config, sparsities)
    assert all(
        patterns[name] == f"{round(8 * (1 - value))}:8" for name, value in sparsities.items()
    )
    assert len(set(patterns.values())) > 1
    mean = sum(
        value * block.weight_count
        for block, value in zip(blocks, guides.per_block(blocks, sparsities))
    )
    # four blocks, steps of an eighth
    assert mean / sum(block.weight_count for block in blocks) == pytest.approx(0.6, abs=0.03)
