"""Statistics against the definition: recorded inputs of a linear, concatenated and multiplied, must
give the same sums and Gram matrix. Behaviour: which transcripts are no calibration text.
"""

import pytest
import torch

from owl.config.load import Config
from owl.data.load import Dataset
from owl.model import whisper
from owl.model.decoding import Decoded
from owl.model.whisper import Whisper
from owl.prune import calibration, calibration_text
from tests import tiny

CLIPS, TEXTS = tiny.make_clips(5), [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14], [15]]


def collect(model, batch_size=5, padding="exclude", gram=True, **options):
    batches = calibration.prepare(
        Whisper(model, tiny.make_processor()),
        CLIPS,
        TEXTS,
        language=None,
        padding=padding,
        batch_size=batch_size,
    )
    steps = calibration.walk(
        model,
        whisper.blocks(model),
        batches,
        gram=gram,
        modified=False,
        description="walk",
        **options,
    )
    return {name: statistics for _, found in steps for name, statistics in found.items()}


@pytest.fixture(scope="module")
def model():
    return tiny.make_model()


@pytest.fixture(scope="module")
def statistics(model):
    return collect(model)


def recorded_inputs(model, name):
    """All inputs of a linear in one stock forward pass over the five clips, (clips, rows, in)."""
    linear = next(
        linear for block in whisper.blocks(model) for linear in block.linears if linear.name == name
    )
    seen = []
    hook = linear.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    width = max(map(len, TEXTS))
    tokens = torch.tensor([[1, 37, *text, *[0] * (width - len(text))] for text in TEXTS])
    features = calibration.input_features(
        Whisper(model, tiny.make_processor()), [clip.audio for clip in CLIPS]
    )
    with torch.inference_mode():
        model.model(input_features=features, decoder_input_ids=tokens)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize(
    "name", ["encoder.1.self_attn.v_proj", "encoder.0.fc2", "decoder.1.encoder_attn.k_proj"]
)
def test_encoder_statistics_are_those_of_the_frames_with_audio(model, statistics, name):
    inputs = recorded_inputs(model, name)
    rows = torch.cat(
        [one[: whisper.valid_frames(len(clip.audio), model)] for one, clip in zip(inputs, CLIPS)]
    ).double()
    compare(statistics[name], rows)


@pytest.mark.parametrize(
    "name", ["decoder.0.self_attn.q_proj", "decoder.1.encoder_attn.q_proj", "decoder.1.fc2"]
)
def test_decoder_statistics_are_those_of_prompt_and_text_without_padding(model, statistics, name):
    inputs = recorded_inputs(model, name)
    compare(
        statistics[name],
        torch.cat([one[: 2 + len(text)] for one, text in zip(inputs, TEXTS)]).double(),
    )


def compare(found, rows):
    assert found.rows == len(rows)
    # batches are multiplied in float32
    torch.testing.assert_close(found.gram, rows.T @ rows, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.total, rows.sum(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.rms, rows.square().mean(0).sqrt(), rtol=1e-5, atol=1e-6)


def test_padding_included_counts_every_frame_of_the_window(model, statistics):
    everything = collect(model, padding="include")
    assert everything["encoder.0.fc1"].rows == 5 * 20 > statistics["encoder.0.fc1"].rows
    # padded text is always left out
    assert everything["decoder.0.fc1"].rows == statistics["decoder.0.fc1"].rows


def test_statistics_do_not_depend_on_the_batches(model, statistics):
    for name, one in collect(model, batch_size=2).items():
        # float32 sums in another order
        torch.testing.assert_close(one.gram, statistics[name].gram, rtol=1e-4, atol=1e-4)


def test_linears_with_one_input_share_one_gram_matrix(statistics):
    assert statistics["encoder.0.self_attn.q_proj"] is statistics["encoder.0.self_attn.v_proj"]
    assert (
        statistics["decoder.0.encoder_attn.k_proj"] is statistics["decoder.1.encoder_attn.v_proj"]
    )
    assert (
        statistics["decoder.0.encoder_attn.q_proj"]
        is not statistics["decoder.0.encoder_attn.k_proj"]
    )
    assert statistics["encoder.0.fc1"] is not statistics["encoder.0.fc2"]


def test_sums_alone_are_enough_for_the_root_mean_square(model, statistics):
    for name, one in collect(model, gram=False).items():
        assert one.gram is None
        torch.testing.assert_close(one.rms, statistics[name].rms)


def test_the_statistics_of_some_clips_are_those_of_a_walk_with_these_clips_alone(model, statistics):
    chosen = [3, 0]
    batches = calibration.prepare(
        Whisper(model, tiny.make_processor()),
        [CLIPS[i] for i in chosen],
        [TEXTS[i] for i in chosen],
        language=None,
        padding="exclude",
        batch_size=5,
    )
    steps = calibration.walk(
        model, whisper.blocks(model), batches, gram=False, modified=False, description="walk"
    )
    for _, found in steps:
        for name, alone in found.items():
            torch.testing.assert_close(
                statistics[name].rms_of(chosen), alone.rms, rtol=1e-5, atol=1e-6
            )


def test_fewer_rows_than_inputs_warn_with_both_numbers(model):
    with pytest.warns(
        UserWarning, match=r"decoder.0: 21 token rows for 32 inputs make a singular Gram matrix"
    ):
        collect(model)


def test_transcripts_that_loop_hit_the_cap_or_are_empty_are_dropped_and_counted(monkeypatch):
    said = [
        Decoded([2, 3], "end"),
        Decoded([2] * 28, "loop"),
        Decoded([2, 3], "cap"),
        Decoded([], "end"),
        Decoded([3], "end"),
    ]
    monkeypatch.setattr(calibration_text, "torch_decoder", lambda *_, **__: lambda audio: said)
    asr = Whisper(tiny.make_model(), tiny.fitting_processor())
    labels = calibration_text.calibration_labels(Config(), asr, Dataset("d", CLIPS, [], None))
    assert labels.tokens == [[2, 3], [3]] and labels.clips == [CLIPS[0], CLIPS[4]]
    assert labels.dropped == {"no text": 1, "repetition": 1, "token cap": 1}
