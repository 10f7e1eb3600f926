"""A whole (tiny) model pruned: realised sparsities against the solvers' own counting, and
sequential order against doing it by hand.

Only behaviour: identity at 0, determinism, what is left alone.
"""

import copy

import pytest
import torch

from owl.config.formats import BITS
from owl.errors import MissedTarget, UnsupportedFormat
from owl.kernels import bitmask
from owl.kernels.gram import relative_output_error
from owl.kernels.records import SOLVERS as METHODS
from owl.kernels.rounding import round_weight
from owl.kernels.solvers import prune_weight
from owl.model import whisper
from owl.model.whisper import Whisper
from owl.prune import calibration, rounding, weights
from tests import tiny

CLIPS = tiny.make_clips(24)
TEXTS = [[5 + index % 20, 6 + index % 7] for index in range(24)]


def batches_of(model):
    return calibration.prepare(
        Whisper(model, tiny.make_processor()),
        CLIPS,
        TEXTS,
        language=None,
        padding="exclude",
        batch_size=8,
    )


def prune(model, sparsity, every=None, **options):
    every = every or whisper.blocks(model)
    by_block = [sparsity] * sum(bool(block.linears) for block in every)
    return weights.prune(
        model, every, batches_of(model), weights.spread(every, by_block), **options
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_linear_reaches_its_target(method):
    model = tiny.make_model()
    rows = prune(model, 0.6, method=method)
    assert len(rows) == 32
    # one weight per row, matrix, column block
    slack = {"wanda": 1 / 16, "magnitude": 1 / 256, "alps": 1 / 256, "sparsegpt": 1 / 256}[method]
    for row in rows:
        assert row.target_sparsity == 0.6 and abs(row.sparsity - 0.6) <= slack
        assert 0 < row.error < 1
    linears = [one for block in whisper.blocks(model) for one in block.linears]
    zeros = sum((one.module.weight == 0).sum().item() for one in linears)
    assert zeros == sum(round(row.sparsity * row.weights) for row in rows)


@pytest.mark.parametrize("method", METHODS)
def test_two_of_four_is_exact(method):
    model = tiny.make_model()
    assert {row.sparsity for row in prune(model, 0.5, method=method, pattern="2:4")} == {0.5}


def test_sparsity_zero_changes_no_bit():
    model = tiny.make_model()
    before = copy.deepcopy(model.state_dict())
    prune(model, 0.0, method="sparsegpt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_second_run_gives_the_same_bits(method):
    first, second = tiny.make_model(), tiny.make_model()
    prune(first, 0.5, method=method)
    prune(second, 0.5, method=method)
    assert all(
        torch.equal(tensor, second.state_dict()[name])
        for name, tensor in first.state_dict().items()
    )


def test_only_targeted_linears_change():
    model = tiny.make_model()
    before = copy.deepcopy(model.state_dict())
    every, _ = whisper.select(whisper.blocks(model), ["decoder.layers"], ["decoder.layers.0.fc1"])
    prune(model, 0.5, every, method="wanda")
    changed = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed == {f"{linear.path}.weight" for block in every for linear in block.linears}
    assert len(changed) == 19


def test_a_later_block_is_solved_on_what_the_pruned_earlier_ones_produce():
    model, by_hand = tiny.make_model(), tiny.make_model()
    prune(model, 0.7, method="sparsegpt")
    for index in range(4):  # one fresh full pass per block, stopping at it
        steps = calibration.walk(
            by_hand,
            whisper.blocks(by_hand),
            batches_of(by_hand),
            gram=True,
            modified=False,
            description="walk",
        )
        block, statistics = next(step for position, step in enumerate(steps) if position == index)
        for linear in block.linears:
            gram = statistics[linear.name].gram
            linear.module.weight.data.copy_(
                prune_weight(
                    linear.module.weight.data,
                    gram,
                    method="sparsegpt",
                    sparsity=0.7,
                    damping=weights.DAMPING,
                )
            )
    for name, tensor in by_hand.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_the_error_is_that_of_the_outputs():
    inputs, before = torch.randn(50, 6), torch.randn(4, 6)
    after = before * (torch.rand(4, 6) > 0.5)
    direct = (inputs @ (before - after).T).square().sum() / (inputs @ before.T).square().sum()
    # float32 inputs
    assert relative_output_error(before, after, inputs.T @ inputs) == pytest.approx(
        direct.item(), rel=1e-4
    )
    assert relative_output_error(torch.zeros(4, 6), torch.zeros(4, 6), inputs.T @ inputs) == 0


def test_a_solver_that_misses_its_target_is_caught(monkeypatch):
    monkeypatch.setattr(weights, "prune_weight", lambda weight, *rest, **options: weight)
    with pytest.raises(MissedTarget, match="weights are zero, but"):
        prune(tiny.make_model(), 0.5, method="wanda")


@pytest.mark.parametrize("method", METHODS)
def test_a_refitted_bias_restores_the_mean_output(method):
    """On the first block the inputs are the dense model's: the mean change of every output must
    vanish.
    """
    model, dense = tiny.make_model(), tiny.make_model()
    first = whisper.blocks(model)[:1]
    weights.prune(
        model,
        first,
        batches_of(model),
        weights.spread(first, [0.6]),
        method=method,
        bias_refit=True,
    )
    for block, statistics in calibration.walk(
        dense,
        whisper.blocks(dense)[:1],
        batches_of(dense),
        gram=True,
        modified=False,
        description="dense",
    ):
        for before, after in zip(block.linears, first[0].linears):
            if before.module.bias is None:
                continue
            seen = statistics[before.name]
            change = (after.module.weight - before.module.weight).double() @ (
                seen.total / seen.rows
            )
            assert torch.allclose(
                change, (before.module.bias - after.module.bias).double(), atol=1e-6
            )


@pytest.mark.parametrize("method", ["sparsegpt", "alps"])
def test_a_dead_input_feature_may_cost_more_than_the_target(method):
    """A feature that is always zero is taken away whole (by sparsegpt as published); the check of
    the realised sparsity allows for just that.
    """
    model = tiny.make_model()
    norm = model.model.encoder.layers[0].final_layer_norm
    with torch.no_grad():
        norm.weight[3] = norm.bias[3] = 0
    rows = {row.linear: row for row in prune(model, 0.01, method=method)}
    assert rows["encoder.0.fc1"].sparsity >= 1 / 16 and rows["encoder.0.fc2"].sparsity <= 0.02


def held_out_of(model):
    return calibration.prepare(
        Whisper(model, tiny.make_processor()),
        tiny.make_clips(4, seed=9),
        [[7], [8, 9], [10], [11]],
        language=None,
        padding="exclude",
        batch_size=4,
    )


def seen_first(model, batches):
    """Statistics of the first block's inputs."""
    options = {"gram": True, "modified": False, "description": None}
    _, statistics = next(calibration.walk(model, whisper.blocks(model), batches, **options))
    return statistics


def test_the_held_out_error_is_that_of_clips_that_the_solver_did_not_see():
    model, dense = tiny.make_model(), tiny.make_model()
    rows = prune(model, 0.6, method="sparsegpt", held_out=held_out_of(model))
    statistics = seen_first(dense, held_out_of(dense))
    first, row = whisper.blocks(dense)[0].linears[0], rows[0]
    after = whisper.blocks(model)[0].linears[0].module.weight.data
    gram = statistics[first.name].gram
    assert row.held_out_error == relative_output_error(first.module.weight.data, after, gram)
    assert all(row.held_out_error > 0 for row in rows)
    assert {row.inputs for row in rows if row.kind == "fc2"} == {32}


def test_without_held_out_clips_there_is_no_held_out_error():
    assert prune(tiny.make_model(), 0.5, method="wanda")[0].held_out_error is None


@pytest.mark.parametrize("grid", ["q4_0", "q5_0", "int8"])
def test_a_rounded_model_is_found_again_by_a_writer_and_says_nearly_the_same(grid):
    """Sequentially, as by hand for the first linear; zeros stay, what is no matrix stays."""
    sizes = dict(d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64)
    dense, model = tiny.make_model(**sizes), tiny.make_model(**sizes)
    with torch.no_grad():
        for one in (dense, model):
            one.model.decoder.layers[1].fc2.weight[:, ::2] = 0
    (first, *_), *_ = (block.linears for block in whisper.blocks(dense))
    batches, seen = batches_of(dense), seen_first(dense, batches_of(dense))
    rounding.round_model(model, batches, grid)
    expected = round_weight(first.module.weight, seen[first.name].gram, grid)
    after = dict(model.named_parameters())
    assert torch.equal(after[f"{first.path}.weight"], expected)
    assert (after["model.decoder.layers.1.fc2.weight"][:, ::2] == 0).all()
    rounded = [f"{linear.path}.weight" for b in whisper.blocks(model) for linear in b.linears]
    rounded.append("model.decoder.embed_tokens.weight")
    moved = "model.decoder.embed_positions.weight"
    for name, before in dense.named_parameters():
        assert torch.equal(before, after[name]) == (name not in [*rounded, moved]), name
        if name in rounded:
            one = bitmask.describe(name, after[name], BITS[grid])
            again = torch.from_numpy(bitmask.unpack(one, bitmask.pack(one, after[name])))
            assert torch.equal(again.view(before.shape), after[name].half()), name


def test_the_mean_token_row_moves_to_the_positions_and_predictions_stay():
    dense, model = tiny.make_model(), tiny.make_model()
    with torch.no_grad():
        for one in (dense, model):
            one.model.decoder.embed_tokens.weight += torch.linspace(-3, 3, one.config.d_model)
    rounding.centre(model)
    rows = model.model.decoder.embed_tokens.weight
    assert torch.allclose(rows.mean(0), torch.zeros(len(rows[0])), atol=1e-6)
    assert model.proj_out.weight is rows
    features, tokens = torch.randn(2, 8, 40), torch.tensor([[1, 37, 5], [2, 3, 4]])
    with torch.no_grad():
        logits = [one(features, decoder_input_ids=tokens).logits for one in (dense, model)]
    difference = logits[1] - logits[0]
    assert difference.abs().max() > 0.1  # one number a position, which no softmax sees
    assert torch.allclose(difference, difference[..., :1].expand_as(difference), atol=1e-4)


def test_a_grid_that_cannot_hold_the_model_is_refused_before_anything_is_rounded():
    model = tiny.make_model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedFormat, match="q4_0 packs rows by 32 weights"):
        rounding.round_model(model, batches_of(model), "q4_0")
    with pytest.raises(ValueError, match="unknown grid 'q3_0'; choose one of int8, q8_0"):
        rounding.round_model(model, batches_of(model), "q3_0")
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_a_moved_bias_makes_up_for_the_mean_it_was_moved_by_and_no_other():
    model, dense = tiny.make_model(), tiny.make_model()
    row = prune(model, 0.6, method="wanda", held_out=held_out_of(model), bias_refit=True)[1]
    index = [one.name for one in whisper.blocks(dense)[0].linears].index(row.linear)
    before, after = (whisper.blocks(one)[0].linears[index].module for one in (dense, model))
    seen = seen_first(dense, held_out_of(dense))
    rows, change = seen[row.linear], (before.weight - after.weight).double()
    moved = (after.bias - before.bias).double()
    energy = (change @ rows.gram * change).sum() - 2 * moved @ (change @ rows.total)
    energy += rows.rows * moved.square().sum()
    scale = (before.weight.double() @ rows.gram * before.weight.double()).sum()
    assert row.held_out_error == pytest.approx((energy / scale).item(), rel=1e-4)
