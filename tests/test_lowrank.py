"""Low rank against `torch.linalg`: the factors' error is that of the truncated SVD of the outputs
themselves (Eckart and Young 1936). A tiny model made thinner, against the dense one: linears whose
outputs are of low rank already leave its logits, saved ones load to the same logits, ONNX and
`compact` say the same. Only behaviour: shares, what is left alone, refusals.
"""

import copy
import json

import pytest
import torch
from transformers import WhisperForConditionalGeneration

import owl
from owl.config.load import load
from owl.errors import ModelError, UnsupportedFormat
from owl.export.ct2 import export_ct2
from owl.export.ggml import export_ggml
from owl.export.huggingface import export_compact
from owl.export.onnx import export_onnx, onnx_decoder
from owl.kernels.lowrank import principal_factors, rank_for
from owl.model import whisper
from owl.model.decoding import torch_decoder
from owl.model.lowrank import LowRank
from owl.model.whisper import Whisper
from owl.prune import pipeline, weights
from owl.prune.calibration_text import Labels
from owl.prune.lowrank import thin
from owl.prune.rounding import round_model
from tests import tiny
from tests.conftest import ROOT
from tests.test_narrow import AUDIO, CLIPS, TEXTS, batches_of, logits, make_model, save


def problem(outputs=6, inputs=8, rows=50, seed=0):
    """(weight, inputs with correlations and a mean), float64."""
    draw = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    return make(outputs, inputs), make(rows, inputs) @ make(inputs, inputs) + make(inputs)


@pytest.mark.parametrize("shape", [(6, 8), (8, 6)])
@pytest.mark.parametrize("rank", [1, 2, 4, 5])
def test_no_outputs_of_that_rank_are_nearer(shape, rank):
    weight, inputs = problem(*shape)
    about = inputs - inputs.mean(0)
    up, down = principal_factors(weight, about.T @ about, rank)
    assert (up.shape, down.shape) == ((shape[0], rank), (rank, shape[1]))
    error = (about @ (weight - up @ down).T).square().sum()
    best = torch.linalg.svdvals(about @ weight.T)[rank:].square().sum()
    torch.testing.assert_close(error, best, rtol=1e-9, atol=1e-9)


def test_full_rank_is_the_matrix_itself():
    weight, inputs = problem()
    up, down = principal_factors(weight, inputs.T @ inputs, 6)
    torch.testing.assert_close(up @ down, weight)


def test_by_hand_the_strong_output_stays():
    up, down = principal_factors(
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 9.0]]), 1
    )
    torch.testing.assert_close(up @ down, torch.tensor([[0.0, 0.0], [0.0, 1.0]]))


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="must be finite"):
        principal_factors(torch.tensor([[1.0, torch.nan]]), torch.eye(2), 1)


@pytest.mark.parametrize(
    "shape, sparsity, rank", [((8, 8), 0.5, 2), ((8, 8), 0.25, 3), ((4, 12), 0.3, 2)]
)
def test_the_rank_is_the_largest_that_loses_the_share(shape, sparsity, rank):
    assert rank_for(*shape, sparsity) == rank
    assert rank * sum(shape) <= (1 - sparsity) * shape[0] * shape[1] < (rank + 1) * sum(shape)


def test_a_share_that_not_even_rank_1_leaves_is_refused():
    with pytest.raises(ValueError, match="4 × 4 weights cannot lose 0.6 of them"):
        rank_for(4, 4, 0.6)


def thinned(model, share, targets=("encoder.layers",), excluded=()):
    every, _ = whisper.select(whisper.blocks(model), targets, excluded)
    shares = {linear.name: share for block in every for linear in block.linears}
    return thin(model, every, batches_of(model), shares, batches_of(model))


def test_linears_whose_outputs_are_of_low_rank_already_leave_the_logits():
    model = make_model()
    linears = [linear for block in whisper.blocks(model)[:2] for linear in block.linears]
    with torch.no_grad():
        for weight in (linear.module.weight for linear in linears):
            left, values, right = torch.linalg.svd(weight)
            weight.copy_(left[:, :3] @ torch.diag(values[:3]) @ right[:3])
    before = logits(model)
    rows = thinned(model, 0.5)
    assert {row.rank for row in rows} == {4, 5}
    assert max(row.error for row in rows) < 1e-8 and max(row.held_out_error for row in rows) < 1e-8
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-5)


def outputs_of_fc1(model):
    """Of the first block, (rows, out), on the calibration rows."""
    block, seen = whisper.blocks(model)[0], []
    hook = block.module.fc1.register_forward_hook(lambda *call: seen.append(call[2]))
    batches = batches_of(model)
    with torch.inference_mode():
        for batch in batches:
            whisper.run_block(block, batch.audio)
    hook.remove()
    return torch.cat([rows[batch.audio_rows] for rows, batch in zip(seen, batches)]).double()


def test_the_error_is_that_of_the_outputs_and_the_bias_takes_up_the_mean():
    model = make_model()
    dense, bias = outputs_of_fc1(model), model.model.encoder.layers[0].fc1.bias.detach().clone()
    (row,) = thinned(model, 0.5, ["encoder.layers.0.fc1"])
    change = outputs_of_fc1(model) - dense
    assert change.mean(0).abs().max() < 1e-6
    wanted = change.square().sum() / (dense - bias).square().sum()
    assert row.error == pytest.approx(wanted.item(), rel=1e-3)


