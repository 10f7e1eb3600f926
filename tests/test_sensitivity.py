"""The allocation `fisher` against its definition: gradients by autograd clip by clip, shares by
sorting, and what it is for: a linear whose weights do nothing is pruned most.
"""

from functools import partial

import pytest
import torch

from owl.kernels import allocation
from owl.kernels.allocation import REACH, by_saliency
from owl.model import whisper
from owl.model.whisper import Whisper
from owl.prune import calibration, sensitivity
from tests import tiny

CLIPS, TEXTS = tiny.make_clips(3), [[5, 6, 7], [8], [9, 10]]


def batches_of(asr, size=1):
    options = {"language": None, "padding": "exclude", "batch_size": size}
    return calibration.prepare(asr, CLIPS, TEXTS, **options)


def listen(kept, name, module, given, output):
    output.retain_grad()
    kept[name] = given[0][0].detach(), output


@pytest.fixture
def asr():
    return Whisper(tiny.make_model(), tiny.make_processor())


def test_gradients_and_inputs_are_those_of_the_stock_model(asr):
    """Autograd through transformers' own forward pass, clip by clip, with the same drawn tokens."""
    every, draw = whisper.blocks(asr.model), torch.Generator().manual_seed(3)
    found = sensitivity.sensitivities(asr, every, batches_of(asr), 2, seed=3)
    names = ("encoder.1.fc2", "decoder.0.encoder_attn.v_proj", "decoder.1.self_attn.q_proj")
    linears = {one.name: one for block in every for one in block.linears if one.name in names}
    inputs, outputs = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for clip, text in zip(CLIPS, TEXTS):
        frames = whisper.valid_frames(len(clip.audio), asr.model)
        kept = {}
        hooks = [
            one.module.register_forward_hook(partial(listen, kept, name))
            for name, one in linears.items()
        ]
        features = calibration.input_features(asr, [clip.audio])
        tokens = torch.tensor([[1, 37, *text]])
        logits = asr.model(input_features=features, decoder_input_ids=tokens).logits[0, 1:]
        logs = logits.log_softmax(-1)
        said = torch.multinomial(logs.detach().exp(), 1, generator=draw)
        (-logs.gather(1, said).sum()).backward()
        for hook in hooks:
            hook.remove()
        for name, (given, output) in kept.items():
            rows = given if name == "decoder.1.self_attn.q_proj" else given[:frames]
            inputs[name] = inputs[name] + rows.square().sum(0)
            slopes = output.grad[0][: len(rows)]
            outputs[name] = outputs[name] + slopes.square().sum(0)
    for name in names:
        torch.testing.assert_close(found[name].inputs, inputs[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[name].gradients, outputs[name], rtol=1e-4, atol=1e-9)


def test_the_model_comes_out_as_it_went_in(asr):
    every = whisper.blocks(asr.model)
    wanted = [one.requires_grad for one in asr.model.parameters()]
    sensitivity.sensitivities(asr, every, batches_of(asr), 2, seed=0)
    assert [one.requires_grad for one in asr.model.parameters()] == wanted
    assert all(one.grad is None for one in asr.model.parameters())


def test_a_batch_of_two_finds_what_two_batches_of_one_find(asr):
    """But for the drawn tokens, which come in another order: inputs are equal, gradients alike."""
    every = whisper.blocks(asr.model)
    one = sensitivity.sensitivities(asr, every, batches_of(asr), 2, seed=0)
    both = sensitivity.sensitivities(asr, every, batches_of(asr, size=3), 2, seed=0)
    for name in one:
        assert one[name].rows == both[name].rows
        torch.testing.assert_close(one[name].inputs, both[name].inputs, rtol=1e-4, atol=1e-5)


def test_shares_are_those_of_the_least_salient_of_all():
    draw = torch.Generator().manual_seed(0)
    some = [torch.rand(40, 50, generator=draw) * scale for scale in (0.9, 1.0, 1.1)]
    shares = by_saliency(some, 0.5)
    cut = torch.cat([one.flatten() for one in some]).sort().values[3000]
    for one, share in zip(some, shares):
        assert share == pytest.approx((one < cut).float().mean().item(), abs=0.02)
    assert sum(shares) / 3 == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.3, 0.5, 0.9])
def test_no_share_is_further_from_the_target_than_the_reach_and_all_meet_it(sparsity):
    draw = torch.Generator().manual_seed(1)
    some = [
        torch.rand(30, size, generator=draw) * 10**scale for scale, size in enumerate((9, 40, 7))
    ]
    shares, counts = by_saliency(iter(some), sparsity), [one.numel() for one in some]
    assert all(max(0, sparsity - REACH) - 1e-9 <= share <= sparsity + REACH for share in shares)
    assert max(shares) <= 1
    reached = sum(share * count for share, count in zip(shares, counts)) / sum(counts)
    assert reached == pytest.approx(sparsity, abs=1e-9)
    if sparsity:
        assert shares[0] > shares[2]


def test_weights_that_do_nothing_are_free():
    assert by_saliency([torch.zeros(4, 4), torch.ones(4, 4)], 0.5)[0] > 0.5
    with pytest.raises(ValueError, match="no blocks"):
        by_saliency([], 0.5)
    with pytest.raises(ValueError, match="sparsity must be"):
        by_saliency([torch.ones(2, 2)], 1.0)
    assert allocation.BINS * allocation.LOG_BIN + allocation.LOG_LEAST > 0


def test_what_overflowed_is_refused_and_not_taken_for_unimportant():
    with pytest.raises(ValueError, match="overflowed.*bfloat16"):
        by_saliency([torch.ones(2, 2), torch.tensor([[1.0, float("inf")]])], 0.5)
