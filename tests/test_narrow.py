"""A tiny model made narrower, against the stock model: free removals leave its logits, saved ones
load to the same logits, ONNX and the KV cache give the tokens of a full forward, errors are those
of the outputs. Only behaviour: budgets, what is left alone, refusals.
"""

import copy
import json

import onnx
import pytest
import torch
from transformers import WhisperForConditionalGeneration

import owl
from owl.config.load import load
from owl.config.schema import Structured
from owl.errors import ModelError
from owl.export.onnx import export_onnx, onnx_decoder
from owl.model import shapes, whisper
from owl.model.decoding import encode, input_features, torch_decoder
from owl.model.whisper import Whisper
from owl.prune import calibration, pipeline, weights
from owl.prune.calibration_text import Labels
from owl.prune.structures import narrow, whole_layers
from tests import tiny
from tests.conftest import ROOT

CLIPS = tiny.make_clips(24)
TEXTS = [[5 + index % 20, 6 + index % 7] for index in range(24)]
AUDIO = [clip.audio for clip in CLIPS[:5]]
BOTH = ["heads", "neurons"]


def make_model(seed=0):
    model = tiny.make_model(seed, encoder_attention_heads=4, decoder_attention_heads=4)
    with torch.no_grad():
        model.model.decoder.embed_positions.weight *= (
            4  # so that it says different things at different steps
        )
    return model


def batches_of(model):
    return calibration.prepare(
        Whisper(model, tiny.make_processor()),
        CLIPS,
        TEXTS,
        language=None,
        padding="exclude",
        batch_size=8,
    )


def cut(model, shares, structures=BOTH, targets=("encoder.layers", "decoder.layers"), **options):
    every, _ = whisper.select(whisper.blocks(model), targets, [])
    sparsities = weights.spread(
        every,
        shares
        if isinstance(shares, list)
        else [shares] * sum(bool(block.linears) for block in every),
    )
    return narrow(model, every, batches_of(model), sparsities, structures=structures, **options)


def logits(model):
    with torch.inference_mode():
        return model(
            input_features(Whisper(model, tiny.make_processor()), AUDIO),
            decoder_input_ids=torch.tensor([[1, 37, 5, 6, 7]] * 5),
        ).logits


def save(model, folder):
    model.save_pretrained(folder)
    tiny.fitting_processor().save_pretrained(folder)
    return folder


def silence_half(model):
    """Two of four heads of every attention, and half of the neurons, put out exactly zero."""
    with torch.no_grad():
        for block in whisper.blocks(model):
            for part in shapes.parts(block.module):
                dead = torch.arange(0, part.width, 2)
                source = block.module.fc1 if part.name == "ffn" else part.owner.v_proj
                rows = shapes.columns_of(dead, part.size)
                source.weight[rows], source.bias[rows] = 0, 0


def test_heads_and_neurons_that_put_out_zero_are_free_and_the_logits_stay():
    model = make_model()
    silence_half(model)
    before = logits(model)
    rows = cut(model, 0.5)
    assert {(row.width_before, row.width) for row in rows} == {(4, 2), (32, 16)}
    assert max(row.error for row in rows) < 1e-10
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("structures", [BOTH, ["neurons"], ["heads"]])
@pytest.mark.parametrize("shares", [0.25, [0.3, 0.2, 0.15, 0.31]])
def test_every_block_loses_its_share_within_half_of_its_smallest_group(structures, shares):
    model = make_model()
    rows = cut(model, shares, structures)
    group = 32 if "neurons" in structures else 256  # weights: 2 d, 4 d · head_dim
    left = {block.name: block.weight_count for block in whisper.blocks(model)}
    for index, block in enumerate(whisper.blocks(make_model())):
        wanted = (shares if isinstance(shares, float) else shares[index]) * block.weight_count
        assert abs(block.weight_count - left[block.name] - wanted) <= group / 2
    assert pipeline.removed_weights(rows) == 10_240 - sum(left.values())


