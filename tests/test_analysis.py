"""From ratios to the sparsities that pruning uses, on a tiny model. All of it is behaviour;
`allocate` itself: test_allocation.
"""

import json
import math
import warnings
from dataclasses import replace

import pytest

from owl.config.load import load
from owl.kernels.allocation import allocate
from owl.kernels.solvers import prune_weight
from owl.model import whisper
from owl.prune import calibration_text, guides, pipeline
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


@pytest.mark.parametrize(
    "said, warned",
    [
        ({"outlier_hyper_lambda": 5}, True),
        ({"outlier_hyper_lambda": 0.08}, False),
        ({"outlier_hyper_lambda": 5, "allocation": "uniform"}, False),
    ],
)
def test_a_lambda_so_wide_that_owl_is_clipped_is_warned_of_with_the_widest(
    blocks, tmp_path, said, warned
):
    """The tiny model's blocks hold 2,048 and 3,072 weights: ū = (1024 + 1536 + 3072)/10240."""
    (tmp_path / "wide.json").write_text(json.dumps({"pruning": said}))
    config = load(tmp_path / "wide.json")
    made = replace(guide(blocks), lam=config.pruning.outlier_hyper_lambda)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        labels = calibration_text.Labels([], [], {}, None)
        asr = whisper.Whisper(tiny.make_model(), tiny.make_processor())
        plan = pipeline.plan(config, asr, blocks, labels, made)
    assert [str(one.message) for one in caught] == plan.notes and len(plan.notes) == warned
    if warned:
        mean = (1024 + 1536 + 3072) / 10240
        widest = math.floor(1e4 * min(0.5 / (2 * mean), 0.5 / (2 * (1 - mean)))) / 1e4
        (note,) = plan.notes
        assert "outlier_hyper_lambda (λ) 5 " in note and f"clipping is {widest} here" in note
        config = load(tmp_path / "wide.json")
        assert guides.chosen_notes(config, replace(made, lam=widest)) == []
        assert len(guides.chosen_notes(config, replace(made, lam=widest + 1e-4))) == 1


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