def test_the_removed_weights_are_gone_and_what_was_targeted_is_found_again():
    model = make_model()
    every, _ = whisper.select(whisper.blocks(model), ["encoder", "decoder"], ["decoder.layers.0"])
    counts = [block.weight_count for block in whisper.blocks(model)]
    rows = thinned(model, 0.3, ["encoder", "decoder"], ["decoder.layers.0"])
    left = pipeline.current(model, every)
    assert [len(block.linears) for block in left] == [12, 12, 0, 20]
    gone = sum(counts) - sum(block.weight_count for block in whisper.blocks(model))
    assert gone == pipeline.removed_weights(rows) >= 0.3 * (sum(counts) - counts[2])
    assert all(0.3 <= row.sparsity < 0.3 + 1 / 8 for row in rows)


def test_a_share_of_zero_changes_no_bit():
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    rows = thinned(model, 0.0)
    assert {(row.sparsity, row.error) for row in rows} == {(0.0, 0.0)}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not hasattr(model.config, "owl_ranks")


def test_a_saved_model_loads_to_the_same_logits_and_compact_too(tmp_path):
    model = make_model()
    thinned(model, 0.4, ["encoder", "decoder"])
    model.half().float()
    loaded, _ = owl.load(save(model, tmp_path / "hf"))
    assert torch.equal(logits(loaded), logits(model))
    assert isinstance(loaded.model.encoder.layers[0].fc1, LowRank)
    (tmp_path / "compact").mkdir()
    export_compact(Whisper(model, tiny.fitting_processor()), tmp_path / "compact")
    assert torch.equal(logits(owl.load(tmp_path / "compact").model), logits(model))


def test_a_plain_transformers_user_gets_an_error_not_a_wrong_model(tmp_path):
    model = make_model()
    thinned(model, 0.4)
    with pytest.raises(RuntimeError, match="mismatch"):
        WhisperForConditionalGeneration.from_pretrained(save(model, tmp_path))


@pytest.mark.parametrize(
    "ranks, words",
    [
        ({"model.encoder.layers.7.fc1": 3}, "no linear 'model.encoder.layers.7.fc1'"),
        ({"model.encoder.layers.0.fc1": 16}, "is to have rank 16, but 1 to 15 are possible"),
        ({"model.encoder.layers.0": 3}, "no linear 'model.encoder.layers.0'"),
        ({}, r"model.encoder.layers.0.fc1.weight has the shape \(6, 16\)"),
    ],
)
def test_ranks_that_cannot_be_are_refused(tmp_path, ranks, words):
    model = make_model()
    thinned(model, 0.4, ["encoder.layers.0.fc1"])
    file = save(model, tmp_path) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"owl_ranks": ranks}))
    with pytest.raises(ModelError, match=words):
        owl.load(tmp_path)


@pytest.mark.slow
def test_onnx_says_the_same(tmp_path):
    model = make_model()
    thinned(model, 0.4, ["encoder", "decoder"])
    asr = Whisper(model, tiny.make_processor())
    export_onnx(asr, tmp_path)
    assert onnx_decoder(tmp_path, asr.processor)(AUDIO) == torch_decoder(asr)(AUDIO)


@pytest.mark.parametrize("export, words", [(export_ct2, "CTranslate2"), (export_ggml, "whisper")])
def test_runtimes_with_one_matrix_a_linear_refuse(tmp_path, export, words):
    model = make_model()
    thinned(model, 0.4)
    with pytest.raises(UnsupportedFormat, match=f"{words}.* has one matrix a linear"):
        export(Whisper(model, tiny.fitting_processor()), tmp_path)
    assert not list(tmp_path.iterdir())


def test_both_matrices_are_rounded_by_what_they_see(tmp_path):
    model = make_model()
    thinned(model, 0.4, ["encoder", "decoder"])
    before = copy.deepcopy(model.state_dict())
    round_model(model, batches_of(model), "int8")
    for name in ("model.encoder.layers.0.fc1", "model.decoder.layers.1.encoder_attn.k_proj"):
        for weight in (f"{name}.weight", f"{name}.up.weight"):
            assert not torch.equal(model.state_dict()[weight], before[weight])
            torch.testing.assert_close(model.state_dict()[weight], before[weight], atol=0.1, rtol=0)


def test_a_config_leads_to_low_rank_and_a_thinned_model_is_not_pruned_again():
    config = load(
        ROOT / "configs" / "demo.json",
        {"pattern": "lowrank", "allocation": "uniform", "sparsity": 0.25},
    )
    asr, labels = Whisper(make_model(), tiny.make_processor()), Labels(CLIPS, TEXTS, {}, None)
    every, _ = pipeline.targets(config, asr.model)
    pruned = pipeline.prune(config, asr, labels, weights.spread(every, [0.25] * 4), "lowrank")
    assert [len(block.linears) for block in pruned.blocks] == [12, 12, 20, 20]
    assert all(row.error > 0 and row.held_out_error > 0 for row in pruned.rows)
    with pytest.raises(ModelError, match="of low rank already .* prune the dense model"):
        pipeline.targets(config, asr.model)