def test_the_removed_weights_are_really_gone_and_what_was_targeted_is_found_again():
    model = make_model()
    every, _ = whisper.select(whisper.blocks(model), ["decoder.layers"], ["decoder.layers.0.fc1"])
    dense = sum(parameter.numel() for parameter in model.parameters())
    rows = cut(model, 0.5)
    gone = dense - sum(parameter.numel() for parameter in model.parameters())
    assert gone > pipeline.removed_weights(rows) == 5120  # and biases with them
    left = pipeline.current(model, every)
    assert [len(block.linears) for block in left] == [0, 0, 9, 10]
    assert all(
        linear.module is model.get_submodule(linear.path)
        for block in left
        for linear in block.linears
    )
    assert all(one.module.weight.all() for block in left for one in block.linears)


def test_the_error_is_that_of_the_outputs():
    def outputs(model):
        seen = []
        hook = model.model.encoder.layers[0].fc2.register_forward_hook(
            lambda module, inputs, output: seen.append(output)
        )
        batch = calibration.prepare(
            Whisper(model, tiny.make_processor()),
            CLIPS,
            TEXTS,
            language=None,
            padding="exclude",
            batch_size=24,
        )[0]
        with torch.inference_mode():
            whisper.run_block(whisper.blocks(model)[0], batch.audio)
        hook.remove()
        return seen[0][batch.audio_rows].double()

    model = make_model()
    dense, bias = outputs(model), model.model.encoder.layers[0].fc2.bias.detach().double().clone()
    (row,) = cut(model, 0.4, ["neurons"], ["encoder.layers.0.fc1", "encoder.layers.0.fc2"])
    assert row.linear == "encoder.0.fc2" and row.width < row.width_before
    change = (outputs(model) - dense).square().sum() / (dense - bias).square().sum()
    assert row.error == pytest.approx(change.item(), rel=1e-3)


def test_later_blocks_are_cut_on_what_the_smaller_earlier_ones_produce():
    early, late, whole = make_model(), make_model(), make_model()
    cut(whole, 0.5, targets=["encoder.layers"])
    cut(early, 0.5, targets=["encoder.layers.0"])
    cut(early, 0.5, targets=["encoder.layers.1"])
    cut(late, 0.5, targets=["encoder.layers.1"])
    cut(late, 0.5, targets=["encoder.layers.0"])
    torch.testing.assert_close(logits(early), logits(whole), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(late), logits(whole), rtol=1e-3)


def test_fewer_heads_and_unequal_widths_survive_saving(tmp_path):
    model = make_model()
    cut(model, 0.4)
    loaded, _ = owl.load(save(model, tmp_path))
    assert shapes.widths(loaded) == shapes.widths(model) == model.config.owl_shapes
    assert torch.equal(logits(loaded), logits(model))
    again, _ = owl.load(save(loaded, tmp_path))
    assert torch.equal(logits(again), logits(model))


def test_a_plain_transformers_user_gets_an_error_not_a_wrong_model(tmp_path):
    model = make_model()
    cut(model, 0.4)
    with pytest.raises(RuntimeError, match="mismatch"):
        WhisperForConditionalGeneration.from_pretrained(save(model, tmp_path))


def test_equal_neurons_and_fewer_layers_load_in_plain_transformers(tmp_path):
    model = make_model()
    rows = cut(model, [1.0, 0.3, 0.1, 0.3], ["neurons"], equal_widths=True)
    assert not hasattr(model.config, "owl_shapes")
    assert [row.sparsity for row in rows if row.block == "encoder.0"] == [1.0, 1.0]
    # 0.2 of 3,072 weights in 32s
    assert shapes.widths(model)["decoder"] == [{"self_attn": 4, "encoder_attn": 4, "ffn": 13}] * 2
    stock = WhisperForConditionalGeneration.from_pretrained(save(model, tmp_path)).eval()
    assert (stock.config.encoder_layers, stock.config.decoder_ffn_dim) == (1, 13)
    assert torch.equal(logits(stock), logits(model))


@pytest.mark.parametrize("name", ["encoder.0", "encoder.1", "decoder.0", "decoder.1"])
def test_a_dropped_layer_leaves_what_the_model_says_without_it(name):
    model, by_hand = make_model(), make_model()
    cut(model, [1.0 if block.name == name else 0.0 for block in whisper.blocks(model)])
    shapes.silence(by_hand.get_submodule(f"model.{name.replace('.', '.layers.')}"))
    assert len(whisper.blocks(model)) == 3
    assert torch.equal(logits(model), logits(by_hand))
    said = torch_decoder(Whisper(model, tiny.make_processor()))(AUDIO)
    assert said == torch_decoder(Whisper(by_hand, tiny.make_processor()))(AUDIO)


def test_whole_layers_go_by_their_influence():
    model = make_model()
    shapes.silence(model.model.encoder.layers[1])
    shapes.silence(model.model.decoder.layers[0])
    every = whisper.blocks(model)
    chosen = whole_layers(model, every, batches_of(model), 0.5)
    assert {".".join(name.split(".")[:2]) for name, share in chosen.items() if share} == {
        "encoder.1",
        "decoder.0",
    }
    before = logits(model)
    rows = narrow(model, every, batches_of(model), chosen, structures=["layers"])
    assert pipeline.removed_weights(rows) == 5120 and not hasattr(model.config, "owl_shapes")
    assert torch.equal(logits(model), before)


def test_the_heads_that_time_words_are_numbered_anew_or_the_setting_goes():
    model = make_model()
    model.generation_config.alignment_heads = [[0, 1], [1, 0], [1, 1]]
    shapes.align(model, {"decoder.1": [1]})
    assert model.generation_config.alignment_heads == [[0, 1], [1, 0]]
    cut(model, [1.0 if block.name == "decoder.0" else 0.0 for block in whisper.blocks(model)])
    assert model.generation_config.alignment_heads == [[0, 0]]
    shapes.align(model, {"decoder.0": [1]})
    assert not hasattr(model.generation_config, "alignment_heads")


def test_the_kv_cache_gives_the_tokens_of_a_full_forward():
    model = make_model()
    cut(model, 0.4)
    model.generation_config.suppress_tokens = [0]  # it never ends
    (said,) = torch_decoder(Whisper(model, tiny.make_processor()), max_new_tokens=12)(AUDIO[:1])
    tokens, states = (
        [1, 37],
        encode(model, input_features(Whisper(model, tiny.make_processor()), AUDIO[:1])),
    )
    with torch.inference_mode():
        for _ in range(12):
            scores = model(
                encoder_outputs=(states,), decoder_input_ids=torch.tensor([tokens])
            ).logits[0, -1]
            scores[[0, 38, 39]] = -torch.inf
            tokens.append(scores.argmax().item())
    assert said.tokens == tokens[2:] and len(set(said.tokens)) > 1


@pytest.mark.slow
def test_onnx_keeps_the_smaller_shapes_and_says_the_same(tmp_path):
    model = make_model()
    dense = encoder_weights(model, tmp_path / "dense")
    rows = cut(model, 0.4)
    gone = sum(round(row.sparsity * row.weights) for row in rows if row.block.startswith("encoder"))
    assert encoder_weights(model, tmp_path / "small") == dense - gone
    said = torch_decoder(Whisper(model, tiny.make_processor()))(AUDIO)
    assert onnx_decoder(tmp_path / "small", tiny.make_processor())(AUDIO) == said


def encoder_weights(model, folder):
    """Entries of all matrices in the encoder's exported graph."""
    folder.mkdir()
    export_onnx(Whisper(model, tiny.make_processor()), folder)
    graph = onnx.load(folder / "encoder_model.onnx").graph
    return sum(one.dims[0] * one.dims[1] for one in graph.initializer if len(one.dims) == 2)


def test_only_parts_whose_linears_are_all_targeted_change():
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    rows = cut(model, 0.3, BOTH, ["decoder.layers.1.encoder_attn", "decoder.layers.1.fc1"])
    after = model.state_dict()
    changed = {name.rsplit(".", 2)[0] for name in before if before[name].shape != after[name].shape}
    assert changed == {"model.decoder.layers.1.encoder_attn"} and [row.linear for row in rows] == [
        "decoder.1.encoder_attn.out_proj"
    ]


def test_a_share_of_zero_changes_no_bit():
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    assert {row.sparsity for row in cut(model, 0.0)} == {0.0}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not hasattr(model.config, "owl_shapes")


def test_a_second_run_gives_the_same_bits():
    first, second = make_model(), make_model()
    cut(first, 0.5)
    cut(second, 0.5)
    assert all(
        torch.equal(tensor, second.state_dict()[name])
        for name, tensor in first.state_dict().items()
    )


def test_one_head_and_one_neuron_always_stay_and_the_rest_goes_elsewhere():
    model = make_model()
    rows = cut(model, [0.99, 0.1, 0.1, 0.1])
    assert {row.width for row in rows if row.block == "encoder.0"} == {1}
    assert pipeline.removed_weights(rows) == pytest.approx(0.99 * 2048 + 0.1 * 8192, abs=4 * 16)


@pytest.mark.parametrize(
    "shares, options, words",
    [
        (
            0.9,
            {"structures": ["neurons"]},
            "weights are to go, but the structures that may be removed hold",
        ),
        ([1.0, 1.0, 0.0, 0.0], {}, "all blocks of the encoder are to be dropped"),
        (
            0.1,
            {"structures": ["neurons"], "equal_widths": True, "targets": ["encoder.layers.0"]},
            "targeted alike",
        ),
        (
            [1.0],
            {"targets": ["encoder.layers.0.fc1", "encoder.layers.0.fc2"]},
            "not all its linears are targeted",
        ),
    ],
)
def test_a_target_out_of_reach_is_refused(shares, options, words):
    with pytest.raises(ValueError, match=words):
        cut(make_model(), shares, **options)


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda found: found["encoder"].pop(), "1 encoder layers, but encoder_layers is 2"),
        (
            lambda found: found["encoder"][0].update(ffn=33),
            "ffn is to have 33 neurons, but 1 to 32 are possible",
        ),
        (lambda found: found["decoder"][0].pop("encoder_attn"), "encoder_attn is to have 0 heads"),
        (lambda found: found["encoder"][0].update(ffn=7), r"shape \(14,\), .*asks for \(7,\)"),
    ],
)
def test_shapes_that_cannot_be_are_refused(tmp_path, spoil, words):
    model = make_model()
    cut(model, 0.4)
    raw = json.loads((save(model, tmp_path) / "config.json").read_text())
    spoil(raw["owl_shapes"])
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match=words):
        owl.load(tmp_path)


@pytest.mark.parametrize("structures", [BOTH, ["neurons"], ["layers"]])
def test_a_config_leads_to_the_structures_that_it_names(structures):
    raw = load(
        ROOT / "configs" / "demo.json",
        {"pattern": "structured", "allocation": "uniform", "sparsity": 0.25},
    )
    config = raw.model_copy(
        update={
            "pruning": raw.pruning.model_copy(
                update={"structured": Structured(structures=structures)}
            )
        }
    )
    model, labels = make_model(), Labels(CLIPS, TEXTS, {}, None)
    every = whisper.blocks(model)
    rows = pipeline.prune_targets(
        config,
        Whisper(model, tiny.make_processor()),
        every,
        labels,
        weights.spread(every, [0.25] * 4),
    )
    assert 0.2 <= pipeline.removed_weights(rows) / 10_240 <= 0.3
    assert (len(whisper.blocks(model)) < 4) == (structures == ["layers"])
    assert any(row.width < row.width_before for row in rows if row.structure == "heads") == (
        structures != ["neurons"]
    )
